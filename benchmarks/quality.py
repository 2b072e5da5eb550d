"""Quality against steps: quality.py EXPERIMENT [--limit 8] [--samples 2] [--write docs/performance.md].

The experiment is a trained diffusion model; each sampler makes the same patches with ever more steps, and is compared
with the full ddpm.
"""

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import cast

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import curve
from benchmarks.timing import surroundings, write_between
from tasks import commands
from tasks.experiment import open_experiment
from tasks.srdiff import SRDiffTask
from utils.cli import Parser, run
from utils.distributed import world
from utils.errors import ConfigError
from utils.files import write_text
from utils.metrics.lpips import load_lpips

logger = logging.getLogger(__name__)

PLAN: dict[curve.SamplerName, tuple[int, ...]] = {
    "ddpm": (10, 12, 15, 20, 50),
    "ddim": (5, 10, 20),
    "dpmpp_2m": (6, 10, 15, 20),
}


def main(options: argparse.Namespace) -> None:
    if options.limit < 1 or options.samples < 1:
        raise ConfigError("--limit and --samples must be at least 1")
    if options.write:
        surroundings(options.write, "quality")  # before anything takes its time
    with world(options.device) as here:
        experiment = open_experiment(
            config=Path("checkpoints") / options.experiment / "config.yaml",
            name=options.experiment,
            hparams=options.hparams,
            reset=False,
        )
        settings = experiment.settings
        task = commands.trained_task(experiment)
        if not task.is_stochastic:
            raise ConfigError(f"{options.experiment} is no diffusion model: it is not sampled")
        lpips = load_lpips(settings.evaluation.lpips_weights)
        here.place(task)
        task.eval()
        timesteps = settings.diffusion.timesteps
        plan = [curve.FULL, *((name, n) for name in PLAN for n in options.steps or PLAN[name] if n < timesteps)]
        measured = []
        for point in curve.points(
            cast(SRDiffTask, task),
            commands.dataset(settings, options.split),
            plan,
            settings=settings,
            world=here,
            samples=options.samples,
            limit=options.limit,
            lpips=lpips.to(here.device) if lpips else None,
        ):
            measured.append(point)
            logger.info("%s, %d steps: %.2f s an image", point.sampler, point.steps, point.seconds)
    text = f"{curve.sentence(measured)}\n\n{curve.markdown(measured)}"
    sys.stdout.write(text)
    if options.json:
        rows = [{**point._asdict(), "columns": {k: v.tolist() for k, v in point.columns.items()}} for point in measured]
        write_text(options.json, json.dumps(rows, indent=1) + "\n")
    if options.write:
        pictures = curve.plots(measured)
        for name, svg in pictures.items():
            write_text(options.write.with_name(f"steps-{name}.svg"), svg)
        shown = "\n".join(f"![{name} against steps](steps-{name}.svg)" for name in pictures)
        write_between(options.write, "quality", f"{text}\n{shown}")


if __name__ == "__main__":
    parser = Parser(description="Compare samplers and numbers of steps on a trained diffusion model.")
    parser.add_argument("experiment", help="name below checkpoints/")
    parser.add_argument("--hparams", default="", help="overrides, as for tasks/trainer.py")
    parser.add_argument("--split", default="test", help="the split that patches come from (default: test)")
    parser.add_argument("--limit", type=int, default=8, metavar="N", help="patches (default 8)")
    parser.add_argument("--samples", type=int, default=2, metavar="K", help="samples a patch (default 2)")
    parser.add_argument("--steps", type=int, nargs="+", metavar="N", help="other numbers of steps, for all samplers")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: auto)")
    parser.add_argument("--json", type=Path, metavar="F", help="write all figures to this file")
    parser.add_argument("--write", type=Path, metavar="DOC", help="write table and plots into a document's folder")
    run(main, parser)
