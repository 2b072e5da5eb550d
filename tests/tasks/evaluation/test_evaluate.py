"""An evaluation: what it writes, that its files agree with each other, and that each patch is predicted once."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import avg_pool2d

from tasks.base import Task
from tasks.build import build_task
from tasks.evaluation import evaluate as evaluation
from tasks.evaluation.evaluate import evaluate
from tasks.evaluation.measure import super_resolve
from tasks.evaluation.results import Evaluated
from tests.data import write_prepared
from utils.config.settings import Diffusion, Evaluation, Model, Settings
from utils.dataloader import BreizhSRDataset, evaluation_loader
from utils.distributed import World

pytestmark = pytest.mark.slow

SETTINGS = Settings(
    model=Model(trainer_cls="srdiff", hidden_size=8),
    diffusion=Diffusion(timesteps=6, unet_dim_mults="1|2", conditioner="none", samples=2),
    backbone=Model(trainer_cls="bicubic"),
    evaluation=Evaluation(test_batch_size=2, test_save_png=True, save_intermediate=True),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> BreizhSRDataset:
    return BreizhSRDataset(write_prepared(tmp_path_factory.mktemp("data"), test=5), "test")


@pytest.fixture(scope="module")
def task() -> Task:
    torch.manual_seed(0)
    return build_task(SETTINGS)


def run(folder: Path, task: Task, data: BreizhSRDataset) -> int:
    """Evaluate; how many times the task predicted."""
    evaluated = Evaluated("demo/a", folder, checkpoint="x.ckpt", global_step=7, averaged=False, split="test")
    predictions = []
    predict = task.predict

    def counted(*arguments: object, **options: object) -> object:
        predictions.append(1)
        return predict(*arguments, **options)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task, "predict", counted)
        evaluate(task, data, evaluated, settings=SETTINGS, world=World(torch.device("cpu")), lpips=None)
    return len(predictions)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, task: Task, data: BreizhSRDataset) -> Path:
    folder = tmp_path_factory.mktemp("evaluated")
    assert run(folder, task, data) == 3  # batches of two: no patch is predicted a second time to be shown
    return folder


def test_files(written: Path) -> None:
    files = {"test_results.csv", "metrics.csv", "summary.json", "comparison.png", "report.html", "report_pictures"}
    assert files <= {path.name for path in written.iterdir()}
    shown = {path.name for path in next((written / "report_pictures").iterdir()).iterdir()}
    names = ("nearest%20input", "bicubic", "backbone", "result", "truth", "error", "spread")
    names += ("improvement", "omission", "hallucination")
    assert shown == {f"{name}.png" for name in names}
    (saved,) = written.glob("results_7_*")
    assert {path.name: len(list(path.iterdir())) for path in saved.iterdir() if path.name != "LR"} == {
        **{"SR": 5, "HR": 5, "UP": 5, "RRDB": 5},
        "intermediate": 6,  # of each of the steps of the first patch
    }


def test_the_summary_is_the_mean_of_the_rows(written: Path, data: BreizhSRDataset) -> None:
    with (written / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter=";"))
    summary = json.loads((written / "summary.json").read_text())
    assert [row["key"] for row in rows] == [str(data.key(position)) for position in range(5)]
    assert summary["n"] == 5
    for part, prefix in (("metrics", ""), ("bicubic", "bicubic_"), ("backbone", "backbone_")):
        for name in ("psnr", "cpsnr", "sharpness_error"):
            values = [float(row[prefix + name]) for row in rows]
            assert summary[part][name]["mean"] == pytest.approx(np.mean(values))
            assert summary[part][name]["std"] == pytest.approx(np.std(values, ddof=1))
    assert summary["metrics"]["lpips"] == {"mean": None, "std": None}  # not measured is not 0
    first = (written / "test_results.csv").read_text().splitlines()[0]
    assert first == ";psnr;ssim;lpips;mae;mse;shift_mae;key"


def test_where_pictures_do_not_fit_in_memory_they_are_the_same(
    written: Path, tmp_path: Path, task: Task, data: BreizhSRDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation, "KEPT_BYTES", 0)
    assert run(tmp_path, task, data) == 3 + 5
    for name in ("comparison.png", "metrics.csv"):
        assert (tmp_path / name).read_bytes() == (written / name).read_bytes()


def test_results_can_be_held_to_the_input(task: Task, data: BreizhSRDataset) -> None:
    world = World(torch.device("cpu"))
    held = replace(SETTINGS, evaluation=replace(SETTINGS.evaluation, consistency=True))
    raw = next(iter(evaluation_loader(data, batch_size=2)))
    batch = data.to_batch(raw, world.device)
    free, result = (super_resolve(task, batch, settings=s, world=world, samples=2) for s in (SETTINGS, held))
    nearest = batch.lr[range(2), batch.near]
    assert result.samples is not None
    for images in (result.sr, result.samples[:, 1]):
        torch.testing.assert_close(avg_pool2d(images, 4), nearest, atol=0.02, rtol=0)  # clamped where it is white
    assert (avg_pool2d(free.sr, 4) - nearest).abs().max() > 0.2
