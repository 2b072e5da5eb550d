"""Patches that show the same ground: equal pixels, nearly equal pixels, overlapping places."""

import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_gen.checks.alignment import displacement, edges, likeness, reduced
from data_gen.checks.measure import MeasuredTruth
from data_gen.checks.sources import Place
from data_gen.dataset import Unusable

NEARLY = 0.95  # likeness of two fingerprints from which the images themselves are compared
RELATED = 0.25  # likeness of the common part of two images of one place, whatever the season
_SAME = 0.7  # likeness of two images that one was made from the other
_LEAST_SHARE = 0.01  # of a patch: less is rounding
_CHUNK = 2048  # fingerprints that are compared with all others at a time
_MOST_PAIRS = 2000  # that are listed
_COMPARED = 24  # of overlapping pairs
_PART = 4  # pixels averaged before images are compared
_LEAST_SIDE = 16  # pixels then: less tells nothing
_UNUSUAL = 4  # times the usual side: no patch, but a damaged georeference

TruthPair = tuple[MeasuredTruth, MeasuredTruth]
ReadTruth = Callable[[MeasuredTruth], NDArray[Any]]  # the pixels of a truth; raises Unusable


class Overlap(NamedTuple):
    pair: TruthPair
    share: float  # of the patch's area
    down: int  # pixels that the second patch lies off the first
    right: int


def apart(a: str, b: str) -> bool:
    """Whether two splits must not show the same ground: what was trained on, or chosen by, can't be tested on.

    Further splits (other dates of the test patches, say) may share ground with any but train.
    """
    return a != b and ("train" in (a, b) or {a, b} == {"val", "test"})


def equal_pairs(truths: Sequence[MeasuredTruth]) -> list[TruthPair]:
    """Pairs of equal images: each with the first of its kind."""
    groups: dict[bytes, list[MeasuredTruth]] = defaultdict(list)
    for truth in truths:
        groups[truth.digest].append(truth)
    return [(first, other) for first, *others in groups.values() for other in others]


def nearly_equal_pairs(truths: Sequence[MeasuredTruth], read: ReadTruth) -> list[TruthPair]:
    """Pairs of images of which one was made from the other: brighter, noisier, shifted a little. Not the equal ones."""
    seen = [(truth, truth.fingerprint) for truth in truths if truth.fingerprint is not None]
    vectors = np.array([vector for _, vector in seen])  # (n, d)
    pairs: list[TruthPair] = []
    for start in range(0, len(seen), _CHUNK):
        for i, j in np.argwhere(vectors[start : start + _CHUNK] @ vectors[start:].T > NEARLY):
            first, second = seen[start + i][0], seen[start + j][0]
            if i < j and first.digest != second.digest and first.shape == second.shape and len(pairs) < _MOST_PAIRS:
                pairs.append((first, second))
    return [pair for pair in pairs if (_likeness(read, *pair) or 0) > _SAME]


def overlapping_pairs(truths: Sequence[MeasuredTruth]) -> list[Overlap]:
    """Pairs of patches that share ground and must not, as far as their places tell."""
    placed = [(truth, truth.place) for truth in truths if truth.place is not None]
    if not placed:
        return []
    largest = _UNUSUAL * float(np.median([place.side for _, place in placed]))
    placed = [(truth, place) for truth, place in placed if place.side <= largest]
    size = max(place.side for _, place in placed)
    splits = dict.fromkeys(truth.ref.split for truth, _ in placed)
    cells: dict[tuple[str, str, int, int], list[tuple[MeasuredTruth, Place]]] = defaultdict(list)  # of a coarse grid
    found: list[Overlap] = []
    for truth, place in placed:
        column, row = int(place.x // size), int(place.y // size)
        others = [split for split in splits if apart(split, truth.ref.split)]
        for split, i, j in itertools.product(others, range(column - 1, column + 2), range(row - 1, row + 2)):
            for other, there in cells.get((split, place.crs, i, j), ()):
                if (share := _common(place, there)) > _LEAST_SHARE:
                    pixel = there.side / other.shape[1]
                    down, right = round((there.y - place.y) / pixel), round((place.x - there.x) / pixel)
                    found.append(Overlap((other, truth), share, down, right))
                    if len(found) >= _MOST_PAIRS:
                        return found
        cells[truth.ref.split, place.crs, column, row].append((truth, place))
    return found


def _common(a: Place, b: Place) -> float:
    """The area that two squares share, over that of the smaller one."""
    side = min(a.side, b.side)
    width, height = (min(s + a.side, t + b.side) - max(s, t) for s, t in ((a.x, b.x), (a.y, b.y)))
    return max(0.0, width) * max(0.0, height) / side**2


def shown_alike(overlaps: Sequence[Overlap], read: ReadTruth) -> float | None:
    """The median likeness of what overlapping patches show of their common ground; None where there is too little.

    Places that aren't the images' own (one for all, say) give a likeness around 0.
    """
    wide = sorted(overlaps, key=lambda overlap: -overlap.share)[:_COMPARED]
    alike = [_likeness(read, *overlap.pair, down=overlap.down, right=overlap.right) for overlap in wide]
    found = [value for value in alike if value is not None]
    return float(np.median(found)) if found else None


def _likeness(
    read: ReadTruth, first: MeasuredTruth, second: MeasuredTruth, *, down: int = 0, right: int = 0
) -> float | None:
    """Likeness, at the best displacement, of the ground that two images share if the second lies so many pixels off."""
    try:
        a, b = read(first), read(second)
    except Unusable:
        return None
    top, left = max(0, down), max(0, right)
    bottom, far = min(a.shape[1], down + b.shape[1]), min(a.shape[2], right + b.shape[2])
    if min(bottom - top, far - left) < _LEAST_SIDE * _PART:
        return None
    x = edges(reduced(a[:, top:bottom, left:far], _PART))
    y = edges(reduced(b[:, top - down : bottom - down, left - right : far - right], _PART))
    moved = displacement(x, y)
    return max(likeness(x, y), moved.likeness if moved else 0)
