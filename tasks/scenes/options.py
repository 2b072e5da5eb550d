"""The options of whole scenes. It imports nothing heavy: the command line answers at once."""

import argparse
from datetime import date
from pathlib import Path

TILE = 96  # side of a window; more where the overlap is large
TRIAL = 64  # windows: before so many or more a trial says what steps cost
NEAR = 5  # days: up to here --match_lr auto holds the colours to an acquisition


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of whole scenes."""
    add = parser.add_argument_group("whole scenes").add_argument
    # fmt: off
    add("--predict", nargs="+", type=Path, metavar="INPUT",
        help="GeoTIFFs, files of one band each, .SAFE products (zipped too), folders of these; STAC items (.json)")
    add("--output", type=Path, metavar="OUT.tif", help="the Cloud-Optimized GeoTIFF to write")
    add("--date", type=_days, default=[], metavar="YYYY-MM-DD[,...]",
        help="target date (default: the last image's); several: a map for each, OUT_2023-08-07.tif and so on")
    add("--dates_every", type=int, metavar="DAYS", help="a map every so many days from the first to the second --date")
    add("--dates", type=_days, default=[], metavar="D,D,...", help="dates of the images, in order of their names")
    add("--bands", type=_numbers, default=[], metavar="R,G,B", help="numbers of the model's bands in the files, from 1")
    add("--scale", type=float, metavar="10000", help="the pixel value that means reflectance 1")
    add("--remote", action="store_true", help="read files that STAC items name over the network (https)")
    add("--samples", type=int, default=1, metavar="K", help="diffusion samples; the result is their mean")
    add("--uncertainty", type=Path, metavar="OUT_STD.tif", help="also write the standard deviation of the error")
    add("--explain", type=Path, metavar="OUT_EXPLAIN.tif", help="also write from which dates each place was made")
    add("--sheet", type=Path, metavar="SHEET.png",
        help="also write a picture: crops of the input, interpolated, and of the map (of the first date)")
    add("--bbox", type=float, nargs=4, metavar=("W", "S", "E", "N"), help="a part: degrees, or the image's coordinates")
    add("--window", type=int, nargs=4, metavar=("COL", "ROW", "WIDTH", "HEIGHT"), help="a part: the image's pixels")
    add("--tile", type=int, metavar="PIXELS", help=f"side of the windows (default: {TILE}, more if they overlap much)")
    add("--overlap", type=int, metavar="PIXELS", help="what windows share (default: as far as the network looks)")
    add("--mask", default="auto", metavar="auto|none|DIR",
        help="clouds: scene classification, else brightness | leave them | a folder of scene classifications")
    add("--min_valid", type=float, default=0.5, metavar="0..1", help="part of a 32-pixel cell that an image must show")
    add("--match_lr", nargs="?", const="on", default="auto", choices=("auto", "on", "off"),
        help=f"hold colours to the images nearest to the date (default auto: where one is at most {NEAR} days away)")
    add("--uint8", action="store_true", help="8-bit for display instead of reflectance × 10000")
    add("--overwrite", action="store_true", help="replace OUT.tif and what lies beside it")
    # fmt: on


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text.replace("_", "-"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no date like 2023-08-07") from None


def _days(text: str) -> list[date]:
    return [_day(part) for part in text.split(",")]


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of band numbers like 4,3,2") from None
