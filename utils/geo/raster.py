"""Georeferenced rasters of any size: windows of acquisitions on one grid, Cloud-Optimized GeoTIFFs."""

import contextlib
import itertools
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import rasterio
import rasterio.shutil
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, Resampling
from rasterio.io import DatasetReader, DatasetWriter
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds
from rasterio.windows import Window, from_bounds

from utils.errors import ConfigError, DataError
from utils.files import atomic_write
from utils.geo.acquisitions import COLOURS, GDAL_ERRORS, open_raster
from utils.geo.bands import Acquisition, Band
from utils.geo.clouds import CLOUD_CONTEXT, GOOD, NOTHING, Mask, Quality, cloud_free, grow, has_data
from utils.geo.stac import network_options, shown
from utils.geo.windows import Box, Span

logger = logging.getLogger(__name__)

BLOCK = 512  # pixels on a side of a GeoTIFF's tiles
KERNEL_REACH = 2  # pixels that cubic resampling looks at
AVERAGED = 1.5  # times as fine as the grid: from here on pixels are averaged, cubic resampling would skip some
CACHE = 32 * 2**20  # bytes of decoded blocks that GDAL keeps (its default is 5% of the machine's memory)
CACHE_JPEG2000 = 256 * 2**20  # whose blocks are 1024 pixels on a side and dear to decode


class Grid(NamedTuple):
    """Where the pixels of a raster lie."""

    crs: CRS | None
    transform: Affine
    height: int
    width: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.height, self.width

    @property
    def box(self) -> Box:
        return Box(Span(0, self.height), Span(0, self.width))

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """West, south, east, north of a raster whose north is up."""
        west, north = self.transform @ (0, 0)
        east, south = self.transform @ (self.width, self.height)
        return min(west, east), min(south, north), max(west, east), max(south, north)

    def part(self, box: Box, *, scale: int = 1) -> "Grid":
        """The grid of a part, ``scale`` times as fine: it covers exactly the same ground."""
        transform = self.transform @ Affine.translation(box.columns.start, box.rows.start) @ Affine.scale(1 / scale)
        return Grid(self.crs, transform, box.rows.size * scale, box.columns.size * scale)

    def same_as(self, other: "Grid") -> bool:
        same = self.shape == other.shape and self.crs == other.crs
        return same and self.transform.almost_equals(other.transform, 1e-6)


def grid_of(source: DatasetReader) -> Grid:
    """Where a raster lies. Raises DataError for a georeference that can't be."""
    transform = source.transform
    if not np.isfinite(transform).all() or transform.is_degenerate:
        raise DataError(f"{source.name}: its georeference is damaged: {tuple(transform)[:6]}")
    return Grid(source.crs, transform, source.height, source.width)


def region_of(grid: Grid, *, bbox: Sequence[float] | None = None, window: Sequence[int] | None = None) -> Box:
    """The part of a grid that is asked for; all of it by default.

    Args:
        bbox: west, south, east, north: degrees where they can be and the grid's own aren't, else as the grid counts.
        window: column, row, width, height in pixels.

    Raises:
        ConfigError: nothing of it lies inside the grid.
    """
    if bbox is not None and window is not None:
        raise ConfigError("--bbox and --window: give one of them")
    asked_for = grid.box
    if window is not None:
        column, row, width, height = window
        if width < 1 or height < 1:
            raise ConfigError(f"--window: width {width} and height {height} must be at least 1")
        asked_for = Box(Span(row, row + height), Span(column, column + width))
    elif bbox is not None:
        west, south, east, north = bbox
        if west >= east or south >= north:
            raise ConfigError("--bbox: give west south east north, with west < east and south < north")
        degrees = max(abs(west), abs(east)) <= 180 and max(abs(south), abs(north)) <= 90
        if degrees and grid.crs is not None and not grid.crs.is_geographic:
            west, south, east, north = transform_bounds("EPSG:4326", grid.crs, west, south, east, north)
        asked = from_bounds(west, south, east, north, grid.transform)
        top, left = round(asked.row_off, 6), round(asked.col_off, 6)
        rows = Span(math.floor(top), math.ceil(round(top + asked.height, 6)))
        asked_for = Box(rows, Span(math.floor(left), math.ceil(round(left + asked.width, 6))))
    box = asked_for.within(grid.box)
    if min(box.shape) < 1:
        bounds = " ".join(f"{side:.7g}" for side in grid.bounds)
        where = grid.crs.to_string() if grid.crs else "no coordinate system"
        size = f"{grid.width}×{grid.height} pixels"
        raise ConfigError(f"the part asked for lies outside the image: {size}, {bounds} ({where})")
    if box != asked_for:
        (row, column), (height, width) = (span.start for span in box), box.shape
        logger.info(f"the part asked for reaches beyond the image: cut to --window {column} {row} {width} {height}")
    return box


class Pixels(NamedTuple):
    """A window of an acquisition."""

    reflectance: NDArray[np.float32]  # (C, h, w); arbitrary where there is no data
    data: NDArray[np.bool_]  # (h, w): nodata, NaN, zeros, saturation are False
    classes: NDArray[np.uint8] | None  # (h, w) scene classification


class AlignedReader:
    """An acquisition on a grid. Files on another grid are resampled: cubic, averaged if much finer, classes nearest."""

    def __init__(self, acquisition: Acquisition, grid: Grid) -> None:
        self.acquisition = acquisition
        self._grid = grid
        self._files = contextlib.ExitStack()
        self._opened: dict[tuple[Path, Resampling], DatasetReader | WarpedVRT] = {}
        self._kernels: dict[Path, Resampling] = {}  # of files on another grid
        self._reach = 0  # pixels around a missing one that a kernel mixes it into
        self.resampled: list[Path] = []  # files on another grid, whose pixels are no multiples of this one's
        for path in acquisition.files:
            self._lay(path)

    def close(self) -> None:
        self._files.close()

    def _lay(self, path: Path) -> None:
        """Choose how a file comes onto the grid. Raises DataError where that can't be."""
        with open_raster(path) as source:
            own = grid_of(source)
        is_classes = self.acquisition.classes is not None and path == self.acquisition.classes[0]
        bare = own.crs is None and is_classes and own.shape == self._grid.shape  # taken to lie where the image lies
        if bare or own.same_as(self._grid):
            return
        kernel, ratio = self._kernel(path, own)
        self._kernels[path] = kernel
        if any(path == other for other, _ in self.acquisition.bands):
            if kernel != Resampling.nearest:
                self._reach = max(self._reach, KERNEL_REACH * max(1, round(ratio)))
            if round(ratio) < 2 or not np.allclose(own.bounds, self._grid.bounds, atol=1e-3):
                self.resampled.append(path)

    def _kernel(self, path: Path, own: Grid) -> tuple[Resampling, float]:
        """The kernel, and how many of the grid's pixels a pixel is wide."""
        if own.crs is None or self._grid.crs is None:
            raise DataError(f"{shown(path)}: another size or no coordinate system: can't be laid over the first image")
        try:
            west, south, east, north = transform_bounds(own.crs, self._grid.crs, *own.bounds)
        except GDAL_ERRORS:
            west = south = east = north = float("nan")
        first = self._grid.bounds
        if not (west < first[2] and first[0] < east and south < first[3] and first[1] < north):
            spans = f"{west:.6g} {south:.6g} {east:.6g} {north:.6g}"
            raise DataError(f"{shown(path)}: doesn't overlap the first image; it spans {spans}")
        finer = abs(self._grid.transform.a) * own.width / (east - west)
        if _whole_pixels_apart(own, self._grid):
            return Resampling.nearest, 1
        return (Resampling.average if finer >= AVERAGED else Resampling.cubic), 1 / finer

    def _open(self, path: Path, resampling: Resampling) -> DatasetReader | WarpedVRT:
        """Opened once and kept."""
        if (path, resampling) not in self._opened:
            source = self._files.enter_context(open_raster(path))
            if path in self._kernels:
                source = self._files.enter_context(WarpedVRT(source, **self._grid._asdict(), resampling=resampling))
            self._opened[path, resampling] = source
        return self._opened[path, resampling]

    def _read(self, bands: Sequence[Band], box: Box, *, smooth: bool = False, masks: bool = False) -> NDArray:
        """Numbers (or GDAL's masks) of bands, (C, h, w): resampled by the files' kernels, else their nearest pixels."""
        window = _window(box)
        result: list[NDArray] = []
        try:
            for path, group in itertools.groupby(bands, key=lambda band: band[0]):
                source = self._open(path, self._kernels.get(path, Resampling.nearest) if smooth else Resampling.nearest)
                read = source.read_masks if masks else source.read
                result.append(read([index for _, index in group], window=window))
        except GDAL_ERRORS:
            where = f"row {box.rows.start}, column {box.columns.start}"
            raise DataError(f"{shown(path)}: can't be read at {where}: damaged or cut off") from None
        return np.concatenate(result)

    def read(self, box: Box) -> Pixels:
        """A window inside the grid."""
        acquisition = self.acquisition
        values = self._read(acquisition.bands, box, smooth=True)
        gains, offsets = np.array(acquisition.meanings).T[..., None, None]  # (2, C, 1, 1)
        with np.errstate(invalid="ignore"):
            reflectance = (values * gains + offsets).astype(np.float32)
        # What a kernel mixed with nodata is no data either.
        around = box.grown(self._reach).within(self._grid.box)
        raw = self._read(acquisition.bands, around) if self._reach else values
        data = has_data(raw, self._read(acquisition.bands, around, masks=True))
        if self._reach:
            data = ~grow(~data, self._reach)[box.slices(around)]
        classes = self._read([acquisition.classes], box)[0].astype(np.uint8) if acquisition.classes else None
        return Pixels(np.where(data, reflectance, 0), data, classes)

    def read_rated(self, box: Box, *, clouds: bool) -> tuple[NDArray[np.float32], Quality]:
        """Reflectance (C, h, w) in a box inside the grid, and what it is worth (h, w): clouds less, if asked for."""
        around = box.grown(CLOUD_CONTEXT if clouds else 0).within(self._grid.box)
        reflectance, data, classes = self.read(around)
        quality = np.where(data, GOOD, NOTHING).astype(np.uint8)
        if clouds:
            quality = cloud_free(reflectance, data, classes, bands=self.acquisition.names)
        rows, columns = box.slices(around)
        return reflectance[:, rows, columns], quality[rows, columns]

    def read_clear(self, box: Box, *, clouds: bool) -> tuple[NDArray[np.float32], Mask]:
        """The same with a mask (h, w) of what is good."""
        reflectance, quality = self.read_rated(box, clouds=clouds)
        return reflectance, quality == GOOD


def grid_of_acquisition(acquisition: Acquisition) -> Grid:
    """That of its finest band."""
    grids = []
    for path in dict.fromkeys(path for path, _ in acquisition.bands):
        with open_raster(path) as source:
            grids.append(grid_of(source))
    return min(grids, key=lambda grid: abs(grid.transform.a))


def _window(box: Box) -> Window:
    return Window(box.columns.start, box.rows.start, box.columns.size, box.rows.size)


def _whole_pixels_apart(a: Grid, b: Grid) -> bool:
    """Whether the pixels of two grids are the same pieces of ground, where both have them."""
    between = ~a.transform @ b.transform
    shift = np.array([between.c, between.f])
    same_size = between.almost_equals(Affine.translation(between.c, between.f), 1e-6)
    return a.crs == b.crs and same_size and bool(np.allclose(shift, shift.round(), atol=1e-3))


@contextlib.contextmanager
def gdal_memory(acquisitions: Sequence[Acquisition]) -> Iterator[None]:
    """Bound what GDAL keeps, so that memory doesn't grow with the scene."""
    files = [path for acquisition in acquisitions for path in acquisition.files]
    jpeg2000 = any(path.suffix.lower() == ".jp2" for path in files)
    with rasterio.Env(GDAL_CACHEMAX=CACHE_JPEG2000 if jpeg2000 else CACHE), network_options(files):
        yield


class Raster(NamedTuple):
    """What a GeoTIFF to be written is."""

    grid: Grid
    dtype: str
    nodata: float
    descriptions: tuple[str, ...]
    tags: Mapping[str, str]
    unit: float | None = None  # reflectance = value × unit


class CogWriter(NamedTuple):
    """Takes the pixels of a GeoTIFF, block by block."""

    target: DatasetWriter

    def blocks(self) -> Iterator[Box]:
        """The blocks in the order to write them in, each once."""
        height, width = self.target.shape
        for row, column in itertools.product(range(0, height, BLOCK), range(0, width, BLOCK)):
            yield Box(Span(row, min(row + BLOCK, height)), Span(column, min(column + BLOCK, width)))

    def write(self, pixels: NDArray, box: Box) -> None:
        self.target.write(pixels, window=_window(box))


@contextlib.contextmanager
def writing_cog(path: Path, raster: Raster) -> Iterator[CogWriter]:
    """Blocks go to a tiled GeoTIFF aside, then GDAL's COG driver makes the file from it, whole or not at all.

    Equal pixels and tags make equal files. Raises DataError where it can't be written.
    """
    grid, dtype, nodata, names, tags, unit = raster
    aside = path.with_name(f".{path.name}.pixels.tif")
    try:
        with rasterio.open(
            aside, "w", driver="GTiff", width=grid.width, height=grid.height, count=len(names), dtype=dtype,
            crs=grid.crs, transform=grid.transform, nodata=nodata, interleave="pixel", bigtiff="if_safer",
            tiled=True, blockxsize=BLOCK, blockysize=BLOCK, compress="deflate", zlevel=1,
            photometric="RGB" if names[:3] == ("red", "green", "blue") else "MINISBLACK",
        ) as target:  # fmt: skip
            target.colorinterp = [COLOURS.get(name, ColorInterp.undefined) for name in names]
            target.descriptions = names
            if unit is not None:
                target.scales = (unit,) * len(names)
            target.update_tags(**tags)
            yield CogWriter(target)
        with atomic_write(path) as whole:
            rasterio.shutil.copy(
                aside, whole, driver="COG", compress="DEFLATE", level=3, blocksize=BLOCK, bigtiff="IF_SAFER",
                predictor="FLOATING_POINT" if np.dtype(dtype).kind == "f" else "STANDARD",
                overview_resampling="AVERAGE", num_threads="ALL_CPUS",
            )  # fmt: skip
    except GDAL_ERRORS as error:
        raise DataError(f"{path}: can't be written; is the disk full?") from error
    finally:
        aside.unlink(missing_ok=True)
