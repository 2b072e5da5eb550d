"""Experiments and exported models of an earlier version train on, evaluate and predict as they did there.

`tests/legacy/README.md` says how they were made. With MISR_EXACT=1 weights and maps must agree to the last bit, which
only the machine that made them promises.
"""

import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from numpy.typing import NDArray

from tests.data import write_raw
from tests.golden.large import ROOT
from tests.scenes import write_series
from tests.trainings import Finished, read_rows, run

LEGACY = ROOT / "tests" / "legacy"
EXPECTED = LEGACY / "expected"
EXPERIMENTS = ("rrdb", "hr_ltae", "srdiff", "srdiff_joint")
SAVED_STEP, LAST_STEP = 60, 62
# Left out: no loss depends on these biases (a softmax and a batch norm take them away), so their gradients are
# rounding errors, of which Adam makes whole steps; the running mean follows.
ARBITRARY = ("attention_heads.fc1_k.bias", "mlp.0.bias", "mlp.1.running_mean")
EXACT = bool(os.environ.get("MISR_EXACT"))


@pytest.fixture(scope="module")
def legacy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the earlier version wrote, and beside it the data set and the scene that it was made with."""
    root = tmp_path_factory.mktemp("legacy")
    with tarfile.open(LEGACY / "experiments.tar.xz") as archive:
        archive.extractall(root, filter="data")
    write_raw(root / "data", train=3, val=2, test=2, hr_size=48, dates=4)
    run("data_gen/preprocess_data.py", "data", cwd=root).succeeded()
    write_series(root / "scene", height=40, width=36, dates=4)
    return root


@pytest.fixture
def trainer(legacy: Path, tmp_path: Path) -> Callable[..., Finished]:
    """Run tasks/trainer.py on a copy of an experiment; LPIPS is not downloaded."""

    def train(name: str, *arguments: object, config: str | None = None) -> Finished:
        for folder in legacy.glob("checkpoints/*"):
            shutil.copytree(folder, tmp_path / "checkpoints" / folder.name)
        return run(
            "tasks/trainer.py",
            *("--config", config or f"checkpoints/{name}/config.yaml", "--exp_name", name, "--device", "cpu"),
            *arguments,
            cwd=tmp_path,
            environment={"TORCH_HOME": str(tmp_path), "https_proxy": "http://127.0.0.1:9"},
        ).succeeded()

    return train


def check_rows(rows: list[dict[str, str]], expected: list[dict[str, str]], *, relative: float) -> None:
    """Every cell of ``expected``: numbers to rounding, everything else as it is."""
    assert len(rows) == len(expected)
    for row, wanted in zip(rows, expected, strict=True):
        for column, cell in wanted.items():
            if column in ("", "key", "step") or not cell:
                assert row[column] == cell, column
            else:
                assert float(row[column]) == pytest.approx(float(cell), rel=relative, abs=relative), column


def check_values(values: NDArray, expected: NDArray, *, relative: float, absolute: float) -> None:
    assert values.shape == expected.shape
    if EXACT:
        np.testing.assert_array_equal(values, expected)
    np.testing.assert_allclose(values, expected, rtol=relative, atol=absolute)


def every_third(state: dict[str, torch.Tensor]) -> NDArray:
    """Every third weight of a state dict, as arrays.npz holds them."""
    tensors = [state[name].flatten() for name in sorted(state) if not name.endswith(ARBITRARY)]
    return torch.cat(tensors)[::3].numpy()


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_training_goes_on(trainer: Callable[..., Finished], legacy: Path, tmp_path: Path, name: str) -> None:
    """Two steps more end in the weights that the earlier version reached, and its tables are continued."""
    done = trainer(name, "--hparams", f"data_root={legacy / 'data'},max_updates={LAST_STEP}")
    assert f"resuming after step {SAVED_STEP}" in done.stderr
    folder = tmp_path / "checkpoints" / name
    assert [path.name for path in folder.glob("*steps*.ckpt")] == [f"model_ckpt_steps_{LAST_STEP}.ckpt"]
    content = torch.load(folder / f"model_ckpt_steps_{LAST_STEP}.ckpt", weights_only=True)
    assert content["global_step"] == LAST_STEP
    adam = content["optimizer_states"][0]["state"].values()
    assert {int(entry["step"]) for entry in adam} == {LAST_STEP}
    expected = np.load(EXPECTED / "arrays.npz")
    states = {"weights": content["state_dict"]["model"], "averaged": content.get("ema")}
    for kind, state in states.items():
        assert (state is not None) == (f"{kind}_{name}" in expected)
        if state is not None:
            check_values(every_third(state), expected[f"{kind}_{name}"], relative=1e-4, absolute=1e-6)
    for table in ("train_loss.csv", "val_res.csv"):
        before = (legacy / "checkpoints" / name / table).read_text()
        assert (folder / table).read_text().startswith(before)
        check_rows(read_rows(folder / table), read_rows(EXPECTED / name / table), relative=1e-3)
    best = torch.load(folder / "model_ckpt_best.ckpt", weights_only=True)
    assert best["global_step"] == LAST_STEP  # its figure is the best of all rows, the earlier ones too


@pytest.mark.parametrize("name", [*EXPERIMENTS, "hr_ltae.pt", "srdiff.pt"])
def test_evaluation(trainer: Callable[..., Finished], legacy: Path, tmp_path: Path, name: str) -> None:
    """An exported model gives the figures of its experiment. Later versions add columns to metrics.csv alone."""
    folder = name.removesuffix(".pt")
    config = str(legacy / name) if name.endswith(".pt") else None
    trainer(folder, "--infer", "--hparams", f"data_root={legacy / 'data'},num_workers=0", config=config)
    for table in ("test_results.csv", "metrics.csv"):
        rows, wanted = (read_rows(at / table) for at in (tmp_path / "checkpoints" / folder, EXPECTED / folder))
        check_rows(rows, wanted, relative=2e-3)
        assert table == "metrics.csv" or list(rows[0]) == list(wanted[0])


@pytest.mark.parametrize("name", ["rrdb", "hr_ltae"])
def test_a_scene_is_predicted(trainer: Callable[..., Finished], legacy: Path, tmp_path: Path, name: str) -> None:
    where = ("--date", "2023-06-08", "--window", 9, 7, 12, 10)
    trainer(name, "--predict", legacy / "scene", "--match_lr", "off", "--output", "map.tif", *where)
    with rasterio.open(tmp_path / "map.tif") as result:
        pixels = result.read().astype(int)  # (3, 40, 48)
    check_values(pixels, np.load(EXPECTED / "arrays.npz")[f"map_{name}"].astype(int), relative=0, absolute=1)
