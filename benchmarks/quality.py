"""Quality against steps: quality.py EXPERIMENT ... [--plan ddim:1,2,4] [--write docs/performance.md].

The experiments are trained generative models. All make the same patches from the same noise, with the samplers and
numbers of steps of the plan; the first of all, with all its steps, is what the others are held against.
"""

import argparse
import copy
import json
import logging
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.timing import surroundings, write_between
from tasks import commands
from tasks.base import Result
from tasks.evaluation.measure import Figures, measure_batch, super_resolve
from tasks.experiment import open_experiment
from tasks.srdiff import SRDiffTask
from utils.cli import Parser, run
from utils.config.settings import Settings
from utils.dataloader import Batch, BreizhSRDataset, evaluation_loader
from utils.distributed import World, world
from utils.errors import ConfigError
from utils.files import write_text
from utils.metrics.lpips import LPIPS, load_lpips
from utils.metrics.registry import METRICS
from utils.report import plots
from utils.report.statistics import mean_interval, summarise

logger = logging.getLogger(__name__)

Plan = Sequence[tuple[str, int]]  # samplers with numbers of steps; 0: all
OF_DIFFUSION: Plan = [("ddpm", 0), ("ddpm", 50), ("ddpm", 15), ("ddpm", 10), ("ddim", 10), ("dpmpp_2m", 10)]
OF_FLOW: Plan = [("ddim", 1), ("ddim", 2), ("ddim", 4), ("ddim", 8), ("ddim", 16), ("midpoint", 4), ("dpmpp_2m", 4)]
SHOWN = ("psnr", "ssim", "lpips", "shift_mae")
LESS_PSNR, MORE_LPIPS, OTHER_SPREAD = 0.1, 1.03, 0.05  # what counts as the quality of all steps


class Point(NamedTuple):
    """A model, sampled in so many steps."""

    model: str
    sampler: str
    steps: int
    columns: dict[str, NDArray[np.float64]]  # of each patch: SHOWN, spread, variance and squared error
    seconds: float  # an image

    @property
    def spread_to_error(self) -> float:
        """How far samples lie apart against how far their mean is off: 1 where the spread is honest."""
        if "variance" not in self.columns:
            return float("nan")
        return float(np.sqrt(self.columns["variance"].mean() / self.columns["squared_error"].mean()))


class MeanInterval(NamedTuple):
    """A mean over patches with its 95% interval."""

    mean: float
    low: float
    high: float


def points(
    model: str,
    task: SRDiffTask,
    dataset: BreizhSRDataset,
    plan: Plan,
    *,
    settings: Settings,
    world: World,
    samples: int,
    limit: int,
    lpips: LPIPS | None,
) -> Iterator[Point]:
    """Measure each sampler of the plan on the first patches. Noise is the same for all of them."""
    for sampler, steps in plan:
        sampled = copy.copy(task)
        sampled.choose_sampler(sampler, steps=steps, eta=settings.diffusion.ddim_eta)
        rows: list[Figures] = []
        seconds = 0.0
        for raw in evaluation_loader(dataset, batch_size=1, limit=limit):
            batch = dataset.to_batch(raw, world.device)
            started = time.perf_counter()
            result = super_resolve(sampled, batch, settings=settings, world=world, samples=samples)
            seconds += time.perf_counter() - started
            rows.append(_row(result, batch, lpips=lpips))
        columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
        yield Point(model, sampler, sampled.sampler_steps or 0, columns, seconds / len(rows) / samples)


def _row(result: Result, batch: Batch, *, lpips: LPIPS | None) -> Figures:
    """A patch: means over its samples, and how far these lie apart (the deviation of a pixel, mean over pixels)."""
    drawn = [result.sr] if result.samples is None else result.samples.unbind(dim=1)
    figures = [measure_batch(Result(sr), batch, lpips=lpips)[0] for sr in drawn]
    row: Figures = {name: float(np.mean([one[name] for one in figures])) for name in SHOWN if name in figures[0]}
    if result.samples is not None:
        row["spread"] = float(result.samples.std(dim=1, correction=0).mean())
        # The mean of k samples is off by the variance of the truth, and a k-th of that of the samples.
        row["variance"] = float(result.samples.var(dim=1).mean()) * (1 + 1 / len(drawn))
        row["squared_error"] = float((result.sr - batch.hr).square().mean())
    return row


def against(point: Point, full: Point) -> dict[str, MeanInterval]:
    """Differences to the reference, patch by patch; ratios for LPIPS and spread."""
    found: dict[str, MeanInterval] = {}
    for name in (*SHOWN, "spread"):
        if name in full.columns:
            values, reference = point.columns[name], full.columns[name]
            compared = values / reference if name in ("lpips", "spread") else values - reference
            found[name] = MeanInterval(float(compared.mean()), *mean_interval(compared))
    return found


def as_good(compared: Mapping[str, MeanInterval], *, nearer_to_calibrated: bool = False) -> bool:
    """Whether the means are those of the reference, or better; a spread that differs must be more honest."""
    lpips, spread = (compared.get(name, MeanInterval(1, 1, 1)).mean for name in ("lpips", "spread"))
    honest = abs(spread - 1) <= OTHER_SPREAD or nearer_to_calibrated
    return compared["psnr"].mean >= -LESS_PSNR and lpips <= MORE_LPIPS and honest


def is_as_good(point: Point, full: Point) -> bool:
    nearer = abs(point.spread_to_error - 1) < abs(full.spread_to_error - 1)
    return as_good(against(point, full), nearer_to_calibrated=nearer)


def markdown(measured: Sequence[Point]) -> str:
    """A row a point; the first one is the reference."""
    full = measured[0]
    names = [name for name in SHOWN if name in full.columns]
    heads = ["model", "sampler", "steps", "s an image", *(METRICS[name].label for name in names), "PSNR − first (dB)"]
    heads += ["LPIPS / first"] if "lpips" in names else []
    heads += ["spread / first", "spread / error", "as good"]
    lines = [f"| {' | '.join(heads)} |", "|---|---" + "|---:" * (len(heads) - 2) + "|"]
    for point in measured:
        compared = against(point, full)
        cells = [point.model, point.sampler, str(point.steps), f"{point.seconds:.2f}"]
        for name in names:
            of = summarise(point.columns[name])
            cells.append(_interval(MeanInterval(of.mean, of.low, of.high), METRICS[name].decimals))
        cells.append("" if point is full else _interval(compared["psnr"], 2, sign=True))
        for name in ("lpips", "spread"):
            if name in compared:
                cells.append("" if point is full else _interval(compared[name], 3))
        cells.append(f"{point.spread_to_error:.2f}")
        cells.append("(first)" if point is full else "yes" if is_as_good(point, full) else "no")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _interval(measure: MeanInterval, decimals: int, *, sign: bool = False) -> str:
    mean, low, high = (f"{value:{'+' if sign else ''}.{decimals}f}".replace("-", "−") for value in measure)
    return f"{mean} ({low} to {high})"


def sentence(measured: Sequence[Point]) -> str:
    """How few steps are enough."""
    full, *others = measured
    said = f"{len(full.columns['psnr'])} patches, intervals of 95% over patches. "
    reference = f"{full.model} with {full.sampler} in {full.steps} steps"
    enough = [point for point in others if is_as_good(point, full)]
    if not enough:
        return said + f"None is as good as {reference}."
    best = min(enough, key=lambda point: (point.steps, point.seconds))
    return said + (
        f"As good as {reference} (PSNR at most {LESS_PSNR} dB less, LPIPS at most {MORE_LPIPS - 1:.0%} more, spread "
        f"within {OTHER_SPREAD:.0%} or nearer to the error) with the fewest steps: {best.model} with {best.sampler} in "
        f"{best.steps}, {full.seconds / best.seconds:.0f} times as fast."
    )


def trade_off(measured: Sequence[Point]) -> str:
    """LPIPS against PSNR as SVG, a line a model and sampler, labelled with the steps."""
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(METRICS["psnr"].axis)
    axes.set_ylabel(METRICS["lpips"].axis)
    for model, sampler in dict.fromkeys((point.model, point.sampler) for point in measured):
        chosen = [point for point in measured if (point.model, point.sampler) == (model, sampler)]
        chosen.sort(key=lambda point: point.steps)
        x, y = ([float(point.columns[name].mean()) for point in chosen] for name in ("psnr", "lpips"))
        axes.plot(x, y, "o-", markersize=4, linewidth=1.2, label=f"{model}, {sampler}")
        for point, at in zip(chosen, zip(x, y, strict=True), strict=True):
            axes.annotate(str(point.steps), at, textcoords="offset points", xytext=(4, 4), fontsize=9)
    axes.legend(frameon=False, fontsize=9)
    return plots.standalone(figure)


def parse_plan(texts: Sequence[str]) -> Plan:
    """``["ddim:1,2"]`` -> [("ddim", 1), ("ddim", 2)]. Raises ConfigError."""
    plan: list[tuple[str, int]] = []
    for text in texts:
        sampler, _, steps = text.partition(":")
        try:
            plan += [(sampler, int(count)) for count in steps.split(",")]
        except ValueError:
            raise ConfigError(f"--plan is like ddim:1,2,4 (0: all steps), not {text}") from None
    return plan


def main(options: argparse.Namespace) -> None:
    if options.limit < 1 or options.samples < 1:
        raise ConfigError("--limit and --samples must be at least 1")
    if options.write:
        surroundings(options.write, "quality")  # before anything takes its time
    given = parse_plan(options.plan)
    measured: list[Point] = []
    with world(options.device) as here:
        for name in options.experiments:
            config = Path("checkpoints") / name / "config.yaml"
            experiment = open_experiment(config=config, name=name, hparams=options.hparams, reset=False)
            settings = experiment.settings
            task = commands.trained_task(experiment)
            if not task.is_stochastic:
                raise ConfigError(f"{name} is no generative model: it is not sampled")
            lpips = load_lpips(settings.evaluation.lpips_weights)
            here.place(task)
            task.eval()
            for point in points(
                name.rpartition("/")[2],
                cast(SRDiffTask, task),
                commands.dataset(settings, options.split),
                given or (OF_FLOW if settings.diffusion.process == "flow" else OF_DIFFUSION),
                settings=settings,
                world=here,
                samples=options.samples,
                limit=options.limit,
                lpips=lpips.to(here.device) if lpips else None,
            ):
                measured.append(point)
                logger.info("%s, %s, %d steps: %.2f s an image", point.model, point.sampler, point.steps, point.seconds)
    text = f"{sentence(measured)}\n\n{markdown(measured)}"
    sys.stdout.write(text)
    if options.json:
        rows = [{**point._asdict(), "columns": {k: v.tolist() for k, v in point.columns.items()}} for point in measured]
        write_text(options.json, json.dumps(rows, indent=1) + "\n")
    if options.write:
        if "lpips" in measured[0].columns:
            write_text(options.write.with_name("quality.svg"), trade_off(measured))
            text += "\n![LPIPS against PSNR](quality.svg)"
        write_between(options.write, "quality", text)


if __name__ == "__main__":
    parser = Parser(description="Compare models, samplers and numbers of steps.")
    parser.add_argument("experiments", nargs="+", help="names below checkpoints/; the first is the reference")
    parser.add_argument("--hparams", default="", help="overrides, as for tasks/trainer.py, for all experiments")
    parser.add_argument("--split", default="test", help="the split that patches come from (default: test)")
    parser.add_argument("--limit", type=int, default=24, metavar="N", help="patches (default 24)")
    parser.add_argument("--samples", type=int, default=2, metavar="K", help="samples a patch (default 2)")
    parser.add_argument("--plan", nargs="+", default=[], metavar="NAME:N,N", help="samplers and steps; 0: all")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: auto)")
    parser.add_argument("--json", type=Path, metavar="F", help="write all figures to this file")
    parser.add_argument("--write", type=Path, metavar="DOC", help="write table and plot into a document's folder")
    run(main, parser)
