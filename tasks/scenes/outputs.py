"""The files of a map: their names, the room they need, and what is said about them."""

import csv
import io
import logging
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import NamedTuple

from utils.errors import ConfigError, DataError
from utils.files import write_text

logger = logging.getLogger(__name__)

FAR = 45  # days: from here on a map may show another season
SOME = 0.01  # share of a map that is worth a word


class Outputs(NamedTuple):
    """The files of a result."""

    image: Path
    flags: Path
    preview: Path
    spread: Path | None
    explanation: Path | None
    uint8: bool

    @classmethod
    def beside(cls, image: Path, *, uncertainty: Path | None, explain: Path | None, uint8: bool) -> "Outputs":
        flags, preview = (image.with_name(image.stem + end) for end in ("_flags.tif", "_preview.png"))
        return cls(image, flags, preview, uncertainty, explain, uint8)

    @property
    def picture(self) -> Path | None:
        """Of the explanation, beside it."""
        return self.explanation.with_suffix(".png") if self.explanation else None

    def paths(self) -> list[Path]:
        paths = (self.image, self.flags, self.preview, self.spread, self.explanation, self.picture)
        return [path for path in paths if path is not None]

    def bytes_a_pixel(self, channels: int) -> int:
        """Of the image and its spread."""
        return channels * ((1 if self.uint8 else 2) + (4 if self.spread else 0))

    def dated(self, day: date) -> "Outputs":
        """The same for one of several target dates: OUT_2023-08-07.tif and so on."""
        image, spread, explanation = (
            path and path.with_name(f"{path.stem}_{day}{path.suffix}")
            for path in (self.image, self.spread, self.explanation)
        )
        assert image is not None
        return Outputs.beside(image, uncertainty=spread, explain=explanation, uint8=self.uint8)


class DateSummary(NamedTuple):
    """From which days the pixels of a map are."""

    days: Counter[int]  # pixels of the input's resolution by days from the target date
    filled: int  # pixels of them that come from another acquisition than the rest of their place
    pixels: int  # all, those without data too

    @property
    def nearest(self) -> int:
        """Days from the target date to the nearest acquisition used, without sign."""
        return min(map(abs, self.days), default=0)

    @property
    def valid_share(self) -> float:
        return self.days.total() / self.pixels

    def share_beyond(self, limit: int) -> float:
        """The share of the pixels with data that are from more than ``limit`` days away."""
        return sum(n for day, n in self.days.items() if abs(day) > limit) / max(self.days.total(), 1)

    def report(self, target: date | None, *, used: int, of: int, match_lr: bool) -> None:
        """Say it in a line; warn where the map may show another season."""
        if not self.days:
            logger.warning(f"{target or 'map'}: no acquisition shows anything of this part: the map is empty")
            return
        others, furthest = self.share_beyond(self.nearest), max(map(abs, self.days))
        logger.info(
            f"{target or 'map'}: from {used} of {of} acquisitions; nearest {self.nearest} "
            f"day{'s' * (self.nearest != 1)} away, {others:.1%} of the map from others"
            + (f", up to {furthest} days away" if others else "")
            + f"; {1 - self.valid_share:.1%} without data; colours {'' if match_lr else 'not '}held to the acquisitions"
        )
        far = self.share_beyond(FAR)
        if far > SOME:
            logger.warning(f"{target}: {far:.0%} of the map shows the ground more than {FAR} days from this date")


def table_path(output: Path) -> Path:
    """Of the table of a map a date."""
    return output.with_suffix(".csv")


def animation_path(output: Path) -> Path:
    return output.with_name(f"{output.stem}_preview.webp")


def write_table(path: Path, rows: Sequence[dict[str, object]]) -> None:
    """A row a map."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def store_folder(output: Path) -> Path:
    """Where the finished tiles of a run lie."""
    return output.with_name(f".{output.name}.tiles")


def check_files(output: Path, paths: Sequence[Path], *, rasters: dict[str, Path], overwrite: bool) -> None:
    """Raises ConfigError or DataError for files that can't be written.

    Args:
        output: what the command's --output says.
        paths: all files that are to be written.
        rasters: those that must be GeoTIFFs, by option.
        overwrite: files that exist may be replaced.
    """
    for option, path in rasters.items():
        if path.suffix.lower() not in (".tif", ".tiff"):
            raise ConfigError(f"--{option} {path}: must end in .tif")
    stopped = store_folder(output).exists()  # a run that stopped, maybe while it wrote results
    for path in paths:
        if not path.parent.is_dir():
            raise DataError(f"{path.parent}: no such folder; make it first")
        if not os.access(path.parent, os.W_OK):
            raise DataError(f"{path.parent}: can't be written to")
        if path.exists() and not overwrite and not (stopped and path != output):
            raise DataError(f"{path}: exists; give --overwrite to replace it")
    if len(set(paths)) < len(paths):
        raise ConfigError("--output, --uncertainty and --explain must be different files")


def state_disk(folder: Path, *, tiles: int, results: int, maps: int) -> None:
    """Say what room is needed at most. Raises DataError where even the tiles don't fit.

    Args:
        tiles: bytes of all tiles.
        results: bytes of the pixels of one map.
        maps: how many.
    """
    # A map: its pixels aside, then the file with its overviews (a third), which GDAL also keeps aside.
    needed = tiles + results * (1 + 1 / 3 + maps * 4 / 3)
    free = shutil.disk_usage(folder).free
    said = f"needs at most {_size(needed)} in {folder.resolve()}, {_size(free)} are free"
    if free < tiles + results * maps / 2:
        raise DataError(said)
    logger.info(said)


def _size(count: float) -> str:
    for unit in ("kB", "MB"):
        count /= 1000
        if count < 1000:
            return f"{max(count, 0.1):.3g} {unit}"
    return f"{count / 1000:.2f} GB"
