"""What is measured of a data set: every truth and every date, and the acquisitions of a sample of its patches."""

import functools
import hashlib
import itertools
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from data_gen.checks.alignment import Displacement, band_order, displacement, edges, fingerprint, likeness, reduced
from data_gen.checks.sources import Place, Ref, Source, SourceView
from data_gen.dataset import Unusable

REFLECTANCE = 10000  # what stands for reflectance 1
_SHEET_ROWS, _SHEET_VIEWS = 8, 4  # of the contact sheet
_POOLED = 1 << 20  # pixels at most, over all acquisitions, that percentiles are taken from
_UNLIKE = 0.2  # likeness to the truth that views of the same place exceed, whatever the season
_ALIKE = 0.5  # likeness of two views that show the same place for sure

MEANINGS = {
    "x10000": "reflectance × 10000",
    "x1": "reflectance × 1",
    "8-bit": "8-bit levels",
    "offset": "reflectance × 10000 with +1000 still in it",
    "negative": "reflectance × 10000 with the offset taken off twice",
    "dark": "numbers of at most 255",
    "large": "larger than reflectance × 10000",
    "empty": "no data",
}


class MeasuredTruth(NamedTuple):
    """A high-resolution image."""

    ref: Ref
    shape: tuple[int, ...]
    dtype: str
    digest: bytes  # equal for equal pixels
    fingerprint: NDArray[np.float32] | None  # nearly equal for nearly equal pixels; None: nothing to see
    place: Place | None
    black: float  # share of pixels that are 0 in all bands
    white: float  # share of values at the top of the range
    low: NDArray[Any]  # (C,) least and greatest value
    high: NDArray[Any]

    @property
    def label(self) -> str:
        return self.ref.label


class Acquired(NamedTuple):
    """A low-resolution image."""

    ref: Ref
    name: str
    offset: int
    shape: tuple[int, ...]
    dtype: str
    digest: bytes
    meaning: str  # of its numbers: a key of MEANINGS
    low: NDArray[np.float64]  # (C,) least and greatest value
    high: NDArray[np.float64]
    missing: float  # share of pixels
    saturated: float  # share of pixels at the end of the number range
    above: NDArray[np.float64]  # (C,) share of pixels beyond the normalisation's maximum
    displacement: Displacement | None = None  # against the truth, in its own pixels
    likeness: float = -1.0  # to the truth
    band_order: float = 1.0  # 1: red goes with red; −1: the bands stand the other way round

    @property
    def label(self) -> str:
        return f"{self.ref.label} {self.name}"


class SheetRow(NamedTuple):
    """A row of the contact sheet."""

    ref: Ref
    truth: NDArray[Any]
    views: list[tuple[SourceView, Acquired]]


@dataclass
class Measurements:
    """All that the rules judge by."""

    source: Source
    offsets: dict[str, list[list[int]]] = field(default_factory=lambda: defaultdict(list))  # by split, a list a patch
    truths: list[MeasuredTruth] = field(default_factory=list)
    acquired: list[Acquired] = field(default_factory=list)
    sampled: int = 0  # patches whose acquisitions were read
    pooled: list[NDArray[Any]] = field(default_factory=list)  # (C, n) of their pixels, evenly over them
    elsewhere: list[Ref] = field(default_factory=list)  # of them: views show one place, the truth another
    rows: list[SheetRow] = field(default_factory=list)

    @property
    def patches(self) -> dict[str, int]:
        """How many there are of each split."""
        return {split: len(series) for split, series in self.offsets.items()}


def measure_source(source: Source, *, sample: int) -> Measurements:
    """Look at all truths and dates, and at the acquisitions of ``sample`` patches, evenly over each split (0: all)."""
    data = Measurements(source)
    for ref in tqdm(source.refs, desc="truths and dates", leave=False):
        data.offsets[ref.split].append(source.offsets(ref))
        try:
            data.truths.append(_measure_truth(ref, *source.truth(ref)))
        except Unusable as reason:
            source.note("files", ref, "truth", reason)
    chosen = _spread(source.refs, sample)
    data.sampled = len(chosen)
    on_sheet = set(_spread(chosen, _SHEET_ROWS))
    for ref in tqdm(chosen, desc="acquisitions", leave=False):
        _measure_patch(data, ref, pooled=max(1, _POOLED // len(chosen)), show=ref in on_sheet)
    return data


def _spread(refs: Sequence[Ref], wanted: int) -> list[Ref]:
    """So many patches, evenly over each split, at least one of each; all for 0."""
    if wanted == 0 or wanted >= len(refs):
        return list(refs)
    chosen: list[Ref] = []
    for split in dict.fromkeys(ref.split for ref in refs):
        members = [ref for ref in refs if ref.split == split]
        count = max(1, round(wanted * len(members) / len(refs)))
        chosen += [members[int(i)] for i in np.linspace(0, len(members) - 1, count)]
    return chosen


def _digest(pixels: NDArray[Any]) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(pixels).tobytes(), digest_size=16).digest()


def _measure_truth(ref: Ref, pixels: NDArray[Any], place: Place | None) -> MeasuredTruth:
    top = np.iinfo(pixels.dtype).max if pixels.dtype.kind in "iu" else np.inf
    return MeasuredTruth(
        ref=ref,
        shape=pixels.shape[1:],
        dtype=str(pixels.dtype),
        digest=_digest(pixels),
        fingerprint=fingerprint(pixels),
        place=place,
        black=float((pixels == 0).all(axis=0).mean()),
        white=float((pixels == top).mean()),
        low=pixels.min(axis=(1, 2)),
        high=pixels.max(axis=(1, 2)),
    )


def _measure_patch(data: Measurements, ref: Ref, *, pooled: int, show: bool) -> None:
    source = data.source
    source.verify(ref)
    try:
        truth, _ = source.truth(ref)
    except Unusable:
        return  # noted before

    @functools.cache
    def reference(factor: int) -> tuple[NDArray[Any], NDArray[np.float64]]:
        """The truth averaged, and its edges."""
        small = reduced(truth, factor)
        return small, edges(small)

    views: list[tuple[SourceView, Acquired]] = []
    strengths: list[NDArray[np.float64]] = []  # the edges of each view
    usable: list[NDArray[Any]] = []  # (C, n) of each view: pixels that are neither missing nor saturated
    for view in source.views(ref):
        present = ~view.missing
        whole = view.pixels.dtype.kind in "iu" and view.pixels.itemsize > 1
        saturated = (view.pixels >= (np.iinfo(view.pixels.dtype).max if whole else np.inf)).any(axis=0) & present
        usable.append(view.pixels[:, present & ~saturated])
        measured = _measure_view(ref, view, usable[-1], saturated, source.maxima)
        small, truth_edges = reference(max(1, round(truth.shape[1] / view.pixels.shape[1])))
        if small.shape == view.pixels.shape and present.any():
            values = np.where(present, view.pixels.astype(np.float64), 0)
            strengths.append(edges(values, present))
            lies = displacement(truth_edges, strengths[-1])
            measured = measured._replace(
                displacement=lies,
                likeness=max(likeness(truth_edges, strengths[-1]), lies.likeness if lies else 0),
                band_order=band_order(small[:, present], values[:, present], source.bands),
            )
        views.append((view, measured))
    data.acquired += [measured for _, measured in views]
    # Nothing can be said of a truth beside clouds, so two views in a row must agree.
    agree = (likeness(a, b) > _ALIKE for a, b in itertools.pairwise(strengths) if a.shape == b.shape)
    if max((measured.likeness for _, measured in views), default=1) < _UNLIKE and any(agree):
        data.elsewhere.append(ref)
    if total := sum(values.shape[1] for values in usable):
        data.pooled.append(np.concatenate(usable, axis=1)[:, :: math.ceil(total / pooled)])
    if show and views:
        nearest = min(range(len(views)), key=lambda i: abs(views[i][0].offset))
        others = [i for i in range(len(views)) if i != nearest]
        wanted = np.linspace(0, len(others) - 1, min(len(others), _SHEET_VIEWS - 1))
        data.rows.append(SheetRow(ref, truth, [views[i] for i in (nearest, *(others[int(i)] for i in wanted))]))


def _measure_view(
    ref: Ref, view: SourceView, values: NDArray[Any], saturated: NDArray[np.bool_], maxima: tuple[float, ...]
) -> Acquired:
    """What is seen without the truth. ``values`` (C, n): the pixels that are neither missing nor ``saturated``."""
    pixels = view.pixels
    levels, above = np.zeros((len(pixels), 4)), np.zeros(len(pixels))
    if values.size:
        levels = np.percentile(values, [0, 1, 99, 100], axis=1).T
        above = (values > np.array(maxima)[:, None] * REFLECTANCE).mean(axis=1)
    return Acquired(
        ref=ref,
        name=view.name,
        offset=view.offset,
        shape=pixels.shape[1:],
        dtype=str(pixels.dtype),
        digest=_digest(pixels),
        meaning=_meaning(levels[:, 1], levels[:, 2], pixels.dtype) if values.size else "empty",
        low=levels[:, 0],
        high=levels[:, -1],
        missing=float(view.missing.mean()),
        saturated=float(saturated.mean()),
        above=above,
    )


def _meaning(low: NDArray[np.floating], high: NDArray[np.floating], dtype: np.dtype) -> str:
    """What numbers mean, from the 1st and 99th percentile of each band (C,)."""
    if dtype == np.uint8:
        return "8-bit"
    if dtype.kind == "f" and 0 < high.max() <= 2:
        return "x1"
    if high.max() <= 255:
        return "dark"
    if high.max() > 3 * REFLECTANCE:
        return "large"
    if low.max() < -300:
        return "negative"
    # Some pixel of a patch is nearly always darker than 0.1, and the bands' darkest differ where none is.
    return "offset" if low.min() >= 950 and low.max() <= 1800 and np.ptp(low) < 500 else "x10000"
