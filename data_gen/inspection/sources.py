"""Raw and prepared data sets seen the same way: patches with a truth and views, as they lie on disk.

Nothing is dropped or mended here, unlike in data_gen/dataset.py: what can't be used is a `Fault` that names the file.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from utils.tables import Key

FARTHEST = 1e9  # metres: no coordinate on Earth is larger
SHORTEST = 1e-6  # metres or degrees: no patch has a shorter side

Progress = Callable[[Iterable[Any], str], Iterable[Any]]


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


class View(NamedTuple):
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

    def begin(self, progress: Progress) -> None:
        """Look at what doesn't belong to one patch alone."""

    def offsets(self, ref: Ref) -> list[int]:
        """Days from the truth of all acquisitions of a patch, as they are recorded; no image is read."""

    def truth(self, ref: Ref) -> tuple[NDArray[Any], Place | None]:
        """The high-resolution image (3, H, W), in the type that it is kept in, and where it lies."""

    def views(self, ref: Ref) -> Iterator[View]:
        """The acquisitions that can be read."""

    def verify(self, ref: Ref) -> None:
        """Compare what is derived from the images with them."""


def has_place(columns: dict[str, Any]) -> bool:
    """Whether a row says where its patch lies."""
    return all(isinstance(columns.get(name), int | float) and abs(columns[name]) < FARTHEST for name in ("x", "y"))
