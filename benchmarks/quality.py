"""Quality against steps: quality.py EXPERIMENT ... [--plan ddim:1,2,4] [--write docs/performance.md].

The experiments are trained generative models. All make the same patches from the same noise, with the samplers and
numbers of steps of the plan; the first of all, with all its steps, is what the others are held against.
"""

import argparse
import copy
import logging
import math
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, cast

import pandas as pd
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.timing import markdown_table, surroundings, write_between
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
from utils.report.statistics import Summary, summarise

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
    columns: pd.DataFrame  # a row a patch: SHOWN, spread, variance and squared_error
    seconds: float  # an image

    @property
    def spread_to_error(self) -> float:
        """How far samples lie apart against how far their mean is off: 1 where the spread is honest."""
        means = self.columns.mean()
        return math.sqrt(means["variance"] / means["squared_error"]) if "variance" in means else math.nan


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
        yield Point(model, sampler, sampled.sampler_steps or 0, pd.DataFrame(rows), seconds / len(rows) / samples)


def _row(result: Result, batch: Batch, *, lpips: LPIPS | None) -> Figures:
    """A patch: means over its samples, and how far these lie apart (the deviation of a pixel, mean over pixels)."""
    drawn = [result.sr] if result.samples is None else result.samples.unbind(dim=1)
    figures = pd.DataFrame([measure_batch(Result(sr), batch, lpips=lpips)[0] for sr in drawn])
    row: Figures = {name: figures[name].mean() for name in SHOWN if name in figures}
    if result.samples is not None:
        row["spread"] = float(result.samples.std(dim=1, correction=0).mean())
        # The mean of k samples is off by the variance of the truth, and a k-th of that of the samples.
        row["variance"] = float(result.samples.var(dim=1).mean()) * (1 + 1 / len(drawn))
        row["squared_error"] = float((result.sr - batch.hr).square().mean())
    return row


def against(point: Point, full: Point) -> dict[str, Summary]:
    """Differences to the reference, patch by patch; ratios for LPIPS and spread."""
    ours, theirs = point.columns, full.columns
    return {
        name: summarise(ours[name] / theirs[name] if name in ("lpips", "spread") else ours[name] - theirs[name])
        for name in (*SHOWN, "spread")
        if name in theirs
    }


def is_as_good(point: Point, full: Point) -> bool:
    """Whether the means are those of the reference, or better; a spread that differs must be more honest."""
    compared = {name: summary.mean for name, summary in against(point, full).items()}
    nearer = abs(point.spread_to_error - 1) < abs(full.spread_to_error - 1)
    honest = abs(compared.get("spread", 1) - 1) <= OTHER_SPREAD or nearer
    return compared["psnr"] >= -LESS_PSNR and compared.get("lpips", 1) <= MORE_LPIPS and honest


def markdown(measured: Sequence[Point]) -> str:
    """A row a point; the first one is the reference."""
    full = measured[0]
    names = [name for name in SHOWN if name in full.columns]
    heads = {"psnr": "PSNR − first (dB)", "lpips": "LPIPS / first", "spread": "spread / first"}
    heads = {name: head for name, head in heads.items() if name in full.columns}

    def cells(point: Point) -> list[str]:
        means = [_interval(summarise(point.columns[name]), METRICS[name].decimals) for name in names]
        compared = [
            "" if point is full else _interval(summary, 2 if name == "psnr" else 3, sign=name == "psnr")
            for name, summary in against(point, full).items()
            if name in heads
        ]
        verdict = "(first)" if point is full else "yes" if is_as_good(point, full) else "no"
        about = [point.model, point.sampler, str(point.steps), f"{point.seconds:.2f}"]
        return [*about, *means, *compared, f"{point.spread_to_error:.2f}", verdict]

    labels = [METRICS[name].label for name in names]
    columns = ["model", "sampler", "steps", "s an image", *labels, *heads.values(), "spread / error", "as good"]
    return markdown_table(columns, map(cells, measured), texts=2)


def _interval(of: Summary, decimals: int, *, sign: bool = False) -> str:
    mean, low, high = (f"{x:{'+' if sign else ''}.{decimals}f}".replace("-", "−") for x in (of.mean, of.low, of.high))
    return f"{mean} ({low} to {high})"


def sentence(measured: Sequence[Point]) -> str:
    """How few steps are enough."""
    full, *others = measured
    said = f"{len(full.columns)} patches, intervals of 95% over patches. "
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
    axes.set(xlabel=METRICS["psnr"].axis, ylabel=METRICS["lpips"].axis)
    means = pd.DataFrame([{**point.columns.mean(), **point._asdict()} for point in measured])
    for (model, sampler), line in means.sort_values("steps").groupby(["model", "sampler"], sort=False):
        axes.plot(line["psnr"], line["lpips"], "o-", markersize=4, linewidth=1.2, label=f"{model}, {sampler}")
        for steps, psnr, lpips in line[["steps", "psnr", "lpips"]].itertuples(index=False):
            axes.annotate(str(steps), (psnr, lpips), textcoords="offset points", xytext=(4, 4), fontsize=9)
    axes.legend(frameon=False, fontsize=9)
    return plots.standalone(figure)


def parse_plan(texts: Sequence[str]) -> Plan:
    """``["ddim:1,2"]`` -> [("ddim", 1), ("ddim", 2)]. Raises ConfigError."""
    try:
        pairs = [text.split(":") for text in texts]
        return [(sampler, int(count)) for sampler, steps in pairs for count in steps.split(",")]
    except ValueError:
        raise ConfigError(f"--plan is like ddim:1,2,4 (0: all steps), not {' '.join(texts)}") from None


def measured_points(options: argparse.Namespace, here: World) -> Iterator[Point]:
    """The points of all experiments."""
    plan = parse_plan(options.plan)
    for name in options.experiments:
        config = Path("checkpoints") / name / "config.yaml"
        experiment = open_experiment(config=config, name=name, hparams=options.hparams, reset=False)
        settings = experiment.settings
        task = commands.trained_task(experiment)
        if not task.is_stochastic:
            raise ConfigError(f"{name} is no generative model: it is not sampled")
        lpips = load_lpips(settings.evaluation.lpips_weights)
        here.place(task)
        yield from points(
            name.rpartition("/")[2],
            cast(SRDiffTask, task.eval()),
            commands.dataset(settings, "test"),
            plan or (OF_FLOW if settings.diffusion.process == "flow" else OF_DIFFUSION),
            settings=settings,
            world=here,
            samples=options.samples,
            limit=options.limit,
            lpips=lpips.to(here.device) if lpips else None,
        )


def main(options: argparse.Namespace) -> None:
    if options.limit < 1 or options.samples < 1:
        raise ConfigError("--limit and --samples must be at least 1")
    if options.write:
        surroundings(options.write, "quality")  # before anything takes its time
    measured: list[Point] = []
    with world(options.device) as here:
        for point in measured_points(options, here):
            measured.append(point)
            logger.info("%s, %s, %d steps: %.2f s an image", point.model, point.sampler, point.steps, point.seconds)
    text = f"{sentence(measured)}\n\n{markdown(measured)}"
    sys.stdout.write(text)
    if options.write:
        if "lpips" in measured[0].columns:
            write_text(options.write.with_name("quality.svg"), trade_off(measured))
            text += "\n![LPIPS against PSNR](quality.svg)"
        write_between(options.write, "quality", text)


if __name__ == "__main__":
    parser = Parser(description="Compare models, samplers and numbers of steps.")
    parser.add_argument("experiments", nargs="+", help="names below checkpoints/; the first is the reference")
    parser.add_argument("--hparams", default="", help="overrides, as for tasks/trainer.py, for all experiments")
    parser.add_argument("--limit", type=int, default=24, metavar="N", help="patches (default 24)")
    parser.add_argument("--samples", type=int, default=2, metavar="K", help="samples a patch (default 2)")
    parser.add_argument("--plan", nargs="+", default=[], metavar="NAME:N,N", help="samplers and steps; 0: all")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: auto)")
    parser.add_argument("--write", type=Path, metavar="DOC", help="write table and plot into a document's folder")
    run(main, parser)
