"""Quality of a diffusion model's images against the number of steps, sampler by sampler, beside the full ddpm."""

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from tasks.base import Result
from tasks.evaluation.measure import Figures, measure_batch, super_resolve
from tasks.srdiff import SRDiffTask, build_sampler
from utils.config.settings import Settings
from utils.dataloader import BreizhSRDataset, evaluation_loader
from utils.distributed import World
from utils.metrics.lpips import LPIPS
from utils.metrics.registry import METRICS
from utils.report import plots as charts
from utils.report.statistics import mean_interval, summarise

SamplerName = Literal["ddpm", "ddim", "dpmpp_2m"]
FULL: tuple[SamplerName, int] = ("ddpm", 0)  # all steps: what the others are held against
SHOWN = ("psnr", "ssim", "lpips", "shift_mae")
# What counts as the full ddpm's quality.
LESS_PSNR, MORE_LPIPS, OTHER_SPREAD = 0.1, 1.03, 0.05


class Point(NamedTuple):
    """A sampler with so many steps."""

    sampler: SamplerName
    steps: int
    columns: dict[str, NDArray[np.float64]]  # figures of each patch: SHOWN, and the spread of its samples
    seconds: float  # an image


class Measure(NamedTuple):
    """A mean over patches with its 95% interval."""

    mean: float
    low: float
    high: float


def points(
    task: SRDiffTask,
    dataset: BreizhSRDataset,
    plan: Sequence[tuple[SamplerName, int]],
    *,
    settings: Settings,
    world: World,
    samples: int,
    limit: int,
    lpips: LPIPS | None,
) -> Iterator[Point]:
    """Measure each sampler of the plan on the first patches; 0 steps: all. Noise is the same for all of them."""
    for name, steps in plan:
        path = task.model.path
        sampled = copy.copy(task)
        sampled.sampler = build_sampler(name, path=path, steps=steps, eta=settings.diffusion.ddim_eta)
        rows: list[Figures] = []
        seconds = 0.0
        for raw in evaluation_loader(dataset, batch_size=1, limit=limit):
            batch = dataset.to_batch(raw, world.device)
            started = time.perf_counter()
            result = super_resolve(sampled, batch, settings=settings, world=world, samples=samples)
            seconds += time.perf_counter() - started
            rows.append(_row(result, [measure_batch(single, batch, lpips=lpips)[0] for single in _singly(result)]))
        columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
        yield Point(name, steps or path.timesteps, columns, seconds / len(rows) / samples)


def _singly(result: Result) -> list[Result]:
    """Each sample of a batch as a result of its own."""
    if result.samples is None:
        return [Result(result.sr)]
    return [Result(sr) for sr in result.samples.unbind(dim=1)]


def _row(result: Result, singly: Sequence[Figures]) -> Figures:
    """Means of a patch over its samples, and how far these lie apart: the deviation of a pixel, mean over pixels."""
    row: Figures = {name: float(np.mean([one[name] for one in singly])) for name in SHOWN if name in singly[0]}
    if result.samples is not None:
        row["spread"] = float(result.samples.std(dim=1, correction=0).mean())
    return row


def against(point: Point, full: Point) -> dict[str, Measure]:
    """Differences to the full ddpm, patch by patch; ratios for LPIPS and spread."""
    found: dict[str, Measure] = {}
    for name, values in point.columns.items():
        reference = full.columns[name]
        compared = values / reference if name in ("lpips", "spread") else values - reference
        found[name] = Measure(float(compared.mean()), *mean_interval(compared))
    return found


def as_good(compared: Mapping[str, Measure]) -> bool:
    """Whether the means are those of the full ddpm, or better."""
    lpips, spread = (compared.get(name, Measure(1, 1, 1)).mean for name in ("lpips", "spread"))
    return compared["psnr"].mean >= -LESS_PSNR and lpips <= MORE_LPIPS and abs(spread - 1) <= OTHER_SPREAD


def markdown(measured: Sequence[Point]) -> str:
    """A row a sampler and number of steps; the first point is the full ddpm."""
    full = measured[0]
    names = [name for name in SHOWN if name in full.columns]
    heads = ["sampler", "steps", "s an image", *(METRICS[name].label for name in names), "PSNR − full (dB)"]
    heads += ["LPIPS / full"] if "lpips" in names else []
    heads += ["spread / full", "as good"]
    lines = [f"| {' | '.join(heads)} |", "|---" + "|---:" * (len(heads) - 1) + "|"]
    for point in measured:
        compared = against(point, full)
        cells = [point.sampler, str(point.steps), f"{point.seconds:.2f}"]
        for name in names:
            of = summarise(point.columns[name])
            cells.append(_interval(Measure(of.mean, of.low, of.high), METRICS[name].decimals))
        if point is full:
            cells += [""] * (len(heads) - len(cells) - 1) + ["(full)"]
        else:
            cells.append(_interval(compared["psnr"], 2, sign=True))
            cells += [_interval(compared[name], 3) for name in ("lpips", "spread") if name in compared]
            cells.append("yes" if as_good(compared) else "no")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _interval(measure: Measure, decimals: int, *, sign: bool = False) -> str:
    mean, low, high = (f"{value:{'+' if sign else ''}.{decimals}f}".replace("-", "−") for value in measure)
    return f"{mean} ({low} to {high})"


def sentence(measured: Sequence[Point]) -> str:
    """How few steps are enough."""
    full, *others = measured
    enough = [point for point in others if as_good(against(point, full))]
    said = f"{len(full.columns['psnr'])} patches, intervals of 95% over patches. "
    if not enough:
        return said + f"None is as good as the full ddpm of {full.steps} steps."
    best = min(enough, key=lambda point: (point.steps, point.seconds))
    return said + (
        f"As good as the full ddpm of {full.steps} steps (PSNR at most {LESS_PSNR} dB less, LPIPS at most "
        f"{MORE_LPIPS - 1:.0%} more, spread within {OTHER_SPREAD:.0%}) with the fewest steps: {best.sampler} with "
        f"{best.steps}, {full.seconds / best.seconds:.0f} times as fast."
    )


def plots(measured: Sequence[Point]) -> dict[str, str]:
    """Charts against the number of steps as SVG files, by metric."""
    full, *others = measured
    names = [name for name in ("psnr", "lpips", "spread") if name in full.columns]
    return {name: charts.standalone(_plot(name, full, others)) for name in names}


def _plot(name: str, full: Point, others: Sequence[Point]) -> Figure:
    value: Callable[[Point], Measure]
    if name == "spread":
        label = "spread / full ddpm's"

        def value(point: Point) -> Measure:
            return against(point, full)[name]
    else:
        label = METRICS[name].axis

        def value(point: Point) -> Measure:
            of = summarise(point.columns[name])
            return Measure(of.mean, of.low, of.high)

    series = []
    for sampler in dict.fromkeys(point.sampler for point in others):
        of_sampler = sorted((p for p in [full, *others] if p.sampler == sampler), key=lambda p: p.steps)
        x = [math.log2(point.steps) for point in of_sampler]
        mean, low, high = zip(*map(value, of_sampler), strict=True)
        series.append(charts.Line(sampler, x, mean, low, high))
    texts = {math.log2(steps): str(steps) for steps in sorted({point.steps for point in [full, *others]})}
    return charts.lines(series, x="steps", y=label, texts=texts)
