"""What is said of experiments on one test set, the tables, and what can't be compared."""

import csv
import io
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tests.utils.report.comparison_data import ROWS, experiment, table
from utils.errors import DataError
from utils.report.comparison import (
    compare,
    load_pictures,
    read_results,
    sentences,
    short_names,
    to_csv,
    to_latex,
    to_markdown,
    to_svg,
)


def cells(text: str, name: str) -> list[list[str]]:
    """Rows of Markdown tables whose first cell begins with a name."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    return [row for row in rows if row[0].startswith(name)]


def test_patches_are_paired_by_key() -> None:
    a, b = table(gain=2), table(seed=5)
    shuffled = b.sample(frac=1, random_state=0)
    pairs = {pair.metric: pair for pair in compare({"a": a, "b": shuffled}).pairs}
    psnr = pairs["psnr"].difference
    assert psnr.mean == pytest.approx((a["psnr"] - b["psnr"]).mean())
    assert psnr.wilcoxon_p == pytest.approx(stats.wilcoxon(a["psnr"], b["psnr"]).pvalue)
    assert psnr.low < psnr.mean < psnr.high
    assert pairs["psnr"].adjusted_p == psnr.wilcoxon_p  # the only pair in this metric


def test_tables() -> None:
    comparison = compare({"misr/a_b": table(gain=2), "sisr/b": table(seed=5)})
    mean = table(gain=2)["psnr"].mean()
    said = sentences(comparison)
    assert said[0].startswith("misr/a_b is better than sisr/b: PSNR +")
    assert "better in 2 (PSNR, LPIPS)" in said[1]

    text = to_markdown(comparison)
    assert "misr/a\\_b" in text
    means, differences = cells(text, "PSNR")
    assert means[1].startswith(f"**{mean:.2f} [") and not means[2].startswith("**")
    assert differences[1].startswith("+") and differences[3:5] == ["better", f"{ROWS} of {ROWS}"]

    paper = to_latex(comparison)
    assert f"misr/a\\_b & $\\mathbf{{{mean:.2f}}} \\pm " in paper
    assert paper.count("{") == paper.count("}")
    assert paper.count(r"\begin{tabular}{lrr}") == paper.count(r"\toprule") == paper.count(r"\end{tabular}") == 2
    assert r"PSNR (dB) $\uparrow$ & LPIPS $\downarrow$ \\" in paper
    assert r"misr/a\_b $-$ sisr/b & $2." in paper
    assert "misr/a_b − sisr/b" in to_svg(comparison)

    rows = list(csv.DictReader(io.StringIO(to_csv(comparison)), delimiter=";"))
    (lpips,) = [row for row in rows if row["metric"] == "lpips" and row["second"]]
    assert float(lpips["mean"]) < 0
    assert (lpips["better"], lpips["worse"]) == (str(ROWS), "0")  # less is better
    (alone,) = [row for row in rows if row["metric"] == "psnr" and row["first"] == "misr/a_b" and not row["second"]]
    assert float(alone["mean"]) == pytest.approx(mean, rel=1e-14)
    assert (alone["patches"], alone["better"], alone["sign_p"]) == (str(ROWS), "", "")


def test_every_pair_of_three() -> None:
    comparison = compare({"a": table(), "b": table(), "c": table(gain=1)})
    assert [(pair.first, pair.second) for pair in comparison.pairs[:3]] == [("a", "b"), ("a", "c"), ("b", "c")]
    said = " ".join(sentences(comparison))
    assert "a shows no clear difference to b" in said
    assert "b is worse than c" in said
    certain = [pair for pair in comparison.pairs if pair.metric == "psnr" and pair.second == "c"]
    assert [pair.adjusted_p for pair in certain] == pytest.approx([3 * pair.difference.wilcoxon_p for pair in certain])


def test_few_patches_and_many_pairs_can_not_be_clear_after_adjustment() -> None:
    five = {name: table(gain=gain) for gain, name in enumerate("abcde")}
    text = to_markdown(compare({name: rows.iloc[:8] for name, rows in five.items()}))
    assert "none can be below 0.05" in text and "at least 0.078" in text
    assert "none can be" not in to_markdown(compare(five))
    assert "no difference can be clear" in to_markdown(compare({name: five[name].iloc[:5] for name in "ab"}))


def test_consistency_only_describes() -> None:
    text = to_markdown(
        compare({"a": table().assign(consistency=1.0), "b": table(gain=1).assign(consistency=2.0)}),
    )
    means, differences = cells(text, "consistency")
    assert not [cell for cell in means if cell.startswith("**")]
    assert differences[3:5] == ["not judged", "–"]
    assert "Of 2 metrics against b: worse in 2" in text


def test_names_without_what_they_share() -> None:
    assert short_names(["demo/a", "demo/b"]) == {"demo/a": "a", "demo/b": "b"}
    assert short_names(["x/demo/a", "y/demo/a"]) == {"x/demo/a": "x/demo/a", "y/demo/a": "y/demo/a"}
    assert short_names(["demo", "demo/b"]) == {"demo": "demo", "demo/b": "demo/b"}


def test_identical_images_and_lost_metrics() -> None:
    comparison = compare({"a": table().assign(psnr=math.inf), "b": table().assign(lpips=np.nan)})
    assert comparison.metrics == ["psnr"]
    assert "LPIPS is left out" in sentences(comparison)[-1]
    assert comparison.pairs[0].difference.more == ROWS
    for text in (to_markdown(comparison), to_latex(comparison), to_svg(comparison)):
        assert "nan" not in text
    with pytest.raises(DataError, match="no metric in common"):
        compare({"a": table()[["psnr", "key"]], "b": table()[["lpips", "key"]]})


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (table().iloc[1:], "1 patches are missing, 0 are new"),
        (table().assign(key=[f"x{i}" for i in range(ROWS)]), f"{ROWS} patches are missing, {ROWS} are new"),
        (table().assign(bicubic_psnr=lambda rows: rows["bicubic_psnr"] + 0.1), "same keys but other truths"),
        (pd.concat([table(), table()]), "occurs twice"),
    ],
)
def test_differing_test_sets_are_an_error(other: pd.DataFrame, message: str) -> None:
    with pytest.raises(DataError, match=message):
        compare({"a": table(), "b": other})


def test_folders(tmp_path: Path) -> None:
    folder = experiment(tmp_path, "a", table(), pictures=True)
    assert read_results(folder)["key"].tolist() == table()["key"].tolist()  # 000 stays text
    assert list(load_pictures(folder)) == ["000", "001"]
    assert list(load_pictures(folder)["001"]) == ["bicubic", "nearest input", "result", "truth"]
    assert (load_pictures(folder)["001"]["truth"] == 60).all()
    damaged = next(folder.glob("report_pictures/*/result.png"))
    damaged.write_bytes(damaged.read_bytes()[:40])
    with pytest.raises(DataError, match="not a picture"):
        load_pictures(folder)
    for content, message in (
        (";psnr;key\n0;high;1\n", r"metrics\.csv: not a table"),
        (";key\n0;1\n", "no metric"),
        (";psnr\n0;1\n", "no column key"),
        (";psnr;key\n", "no patch"),
    ):
        (folder / "metrics.csv").write_text(content)
        with pytest.raises(DataError, match=message):
            read_results(folder)
    (folder / "metrics.csv").unlink()
    with pytest.raises(DataError, match="evaluate the experiment first"):
        read_results(folder)
