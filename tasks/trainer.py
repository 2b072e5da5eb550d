"""Train a model, evaluate it (--infer), or super-resolve rasters with it (--predict)."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tasks.scenes.options import add_arguments
from utils.cli import Parser, run
from utils.errors import ConfigError


def parser() -> Parser:
    parsed = Parser(description=__doc__ or "")
    parsed.add_argument("--config", type=Path, help="YAML configuration, or an exported model")
    parsed.add_argument("--exp_name", help="the experiment's folder below checkpoints/")
    parsed.add_argument("--starter", action="store_true", help="use the model that comes with the project")
    parsed.add_argument("--hparams", default="", help='overrides: "a=1,b.c=2,d=[1 1 1]"')
    parsed.add_argument("--reset", action="store_true", help="start over; what was there is moved aside")
    parsed.add_argument("--infer", action="store_true", help="evaluate a split")
    parsed.add_argument("--split", default="test", help="the split that --infer evaluates (default: test)")
    parsed.add_argument("--limit", type=int, help="evaluate only the first so many patches")
    parsed.add_argument("--ckpt", help="for --infer and --predict: a file, a step, or best (default: the newest)")
    parsed.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: auto)")
    parsed.add_argument("--dry_run", action="store_true", help="print what would be trained, and stop")
    add_arguments(parsed)
    return parsed


def main(options: argparse.Namespace) -> None:
    if not options.starter and (options.config is None or options.exp_name is None):
        raise ConfigError("--config and --exp_name are needed, or --starter with --predict or --infer")
    if (options.predict or options.infer) and (options.reset or options.dry_run or (options.predict and options.infer)):
        raise ConfigError("--predict, --infer and training, which --reset and --dry_run are for, go one at a time")
    from tasks import commands  # late: torch takes seconds, and --help needs none of it
    from utils.distributed import world

    if options.starter:
        commands.use_starter(options)
    with world(options.device) as here:
        if options.predict:
            commands.predict(options, here)
        elif options.infer:
            commands.infer(options, here)
        elif options.dry_run:
            commands.describe(options, here)
        else:
            commands.train(options, here)


if __name__ == "__main__":
    run(main, parser())
