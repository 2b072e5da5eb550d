"""A folder of Sentinel-2 acquisitions -> one georeferenced, super-resolved image for a date that one chooses."""

import argparse
import shlex
import sys
from datetime import date
from pathlib import Path

from tqdm import tqdm

from tasks.tiles import Predictor
from tasks.whole_scene import TILE, Progress, Request, predict_scene
from utils.acquisitions import day_in, find_acquisitions
from utils.distributed import World
from utils.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of whole scenes."""
    add = parser.add_argument_group("whole scenes").add_argument
    # fmt: off
    add("--predict", nargs="+", type=Path, metavar="INPUT", help="GeoTIFFs or .SAFE products, or folders of them")
    add("--output", type=Path, metavar="OUT.tif", help="the Cloud-Optimized GeoTIFF to write")
    add("--date", type=_day, metavar="YYYY-MM-DD", help="target date (default: the last image's)")
    add("--dates", type=_days, default=[], metavar="D,D,...", help="dates of the images, in order of their names")
    add("--bands", type=_numbers, default=[], metavar="R,G,B", help="numbers of the bands in the files, from 1")
    add("--scale", type=float, metavar="10000", help="the pixel value that means reflectance 1")
    add("--samples", type=int, default=1, metavar="K", help="diffusion samples; the result is their mean")
    add("--uncertainty", type=Path, metavar="OUT_STD.tif", help="also write the samples' standard deviation")
    add("--bbox", type=float, nargs=4, metavar=("W", "S", "E", "N"), help="a part: degrees, or the image's coordinates")
    add("--window", type=int, nargs=4, metavar=("COL", "ROW", "WIDTH", "HEIGHT"), help="a part: the image's pixels")
    add("--tile", type=int, metavar="PIXELS", help=f"side of the windows (default: {TILE}, more if they overlap much)")
    add("--overlap", type=int, metavar="PIXELS", help="what windows share (default: as far as the network looks)")
    add("--mask", default="auto", metavar="auto|none|DIR",
        help="clouds: scene classification, else brightness | leave them | a folder of scene classifications")
    add("--min_valid", type=float, default=0.5, metavar="0..1", help="part of a 32-pixel cell that an image must show")
    add("--match_lr", action="store_true", help="averaged over 10 m, the result is the image nearest to the date")
    add("--uint8", action="store_true", help="8-bit for display instead of reflectance × 10000")
    add("--overwrite", action="store_true", help="replace OUT.tif and what lies beside it")
    # fmt: on


def run(options: argparse.Namespace, predictor: Predictor, world: World, *, checkpoint: str, seed: int = 0) -> Path:
    """What the command does with the options of ``add_arguments``; prints notes and progress. Returns the output.

    Raises DataError or ConfigError for input that doesn't serve.
    """
    if options.output is None:
        raise ConfigError("--predict needs --output OUT.tif")

    def note(text: str) -> None:
        if world.is_main:
            tqdm.write(text, file=sys.stderr)

    masks = None if options.mask in ("auto", "none") else Path(options.mask)
    acquisitions = find_acquisitions(
        options.predict, days=options.dates, bands=options.bands, scale=options.scale, masks=masks, note=note
    )
    same = (
        "samples",
        "uncertainty",
        "bbox",
        "window",
        "tile",
        "overlap",
        "min_valid",
        "match_lr",
        "uint8",
        "overwrite",
    )
    request = Request(
        output=options.output,
        target=options.date,
        clouds=options.mask != "none",
        seed=seed,
        **{name: getattr(options, name) for name in same},
    )
    tags = {"CHECKPOINT": checkpoint, "COMMAND": shlex.join(["python", *sys.argv])}
    return predict_scene(predictor, acquisitions, request, world=world, tags=tags, note=note, progress=_bar(world))


def _bar(world: World) -> Progress:
    return lambda steps, total: tqdm(steps, total=total, disable=not world.is_main, unit="batch", desc="tiles")


def _day(text: str) -> date:
    found = day_in(text)
    if found is None or len(text) > 10:
        raise argparse.ArgumentTypeError(f"{text!r} is no date like 2023-08-07")
    return found


def _days(text: str) -> list[date]:
    return [_day(part) for part in text.split(",")]


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of band numbers like 4,3,2") from None
