"""Experiment folders of the reference implementation, as they are: evaluated, and trained on."""

import re
import shutil
from pathlib import Path

import pytest

from tests.command import succeed
from tests.golden.large import Golden, names
from tests.trainings import read_rows
from utils.checkpoint import read_training


@pytest.fixture(scope="module")
def prepared(golden: Golden, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden raw data, prepared as the reference implementation does it."""
    output = tmp_path_factory.mktemp("prepared")
    succeed("data_gen/preprocess_data.py", golden.path("11_raw"), "--select", "first", "--output", output, cwd=output)
    return output


def copied(golden: Golden, name: str, tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoints" / "there"
    shutil.copytree(golden.path(name), folder)
    folder.chmod(0o755)
    for file in folder.iterdir():
        file.chmod(0o644)
    return folder


def tolerances(text: str) -> dict[str, float]:
    """`psnr 1e-3, ssim 1e-4, mae and shift_mae 1e-2, ...` as numbers."""
    found = {}
    for part in text.split(","):
        *metrics, value = re.findall(r"[a-z_]+|[\d.]+(?:e-?\d+)?", part.replace(" and ", " "))
        found |= {metric: float(value) for metric in metrics}
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", names("infer/*"))
def test_evaluation_gives_its_figures(
    golden: Golden, prepared: Path, lpips_weights: Path, tmp_path: Path, name: str
) -> None:
    folder = copied(golden, name, tmp_path)
    expected = read_rows(folder / "test_results.csv")
    (folder / "test_results.csv").unlink()
    done = succeed(
        "tasks/trainer.py",
        *("--config", "checkpoints/there/config.yaml", "--exp_name", "there", "--infer", "--device", "cpu"),
        *("--hparams", f"data_root={prepared},lpips_weights={lpips_weights},num_workers=0,test_save_png=false"),
        cwd=tmp_path,
    )
    assert "keys of the reference implementation without effect" in done.stderr
    rows = read_rows(folder / "test_results.csv")
    assert [row["key"] for row in rows] == [row["key"] for row in expected]
    assert list(rows[0]) == list(expected[0])
    limits = tolerances(
        next(golden.index[n]["tolerance"] for n in names("infer/*") if "psnr" in golden.index[n]["tolerance"])
    )
    times = re.match(r"(\d+) times", golden.index[name]["tolerance"])
    factor = int(times[1]) if times else 1
    assert set(limits) == {"psnr", "ssim", "lpips", "mae", "mse", "shift_mae"}
    for row, wanted in zip(rows, expected, strict=True):
        for metric, limit in limits.items():
            assert float(row[metric]) == pytest.approx(float(wanted[metric]), abs=factor * limit), (row["key"], metric)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({name.split("/")[0] for name in names("12_*/replay.pt")}))
def test_training_goes_on_from_it(golden: Golden, prepared: Path, tmp_path: Path, name: str) -> None:
    folder = copied(golden, name, tmp_path)
    before = max(int(re.findall(r"\d+", file.name)[-1]) for file in folder.glob("model_ckpt_steps_*.ckpt"))
    done = succeed(
        "tasks/trainer.py",
        *("--config", "checkpoints/there/config.yaml", "--exp_name", "there", "--device", "cpu"),
        *("--hparams", f"data_root={prepared},max_updates={before + 1},train_crop=12,num_workers=0,eval_batch_size=1"),
        cwd=tmp_path,
    )
    assert "resuming" in done.stderr
    content = read_training(folder / f"model_ckpt_steps_{before + 1}.ckpt")
    state = content["optimizer_states"][0]["state"]
    assert {int(entry["step"]) for entry in state.values()} == {before + 1}  # Adam's own count went on
