"""Verdicts on the ground that images show: the same twice, in two splits, or not where it should be."""

from collections import Counter
from collections.abc import Iterable

import numpy as np

from data_gen.inspection.evidence import Evidence
from data_gen.inspection.findings import Finding, level_of, name_of, some, worst
from data_gen.inspection.overlaps import (
    RELATED,
    Pair,
    Read,
    apart,
    equal_pairs,
    nearly_equal_pairs,
    overlapping_pairs,
    shown_alike,
)

MOVED = 1.5  # low-resolution pixels: an acquisition that lies further off is misregistered
MOVED_SHARE = 0.05  # of acquisitions, from which it matters
SYSTEMATIC = 0.5  # low-resolution pixels that the whole data set may lie off
REVERSED = -0.2  # how red minus blue of truth and acquisitions go together where the bands are swapped


def duplicates(evidence: Evidence, read: Read) -> Iterable[Finding]:
    """Equal and nearly equal patches within a split and in two, and overlaps of places."""
    pairs = [*equal_pairs(evidence.truths), *nearly_equal_pairs(evidence.truths, read)]
    within = [pair for pair in pairs if pair[0].ref.split == pair[1].ref.split]
    if within:
        counts = Counter(pair[1].ref.split for pair in within)
        level = worst(level_of(count, evidence.patches[split]) for split, count in counts.items())
        message = f"patches that occur twice in their split: {len(within)}"
        yield Finding("duplicates", level, message, some(map(_both, within)))
    else:
        yield Finding("duplicates", "ok", "no patch occurs twice in its split")
    yield from _leakage(evidence, read, [(a, b) for a, b in pairs if apart(a.ref.split, b.ref.split)])


def _leakage(evidence: Evidence, read: Read, leaks: list[Pair]) -> Iterable[Finding]:
    overlaps = overlapping_pairs(evidence.truths)
    alike = shown_alike(overlaps, read)
    listed = some(f"{_both(pair)}: {share:.0%} of a patch" for pair, share in overlaps)
    if leaks:
        message = f"what is tested was trained on: patches of one split that are in another too: {len(leaks)}"
        yield Finding("leakage", "error", message, some(map(_both, leaks)))
    if overlaps and (alike is None or alike > RELATED):
        message = f"pairs of patches of two splits that overlap on the ground: {len(overlaps)}"
        yield Finding("leakage", "error", message, listed)
    elif overlaps:
        message = (
            "places of patches of different splits overlap, but the images show different ground: the places aren't "
            "the images' own, so they can't tell what overlaps"
        )
        yield Finding("leakage", "warning", message, listed)
    elif not leaks:
        placed = sum(truth.place is not None for truth in evidence.truths)
        where = f"nor do places overlap ({placed} are known)" if placed else "places are not known"
        yield Finding("leakage", "ok", f"no patch is in two splits; {where}")


def _both(pair: Pair) -> str:
    return f"{name_of(pair[0].ref)} and {name_of(pair[1].ref)}"


def registration(evidence: Evidence) -> Iterable[Finding]:
    measured = [(view, view.displacement) for view in evidence.acquired if view.displacement is not None]
    if not measured:
        yield Finding("registration", "warning", "too little structure to measure how images lie on each other")
        return
    down, right = np.median([(lies.rows, lies.columns) for _, lies in measured], axis=0)
    lengths = np.array([lies.length for _, lies in measured])
    moved = [(view, lies) for view, lies in measured if lies.length > MOVED]
    message = (
        f"acquisitions lie {_pixels(down, right)} off the truth in the median; half of them within "
        f"{np.median(lengths):.1f}, 9 of 10 within {np.percentile(lengths, 90):.1f} "
        f"({len(measured)} of {len(evidence.acquired)} could be measured)"
    )
    listed = some(f"{name_of(view.ref)} {view.name}: {_pixels(lies.rows, lies.columns)}" for view, lies in moved)
    if moved:
        message += f"; off by more than {MOVED}: {len(moved)}"
    if np.hypot(down, right) > SYSTEMATIC:
        yield Finding("registration", "error", f"{message}: truth and acquisitions lie on different grids", listed)
    elif len(moved) > MOVED_SHARE * len(measured):
        yield Finding("registration", "error", message, listed)
    else:
        yield Finding("registration", "warning" if moved else "ok", message, listed)


def _pixels(down: float, right: float) -> str:
    return "({:+.1f} down, {:+.1f} right) pixels".format(*(round(float(x), 1) + 0.0 for x in (down, right)))


def place(evidence: Evidence) -> Iterable[Finding]:
    if evidence.elsewhere:
        message = (
            f"truths that show another place than their acquisitions: {len(evidence.elsewhere)} of {evidence.sampled}"
        )
        yield Finding("place", "error", message, some(map(name_of, evidence.elsewhere)))
    else:
        yield Finding("place", "ok", "truths show what their acquisitions show")


def bands(evidence: Evidence) -> Iterable[Finding]:
    orders = [view.band_order for view in evidence.acquired if view.displacement is not None]
    if orders and (middle := float(np.median(orders))) < REVERSED:
        message = f"red and blue are swapped in the truths or the acquisitions (correlation {middle:.2f})"
        yield Finding("bands", "error", message)
    else:
        yield Finding("bands", "ok", "red and blue stand in the same order in truths and acquisitions")
