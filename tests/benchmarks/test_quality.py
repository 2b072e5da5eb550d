"""Quality against steps, on a model that has not learned anything."""

from pathlib import Path
from typing import Literal, cast

import pandas as pd
import pytest
import torch

from benchmarks import quality
from benchmarks.quality import Point
from tasks.build import build_task
from tasks.srdiff import SRDiffTask
from tests.data import write_prepared
from utils.config.settings import Diffusion, Model, Settings
from utils.dataloader import BreizhSRDataset
from utils.distributed import World
from utils.errors import ConfigError
from utils.report.statistics import mean_interval


def point(sampler: str = "ddpm", steps: int = 100, **columns: list[float]) -> Point:
    return Point("model", sampler, steps, pd.DataFrame(columns), 1.0)


FULL = point(psnr=[20.0, 30.0], lpips=[0.2, 0.4], spread=[0.1, 0.3], ssim=[0.5, 0.6], shift_mae=[3.0, 4.0])


def test_differences_and_ratios_patch_by_patch() -> None:
    other = FULL.columns.assign(psnr=[20.5, 30.5], lpips=[0.1, 0.4], spread=[0.2, 0.3], shift_mae=[2.0, 4.0])
    found = quality.against(FULL._replace(columns=other), FULL)
    assert (found["psnr"].mean, found["psnr"].low, found["psnr"].high) == pytest.approx((0.5, 0.5, 0.5))
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
    other = FULL.columns.assign(
        psnr=FULL.columns.psnr + psnr, lpips=FULL.columns.lpips * lpips, spread=FULL.columns.spread * spread
    )
    assert quality.is_as_good(FULL._replace(columns=other), FULL) is good


def test_a_spread_that_differs_must_be_more_honest() -> None:
    full = point(psnr=[20.0], spread=[0.1], variance=[0.01], squared_error=[0.04])
    nearer = point(psnr=[20.0], spread=[0.2], variance=[0.03], squared_error=[0.04])
    farther = point(psnr=[20.0], spread=[0.05], variance=[0.002], squared_error=[0.04])
    assert full.spread_to_error == pytest.approx(0.5)
    assert quality.is_as_good(nearer, full)
    assert not quality.is_as_good(farther, full)


def test_plans() -> None:
    assert quality.parse_plan(["ddim:1,2", "ddpm:0"]) == [("ddim", 1), ("ddim", 2), ("ddpm", 0)]
    with pytest.raises(ConfigError, match="ddim:1"):
        quality.parse_plan(["ddim"])


@pytest.mark.parametrize("process", ["diffusion", "flow"])
def test_a_model(tmp_path: Path, process: Literal["diffusion", "flow"]) -> None:
    settings = Settings(
        model=Model(trainer_cls="srdiff", hidden_size=8),
        diffusion=Diffusion(process=process, timesteps=12, unet_dim_mults="1|2", conditioner="none"),
        backbone=Model(trainer_cls="bicubic"),
    )
    torch.manual_seed(0)
    task = cast(SRDiffTask, build_task(settings))
    data = BreizhSRDataset(write_prepared(tmp_path), "test")
    here = World(torch.device("cpu"))
    plan = [("ddpm", 0), ("ddpm", 12), ("midpoint", 4)]
    measured = list(
        quality.points("a", task.eval(), data, plan, settings=settings, world=here, samples=2, limit=2, lpips=None)
    )
    assert [(p.sampler, p.steps) for p in measured] == [("ddpm", 12), ("ddpm", 12), ("midpoint", 4)]
    same = quality.against(measured[1], measured[0])  # all steps, asked for in two ways
    assert {name: of.mean for name, of in same.items()} == {"psnr": 0, "ssim": 0, "shift_mae": 0, "spread": 1}
    assert all(len(p.columns["psnr"]) == 2 and p.columns["spread"].min() > 0 for p in measured)
    assert quality.markdown(measured).count("\n| a |") == 3
    assert "ddpm in 12" in quality.sentence(measured)
