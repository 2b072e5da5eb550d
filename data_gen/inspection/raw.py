"""A raw data set, looked at: its tables and the rasters they name."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_gen.dataset import Missing, Row, Unusable, acquisitions_of, inside, opened, pixels_of, read_rows, table_paths
from data_gen.inspection.sources import FARTHEST, SHORTEST, Fault, Place, Progress, Ref, View, has_place
from utils.acquisitions import GDAL_ERRORS, day_in
from utils.errors import DataError
from utils.radiometry import PUBLISHED_MAXIMA

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

    def begin(self, progress: Progress) -> None:
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

    def views(self, ref: Ref) -> Iterator[View]:
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
            yield View(acquisition.path, acquisition.offset, pixels, _missing(pixels, nodata))

    def verify(self, ref: Ref) -> None:
        pass

    def _row(self, ref: Ref) -> Row:
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

    def _place(self, row: Row, source: Any) -> Place | None:
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
