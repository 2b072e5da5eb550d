"""Command: make a raw data set in BreizhSR's format from single high-resolution images; the series is simulated.

python data_gen/simulate.py IMAGES --gsd 1.0 --output ROOT [--like "s2/*.tif" --patch 300 --rounds 1 ...]

docs/data.md explains this way.
"""

import argparse
import glob
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.cli import Parser, raise_at_sigterm, run
from utils.errors import DataError

_SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}


def _parser() -> Parser:
    parser = Parser(description="Simulate series of Sentinel-2 images from single images; docs/data.md explains how.")
    add = parser.add_argument
    # fmt: off
    add("images", nargs="+", type=Path, metavar="IMAGES", help="GeoTIFF, PNG, JPEG or NPZ files, or folders of them")
    add("--gsd", type=float, required=True, metavar="METRES", help="what a pixel of the images covers")
    add("--output", type=Path, required=True, metavar="ROOT", help="the data set's folder: new, or empty")
    add("--like", nargs="+", default=[], metavar="PATTERN",
        help='real Sentinel-2 images whose colours the data set gets: "s2/*.tif" (default: farmland in summer)')
    add("--patch", type=int, default=300, metavar="PIXELS", help="side of a truth (default 300)")
    add("--resolution", type=float, default=2.5, metavar="METRES", help="of the truth (default 2.5)")
    add("--dates", type=int, default=8, metavar="N", help="acquisitions of a patch (default 8)")
    add("--rounds", type=int, default=1, metavar="N",
        help="how often a training image is used, each time with another season, sensor and colours (default 1)")
    add("--coarsest", type=float, default=1.3, metavar="FACTOR",
        help="images are taken for up to so many times coarser, so that sizes vary (default 1.3)")
    add("--white", type=float, default=0.5, metavar="REFLECTANCE",
        help="what becomes level 255 of the truth (default 0.5)")
    for split, share in _SHARES.items():
        add(f"--{split}", type=float, default=share, metavar="SHARE", help=f"of the images (default {share})")
    add("--seed", type=int, default=0, metavar="N", help="another one draws another data set")
    # fmt: on
    return parser


def _main(options: argparse.Namespace) -> None:
    from data_gen.custom.simulation import SimulationOptions, simulate  # late: --help needs no rasterio

    names = ("gsd", "patch", "resolution", "dates", "rounds", "coarsest", "white", "seed")
    wanted = SimulationOptions(
        **{name: getattr(options, name) for name in names},
        shares={split: getattr(options, split) for split in _SHARES},
    )
    raise_at_sigterm("stopped; nothing was written")
    like = [Path(path) for pattern in options.like for path in sorted(glob.glob(pattern))]  # noqa: PTH207
    if options.like and not like:
        raise DataError(f"--like: nothing is called {' or '.join(options.like)}")
    counts = simulate(options.images, like, options.output, wanted)
    sys.stdout.write(f"{options.output}: {', '.join(f'{split} {n}' for split, n in counts.items())} patches\n")


if __name__ == "__main__":
    run(_main, _parser())
