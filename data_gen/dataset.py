"""The raw BreizhSR data set: pickled tables, and the rasters they name, read through rasterio.

One row of a table is a patch: a SPOT-6/7 image and Sentinel-2 acquisitions of the same place at other dates. What can't
be used is never a crash: an acquisition is dropped together with its date, a patch is skipped, and both say why.
"""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rasterio
import torch
from rasterio.errors import NotGeoreferencedWarning
from torch import Tensor

from data_gen.pickled_table import read_pickled_table
from data_gen.rasters import GDAL_OPTIONS, Unusable, inside, opened, pixels_of, to_int16
from utils.errors import DataError
from utils.geo.bands import RGB, described_bands
from utils.store import SCALES, SPLIT_NAME, Geometry, Key

_CROP = 8  # sides are cropped to multiples of this, in high resolution
_COLUMNS = ("split", "spot6_image", "sen2_acquisitions", "dates_spot6", "dates_sen2")
_DAY = np.timedelta64(1, "D")
_INT16 = np.iinfo(np.int16)


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


class RawView(NamedTuple):
    """A Sentinel-2 patch that was read."""

    lr: Tensor  # (3, h, w) int16, reflectance × 10000
    offset: int
    clipped: int  # pixels that didn't fit 16 bits


@dataclass
class RawPatch:
    """A row whose rasters were read and cropped."""

    key: Key
    hr: Tensor  # (3, H, W) uint8
    views: list[RawView]  # at most `length`, in dict order
    single: RawView  # the acquisition with the smallest key: the single-image input
    columns: dict[str, Any]
    dropped: list[tuple[str, str]] = field(default_factory=list)  # acquisitions that were not usable: path, reason

    def nearest(self) -> int:
        """Which view is nearest in time; ties: the first."""
        return min(range(len(self.views)), key=lambda i: abs(self.views[i].offset))


# ---------------------------------------------------------------------------------------------------------------------
# Tables


def table_paths(root: Path) -> list[Path]:
    """The tables of a raw root: dataset_train.pkl, dataset_test.pkl, then any other dataset_<name>.pkl."""
    if not root.is_dir():
        raise DataError(f"data folder {root} doesn't exist")
    first = ("dataset_train.pkl", "dataset_test.pkl")
    found = {path.name: path for path in root.glob("dataset_*.pkl")}
    if not found:
        raise DataError(f"{root} holds no dataset_train.pkl or dataset_test.pkl: not a raw data set")
    return [found[name] for name in first if name in found] + [found[n] for n in sorted(found) if n not in first]


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
    if not _is_date(row.date) or not all(_is_date(date) for date in row.dates):
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


def _is_date(x: Any) -> bool:
    return isinstance(x, np.datetime64) and not np.isnat(x)


# ---------------------------------------------------------------------------------------------------------------------
# Rasters


class PatchReader:
    """Reads the rasters of rows, each once, cropped to one geometry.

    ``select``: which acquisitions make the series: the `geometry.length` nearest in time, or the first in dict order.
    """

    def __init__(self, root: Path, *, geometry: Geometry, select: str = "nearest") -> None:
        if select not in ("nearest", "first"):
            raise ValueError(f"select is {select!r}, not nearest or first")
        self._root = root.resolve()
        self._geometry = geometry
        self._select = select

    def read(self, row: TableRow) -> RawPatch:
        """The patch of a row. Raises Unusable with the reason, DataError where a path leads out of the root."""
        acquisitions = acquisitions_of(row)
        with rasterio.Env(**GDAL_OPTIONS), warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            hr = self._hr(row.hr)
            views: dict[int, RawView | None] = {}
            dropped: list[tuple[str, str]] = []

            def view(acquisition: RawAcquisition) -> RawView | None:
                if acquisition.position not in views:
                    try:
                        views[acquisition.position] = self._view(acquisition)
                    except Unusable as reason:
                        dropped.append((acquisition.path, str(reason)))
                        views[acquisition.position] = None
                return views[acquisition.position]

            chosen = self._series(acquisitions, view)
            if not chosen:
                raise Unusable(f"no acquisition can be used; the first: {dropped[0][0]}: {dropped[0][1]}")
            single = next(filter(None, map(view, sorted(acquisitions, key=lambda a: a.distance))))
        return RawPatch(row.key, hr, chosen, single, row.columns, dropped)

    def _series(self, acquisitions: list[RawAcquisition], view: Any) -> list[RawView]:
        """The usable acquisitions that make the series, in dict order."""
        order = acquisitions
        if self._select == "nearest":
            order = sorted(acquisitions, key=lambda a: abs(a.offset))  # stable: ties keep the dict's order
        chosen: dict[int, RawView] = {}
        for acquisition in order:
            if len(chosen) == self._geometry.length:
                break
            if (found := view(acquisition)) is not None:
                chosen[acquisition.position] = found
        return [chosen[position] for position in sorted(chosen)]

    def _hr(self, path: str) -> Tensor:
        bands = self._geometry.bands
        with opened(inside(self._root, path), bands) as source:
            height, width = cropped(source.height, _CROP), cropped(source.width, _CROP)
            if height != width:
                raise Unusable(f"not square: {source.height}×{source.width}")
            if height != self._geometry.hr_size:
                raise Unusable(f"is {source.height}×{source.width}, the first patch {self._geometry.hr_size} (cropped)")
            if source.dtypes[0] != "uint8":
                raise Unusable(f"is {source.dtypes[0]}, 8-bit levels are expected")
            pixels, nodata = pixels_of(source, bands), source.nodata
        if (pixels == (0 if nodata is None else nodata)).all():
            raise Unusable("nothing but nodata")
        return torch.from_numpy(np.ascontiguousarray(pixels[:, :height, :width]))

    def _view(self, acquisition: RawAcquisition) -> RawView:
        if not _INT16.min <= acquisition.offset <= _INT16.max:
            raise Unusable(f"its date is {acquisition.offset} days away")
        size, bands = self._geometry.lr_size, self._geometry.bands
        with opened(inside(self._root, acquisition.path), bands) as source:
            if source.height != source.width:
                raise Unusable(f"not square: {source.height}×{source.width}")
            if cropped(source.height, _CROP // self._geometry.scale) != size:
                raise Unusable(f"is {source.height}×{source.width}, the data set {size} once cropped")
            pixels, nodata = pixels_of(source, bands), source.nodata
        lr, clipped, empty = to_int16(pixels[:, :size, :size], nodata=nodata)
        if empty:
            raise Unusable("nothing but nodata")
        return RawView(torch.from_numpy(lr), acquisition.offset, clipped)


def cropped(size: int, multiple: int) -> int:
    return size // multiple * multiple


# ---------------------------------------------------------------------------------------------------------------------


def find_bands(root: Path, rows: Sequence[TableRow]) -> tuple[str, ...]:
    """The bands of a data set: those that the first acquisition that can be read, and its truth, both describe.

    Raises:
        DataError: they have no names, and aren't three, which are red, green, blue.
    """
    for row in rows:
        try:
            with rasterio.Env(**GDAL_OPTIONS), warnings.catch_warnings():
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                path = inside(root.resolve(), acquisitions_of(row)[0].path)
                with opened(path) as source:
                    named, count = described_bands(source.descriptions), source.count
                with opened(inside(root.resolve(), row.hr)) as source:
                    truth, truth_count = described_bands(source.descriptions), source.count
        except (Unusable, DataError):  # told apart where the row is read
            continue
        if named is None and count != len(RGB):
            if count != truth_count:  # one of both is broken
                continue
            raise DataError(f"{path}: {count} bands without names; say which with --bands B04,B03,B02,B08")
        shared = tuple(band for band in named or RGB if truth is None or band in truth)
        if not shared:
            raise DataError(f"{path}: has no band that its truth {row.hr} has")
        return shared
    return RGB


def find_geometry(
    root: Path, rows: Sequence[TableRow], *, length: int, bands: tuple[str, ...] | None = None
) -> Geometry:
    """The patch size and bands of a data set: those of the first row that can be used."""
    first, bands = "", bands or find_bands(root, rows)
    for row in rows:
        try:
            acquisitions = acquisitions_of(row)
            with rasterio.Env(**GDAL_OPTIONS), warnings.catch_warnings():
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                geometry = _geometry(root.resolve(), row, acquisitions, length, bands)
            PatchReader(root, geometry=geometry).read(row)
            return geometry
        except Unusable as reason:
            first = first or f"; the first, {row.key}: {reason}"
    raise DataError(f"{root}: no patch can be used{first}")


def _geometry(
    root: Path, row: TableRow, acquisitions: list[RawAcquisition], length: int, bands: tuple[str, ...]
) -> Geometry:
    with opened(inside(root, row.hr), bands) as source:
        hr_size = cropped(source.height, _CROP)
    reasons = []
    for acquisition in acquisitions:
        try:
            with opened(inside(root, acquisition.path), bands) as source:
                side = source.height
        except Unusable as reason:
            reasons.append(f"{acquisition.path}: {reason}")
            continue
        for scale in SCALES:
            if hr_size and cropped(side, _CROP // scale) * scale == hr_size:
                return Geometry(hr_size=hr_size, scale=scale, length=length, bands=bands)
        reasons.append(
            f"{acquisition.path}: is {side} pixels for a truth of {hr_size}; it must be 2, 4 or 8 times finer"
        )
    raise Unusable(reasons[0])
