"""What is measured of a data set: every truth and every date, and the acquisitions of a sample of its patches."""

import hashlib
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from data_gen.checks.alignment import Displacement, band_order, displacement, edges, fingerprint, likeness, reduced
from data_gen.checks.sources import Fault, Place, Ref, Source, SourceView
from data_gen.dataset import Unusable

REFLECTANCE = 10000  # what stands for reflectance 1
_SHEET_ROWS, _SHEET_VIEWS = 8, 4  # of the contact sheet
_POOLED = 1 << 20  # pixels at most, over all acquisitions, that percentiles are taken from


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
    low: tuple[float, ...]  # least and greatest value, a band
    high: tuple[float, ...]


class Acquired(NamedTuple):
    """A low-resolution image."""

    ref: Ref
    name: str
    offset: int
    shape: tuple[int, ...]
    dtype: str
    digest: bytes
    meaning: str  # of its numbers: a key of MEANINGS
    ends: tuple[tuple[float, float], ...]  # by band: least, greatest
    missing: float  # share of pixels
    saturated: float  # share of pixels at the end of the number range
    above: tuple[float, ...]  # share of pixels beyond the normalisation's maximum, a band
    displacement: Displacement | None  # against the truth, in its own pixels
    band_order: float  # 1: red goes with red; −1: the bands stand the other way round


@dataclass
class Measurements:
    """All that the rules judge by."""

    root: Path
    kind: str
    bands: tuple[str, ...]
    maxima: tuple[float, ...]
    patches: dict[str, int] = field(default_factory=dict)  # by split
    offsets: dict[str, list[list[int]]] = field(default_factory=dict)  # by split, a list a patch
    truths: list[MeasuredTruth] = field(default_factory=list)
    acquired: list[Acquired] = field(default_factory=list)
    sampled: int = 0  # patches whose acquisitions were read
    pooled: list[NDArray[Any]] = field(default_factory=list)  # (C, n) of their pixels, evenly over them
    elsewhere: list[Ref] = field(default_factory=list)  # of them: views show one place, the truth another
    faults: list[Fault] = field(default_factory=list)
    rows: list["SheetRow"] = field(default_factory=list)


class SheetRow(NamedTuple):
    """A row of the contact sheet."""

    ref: Ref
    truth: NDArray[Any]
    views: list[tuple[SourceView, Displacement | None]]


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


def measure_source(source: Source, *, sample: int) -> Measurements:
    """Look at all truths and dates, and at the acquisitions of ``sample`` patches, evenly over each split (0: all)."""
    data = Measurements(source.root, source.kind, source.bands, source.maxima)
    for ref in tqdm(source.refs, desc="truths and dates", leave=False):
        data.patches[ref.split] = data.patches.get(ref.split, 0) + 1
        data.offsets.setdefault(ref.split, []).append(source.offsets(ref))
        try:
            pixels, place = source.truth(ref)
        except Unusable as reason:
            source.faults.append(Fault("files", ref.split, ref.key, "truth", str(reason)))
        else:
            data.truths.append(_measure_truth(ref, pixels, place))
    chosen = spread(source.refs, sample)
    data.sampled = len(chosen)
    on_sheet = set(spread(chosen, _SHEET_ROWS))
    for ref in tqdm(chosen, desc="acquisitions", leave=False):
        _measure_patch(source, ref, data, pooled=max(1, _POOLED // len(chosen)), show=ref in on_sheet)
    data.faults = source.faults
    return data


def spread(refs: Sequence[Ref], wanted: int) -> list[Ref]:
    """So many patches, evenly over each split, at least one of each; all for 0."""
    if wanted == 0 or wanted >= len(refs):
        return list(refs)
    splits: dict[str, list[Ref]] = {}
    for ref in refs:
        splits.setdefault(ref.split, []).append(ref)
    chosen: list[Ref] = []
    for members in splits.values():
        count = max(1, round(wanted * len(members) / len(refs)))
        chosen += [members[int(i)] for i in np.linspace(0, len(members) - 1, count)]
    return chosen


def digest(pixels: NDArray[Any]) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(pixels).tobytes(), digest_size=16).digest()


def _measure_truth(ref: Ref, pixels: NDArray[Any], place: Place | None) -> MeasuredTruth:
    top = np.iinfo(pixels.dtype).max if pixels.dtype.kind in "iu" else np.inf
    flat = pixels.reshape(len(pixels), -1)
    return MeasuredTruth(
        ref=ref,
        shape=pixels.shape[1:],
        dtype=str(pixels.dtype),
        digest=digest(pixels),
        fingerprint=fingerprint(pixels),
        place=place,
        black=float((pixels == 0).all(axis=0).mean()),
        white=float((pixels == top).mean()),
        low=tuple(map(float, flat.min(1))),
        high=tuple(map(float, flat.max(1))),
    )


def _measure_patch(source: Source, ref: Ref, data: Measurements, *, pooled: int, show: bool) -> None:
    source.verify(ref)
    try:
        truth, _ = source.truth(ref)
    except Unusable:
        return
    views: list[tuple[SourceView, Displacement | None]] = []
    strengths: list[NDArray[np.float64]] = []
    references: dict[int, tuple[NDArray[Any], NDArray[np.float64]]] = {}  # by scale: the truth averaged, its edges
    likes: list[float] = []
    values_of: list[NDArray[Any]] = []
    for view in source.views(ref):
        scale = max(1, round(truth.shape[1] / view.pixels.shape[1]))
        if scale not in references:
            small = reduced(truth, scale)
            references[scale] = small, edges(small)
        small, reference = references[scale]
        lies, order = None, 1.0
        if small.shape == view.pixels.shape and not view.missing.all():
            values = np.where(view.missing, 0, view.pixels.astype(np.float64))
            own = edges(values, ~view.missing)
            lies = displacement(reference, own)
            order = band_order(small[:, ~view.missing], values[:, ~view.missing], source.bands)
            strengths.append(own)
            likes.append(max(likeness(reference, own), lies.likeness if lies else 0))
        views.append((view, lies))
        saturated = _saturated(view)
        values_of.append(view.pixels[:, ~view.missing & ~saturated])  # (C, n)
        data.acquired.append(_measure_view(ref, view, values_of[-1], saturated, lies, order, source.maxima))
    if likes and max(likes) < UNLIKE and _agree(strengths):
        data.elsewhere.append(ref)
    if values_of and (total := sum(values.shape[1] for values in values_of)):
        every = math.ceil(total / pooled)
        data.pooled.append(np.concatenate(values_of, axis=1)[:, ::every])
    if show and views:
        nearest = min(range(len(views)), key=lambda i: abs(views[i][0].offset))
        others = [i for i in range(len(views)) if i != nearest]
        wanted = np.linspace(0, len(others) - 1, min(len(others), _SHEET_VIEWS - 1))
        shown = [nearest, *(others[int(i)] for i in wanted)]
        data.rows.append(SheetRow(ref, truth, [views[i] for i in shown]))


UNLIKE = 0.2  # likeness to the truth that views of the same place exceed, whatever the season
_ALIKE = 0.5  # likeness of two views that show the same place for sure


def _agree(strengths: list[NDArray[np.float64]]) -> bool:
    """Whether two views in a row show the same place: nothing can be said of a truth beside clouds."""
    return any(likeness(a, b) > _ALIKE for a, b in itertools.pairwise(strengths) if a.shape == b.shape)


def _saturated(view: SourceView) -> NDArray[np.bool_]:
    """(h, w): data at the end of its number range."""
    whole = view.pixels.dtype.kind in "iu" and view.pixels.dtype.itemsize > 1
    top = np.iinfo(view.pixels.dtype).max if whole else np.inf
    return (view.pixels >= top).any(axis=0) & ~view.missing


def _measure_view(
    ref: Ref,
    view: SourceView,
    values: NDArray[Any],
    saturated: NDArray[np.bool_],
    lies: Displacement | None,
    order: float,
    maxima: tuple[float, ...],
) -> Acquired:
    """``values`` (C, n): its pixels that are neither missing nor saturated."""
    pixels = view.pixels
    if values.size:
        levels = np.percentile(values, [0, 1, 50, 99, 100], axis=1).T
        limits = np.array(maxima)[:, None] * REFLECTANCE
        above = (values > limits).mean(axis=1)
    else:
        levels, above = np.zeros((len(pixels), 5)), np.zeros(len(pixels))
    return Acquired(
        ref=ref,
        name=view.name,
        offset=view.offset,
        shape=pixels.shape[1:],
        dtype=str(pixels.dtype),
        digest=digest(pixels),
        meaning=meaning(levels, pixels.dtype) if values.size else "empty",
        ends=tuple((float(band[0]), float(band[-1])) for band in levels),
        missing=float(view.missing.mean()),
        saturated=float(saturated.mean()),
        above=tuple(map(float, above)),
        displacement=lies,
        band_order=order,
    )


def meaning(levels: NDArray[np.floating], dtype: np.dtype) -> str:
    """What numbers mean, from their least, 1 %, median, 99 % and greatest value in each band (C, 5)."""
    low, high = levels[:, 1], levels[:, 3]
    if dtype == np.uint8:
        return "8-bit"
    if dtype.kind == "f" and 0 < high.max() <= 2:
        return "x1"
    if high.max() <= 255:
        return "dark"
    if high.max() > 3 * REFLECTANCE:
        return "large"
    if high.max() < 0 or low.max() < -300:
        return "negative"
    # Some pixel of a patch is nearly always darker than 0.1, and the bands' darkest differ where none is.
    if low.min() >= 950 and low.max() <= 1800 and np.ptp(low) < 500:
        return "offset"
    return "x10000"
