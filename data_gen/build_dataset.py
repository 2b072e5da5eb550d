"""Command: build a raw data set in BreizhSR's format from high-resolution and Sentinel-2 GeoTIFFs of one's own.

python data_gen/build_dataset.py --hr "hr/*.tif" --lr "s2/*/*.tif" --output ROOT [--patch 300 --hr_resolution 2.5
    --scale 4 --train 0.8 --val 0.1 --test 0.1 ...]
python data_gen/build_dataset.py --lr "s2/*/*.tif" --mtf 0.15,0.45 --output ROOT [...]    at reduced scale

docs/data.md explains this way.
"""

import argparse
import glob
import math
import sys
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.cli import Parser, raise_at_sigterm, run
from utils.errors import ConfigError, DataError
from utils.geo.bands import RGB, parse_bands

if TYPE_CHECKING:  # --help needs no rasterio
    from rasterio.crs import CRS

    from data_gen.custom.build import BuildOptions
    from utils.geo.bands import Acquisition

PLAIN_MEANS = 2 / math.pi  # their MTF at Nyquist
_SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}


def _parser() -> Parser:
    parser = Parser(description="Build a raw data set from georeferenced images; docs/data.md explains how.")
    add = parser.add_argument
    # fmt: off
    add("--hr", nargs="+", metavar="PATTERN",
        help='high-resolution GeoTIFFs with dates: "hr/*.tif"; with --mtf those of --lr that are truths (default: all)')
    add("--lr", nargs="+", required=True, metavar="PATTERN",
        help='Sentinel-2: GeoTIFFs, .SAFE products, folders of them: "s2/*/*.tif"')
    add("--output", type=Path, required=True, metavar="ROOT", help="the data set's folder: new, or empty")
    add("--patch", type=int, default=300, metavar="PIXELS", help="side of a patch in high resolution (default 300)")
    add("--hr_resolution", type=float, metavar="METRES", help="of the truth (default 2.5; with --mtf 10)")
    add("--mtf", type=_range, metavar="LEAST,MOST",
        help="reduced scale: each image of --lr is a truth in turn, the input what larger pixels would see of it, "
        "its MTF at Nyquist drawn between these, e.g. 0.15,0.45 (0.64: plain means)")
    add("--white", type=float, metavar="NUMBER",
        help="what becomes 255 in the truth, and 0 black (with --mtf a reflectance, default 0.5)")
    add("--scale", type=int, default=4, choices=(2, 4, 8), help="how much coarser the input is (default 4: 10 m)")
    add("--crs", metavar="EPSG:N", help="coordinate system in metres (default: that of the first Sentinel-2 image)")
    add("--hr_dates", type=_days, default=[], metavar="D,D,...", help="dates of --hr, in order of their names")
    add("--lr_dates", type=_days, default=[], metavar="D,D,...", help="dates of --lr, in order of their names")
    add("--bands", default=",".join(RGB), metavar="B,B,...", help="of both, e.g. B04,B03,B02,B08 (default RGB)")
    add("--hr_bands", type=_numbers, default=[], metavar="N,N,...", help="numbers of these bands in --hr, from 1")
    add("--lr_bands", type=_numbers, default=[], metavar="N,N,...", help="numbers of these bands in --lr, from 1")
    add("--lr_unit", type=float, metavar="10000", help="the number in --lr that means reflectance 1")
    add("--mask", default="auto", metavar="auto|none|DIR",
        help="clouds: scene classification, else brightness | leave them | a folder of scene classifications")
    add("--min_valid", type=float, default=0.95, metavar="0..1",
        help="share of a patch that an acquisition must show without clouds (default 0.95)")
    add("--max_days", type=int, metavar="N", help="no acquisitions further from the truth's date")
    add("--stretch", type=float, nargs=2, metavar=("LOW", "HIGH"),
        help="percentiles of the truth that become 0 and 255 (default: 8-bit images stay, others 0.5 99.5)")
    for split, share in _SHARES.items():
        add(f"--{split}", type=float, default=share, metavar="SHARE", help=f"of the patches (default {share})")
    add("--block", type=int, metavar="N", help="N×N places go to one split together (default: what works best)")
    add("--gap", type=int, default=1, metavar="N", help="places left out between splits (default 1)")
    add("--seed", type=int, default=0, metavar="N", help="another one draws other splits")
    # fmt: on
    return parser


def _main(options: argparse.Namespace) -> None:
    from data_gen.custom.build import build
    from data_gen.workers import quiet
    from utils.geo.acquisitions import find_acquisitions

    wanted = _wanted(options)
    raise_at_sigterm("stopped; nothing was written")
    quiet()
    masks = None if options.mask in ("auto", "none") else Path(options.mask)
    reduced = options.mtf is not None
    inputs, finer = _paths(options.lr, "--lr"), _paths(options.hr, "--hr") if options.hr else []
    views = _dated(find_acquisitions(
        inputs, bands=wanted.bands, days=options.lr_dates, numbers=options.lr_bands,
        scale=options.lr_unit, masks=masks,
    ), "--lr_dates")  # fmt: skip
    truths = views
    if finer:
        truths = _dated(find_acquisitions(
            finer, bands=wanted.bands, days=options.hr_dates, numbers=options.hr_bands,
            scale=options.lr_unit if reduced else 1.0,
        ), "--hr_dates")  # fmt: skip
    try:
        counts = build(truths, views, options.output, wanted)
    except OSError as error:
        raise ConfigError(f"{options.output}: can't be written: {error.strerror or error}") from None
    words = ", ".join(f"{split} {count}" for split, count in counts.items())
    sys.stdout.write(f"{options.output}: {words} patches\n")


def _wanted(options: argparse.Namespace) -> "BuildOptions":
    """What is asked for, checked. Raises ConfigError."""
    from data_gen.custom.build import BuildOptions

    shares = {split: getattr(options, split) for split in _SHARES}

    def check(fits: bool, message: str) -> None:
        if not fits:
            raise ConfigError(message)

    check(options.patch >= 32 and options.patch % options.scale == 0 and options.patch // 8 * 8 >= 32,
          f"--patch {options.patch}: a multiple of --scale {options.scale}, at least 32")  # fmt: skip
    check(options.patch <= 4096, f"--patch {options.patch}: 4096 at most")
    reduced = options.mtf is not None
    check(bool(options.hr) or reduced, "--hr is missing: high-resolution images, or --mtf for truths from --lr itself")
    if options.hr_resolution is None:
        options.hr_resolution = 10.0 if reduced else 2.5
    if reduced:
        check(0.05 <= options.mtf[0] <= options.mtf[1] <= PLAIN_MEANS,
              f"--mtf: two numbers from 0.05 to {PLAIN_MEANS:.2f} (plain means), the lower one first")  # fmt: skip
        options.white = options.white or 0.5
    check(options.white is None or options.white > 0, "--white: above 0")
    check(0.01 <= options.hr_resolution <= 1000, f"--hr_resolution {options.hr_resolution:g}: metres, 0.01 to 1000")
    check(0 < options.min_valid <= 1, f"--min_valid {options.min_valid:g}: above 0, 1 at most")
    check(all(0 <= share < math.inf for share in shares.values()) and shares["train"] > 0,
          "--train, --val, --test: shares from 0; --train above 0")  # fmt: skip
    check(options.gap >= 0 and (options.block is None or options.block >= 1), "--gap from 0, --block from 1")
    check(options.gap <= 100 and (options.block or 1) <= 1000, "--gap up to 100, --block up to 1000")
    check(options.max_days is None or options.max_days >= 0, "--max_days from 0")
    check(options.lr_unit is None or 1 <= options.lr_unit < math.inf, "--lr_unit: the number that means reflectance 1")
    if options.stretch:
        low, high = options.stretch
        check(0 <= low < high <= 100, f"--stretch {low:g} {high:g}: two percentiles, the lower one first")
    return BuildOptions(
        bands=parse_bands(options.bands, source="--bands"), patch=options.patch,
        resolution=options.hr_resolution, scale=options.scale, crs=_crs(options.crs),
        shares=shares, block=options.block, gap=options.gap,
        stretch=tuple(options.stretch) if options.stretch else None, min_valid=options.min_valid,
        white=options.white, mtf=options.mtf,
        clouds=options.mask != "none", max_days=options.max_days, seed=options.seed,
    )  # fmt: skip


def _crs(text: str | None) -> "CRS | None":
    if text is None:
        return None
    import rasterio
    from rasterio.crs import CRS
    from rasterio.errors import CRSError

    try:
        with rasterio.Env():  # so that GDAL's own words are not printed
            return CRS.from_string(text)
    except CRSError:
        raise ConfigError(f"--crs {text[:80]!r}: not a coordinate system; give EPSG:2154, say") from None


def _paths(patterns: Sequence[str], option: str) -> list[Path]:
    """The files that patterns name."""
    found = [Path(path) for pattern in patterns for path in sorted(glob.glob(pattern, recursive=True))]  # noqa: PTH207
    if not found:
        raise DataError(f"{option}: nothing is called {' or '.join(patterns)}")
    return list(dict.fromkeys(found))


def _dated(acquisitions: "Sequence[Acquisition]", option: str) -> "Sequence[Acquisition]":
    for acquisition in acquisitions:
        if acquisition.day is None:
            raise DataError(
                f"{acquisition.name}: no date in its name (2023-08-07 or 20230807) or tags; rename it or give {option}"
            )
    return acquisitions


def _days(text: str) -> list[date]:
    try:
        return [date.fromisoformat(part.strip()) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of dates like 2023-08-07,2023-09-01") from None


def _range(text: str) -> tuple[float, float]:
    try:
        least, most = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not two numbers like 0.15,0.45") from None
    return least, min(most, PLAIN_MEANS) if most < PLAIN_MEANS + 0.01 else most


def _numbers(text: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers of bands, like 4,3,2")
    return numbers


if __name__ == "__main__":
    run(_main, _parser())
