"""Raw and prepared data sets read the same way: patches with a truth and views, as they lie on disk.

Unlike data_gen/dataset.py this drops and mends nothing: what can't be used is a `Fault` that names the file.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rasterio
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

_FARTHEST = 1e9  # metres: no coordinate on Earth is larger
_SHORTEST = 1e-6  # metres or degrees: no patch has a shorter side
_ROUNDING = 1  # days that a date and its acquisition's key may differ by
_SPOT_PIXEL = 2.5  # metres: the store doesn't say


class Ref(NamedTuple):
    """A patch."""

    split: str
    key: Key
    position: int  # in its split (raw), or in its shard (prepared)
    shard: int = 0

    @property
    def label(self) -> str:
        return f"{self.split} {self.key}"


class Fault(NamedTuple):
    """Something that is wrong with one patch or file."""

    check: str
    ref: Ref
    path: object
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


class _Source:
    """Patches of a data set, and what is wrong with single ones."""

    def __init__(self, root: Path, *, bands: tuple[str, ...], maxima: tuple[float, ...]) -> None:
        self.root = root
        self.bands = bands
        self.maxima = maxima  # reflectance that becomes 1, a band
        self.refs: list[Ref] = []
        self.faults: list[Fault] = []

    def note(self, check: str, ref: Ref, path: object, what: object) -> None:
        self.faults.append(Fault(check, ref, path, str(what)))


class RawSource(_Source):
    """Tables and the rasters they name."""

    kind = "raw"

    def __init__(self, root: Path, *, bands: tuple[str, ...] | None = None) -> None:
        self._rows = read_rows(table_paths(root))
        rows = [row for rows in self._rows.values() for row in rows]
        bands = bands or find_bands(root, rows)
        super().__init__(root, bands=bands, maxima=tuple(PUBLISHED_BANDS.get(band, 1.0) for band in bands))
        self.refs = [Ref(split, row.key, i) for split, rows in self._rows.items() for i, row in enumerate(rows)]

    def offsets(self, ref: Ref) -> list[int]:
        """Days from the truth of all acquisitions of a patch, as they are recorded; no image is read."""
        row = self._row(ref)
        try:
            acquisitions = acquisitions_of(row)
        except Unusable as reason:
            self.note("pairs", ref, row.hr, reason)
            return []
        for position, distance, path, offset in acquisitions:
            try:
                self._path(path)
            except Missing as reason:
                self.note("files", ref, path, reason)
            date, named = row.dates[position].astype("M8[D]"), day_in(Path(path).stem)
            if abs(distance - abs(offset)) > _ROUNDING:
                self.note("dates", ref, path, f"is {offset} days away by its date, {distance} by its key")
            elif named is not None and abs(np.datetime64(named) - date) > np.timedelta64(_ROUNDING, "D"):
                self.note("names", ref, path, f"its date is {date}, its name says another")
        return [acquisition.offset for acquisition in acquisitions]

    def truth(self, ref: Ref) -> tuple[NDArray[Any], Place | None]:
        """The high-resolution image (C, H, W), in its own type, and where it lies. Raises Unusable."""
        row = self._row(ref)
        with opened(self._path(row.hr), self.bands, georeferenced=True) as source:
            pixels, place = pixels_of(source, self.bands), _place(source, row.columns)
        return np.where(np.isfinite(pixels), pixels, 0) if pixels.dtype.kind == "f" else pixels, place

    def views(self, ref: Ref) -> Iterator[SourceView]:
        """The acquisitions that can be read."""
        try:
            acquisitions = acquisitions_of(self._row(ref))
        except Unusable:
            return
        for acquisition in acquisitions:
            try:
                with opened(self._path(acquisition.path), self.bands) as source:
                    pixels, nodata = pixels_of(source, self.bands), source.nodata
            except Unusable as reason:
                if not isinstance(reason, Missing):  # else noted before
                    self.note("files", ref, acquisition.path, reason)
                continue
            missing = (pixels == 0).all(axis=0) | ~np.isfinite(pixels).all(axis=0)
            if nodata is not None:
                missing |= (pixels == nodata).any(axis=0)
            yield SourceView(acquisition.path, acquisition.offset, pixels, missing)

    def verify(self, ref: Ref) -> None:
        """Nothing is derived from the images."""

    def _row(self, ref: Ref) -> TableRow:
        return self._rows[ref.split][ref.position]

    def _path(self, relative: object) -> Path:
        """The file that a table names. Raises Missing."""
        if not isinstance(relative, str):
            raise Missing("spot6_image is not a path")
        try:
            path = inside(self.root, relative)
        except (Unusable, DataError) as error:
            raise Missing(str(error)) from None
        if not path.is_file():
            raise Missing("missing file")
        return path


def _has_place(columns: dict[str, Any]) -> bool:
    """Whether a row says where its patch lies."""
    return all(isinstance(columns.get(name), int | float) and abs(columns[name]) < _FARTHEST for name in ("x", "y"))


def _place(source: rasterio.DatasetReader, columns: dict[str, Any]) -> Place | None:
    """Where its row, else a raster itself, says that it lies; None where nothing does, or a georeference is damaged."""
    try:
        transform, crs = source.transform, source.crs.to_string() if source.crs else ""
    except GDAL_ERRORS:
        return None
    side = abs(transform.a) * source.width
    place = Place(crs, transform.c, transform.f, side) if crs else None
    if _has_place(columns):
        place = Place(str(columns.get("crs", "")), columns["x"], columns["y"], side)
    is_sound = place and side >= _SHORTEST and all(abs(number) < _FARTHEST for number in place[1:])
    return place if is_sound else None


class PreparedSource(_Source):
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
                self.note("shards", whole, info.file, error)
                continue
            self._shards[split, number] = shard
            self.refs += [Ref(split, key, row, number) for row, key in enumerate(shard["key"])]

    def offsets(self, ref: Ref) -> list[int]:
        shard = self._shard(ref)
        acquired = shard["alphas"][ref.position]
        if not bool(acquired[0]) or bool((acquired[1:] & ~acquired[:-1]).any()):
            self.note("pairs", ref, self._file(ref), "acquired views don't come before padded ones")
        return shard["dates"][ref.position][acquired].tolist()

    def truth(self, ref: Ref) -> tuple[NDArray[Any], Place | None]:
        shard = self._shard(ref)
        columns = shard.get("columns")
        lists = {name: columns.get(name) for name in ("x", "y")} if isinstance(columns, dict) else {}
        here = {n: x[ref.position] for n, x in lists.items() if isinstance(x, list) and len(x) > ref.position}
        side = _SPOT_PIXEL * self.manifest.geometry.hr_size
        return shard["hr"][ref.position].numpy(), Place("", here["x"], here["y"], side) if _has_place(here) else None

    def views(self, ref: Ref) -> Iterator[SourceView]:
        shard = self._shard(ref)
        for number in shard["alphas"][ref.position].nonzero().flatten().tolist():
            pixels = shard["lr"][ref.position, number].numpy()
            offset = int(shard["dates"][ref.position, number])
            yield SourceView(f"view {number}", offset, pixels, (pixels == 0).all(axis=0))

    def verify(self, ref: Ref) -> None:
        """The tables of spectral matching must be those of the images."""
        shard = self._shard(ref)
        acquired = shard["alphas"][ref.position]
        if acquired.any():
            distance = shard["dates"][ref.position].int().abs().masked_fill(~acquired, torch.iinfo(torch.int32).max)
            self._compare(ref, "", ref.position, shard["lr"][ref.position, int(distance.argmin())])
        single = int(shard["single"][ref.position])
        if single >= 0:
            self._compare(ref, "single_", single, shard["single_lr"][single])

    def _compare(self, ref: Ref, prefix: str, row: int, lr: Tensor) -> None:
        shard, normalised = self._shard(ref), normalise_lr(reflectance(lr), self.maxima)
        counts = count_levels(shard["hr"][ref.position])
        for method in MATCHINGS:
            name = f"{prefix}matching" + ("" if method == "histogram" else f"_{method}")
            expected = matching_table(counts, normalised, method=method)
            if not torch.allclose(shard[name][row], expected, rtol=0, atol=1e-5):
                self.note("tables", ref, self._file(ref), f"{name} is not that of its images")

    def _shard(self, ref: Ref) -> Shard:
        return self._shards[ref.split, ref.shard]

    def _file(self, ref: Ref) -> str:
        return self.manifest.splits[ref.split][ref.shard].file


Source = RawSource | PreparedSource
