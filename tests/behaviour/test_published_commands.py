"""The commands that the project promises, as they stand: preprocess, train a backbone, SRDiff on it, evaluate."""

import json
from pathlib import Path

import pytest

from tests.data import write_raw
from tests.golden.large import ROOT
from tests.trainings import Process, read_rows
from utils.config.parse import read_file

# Only what makes them short; everything else is as published.
SHORT = (
    "max_updates=2,batch_size=2,eval_batch_size=1,test_batch_size=1,num_workers=0,train_crop=8,"
    "val_check_interval=2,save_ckpt_interval=2,val_sampler_steps=2"
)
SAMPLING = "sampler=dpmpp_2m,sampler_steps=3"
METRICS = {"psnr", "ssim", "lpips", "mae", "mse", "shift_mae"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with the project's configurations, and raw data beside it."""
    folder = tmp_path_factory.mktemp("root")
    (folder / "configs").symlink_to(ROOT / "configs")
    write_raw(folder / "BreizhSR", train=4, val=1, test=2, hr_size=64, dates=4)
    return folder


def command(folder: Path, script: str, *arguments: str) -> str:
    done = Process(script, *arguments, cwd=folder, environment={"BREIZHSR_ROOT": str(folder / "BreizhSR")}).wait(400)
    return done.succeeded().stdout


def trainer(folder: Path, config: str, name: str, *arguments: str, hparams: str = SHORT) -> str:
    options = ("--config", config, "--exp_name", name, "--device", "cpu", "--hparams", hparams, *arguments)
    return command(folder, "tasks/trainer.py", *options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone_config", "backbone", "diffusion_config"),
    [
        ("configs/rrdb/rrdb.yaml", "sisr/rrdb_ckpt", "configs/diffsr_sat.yaml"),
        ("configs/misr/misr_pretrain.yaml", "misr/highresnet_ltae_ckpt", "configs/diffsr_hr_ltae.yaml"),
    ],
)
def test_chain(folder: Path, backbone_config: str, backbone: str, diffusion_config: str) -> None:
    diffusion = backbone.replace("/", "/srdiff_")
    command(folder, "data_gen/preprocess_data.py", "BreizhSR/", "--max_s2_images", "8")
    trainer(folder, backbone_config, backbone, "--reset")
    # The conditioner is what its experiment says, whatever the diffusion configuration has: here 15 blocks, not 8.
    trainer(folder, diffusion_config, diffusion, hparams=f"{SHORT},hidden_size=8,rrdb_ckpt=checkpoints/{backbone}")
    described = read_file(folder / "checkpoints" / diffusion / "config.yaml")["backbone"]
    trained = read_file(folder / "checkpoints" / backbone / "config.yaml")
    assert {key: trained[key] for key in described} == described
    for name, extra in ((backbone, SHORT), (diffusion, f"{SHORT},{SAMPLING}")):
        done = trainer(folder, f"checkpoints/{name}/config.yaml", name, "--infer", hparams=extra)
        assert "bicubic" in done and name in done
        check_results(folder / "checkpoints" / name, sampled=name == diffusion)


def check_results(folder: Path, *, sampled: bool) -> None:
    """What every evaluation leaves behind."""
    rows = read_rows(folder / "test_results.csv")
    assert list(rows[0]) == ["", "psnr", "ssim", "lpips", "mae", "mse", "shift_mae", "key"]
    assert [row[""] for row in rows] == ["0", "1"]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["n"] == 2 and summary["global_step"] == 2
    assert summary["sampler"] == ("dpmpp_2m" if sampled else None)
    assert summary["steps"] == (3 if sampled else None)
    assert summary["seconds_per_image"] > 0
    assert set(summary["metrics"]) >= METRICS and set(summary["bicubic"]) >= METRICS
    assert ("backbone" in summary) == sampled
    mean = sum(float(row["psnr"]) for row in rows) / 2
    assert summary["metrics"]["psnr"]["mean"] == pytest.approx(mean)
    assert summary["metrics"]["lpips"] != {"mean": 0, "std": 0}  # empty where its weights can't be had, never 0
    for file in ("comparison.png", "report.html", "config.yaml", "runs.json", "train_loss.csv", "val_res.csv"):
        assert (folder / file).stat().st_size > 0, file


@pytest.mark.slow
def test_bicubic_needs_no_training(folder: Path) -> None:
    command(folder, "data_gen/preprocess_data.py", "BreizhSR/", "--max_s2_images", "8")
    trainer(folder, "configs/bicubic.yaml", "bicubic", "--infer", hparams="num_workers=0,test_save_png=true")
    summary = json.loads((folder / "checkpoints" / "bicubic" / "summary.json").read_text())
    assert summary["metrics"] == summary["bicubic"]
    pictures = folder / "checkpoints" / "bicubic" / "results_0_"
    assert {path.name for path in pictures.iterdir()} == {"SR", "HR", "LR", "UP"}
    options = ("--config", "configs/bicubic.yaml", "--exp_name", "b2", "--hparams", "data_root=BreizhSR")
    done = Process("tasks/trainer.py", *options, cwd=folder).wait(100)
    assert done.returncode == 2 and "nothing to train" in done.stderr
