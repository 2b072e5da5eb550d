"""One patch of the sample data: its dates, its place, its pictures; all from its address (seed, split, number)."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import rasterio
from numpy.typing import NDArray
from rasterio.crs import CRS

from data_gen.canvas import Scene
from data_gen.landscape import landscape
from data_gen.revisit import Days, acquisition_days, spot_day, truth_days
from data_gen.sensor import MARGIN, draw_radiometry, draw_view, sentinel2, spot

Image = NDArray[np.uint8] | NDArray[np.uint16]

SPLITS = ("train", "val", "test")
COLUMNS = ("split", "spot6_image", "sen2_acquisitions", "dates_spot6", "dates_sen2", "x", "y")
_YEAR = np.datetime64("2018-01-01T11:00")
_LAMBERT93 = CRS.from_epsg(2154)


class Patch(NamedTuple):
    """A patch before it is rendered."""

    seed: int
    split: str
    number: int
    size: int  # pixels of 2.5 m
    days: Days  # of the Sentinel-2 acquisitions, in order
    spot_day: int

    @property
    def name(self) -> int:
        """The row index: not a range, distinct over the splits."""
        return 100_000 * (SPLITS.index(self.split) + 1) + 7 * self.number

    @property
    def corner(self) -> tuple[float, float]:
        """Top left corner (x, y) in EPSG:2154, metres; patches don't overlap."""
        step = 10 * -(-self.size // 4)
        column, row = self.number % 200, self.number // 200
        return 170_000.0 + step * column, 6_850_000.0 - 40_000 * SPLITS.index(self.split) - step * row


def _stream(patch: Patch, purpose: int, item: int = 0) -> np.random.Generator:
    """The generator of one purpose of a patch: nothing that is drawn elsewhere changes its numbers."""
    address = (patch.seed, SPLITS.index(patch.split), patch.number, purpose, item)
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(address)))


_DATES, _LANDSCAPE, _SENTINEL2, _SPOT = range(4)


def plan_patch(*, seed: int, split: str, number: int, size: int) -> Patch:
    """Choose the dates of a patch."""
    empty = Patch(seed, split, number, size, np.zeros(0, dtype=np.intp), 0)
    generator = _stream(empty, _DATES)
    days = acquisition_days(generator)
    return empty._replace(days=days, spot_day=spot_day(generator, days))


def scene_of(patch: Patch) -> Scene:
    """The landscape, with the margin that the sensors need."""
    return landscape(_stream(patch, _LANDSCAPE), patch.size + 2 * MARGIN)


def sentinel2_images(patch: Patch, scene: Scene) -> Iterator[NDArray[np.uint16]]:
    """The acquisitions (3, size / 4, size / 4), in the order of their dates."""
    for item, day in enumerate(patch.days):
        generator = _stream(patch, _SENTINEL2, item)
        yield sentinel2(scene.reflectance(int(day)), draw_view(generator), generator)


def spot_image(patch: Patch, scene: Scene, day: int) -> NDArray[np.uint8]:
    """The truth (3, size, size) on a day."""
    generator = _stream(patch, _SPOT, day)
    return spot(scene.reflectance(day), draw_radiometry(generator), generator)


def row(patch: Patch, day: int, spot_path: str) -> dict[str, object]:
    """The patch's row of the tables, seen from the day of a SPOT image."""
    x, y = patch.corner
    acquisitions = {abs(int(d) - day): sentinel2_path(patch, int(d)) for d in patch.days}
    dates = [timestamp(int(d)) for d in patch.days]
    return dict(zip(COLUMNS, (patch.split, spot_path, acquisitions, timestamp(day), dates, x, y), strict=True))


def timestamp(day: int) -> pd.Timestamp:
    return pd.Timestamp(_YEAR + np.timedelta64(day, "D"))


def sentinel2_path(patch: Patch, day: int) -> str:
    return f"sen2/{patch.split}/{patch.name}/{timestamp(day):%Y%m%d}.tif"


def spot_path(patch: Patch) -> str:
    return f"spot6/{patch.split}/{patch.name}.tif"


def truths(patch: Patch, count: int) -> dict[str, int]:
    """Names and days of ``count`` further truths."""
    return {f"{patch.name}_{timestamp(int(d)):%Y%m%d}": int(d) for d in truth_days(patch.days, count)}


def write_geotiff(path: Path, image: Image, *, corner: tuple[float, float], pixel: float) -> None:
    """A (bands, H, W) image in EPSG:2154, ``pixel`` metres, top left ``corner``."""
    bands, height, width = image.shape
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=width,
        height=height,
        count=bands,
        dtype=image.dtype,
        crs=_LAMBERT93,
        transform=rasterio.Affine(pixel, 0, corner[0], 0, -pixel, corner[1]),
    ) as file:
        file.write(image)
