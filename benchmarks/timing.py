"""Times of several ways to do one thing, taken in turns: A B A B ...

What else the machine does, or how warm it is, then meets all of them alike, and their ratios hold where times don't.
"""

import contextlib
import io
import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from data_gen.prepare import prepare
from data_gen.synthetic.dataset import SampleSet, write_sample_set
from tasks.base import Task
from tasks.build import build_task
from utils.config.parse import load_chain, settings_from
from utils.config.settings import Settings
from utils.distributed import World
from utils.errors import DataError
from utils.files import write_text

_SHORTEST = 0.05  # seconds that one measurement takes at least: short calls are repeated


class Timing(NamedTuple):
    """Seconds a call, measured several times."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def low(self) -> float:
        return min(self.seconds)

    @property
    def high(self) -> float:
        return max(self.seconds)

    def scaled(self, factor: float) -> "Timing":
        return Timing(tuple(value * factor for value in self.seconds))


class Patience(NamedTuple):
    """How often all modes are timed: at least ``rounds`` times, then more while less than ``seconds`` have gone by."""

    rounds: int = 3
    most: int = 9
    seconds: float = 20.0


def alternate(modes: Mapping[str, Callable[[], object]], patience: Patience) -> dict[str, Timing]:
    """Each mode is called once unmeasured, then all are measured in turns."""
    repeats = {name: max(1, math.ceil(_SHORTEST / _seconds(call, 1))) for name, call in modes.items()}
    measured: dict[str, list[float]] = {name: [] for name in modes}
    started = time.perf_counter()
    for done in range(patience.most):
        if done >= patience.rounds and time.perf_counter() - started > patience.seconds:
            break
        for name, call in modes.items():
            measured[name].append(_seconds(call, repeats[name]))
    return {name: Timing(tuple(values)) for name, values in measured.items()}


def _seconds(call: Callable[[], object], repeats: int) -> float:
    started = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - started) / repeats


@dataclass(frozen=True)
class Row:
    """One thing done in one way."""

    what: str
    mode: str
    timing: Timing  # of one of ``what``
    rate: float | None = None  # a second
    unit: str = ""  # of the rate
    share: float | None = None  # of the machine's limit
    gain: float | None = None  # how many times as fast as the plain mode
    memory: int | None = None  # bytes at its peak
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        timing = self.timing
        values = {"median": timing.median, "low": timing.low, "high": timing.high, "runs": len(timing.seconds)}
        return {**vars(self), "timing": values}


def markdown(rows: Iterable[Row]) -> str:
    """A table: median and range of times, rates, their part of the limit, gains over the plain mode; notes below it."""
    lines = [
        "| what | how | median (range) | rate | of the limit | against plain | peak memory |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    notes: list[str] = []
    for row in rows:
        if row.note and row.note not in notes:
            notes.append(row.note)
        cells = [
            row.what,
            row.mode + (f" [{notes.index(row.note) + 1}]" if row.note else ""),
            _times(row.timing),
            f"{_digits(1 / row.timing.median)} /s" if row.rate is None else f"{_digits(row.rate)} {row.unit}",
            "" if row.share is None else f"{row.share:.2f}",
            "" if row.gain is None else f"{row.gain:.1f}×",
            "" if row.memory is None else f"{row.memory / 1e9:.2f} GB",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [text for number, note in enumerate(notes, 1) for text in ("", f"[{number}] {note}")]
    return "\n".join(lines) + "\n"


def _times(timing: Timing) -> str:
    unit, factor = ("s", 1.0) if timing.median >= 1 else ("ms", 1e3)
    median, low, high = (_digits(value * factor) for value in (timing.median, timing.low, timing.high))
    return f"{median} {unit} ({low}–{high})"


def _digits(value: float) -> str:
    """Three significant digits."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def write_between(path: Path, name: str, text: str) -> None:
    """Replace what stands between ``<!-- name:begin -->`` and ``<!-- name:end -->`` in a document."""
    before, after = surroundings(path, name)
    write_text(path, f"{before}\n{text.strip()}\n{after}")


def surroundings(path: Path, name: str) -> tuple[str, str]:
    """What stands before and after, with the marks. Raises DataError where there are none."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    try:
        document = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror}") from None
    before, found_begin, rest = document.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end:
        raise DataError(f"{path} has no lines {begin} and {end} to write between")
    return before + begin, end + after


Precision = Literal["off", "bf16"]
SamplerName = Literal["ddpm", "ddim", "dpmpp_2m"]
CONFIGS = Path(__file__).resolve().parents[1] / "configs"


class BenchmarkRun:
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
