"""Make a sample data set: sample.py OUT [--train 48 --val 6 --test 8 --seed 0 --size 300 --bands B04,B03,B02 ...]."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.cli import Parser, run
from utils.geo.bands import RGB, parse_bands

_NUMBERS = {
    "train": (48, "patches to train on"),
    "val": (6, "patches to validate on"),
    "test": (8, "patches to test on"),
    "seed": (0, "another seed makes other places"),
    "size": (300, "pixels of 2.5 m along a side: a multiple of 4"),
    "truth_dates": (0, "further truths of each test patch, at least 30 days apart: written as dataset_dates.pkl"),
}


def _main(options: argparse.Namespace) -> None:
    from data_gen.synthetic.dataset import SampleSet, write_sample_set  # late: --help needs no rasterio

    bands = parse_bands(options.bands, source="--bands")
    wanted = SampleSet(**{name: getattr(options, name) for name in _NUMBERS}, bands=bands)
    written = write_sample_set(options.out, wanted)
    sys.stdout.write(f"{options.out}: {'written' if written else 'already there, left as it is'}\n")


if __name__ == "__main__":
    parser = Parser(description="Make a sample data set in BreizhSR's raw format: landscapes of Brittany over a year.")
    parser.add_argument("out", type=Path, metavar="OUT", help="an empty or new folder")
    for name, (default, meaning) in _NUMBERS.items():
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"{meaning} (default {default})")
    parser.add_argument(
        "--bands", default=",".join(RGB), metavar="B,B,...", help="of both sensors, e.g. B04,B03,B02,B08 (default RGB)"
    )
    run(_main, parser)
