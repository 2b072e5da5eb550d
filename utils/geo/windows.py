"""Rectangles of pixels, their alignment and mirroring."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# Windows start and end at multiples of it, so networks that halve the image see the same phase in every window.
ALIGNMENT = 8


class Span(NamedTuple):
    """Rows or columns [start, stop)."""

    start: int
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start

    def grown(self, margin: int) -> "Span":
        return Span(self.start - margin, self.stop + margin)

    def within(self, other: "Span") -> "Span":
        return Span(max(self.start, other.start), min(self.stop, other.stop))


class Box(NamedTuple):
    """A rectangle of pixels."""

    rows: Span
    columns: Span

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows.size, self.columns.size

    def grown(self, margin: int) -> "Box":
        return Box(self.rows.grown(margin), self.columns.grown(margin))

    def within(self, other: "Box") -> "Box":
        return Box(self.rows.within(other.rows), self.columns.within(other.columns))

    def times(self, scale: int) -> "Box":
        return Box(*(Span(span.start * scale, span.stop * scale) for span in self))

    def slices(self, origin: "Box") -> tuple[slice, slice]:
        """Where this box lies in an array that begins at the top left of ``origin``."""
        (top, bottom), (left, right) = self
        row, column = origin.rows.start, origin.columns.start
        return slice(top - row, bottom - row), slice(left - column, right - column)


def align_down(position: int) -> int:
    return position // ALIGNMENT * ALIGNMENT


def align_up(position: int) -> int:
    return -(-position // ALIGNMENT) * ALIGNMENT


def mirrored(span: Span, size: int) -> NDArray[np.int64]:
    """For each position of a span that may leave [0, size) the one inside whose mirror image it is (edges repeat)."""
    position = np.arange(span.start, span.stop) % (2 * size)
    return np.minimum(position, 2 * size - 1 - position)
