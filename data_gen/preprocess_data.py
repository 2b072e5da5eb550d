"""Command: prepare a raw data set for training.

python data_gen/preprocess_data.py ROOT [--max_s2_images 8] [--select nearest|first] [--workers N] [--output DIR]
    [--strict] [--bands B,B,...] [--percentiles P | --maxima M M M]
"""

import sys
from argparse import Namespace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.cli import Parser, raise_at_sigterm, run
from utils.errors import ConfigError
from utils.geo.bands import parse_bands


def _parser() -> Parser:
    parser = Parser(description="Prepare a raw data set: ROOT/dataset_*.pkl and its rasters -> ROOT/preprocessed/.")
    add = parser.add_argument
    # fmt: off
    add("root", type=Path, metavar="ROOT", help="the raw data set")
    add("--max_s2_images", type=int, default=8, metavar="N", help="acquisitions a patch (default 8)")
    add("--select", choices=("nearest", "first"), default="nearest",
        help="which ones: the nearest in time, or the first of the table as the reference implementation takes them")
    add("--workers", type=int, metavar="N", help="processes (default: the cores, where it pays)")
    add("--output", type=Path, metavar="DIR", help="where to (default ROOT/preprocessed)")
    add("--bands", metavar="B,B,...",
        help="the bands to take, e.g. B04,B03,B02,B08 (default: as the rasters describe them, else red, green, blue)")
    add("--strict", action="store_true", help="what can't be used is an error")
    add = parser.add_mutually_exclusive_group().add_argument
    add("--percentiles", type=float, metavar="P",
        help="normalise by these percentiles of the train split, e.g. 98 (default: the published ones of BreizhSR)")
    add("--maxima", type=float, nargs="+", metavar="M",
        help="normalise by these reflectances, one a band: those of the model to use")
    # fmt: on
    return parser


def _main(options: Namespace) -> None:
    from data_gen.prepare import prepare, store_summary  # late: --help needs no torch
    from data_gen.shards import Options
    from data_gen.workers import quiet
    from utils.store import FOLDER

    if options.max_s2_images < 1 or (options.workers is not None and options.workers < 1):
        raise ConfigError("--max_s2_images and --workers must be 1 or more")
    if options.percentiles is not None and not 0 < options.percentiles <= 100:
        raise ConfigError("--percentiles must lie in (0, 100]")
    if options.maxima is not None and not all(0 < top < 7 for top in options.maxima):
        raise ConfigError("--maxima are reflectances, such as 0.2058 0.1583 0.1118: they must lie in (0, 7)")
    raise_at_sigterm("stopped; the same command goes on from here")
    quiet()
    output = options.output or options.root / FOLDER
    wanted = Options(
        max_s2_images=options.max_s2_images,
        select=options.select,
        percentile=options.percentiles,
        strict=options.strict,
        maxima=tuple(options.maxima) if options.maxima else None,
        bands=parse_bands(options.bands, source="--bands") if options.bands else None,
    )
    manifest = prepare(options.root, output=output, options=wanted, workers=options.workers)
    sys.stdout.write(f"{output} is prepared: {store_summary(manifest)}\n")


if __name__ == "__main__":
    run(_main, _parser())
