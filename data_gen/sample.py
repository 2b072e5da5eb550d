"""Make a sample data set: sample.py OUT [--train 48 --val 6 --test 8 --seed 0 --size 300 --truth_dates N]."""

import argparse
import sys
from dataclasses import fields
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_gen.synthetic.dataset import SampleSet, write_sample_set
from utils.cli import Parser, run

_HELP = {
    "train": "patches to train on",
    "val": "patches to validate on",
    "test": "patches to test on",
    "seed": "another seed makes other places",
    "size": "pixels of 2.5 m along a side: a multiple of 4",
    "truth_dates": "further truths of each test patch, at least 30 days apart: written as dataset_dates.pkl",
}


def _main(options: argparse.Namespace) -> None:
    wanted = SampleSet(**{field.name: getattr(options, field.name) for field in fields(SampleSet)})
    written = write_sample_set(options.out, wanted)
    sys.stdout.write(f"{options.out}: {'written' if written else 'already there, left as it is'}\n")


if __name__ == "__main__":
    parser = Parser(description="Make a sample data set in BreizhSR's raw format: landscapes of Brittany over a year.")
    parser.add_argument("out", type=Path, metavar="OUT", help="an empty or new folder")
    for field in fields(SampleSet):
        text = f"{_HELP[field.name]} (default {field.default})"
        parser.add_argument(f"--{field.name}", type=int, default=field.default, metavar="N", help=text)
    run(_main, parser)
