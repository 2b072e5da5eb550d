"""What all benchmarks share: sample data, how long to measure, and tasks with random weights."""

import contextlib
import io
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch

from benchmarks.timing import Patience
from data_gen.prepare import prepare
from data_gen.synthetic.dataset import SampleSet, write_sample_set
from tasks.base import Task
from tasks.build import build_task
from utils.config.parse import load_chain, settings_from
from utils.config.settings import Settings
from utils.distributed import World

Precision = Literal["off", "bf16"]
SamplerName = Literal["ddpm", "ddim", "dpmpp_2m"]
CONFIGS = Path(__file__).resolve().parents[1] / "configs"


class Bench:
    """A run: ``folder`` for its files, and whether it is to be quick."""

    def __init__(self, folder: Path, *, quick: bool, world: World) -> None:
        self.folder, self.quick, self.world = folder, quick, world
        self.patience = Patience(rounds=2, most=3, seconds=1) if quick else Patience(rounds=3, most=9, seconds=12)

    @cached_property
    def raw(self) -> Path:
        """A raw sample data set, of patches as large as BreizhSR's."""
        root = self.folder / "raw"
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
            write_sample_set(root, SampleSet(train=8 if self.quick else 32, val=1, test=1))
        return root

    @cached_property
    def prepared(self) -> Path:
        """The same, prepared."""
        with contextlib.redirect_stderr(io.StringIO()):
            prepare(self.raw, output=self.folder / "prepared", workers=1)
        return self.folder / "prepared"


def published(config: str) -> Settings:
    """A published configuration; a diffusion model's conditioner is the published one."""
    settings = settings_from(load_chain(CONFIGS / config), source=config)
    if settings.model.trainer_cls == "srdiff":
        conditioner = settings_from(load_chain(CONFIGS / "misr/misr_pretrain.yaml"), source="misr_pretrain.yaml")
        settings = replace(settings, backbone=conditioner.model)
    return settings


def task_of(settings: Settings) -> Task:
    """Its task with random weights: times don't depend on them."""
    torch.manual_seed(0)
    return build_task(settings)
