"""Quality against steps, on a model that has not learned anything."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import curve
from benchmarks.curve import Measure, Point
from tasks.build import build_task
from tasks.srdiff import SRDiffTask
from tests.data import write_prepared
from utils.config.settings import Diffusion, Model, Settings
from utils.dataloader import BreizhSRDataset
from utils.distributed import World
from utils.report.statistics import mean_interval


def point(sampler: curve.SamplerName = "ddpm", steps: int = 100, **columns: list[float]) -> Point:
    return Point(sampler, steps, {name: np.array(values) for name, values in columns.items()}, 1.0)


FULL = point(psnr=[20.0, 30.0], lpips=[0.2, 0.4], spread=[0.1, 0.3], ssim=[0.5, 0.6], shift_mae=[3.0, 4.0])


def test_differences_and_ratios_patch_by_patch() -> None:
    other = point(
        "ddim", 10, psnr=[20.5, 30.5], lpips=[0.1, 0.4], spread=[0.2, 0.3], ssim=[0.5, 0.6], shift_mae=[2.0, 4.0]
    )
    found = curve.against(other, FULL)
    assert found["psnr"] == pytest.approx((0.5, 0.5, 0.5))
    assert found["lpips"].mean == pytest.approx(0.75)
    assert found["spread"].mean == pytest.approx(1.5)
    assert found["shift_mae"].mean == pytest.approx(-0.5)
    assert (found["lpips"].low, found["lpips"].high) == pytest.approx(mean_interval([0.5, 1.0]))


@pytest.mark.parametrize(
    ("psnr", "lpips", "spread", "good"),
    [
        (0.0, 1.0, 1.0, True),
        (3.0, 0.5, 1.04, True),
        (-0.09, 1.029, 0.96, True),
        (-0.11, 1.0, 1.0, False),
        (0.0, 1.031, 1.0, False),
        (0.0, 1.0, 0.94, False),
        (0.0, 1.0, 1.06, False),
    ],
)
def test_as_good(psnr: float, lpips: float, spread: float, good: bool) -> None:
    means = {"psnr": psnr, "lpips": lpips, "spread": spread}
    assert curve.as_good({name: Measure(mean, mean, mean) for name, mean in means.items()}) is good


def test_a_model(tmp_path: Path) -> None:
    model = Model(trainer_cls="srdiff", hidden_size=8)
    settings = Settings(
        model=model,
        diffusion=Diffusion(timesteps=12, unet_dim_mults="1|2", conditioner="none"),
        backbone=Model(trainer_cls="bicubic"),
    )
    torch.manual_seed(0)
    task = build_task(settings)
    assert isinstance(task, SRDiffTask)
    data = BreizhSRDataset(write_prepared(tmp_path), "test")
    plan: list[tuple[curve.SamplerName, int]] = [curve.FULL, ("ddpm", 12), ("dpmpp_2m", 3)]
    measured = list(
        curve.points(
            task.eval(), data, plan, settings=settings, world=World(torch.device("cpu")), samples=2, limit=2, lpips=None
        )
    )
    assert [(p.sampler, p.steps) for p in measured] == [("ddpm", 12), ("ddpm", 12), ("dpmpp_2m", 3)]
    same = curve.against(measured[1], measured[0])  # all steps, asked for in two ways
    assert {name: of.mean for name, of in same.items()} == {"psnr": 0, "ssim": 0, "shift_mae": 0, "spread": 1}
    assert all(len(p.columns["psnr"]) == 2 and p.columns["spread"].min() > 0 for p in measured)
    assert curve.markdown(measured).count("\n| ") == 3
    assert "ddpm with 12" in curve.sentence(measured)
    for name, svg in curve.plots(measured).items():
        assert name in ("psnr", "spread")
        assert ">ddpm<" in svg and ">dpmpp_2m<" in svg and ">steps<" in svg
    assert math.isfinite(measured[2].seconds)
