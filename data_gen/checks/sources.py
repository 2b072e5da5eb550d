"""Raw and prepared data sets seen the same way: patches with a truth and views, as they lie on disk.

Nothing is dropped or mended here, unlike in data_gen/dataset.py: what can't be used is a `Fault` that names the file.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

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
    inside,
    opened,
    pixels_of,
    read_rows,
    table_paths,
)
from utils.errors import DataError
from utils.geo.acquisitions import GDAL_ERRORS, day_in
from utils.radiometry import MATCHINGS, PUBLISHED_MAXIMA, count_levels, matching_table, normalise_lr, reflectance
from utils.store import Key, Manifest, Shard, checksum, open_shard, read_manifest

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
    pixels: NDArray[Any]  # (3, h, w), in the type that it is kept in
    missing: NDArray[np.bool_]  # (h, w): nodata, not a number, or 0 in all bands


class Source(Protocol):
    """A data set to look at. Methods raise Unusable for what can't be read and note faults in ``faults``."""

    root: Path
    kind: str  # raw | prepared
    refs: list[Ref]
    maxima: tuple[float, ...]  # reflectance that becomes 1, a band
    faults: list[Fault]

    def begin(self) -> None:
        """Look at what doesn't belong to one patch alone."""

    def offsets(self, ref: Ref) -> list[int]:
        """Days from the truth of all acquisitions of a patch, as they are recorded; no image is read."""

    def truth(self, ref: Ref) -> tuple[NDArray[Any], Place | None]:
        """The high-resolution image (3, H, W), in the type that it is kept in, and where it lies."""

    def views(self, ref: Ref) -> Iterator[SourceView]:
        """The acquisitions that can be read."""

    def verify(self, ref: Ref) -> None:
        """Compare what is derived from the images with them."""


def has_place(columns: dict[str, Any]) -> bool:
    """Whether a row says where its patch lies."""
    return all(isinstance(columns.get(name), int | float) and abs(columns[name]) < FARTHEST for name in ("x", "y"))


_ROUNDING = 1  # days that a date and its acquisition's key may differ by


class RawSource:
    """Tables and the rasters they name."""

    kind = "raw"

    def __init__(self, root: Path) -> None:
        self.root = root
        self.maxima: tuple[float, ...] = PUBLISHED_MAXIMA
        self.faults: list[Fault] = []
        self._folder = root.resolve()
        self._rows = read_rows(table_paths(root))
        self.refs = [Ref(split, row.key, i) for split, rows in self._rows.items() for i, row in enumerate(rows)]
        self._placed = all(has_place(row.columns) for rows in self._rows.values() for row in rows)
        self._side = 0.0  # of a patch, where the table says its place

    def begin(self) -> None:
        for ref in self.refs:
            row = self._row(ref)
            if self._placed and not self._side and isinstance(row.hr, str):
                try:
                    with opened(inside(self._folder, row.hr), georeferenced=True) as source:
                        side = abs(source.transform.a) * source.width
                    self._side = side if SHORTEST <= side < FARTHEST else 0.0  # else a damaged georeference
                except (Unusable, DataError):
                    continue

    def offsets(self, ref: Ref) -> list[int]:
        row = self._row(ref)
        try:
            acquisitions = acquisitions_of(row)
        except Unusable as reason:
            self._note("pairs", ref, row.hr, str(reason))
            return []
        for acquisition in acquisitions:
            if not self._exists(ref, acquisition.path):
                self._note("files", ref, acquisition.path, "missing file")
            if abs(acquisition.distance - abs(acquisition.offset)) > _ROUNDING:
                self._note(
                    "dates", ref, acquisition.path,
                    f"is {acquisition.offset} days away by its date, {acquisition.distance} by its key",
                )  # fmt: skip
            elif _other_day(acquisition.path, row.dates[acquisition.position]):
                date = str(row.dates[acquisition.position])[:10]
                self._note("names", ref, acquisition.path, f"its date is {date}, its name says another")
        return [acquisition.offset for acquisition in acquisitions]

    def truth(self, ref: Ref) -> tuple[NDArray[Any], Place | None]:
        row = self._row(ref)
        if not isinstance(row.hr, str):
            raise Unusable("spot6_image is not a path")
        with opened(self._inside(ref, row.hr), georeferenced=not self._placed) as source:
            pixels, place = pixels_of(source), self._place(row, source)
        return np.where(np.isfinite(pixels), pixels, 0) if pixels.dtype.kind == "f" else pixels, place

    def views(self, ref: Ref) -> Iterator[SourceView]:
        row = self._row(ref)
        try:
            acquisitions = acquisitions_of(row)
        except Unusable:
            return
        for acquisition in acquisitions:
            try:
                with opened(self._inside(ref, acquisition.path)) as source:
                    pixels, nodata = pixels_of(source), source.nodata
            except Missing:
                continue  # noted before
            except Unusable as reason:
                self._note("files", ref, acquisition.path, str(reason))
                continue
            yield SourceView(acquisition.path, acquisition.offset, pixels, _missing(pixels, nodata))

    def verify(self, ref: Ref) -> None:
        pass

    def _row(self, ref: Ref) -> TableRow:
        return self._rows[ref.split][ref.position]

    def _note(self, check: str, ref: Ref, path: Any, what: str) -> None:
        self.faults.append(Fault(check, ref.split, ref.key, str(path), what))

    def _inside(self, ref: Ref, path: str) -> Path:
        try:
            return inside(self._folder, path)
        except DataError:
            self._note("paths", ref, path, "leads out of the data set's folder")
            raise Unusable("leads out of the data set's folder") from None

    def _exists(self, ref: Ref, path: str) -> bool:
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


class PreparedSource:
    """The prepared store."""

    kind = "prepared"

    def __init__(self, folder: Path) -> None:
        self.root = folder
        self.manifest: Manifest = read_manifest(folder)
        self.maxima = self.manifest.maxima
        self.faults: list[Fault] = []
        self.refs: list[Ref] = []
        self._shards: dict[tuple[str, int], Shard] = {}

    def begin(self) -> None:
        files = [
            (split, number, info) for split, infos in self.manifest.splits.items() for number, info in enumerate(infos)
        ]
        for split, number, info in tqdm(files, desc="shards", leave=False):
            if checksum(self.root / info.file) != info.sha256:
                self.faults.append(
                    Fault("checksums", split, info.file, info.file, "isn't what was written: its checksum differs")
                )
            try:
                shard = open_shard(self.root, info, self.manifest.geometry)
            except DataError as error:
                self.faults.append(Fault("shards", split, info.file, info.file, str(error)))
                continue
            self._shards[split, number] = shard
            self.refs += [Ref(split, key, row, number) for row, key in enumerate(shard["key"])]

    def offsets(self, ref: Ref) -> list[int]:
        shard = self._shards[ref.split, ref.shard]
        acquired = shard["alphas"][ref.position]
        if not bool(acquired[0]) or bool((acquired[1:] & ~acquired[:-1]).any()):
            self._note("pairs", ref, "acquired views don't come before padded ones")
        return shard["dates"][ref.position][acquired].tolist()

    def truth(self, ref: Ref) -> tuple[NDArray[Any], Place | None]:
        shard = self._shards[ref.split, ref.shard]
        columns = shard.get("columns")
        here: dict[str, Any] = {}
        if isinstance(columns, dict):
            for name in ("x", "y"):
                values = columns.get(name)
                if isinstance(values, list) and len(values) > ref.position:
                    here[name] = values[ref.position]
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
                self._note("tables", ref, f"{name} is not that of its images")

    def _note(self, check: str, ref: Ref, what: str) -> None:
        file = self.manifest.splits[ref.split][ref.shard].file
        self.faults.append(Fault(check, ref.split, ref.key, file, what))
