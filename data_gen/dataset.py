"""The raw BreizhSR data set: pickled tables, and the rasters they name, read through rasterio.

One row of a table is a patch: a SPOT-6/7 image and Sentinel-2 acquisitions of the same place at other dates. What can't
be used is never a crash: an acquisition is dropped together with its date, a patch is skipped, and both say why.
"""

import contextlib
import itertools
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rasterio
import torch
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from torch import Tensor

from data_gen.pickled_table import read_pickled_table
from utils.errors import DataError
from utils.geo.bands import RGB, described_bands
from utils.store import SCALES, SPLIT_NAME, Geometry, Key

_CROP = 8  # sides are cropped to multiples of this, in high resolution
_LARGEST_SIDE = 1 << 12  # pixels
_COLUMNS = ("split", "spot6_image", "sen2_acquisitions", "dates_spot6", "dates_sen2")
_TABLES = {"dataset_train.pkl": -2, "dataset_test.pkl": -1}  # these come first
_DAY = np.timedelta64(1, "D")
_INT16 = np.iinfo(np.int16)


class Unusable(Exception):
    """Why a patch or an acquisition can't be used."""


class Missing(Unusable):
    """There is no file."""


# Tables


class TableRow(NamedTuple):
    """One row of a table, as it stands there."""

    key: Key
    split: str
    hr: Any  # path relative to the root
    acquisitions: Any  # dict: days from the truth -> path
    date: Any
    dates: Any  # list, in the order of the dict
    columns: dict[str, Any]  # further columns with plain values


class RawAcquisition(NamedTuple):
    """What a row says of one Sentinel-2 patch."""

    position: int  # in the dict
    distance: int  # |key|, days
    path: str
    offset: int  # its date − the truth's, whole days, rounded down


def table_paths(root: Path) -> list[Path]:
    """The tables of a raw root: dataset_train.pkl, dataset_test.pkl, then any other dataset_<name>.pkl."""
    if not root.is_dir():
        raise DataError(f"data folder {root} doesn't exist")
    found = sorted(root.glob("dataset_*.pkl"), key=lambda path: (_TABLES.get(path.name, 0), path.name))
    if not found:
        raise DataError(f"{root} holds no dataset_train.pkl or dataset_test.pkl: not a raw data set")
    return found


def read_rows(paths: Sequence[Path]) -> dict[str, list[TableRow]]:
    """The rows of all tables by split, in the order of the tables."""
    splits: dict[str, list[TableRow]] = {}
    origin: dict[str, Path] = {}
    for path in paths:
        for row in _rows(path):
            if origin.setdefault(row.split, path) != path:
                raise DataError(f"split {row.split!r} is in both {origin[row.split]} and {path}; rename one")
            splits.setdefault(row.split, []).append(row)
    return splits


def _rows(path: Path) -> Iterator[TableRow]:
    index, columns = read_pickled_table(path)
    for name in _COLUMNS:
        if name not in columns:
            raise DataError(f"{path}: no column {name!r}; there are: {', '.join(columns)}")
    further = [name for name in columns if name not in _COLUMNS]
    for i, key in enumerate(index):
        split, hr, acquisitions, date, dates = (columns[name][i] for name in _COLUMNS)
        if not isinstance(split, str) or not SPLIT_NAME.fullmatch(split):
            raise DataError(f"{path}: row {key}: split is {str(split)[:40]!r}; train, val or test is expected")
        plain = {name: columns[name][i] for name in further if isinstance(columns[name][i], (str, int, float))}
        yield TableRow(key, split, hr, acquisitions, date, dates, {**plain, "dates_spot6": str(date)})


def acquisitions_of(row: TableRow) -> list[RawAcquisition]:
    """The acquisitions of a row in dict order. Raises Unusable where image and date don't go together."""
    if not isinstance(row.hr, str):
        raise Unusable("spot6_image is not a path")
    if not isinstance(row.acquisitions, dict) or not isinstance(row.dates, list):
        raise Unusable("sen2_acquisitions is not a dict or dates_sen2 not a list")
    if not row.acquisitions:
        raise Unusable("no acquisition")
    if len(row.acquisitions) != len(row.dates):
        raise Unusable(f"{len(row.acquisitions)} acquisitions but {len(row.dates)} dates")
    if not all(isinstance(date, np.datetime64) and not np.isnat(date) for date in (row.date, *row.dates)):
        raise Unusable("a date is missing")
    found = []
    for position, ((key, path), date) in enumerate(zip(row.acquisitions.items(), row.dates, strict=True)):
        try:
            distance = abs(int(key))
        except (TypeError, ValueError, OverflowError):
            raise Unusable(f"acquisition {str(key)[:40]!r} is not a number of days") from None
        if not isinstance(path, str):
            raise Unusable(f"acquisition {key} is not a path")
        found.append(RawAcquisition(position, distance, path, int((date - row.date) // _DAY)))
    return found


# Rasters


@contextlib.contextmanager
def patch_rasters() -> Iterator[None]:
    """How GDAL reads many small files: each is one open, without listing folders, sidecar files and threads."""
    settings = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "GDAL_PAM_ENABLED": "NO", "GDAL_NUM_THREADS": "1"}
    with rasterio.Env(**settings), warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


def inside(root: Path, relative: str) -> Path:
    """The path of a file that a table names. Raises Unusable, or DataError where it leads out of ``root``."""
    try:
        path = (root / relative).resolve()
    except (OSError, ValueError, RuntimeError):  # a loop of links, a zero byte, a name too long
        raise Unusable(f"no file can have the path {relative[:80]!r}") from None
    if not path.is_relative_to(root.resolve()):
        raise DataError(f"the table names {relative[:200]!r}, which leads out of {root}; put the data inside it")
    return path


@contextlib.contextmanager
def opened(path: Path, bands: Sequence[str] = (), *, georeferenced: bool = False) -> Iterator[rasterio.DatasetReader]:
    """A GeoTIFF that has the bands; what goes wrong, also while it is read, raises Unusable.

    Without its georeference by default: that takes four times as long to read as the pixels and is seldom needed.
    """
    where = {} if georeferenced else {"GEOREF_SOURCES": "NONE"}
    try:
        if not path.is_file():
            raise Missing("missing file")
        with rasterio.open(path, driver="GTiff", sharing=False, **where) as source:
            if bands:
                _band_numbers(source, bands)
            if max(source.shape) > _LARGEST_SIDE:
                raise Unusable("larger than any patch")
            yield source
    except (RasterioError, OSError, ValueError, MemoryError) as error:
        raise Unusable(f"unreadable raster ({' '.join(str(error.__cause__ or error).split())[:200]})") from error


def _band_numbers(source: rasterio.DatasetReader, bands: Sequence[str]) -> list[int]:
    """Which bands of a file, from 1, are those: by their descriptions, else all in order. Raises Unusable."""
    named = described_bands(source.descriptions)
    if named is not None and set(bands) <= set(named):
        return [named.index(band) + 1 for band in bands]
    if named is not None or source.count != len(bands):
        found = f"{source.count} bands" + (f" ({', '.join(named)})" if named else "")
        raise Unusable(f"{found}, {len(bands)} are expected ({', '.join(bands)})")
    return list(range(1, source.count + 1))


def pixels_of(source: rasterio.DatasetReader, bands: Sequence[str]) -> NDArray[Any]:
    """The bands of a raster that is `opened`, (C, h, w)."""
    pixels = source.read(_band_numbers(source, bands))
    if pixels.dtype.kind not in "uif":
        raise Unusable(f"its pixels are {pixels.dtype}, not numbers")
    return pixels


def to_int16(pixels: NDArray[Any], *, nodata: float | None) -> tuple[NDArray[np.int16], int]:
    """Reflectance × 10000 of any numeric type as int16, and how many didn't fit.

    Nodata and what is not finite become 0; fractions are rounded. Raises Unusable where nothing else is there.
    """
    missing = ~np.isfinite(pixels)
    if nodata is not None:
        missing |= pixels == nodata
    numbers = np.rint(np.where(missing, 0, pixels).astype(np.float64))
    if not numbers.any():
        raise Unusable("nothing but nodata")
    fitting = numbers.clip(_INT16.min, _INT16.max)
    return fitting.astype(np.int16), int((fitting != numbers).sum())


# Patches


class RawView(NamedTuple):
    """A Sentinel-2 patch that was read."""

    lr: Tensor  # (C, h, w) int16, reflectance × 10000
    offset: int
    clipped: int  # pixels that didn't fit 16 bits


@dataclass
class RawPatch:
    """A row whose rasters were read and cropped."""

    key: Key
    hr: Tensor  # (C, H, W) uint8
    views: list[RawView]  # at most `length`, in dict order
    single: RawView  # the acquisition with the smallest key: the single-image input
    columns: dict[str, Any]
    dropped: list[tuple[str, str]] = field(default_factory=list)  # acquisitions that were not usable: path, reason

    def nearest(self) -> int:
        """Which view is nearest in time; ties: the first."""
        return min(range(len(self.views)), key=lambda i: abs(self.views[i].offset))


@dataclass(frozen=True)
class PatchReader:
    """Reads the rasters of rows, each once, cropped to one geometry."""

    root: Path
    geometry: Geometry
    select: str = "nearest"  # what makes the series: the `geometry.length` nearest in time, or the first in dict order

    @patch_rasters()
    def read(self, row: TableRow) -> RawPatch:
        """The patch of a row. Raises Unusable with the reason, DataError where a path leads out of the root."""
        acquisitions = acquisitions_of(row)
        hr = self._hr(row.hr)
        views: dict[int, RawView] = {}
        dropped: dict[int, tuple[str, str]] = {}

        def is_usable(acquisition: RawAcquisition) -> bool:
            position = acquisition.position
            if position not in views and position not in dropped:
                try:
                    views[position] = self._view(acquisition)
                except Unusable as reason:
                    dropped[position] = (acquisition.path, str(reason))
            return position in views

        order = sorted(acquisitions, key=lambda a: abs(a.offset)) if self.select == "nearest" else acquisitions
        series = sorted(a.position for a in itertools.islice(filter(is_usable, order), self.geometry.length))
        if not series:
            raise Unusable("no acquisition can be used; the first: " + ": ".join(next(iter(dropped.values()))))
        single = next(filter(is_usable, sorted(acquisitions, key=lambda a: a.distance)))
        chosen = [views[position] for position in series]
        return RawPatch(row.key, hr, chosen, views[single.position], row.columns, list(dropped.values()))

    def _hr(self, path: str) -> Tensor:
        size, bands = self.geometry.hr_size, self.geometry.bands
        with opened(inside(self.root, path), bands) as source:
            sides = [cropped(side, _CROP) for side in source.shape]
            if sides[0] != sides[1]:
                raise Unusable(f"not square: {source.height}×{source.width}")
            if sides[0] != size:
                raise Unusable(f"is {source.height}×{source.width}, the first patch {size} (cropped)")
            if source.dtypes[0] != "uint8":
                raise Unusable(f"is {source.dtypes[0]}, 8-bit levels are expected")
            pixels, nodata = pixels_of(source, bands), source.nodata
        if (pixels == (nodata or 0)).all():
            raise Unusable("nothing but nodata")
        return torch.from_numpy(np.ascontiguousarray(pixels[:, :size, :size]))

    def _view(self, acquisition: RawAcquisition) -> RawView:
        if not _INT16.min <= acquisition.offset <= _INT16.max:
            raise Unusable(f"its date is {acquisition.offset} days away")
        size, bands = self.geometry.lr_size, self.geometry.bands
        with opened(inside(self.root, acquisition.path), bands) as source:
            if source.height != source.width:
                raise Unusable(f"not square: {source.height}×{source.width}")
            if cropped(source.height, _CROP // self.geometry.scale) != size:
                raise Unusable(f"is {source.height}×{source.width}, the data set {size} once cropped")
            pixels, nodata = pixels_of(source, bands), source.nodata
        lr, clipped = to_int16(pixels[:, :size, :size], nodata=nodata)
        return RawView(torch.from_numpy(lr), acquisition.offset, clipped)


def cropped(size: int, multiple: int) -> int:
    return size // multiple * multiple


@patch_rasters()
def find_bands(root: Path, rows: Sequence[TableRow]) -> tuple[str, ...]:
    """The bands of a data set: those that the first acquisition that can be read, and its truth, both describe.

    Raises:
        DataError: they have no names, and aren't three, which are red, green, blue.
    """
    for row in rows:
        try:
            path = inside(root, acquisitions_of(row)[0].path)
            with opened(path) as view, opened(inside(root, row.hr)) as truth:
                named, of_truth = described_bands(view.descriptions), described_bands(truth.descriptions)
                count, one_is_broken = view.count, view.count != truth.count
        except (Unusable, DataError):  # told apart where the row is read
            continue
        if named is None and count != len(RGB):
            if one_is_broken:
                continue
            raise DataError(f"{path}: {count} bands without names; say which with --bands B04,B03,B02,B08")
        shared = tuple(band for band in named or RGB if of_truth is None or band in of_truth)
        if not shared:
            raise DataError(f"{path}: has no band that its truth {row.hr} has")
        return shared
    return RGB


@patch_rasters()
def find_geometry(
    root: Path, rows: Sequence[TableRow], *, length: int, bands: tuple[str, ...] | None = None
) -> Geometry:
    """The patch size and bands of a data set: those of the first row that can be used. Raises DataError."""
    first, bands = "", bands or find_bands(root, rows)
    for row in rows:
        try:
            hr_size, scale = _sizes(root, row, bands)
            geometry = Geometry(hr_size=hr_size, scale=scale, length=length, bands=bands)
            PatchReader(root, geometry).read(row)
            return geometry
        except Unusable as reason:
            first = first or f"; the first, {row.key}: {reason}"
    raise DataError(f"{root}: no patch can be used{first}")


def _sizes(root: Path, row: TableRow, bands: tuple[str, ...]) -> tuple[int, int]:
    """The side of the truth of a row, cropped, and how much finer it is."""
    acquisitions = acquisitions_of(row)
    with opened(inside(root, row.hr), bands) as source:
        hr_size = cropped(source.height, _CROP)
    first = ""
    for acquisition in acquisitions:
        try:
            with opened(inside(root, acquisition.path), bands) as source:
                side = source.height
            for scale in SCALES:
                if hr_size and cropped(side, _CROP // scale) * scale == hr_size:
                    return hr_size, scale
            raise Unusable(f"is {side} pixels for a truth of {hr_size}; it must be 2, 4 or 8 times finer")
        except Unusable as reason:
            first = first or f"{acquisition.path}: {reason}"
    raise Unusable(first)
