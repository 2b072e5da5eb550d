"""Where the patches of a data set of one's own lie: one grid for all images, over what truth and acquisitions share."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from affine import Affine
from rasterio.crs import CRS
from rasterio.warp import transform_bounds

from data_gen.custom.splits import Cell
from utils.errors import ConfigError, DataError
from utils.geo.acquisitions import GDAL_ERRORS, open_raster
from utils.geo.bands import Acquisition
from utils.geo.raster import Grid, grid_of
from utils.geo.windows import Box, Span

_ROUNDING = 1e-6  # of a patch
_MOST_PATCHES = 5_000_000  # of one image

Bounds = tuple[float, float, float, float]  # west, south, east, north


class PatchGrid(NamedTuple):
    """Squares of one size, counted down and right from a corner."""

    crs: CRS
    west: float
    north: float
    patch: int  # high-resolution pixels on a side
    resolution: float  # of the truth, metres
    scale: int

    @property
    def side(self) -> float:
        return self.patch * self.resolution

    def cells(self, bounds: Bounds) -> list[Cell]:
        """The squares that lie inside, row by row."""
        west, south, east, north = bounds
        top = math.ceil((self.north - north) / self.side - _ROUNDING)
        bottom = math.floor((self.north - south) / self.side + _ROUNDING)
        left = math.ceil((west - self.west) / self.side - _ROUNDING)
        right = math.floor((east - self.west) / self.side + _ROUNDING)
        if (bottom - top) * (right - left) > _MOST_PATCHES:
            raise ConfigError(f"more than {_MOST_PATCHES} patches: --patch or --hr_resolution is too small")
        return [(i, j) for i in range(top, bottom) for j in range(left, right)]

    def corner(self, cell: Cell) -> tuple[float, float]:
        """The top left corner (x, y) of a square."""
        return self.west + cell[1] * self.side, self.north - cell[0] * self.side

    def over(self, cells: Sequence[Cell], *, resolution: float) -> tuple[Grid, dict[Cell, Box]]:
        """The pixels of the rectangle around some squares, and which of them are each square's."""
        pixels = round(self.side / resolution)
        top, left = min(i for i, _ in cells), min(j for _, j in cells)
        height, width = max(i for i, _ in cells) - top + 1, max(j for _, j in cells) - left + 1
        x, y = self.corner((top, left))
        grid = Grid(self.crs, Affine(resolution, 0, x, 0, -resolution, y), height=height * pixels, width=width * pixels)
        boxes = {
            (i, j): Box(Span(*_span(i - top, pixels)), Span(*_span(j - left, pixels))) for i, j in cells
        }  # fmt: skip
        return grid, boxes


def _span(number: int, pixels: int) -> tuple[int, int]:
    return number * pixels, (number + 1) * pixels


def bounds_in(acquisition: Acquisition, crs: CRS) -> Bounds:
    """What an acquisition covers. Raises DataError where that can't be told."""
    path = acquisition.bands[0][0]
    with open_raster(path) as source:
        own = grid_of(source)
    if own.crs is None:
        raise DataError(f"{path}: has no coordinate system, so nobody knows where it lies")
    try:
        found = transform_bounds(own.crs, crs, *own.bounds)
    except GDAL_ERRORS:
        found = (math.inf,) * 4
    if not all(map(math.isfinite, found)):
        raise DataError(f"{path}: its place can't be told in {crs.to_string()}; give another --crs")
    return found


def overlap(a: Bounds, b: Bounds) -> Bounds | None:
    west, south, east, north = max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])
    return (west, south, east, north) if west < east and south < north else None


def around(bounds: Sequence[Bounds]) -> Bounds:
    """The rectangle around some."""
    west, south, east, north = zip(*bounds, strict=True)
    return min(west), min(south), max(east), max(north)


def choose_grid(
    truths: Sequence[Acquisition],
    views: Sequence[Acquisition],
    *,
    crs: CRS | None,
    patch: int,
    resolution: float,
    scale: int,
) -> PatchGrid:
    """The grid of a data set: by default that of the first acquisition, so that its pixels are copied as they are.

    Its corner is the first whole low-resolution pixel that truths and acquisitions share.
    """
    path = views[0].bands[0][0]
    with open_raster(path) as source:
        own = grid_of(source)
    if own.crs is None:
        raise DataError(f"{path}: has no coordinate system, so nobody knows where it lies")
    chosen = crs or own.crs
    if not chosen.is_projected:
        raise ConfigError(
            f"{chosen.to_string()} counts degrees; give a coordinate system in metres: --crs EPSG:2154, say"
        )
    shared = overlap(around([bounds_in(t, chosen) for t in truths]), around([bounds_in(v, chosen) for v in views]))
    if shared is None:
        raise DataError("the high-resolution images and the Sentinel-2 images don't overlap anywhere")
    coarse = resolution * scale
    x, y = (own.transform.c, own.transform.f) if chosen == own.crs else (0.0, 0.0)
    west = x + math.ceil((shared[0] - x) / coarse - _ROUNDING) * coarse
    north = y + math.floor((shared[3] - y) / coarse + _ROUNDING) * coarse
    return PatchGrid(chosen, west, north, patch, resolution, scale)
