"""The comparison of experiments, as a command."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.command import run, succeed
from tests.golden.large import Golden
from tests.utils.report.comparison_data import experiment, table


def test_table_plot_and_pictures(tmp_path: Path) -> None:
    a = experiment(tmp_path, "misr/a", table(gain=2), pictures=True)
    b = experiment(tmp_path, "sisr/b", table(seed=5), pictures=True)
    output = tmp_path / "new" / "out"
    said = succeed("tasks/compare.py", a, b, "--output", output, cwd=tmp_path).stdout
    assert "misr/a is better than sisr/b: PSNR +" in said
    assert sorted(file.suffix for file in output.iterdir()) == [".csv", ".md", ".png", ".svg", ".tex"]
    assert "comparison.png: the 2 of 2 patches with pictures on which PSNR differs most" in said
    drawn = Image.open(output / "comparison.png")
    assert drawn.width / 5 == pytest.approx(drawn.height / 2, rel=0.2)  # five pictures of two patches


def test_the_patches_that_differ_most_without_a_second_bicubic_column(tmp_path: Path) -> None:
    rows = table()
    better = rows.assign(psnr=rows["psnr"] + np.where(rows["key"] == "001", 5, 0))
    a = experiment(tmp_path, "bicubic", rows, pictures=True)
    b = experiment(tmp_path, "b", better, pictures=True)
    said = succeed("tasks/compare.py", a, b, "--patches", 1, cwd=tmp_path).stdout
    assert "the 1 of 2 patches with pictures on which PSNR differs most" in said
    drawn = Image.open(tmp_path / "checkpoints" / "comparison" / "comparison.png").convert("RGB")
    assert drawn.width / 4 == pytest.approx(drawn.height, rel=0.3)  # input, bicubic, b, truth
    colours = {colour for _, colour in drawn.getcolors(maxcolors=1 << 20)}
    assert (60, 60, 60) in colours  # of patch 001
    assert (0, 0, 0) not in colours  # of patch 000


def test_reference_experiments(golden: Golden, tmp_path: Path) -> None:
    """Folders that hold only test_results.csv; two patches are too few to say anything."""
    folders = golden.path("infer/rrdb"), golden.path("infer/hr_ltae")
    said = succeed("tasks/compare.py", *folders, "--output", "comparison", cwd=tmp_path).stdout
    assert "2 patches are too few to tell rrdb from hr_ltae" in said
    assert "no pictures" in said
    assert sorted(file.suffix for file in (tmp_path / "comparison").iterdir()) == [".csv", ".md", ".svg", ".tex"]


@pytest.mark.slow
def test_errors_are_one_line(tmp_path: Path) -> None:
    a, b = experiment(tmp_path, "a", table()), experiment(tmp_path, "b", table().iloc[1:])
    (tmp_path / "file").write_text("")
    for arguments, code, message in (
        ((a, b), 3, "another test set than a"),
        ((a, a), 2, "given twice"),
        ((a, experiment(tmp_path, "c", table()), "--output", tmp_path / "file" / "x"), 2, "can't be written"),
        ((a, tmp_path / "checkpoints" / "c", "--patches", 0), 2, "at least 1"),
    ):
        done = run("tasks/compare.py", *arguments, cwd=tmp_path)
        assert done.returncode == code
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1
