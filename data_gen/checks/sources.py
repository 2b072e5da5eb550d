"""Raw and prepared data sets read the same way: patches with a truth and views, as they lie on disk.

Unlike data_gen/dataset.py this drops and mends nothing: what can't be used is a `Fault` that names the file.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from data_gen.dataset import (
    Missing,
    TableRow,
    Unusable,
    acquisitions_of,
    find_bands,
    inside,
    opened,
    pixels_of,
    read_rows,
    table_paths,
)
from utils.errors import DataError
from utils.geo.acquisitions import GDAL_ERRORS, day_in
from utils.radiometry import MATCHINGS, PUBLISHED_BANDS, count_levels, matching_table, normalise_lr, reflectance
from utils.store import Key, Shard, checksum, open_shard, read_manifest

FARTHEST = 1e9  # metres: no coordinate on Earth is larger
SHORTEST = 1e-6  # metres or degrees: no patch has a shorter side


class Ref(NamedTuple):
    """A patch."""

    split: str
    key: Key
    position: int  # in its split (raw), or in its shard (prepared)
    shard: int = 0


class Fault(NamedTuple):
    """Something that is wrong with one patch or file."""

    check: str
    split: str
    key: Key
    path: str
    what: str


class Place(NamedTuple):
    """A square on the ground: one corner, the same for all patches, and its side."""

    crs: str
    x: float
    y: float
    side: float


class SourceView(NamedTuple):
    """An acquisition as it was read."""

    name: str
    offset: int  # days from the truth
    pixels: NDArray[Any]  # (C, h, w), in the type that it is kept in
    missing: NDArray[np.bool_]  # (h, w): nodata, not a number, or 0 in all bands


class Source:
    """A data set to look at: its patches, and what is wrong with single ones. Methods raise Unusable."""

    kind = ""  # raw | prepared

    def __init__(self, root: Path, *, bands: tuple[str, ...], maxima: tuple[float, ...]) -> None:
        self.root = root
        self.bands = bands
        self.maxima = maxima  # reflectance that becomes 1, a band
        self.refs: list[Ref] = []
        self.faults: list[Fault] = []

    def note(self, check: str, ref: Ref, path: object, what: str) -> None:
        self.faults.append(Fault(check, ref.split, ref.key, str(path), what))

    def offsets(self, ref: Ref) -> list[int]:
        """Days from the truth of all acquisitions of a patch, as they are recorded; no image is read."""
        raise NotImplementedError

    def truth(self, ref: Ref) -> tuple[NDArray[Any], Place | None]:
        """The high-resolution image (C, H, W), in the type that it is kept in, and where it lies."""
        raise NotImplementedError

    def views(self, ref: Ref) -> Iterator[SourceView]:
        """The acquisitions that can be read."""
        raise NotImplementedError

    def verify(self, ref: Ref) -> None:
        """Compare what is derived from the images with them."""


def has_place(columns: dict[str, Any]) -> bool:
    """Whether a row says where its patch lies."""
    return all(isinstance(columns.get(name), int | float) and abs(columns[name]) < FARTHEST for name in ("x", "y"))


_ROUNDING = 1  # days that a date and its acquisition's key may differ by


class RawSource(Source):
    """Tables and the rasters they name."""

    kind = "raw"

    def __init__(self, root: Path, *, bands: tuple[str, ...] | None = None) -> None:
        self._rows = read_rows(table_paths(root))
        rows = [row for rows in self._rows.values() for row in rows]
        bands = bands or find_bands(root, rows)
        super().__init__(root, bands=bands, maxima=tuple(PUBLISHED_BANDS.get(band, 1.0) for band in bands))
        self._folder = root.resolve()
        self.refs = [Ref(split, row.key, i) for split, rows in self._rows.items() for i, row in enumerate(rows)]
        self._placed = all(has_place(row.columns) for row in rows)
        self._side = self._common_side(rows) if self._placed else 0.0

    def _common_side(self, rows: list[TableRow]) -> float:
        """The side of a patch in metres: that of the first truth that tells; 0 where none does."""
        for row in rows:
            if isinstance(row.hr, str):
                with contextlib.suppress(Unusable, DataError):
                    with opened(inside(self._folder, row.hr), georeferenced=True) as source:
                        side = abs(source.transform.a) * source.width
                    if SHORTEST <= side < FARTHEST:  # else a damaged georeference
                        return side
        return 0.0

    def offsets(self, ref: Ref) -> list[int]:
        row = self._row(ref)
        try:
            acquisitions = acquisitions_of(row)
        except Unusable as reason:
            self.note("pairs", ref, row.hr, str(reason))
            return []
        for acquisition in acquisitions:
            if not self._exists(acquisition.path):
                self.note("files", ref, acquisition.path, "missing file")
            date = row.dates[acquisition.position]
            if abs(acquisition.distance - abs(acquisition.offset)) > _ROUNDING:
                what = f"is {acquisition.offset} days away by its date, {acquisition.distance} by its key"
                self.note("dates", ref, acquisition.path, what)
            elif _other_day(acquisition.path, date):
                self.note("names", ref, acquisition.path, f"its date is {str(date)[:10]}, its name says another")
        return [acquisition.offset for acquisition in acquisitions]

    def truth(self, ref: Ref) -> tuple[NDArray[Any], Place | None]:
        row = self._row(ref)
        if not isinstance(row.hr, str):
            raise Unusable("spot6_image is not a path")
        with opened(self._inside(ref, row.hr), self.bands, georeferenced=not self._placed) as source:
            pixels, place = pixels_of(source, self.bands), self._place(row, source)
        return np.where(np.isfinite(pixels), pixels, 0) if pixels.dtype.kind == "f" else pixels, place

    def views(self, ref: Ref) -> Iterator[SourceView]:
        try:
            acquisitions = acquisitions_of(self._row(ref))
        except Unusable:
            return
        for acquisition in acquisitions:
            try:
                with opened(self._inside(ref, acquisition.path), self.bands) as source:
                    pixels, nodata = pixels_of(source, self.bands), source.nodata
            except Missing:
                continue  # noted before
            except Unusable as reason:
                self.note("files", ref, acquisition.path, str(reason))
                continue
            yield SourceView(acquisition.path, acquisition.offset, pixels, _missing(pixels, nodata))

    def _row(self, ref: Ref) -> TableRow:
        return self._rows[ref.split][ref.position]

    def _inside(self, ref: Ref, path: str) -> Path:
        try:
            return inside(self._folder, path)
        except DataError:
            self.note("paths", ref, path, "leads out of the data set's folder")
            raise Unusable("leads out of the data set's folder") from None

    def _exists(self, path: str) -> bool:
        try:
            return inside(self._folder, path).is_file()
        except DataError:
            return True  # another fault, noted where it is opened
        except Unusable:
            return False

    def _place(self, row: TableRow, source: Any) -> Place | None:
        if self._placed:
            x, y = row.columns["x"], row.columns["y"]
            return Place(str(row.columns.get("crs", "")), x, y, self._side) if self._side else None
        try:
            crs, transform = source.crs, source.transform
            place = Place(crs.to_string(), transform.c, transform.f, abs(transform.a) * source.width) if crs else None
        except GDAL_ERRORS:
            return None
        if place is None or place.side < SHORTEST or not all(abs(number) < FARTHEST for number in place[1:]):
            return None  # a damaged georeference
        return place


def _other_day(path: str, date: np.datetime64) -> bool:
    """Whether the name of a file states a day, and it is not the date's."""
    named = day_in(Path(path).stem)
    return named is not None and abs((np.datetime64(named) - date.astype("M8[D]")).astype(int)) > _ROUNDING


def _missing(pixels: NDArray[Any], nodata: float | None) -> NDArray[np.bool_]:
    missing = (pixels == 0).all(axis=0)
    if pixels.dtype.kind == "f":
        missing |= ~np.isfinite(pixels).all(axis=0)
    if nodata is not None:
        missing |= (pixels == nodata).any(axis=0)
    return missing


_SPOT_PIXEL = 2.5  # metres: the store doesn't say


class PreparedSource(Source):
    """The prepared store."""

    kind = "prepared"

    def __init__(self, folder: Path) -> None:
        self.manifest = read_manifest(folder)
        super().__init__(folder, bands=self.manifest.geometry.bands, maxima=self.manifest.maxima)
        self._shards: dict[tuple[str, int], Shard] = {}
        files = [(split, i, info) for split, infos in self.manifest.splits.items() for i, info in enumerate(infos)]
        for split, number, info in tqdm(files, desc="shards", leave=False):
            whole = Ref(split, info.file, 0, number)
            if checksum(folder / info.file) != info.sha256:
                self.note("checksums", whole, info.file, "isn't what was written: its checksum differs")
            try:
                shard = open_shard(folder, info, self.manifest.geometry)
            except DataError as error:
                self.note("shards", whole, info.file, str(error))
                continue
            self._shards[split, number] = shard
            self.refs += [Ref(split, key, row, number) for row, key in enumerate(shard["key"])]

    def offsets(self, ref: Ref) -> list[int]:
        shard = self._shards[ref.split, ref.shard]
        acquired = shard["alphas"][ref.position]
        if not bool(acquired[0]) or bool((acquired[1:] & ~acquired[:-1]).any()):
            self.note("pairs", ref, self._file(ref), "acquired views don't come before padded ones")
        return shard["dates"][ref.position][acquired].tolist()

    def truth(self, ref: Ref) -> tuple[NDArray[Any], Place | None]:
        shard = self._shards[ref.split, ref.shard]
        columns = shard.get("columns")
        lists = {name: columns.get(name) for name in ("x", "y")} if isinstance(columns, dict) else {}
        here = {n: x[ref.position] for n, x in lists.items() if isinstance(x, list) and len(x) > ref.position}
        side = _SPOT_PIXEL * self.manifest.geometry.hr_size
        place = Place("", here["x"], here["y"], side) if has_place(here) else None
        return shard["hr"][ref.position].numpy(), place

    def views(self, ref: Ref) -> Iterator[SourceView]:
        shard = self._shards[ref.split, ref.shard]
        for number in shard["alphas"][ref.position].nonzero().flatten().tolist():
            pixels = shard["lr"][ref.position, number].numpy()
            offset = int(shard["dates"][ref.position, number])
            yield SourceView(f"view {number}", offset, pixels, (pixels == 0).all(axis=0))

    def verify(self, ref: Ref) -> None:
        """The tables of spectral matching must be those of the images."""
        shard = self._shards[ref.split, ref.shard]
        counts = count_levels(shard["hr"][ref.position])
        acquired = shard["alphas"][ref.position]
        if acquired.any():
            distance = shard["dates"][ref.position].int().abs().masked_fill(~acquired, torch.iinfo(torch.int32).max)
            self._compare(ref, "", ref.position, counts, shard["lr"][ref.position, int(distance.argmin())])
        single = int(shard["single"][ref.position])
        if single >= 0:
            self._compare(ref, "single_", single, counts, shard["single_lr"][single])

    def _compare(self, ref: Ref, prefix: str, row: int, counts: Tensor, lr: Tensor) -> None:
        shard, normalised = self._shards[ref.split, ref.shard], normalise_lr(reflectance(lr), self.maxima)
        for method in MATCHINGS:
            name = f"{prefix}matching" + ("" if method == "histogram" else f"_{method}")
            expected = matching_table(counts, normalised, method=method)
            if not torch.allclose(shard[name][row], expected, rtol=0, atol=1e-5):
                self.note("tables", ref, self._file(ref), f"{name} is not that of its images")

    def _file(self, ref: Ref) -> str:
        return self.manifest.splits[ref.split][ref.shard].file
