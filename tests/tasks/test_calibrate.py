"""Uncertainty from training to map: a head that states it, factors that make it right, what is reported."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch

from tests.data import write_raw
from tests.golden.large import ROOT
from tests.scenes import write_series
from tests.trainings import Finished, run
from utils.checkpoint import open_saved

pytestmark = pytest.mark.slow

TINY = (
    "data_root=data,batch_size=2,test_batch_size=2,num_workers=0,max_updates=40,val_check_interval=40,"
    "save_ckpt_interval=40,lr=0.003,hidden_size=8,num_layers=1,sen2_amount=3,ltae_heads=4,ltae_d_model=16"
)
OFFLINE = {"https_proxy": "http://127.0.0.1:9"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, a scene, and a trained backbone that states its uncertainty."""
    root = tmp_path_factory.mktemp("calibrate")
    write_raw(root / "data", train=2, val=2, test=2, hr_size=64, dates=4)
    run("data_gen/preprocess_data.py", "data", cwd=root).succeeded()
    write_series(root / "scene", height=40, width=36, dates=4)
    trainer(root, "--config", ROOT / "configs/misr/misr_pretrain.yaml", "--hparams", f"{TINY},uncertainty=laplace")
    return root


def trainer(root: Path, *arguments: object) -> Finished:
    options = ("--exp_name", "there", "--device", "cpu", *arguments)
    return run("tasks/trainer.py", *options, cwd=root, environment=OFFLINE | {"TORCH_HOME": str(root)}).succeeded()


def evaluated(root: Path, split: str) -> dict:
    trainer(root, "--config", "checkpoints/there/config.yaml", "--infer", "--split", split)
    return json.loads((root / "checkpoints" / "there" / "summary.json").read_text())


def mean_deviation(root: Path, source: str) -> float:
    """Of a map made by an experiment or an exported model, digital numbers."""
    scene = ("--predict", "scene", "--output", "map.tif", "--uncertainty", "std.tif", "--overwrite")
    trainer(root, "--config", source, *scene)
    with rasterio.open(root / "std.tif") as file:
        return float(file.read()[0].mean())


def test_from_training_to_map(place: Path) -> None:
    experiment = place / "checkpoints" / "there"
    before = evaluated(place, "val")
    assert before["uncertainty"]["after"] is None
    assert 0 < before["uncertainty"]["before"]["coverage_50"] < before["uncertainty"]["before"]["coverage_90"] < 1
    stated = mean_deviation(place, "checkpoints/there/config.yaml")
    weights = open_saved(experiment).state

    said = run("tasks/calibrate.py", "there", "--device", "cpu", cwd=place).succeeded().stdout
    assert "factors" in said and "before:" in said and "after:" in said
    saved = open_saved(experiment)
    assert all(torch.equal(weights[name], value) for name, value in saved.state.items())
    assert saved.factors is not None and len(saved.factors) == 3

    after = evaluated(place, "val")["uncertainty"]
    assert after["before"] == before["uncertainty"]["before"]
    assert after["after"]["coverage_90"] == pytest.approx(0.9, abs=0.02)  # of the split that they were fitted on
    assert mean_deviation(place, "checkpoints/there/config.yaml") == pytest.approx(stated * saved.factors[0], rel=1e-4)
    run("tasks/export.py", "checkpoints/there", "model.pt", cwd=place).succeeded()
    assert mean_deviation(place, "model.pt") == pytest.approx(stated * saved.factors[0], rel=1e-4)


def test_what_an_evaluation_says_about_trust(place: Path) -> None:
    summary = evaluated(place, "test")
    assert set(summary["resolution"]) == {"result", "bicubic"}
    assert 2.5 <= summary["resolution"]["result"]["frc_resolution"] <= summary["resolution"]["result"]["frc_half"]
    assert "crop 16 px" in summary["correctness_settings"]
    with (place / "checkpoints" / "there" / "metrics.csv").open(newline="") as file:
        row = next(csv.DictReader(file, delimiter=";"))
    for prefix in ("", "bicubic_"):
        shares = [float(row[prefix + name]) for name in ("improvement", "omission", "hallucination")]
        assert np.sum(shares) == pytest.approx(1, abs=1e-5)
    assert float(row["series_hallucination"]) <= float(row["hallucination"])
    page = (place / "checkpoints" / "there" / "report.html").read_text()
    for said in ("What can be trusted?", "Fourier ring correlation", "attention", "as the model states it", "invented"):
        assert said in page


def test_where_nothing_can_be_calibrated(place: Path) -> None:
    trainer(
        place, "--config", ROOT / "configs/rrdb/rrdb.yaml", "--hparams", f"{TINY},num_block=1", "--exp_name", "plain"
    )
    done = run("tasks/calibrate.py", "plain", "--device", "cpu", cwd=place)
    assert done.returncode == 2
    assert done.stderr.strip().endswith("train a backbone with --hparams uncertainty=laplace")
