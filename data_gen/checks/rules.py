"""What is wrong with a data set, said by one function a subject.

An error is what training (or evaluation) would go wrong with, a warning what somebody should look at; docs/data.md
explains each.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from data_gen.checks.measure import MEANINGS, Acquired, MeasuredTruth, Measurements
from data_gen.checks.overlap import (
    RELATED,
    ReadTruth,
    TruthPair,
    apart,
    equal_pairs,
    nearly_equal_pairs,
    overlapping_pairs,
    shown_alike,
)
from data_gen.checks.sources import Fault, Ref
from utils.geo.bands import listed
from utils.store import SCALES

Level = Literal["ok", "warning", "error"]

FEW = 0.01  # share up to which patches or acquisitions that are left out don't matter
_LEVELS: tuple[Level, ...] = ("ok", "warning", "error")
_EXAMPLES = 5


class Finding(NamedTuple):
    """What was found of one subject."""

    check: str
    level: Level
    message: str
    examples: tuple[str, ...] = ()


def level_of(wrong: int, of: int) -> Level:
    """How bad it is that so many patches or acquisitions are left out."""
    return "ok" if not wrong else "warning" if wrong <= FEW * of else "error"


def worst_level(levels: Iterable[Level]) -> Level:
    return max(levels, key=_LEVELS.index, default="ok")


def name_of(ref: Ref) -> str:
    return f"{ref.split} {ref.key}"


def some(items: Iterable[str]) -> tuple[str, ...]:
    """The first few, and how many more."""
    listed = list(items)
    more = len(listed) - _EXAMPLES
    return (*listed[:_EXAMPLES], f"and {more} more") if more > 0 else tuple(listed)


def either(check: str, wrong: Sequence[str | Fault], message: str, fine: str) -> Finding:
    """An error that counts and lists what is wrong, or, where nothing is, that all is well."""
    if not wrong:
        return Finding(check, "ok", fine)
    return Finding(check, "error", f"{message}: {len(wrong)}", described(wrong))


def described(items: Iterable[str | Fault]) -> tuple[str, ...]:
    return some(x if isinstance(x, str) else f"{x.split} {x.key}: {x.path}: {x.what}" for x in items)


FAR = 400  # days: no data set of one year has such an offset
MOSTLY = 0.5
_CROP = 8  # truths are cropped to multiples of this


def splits(data: Measurements) -> Iterable[Finding]:
    counts = ", ".join(f"{split} {count}" for split, count in data.patches.items()) or "no patch"
    absent = [split for split in ("train", "val", "test") if not data.patches.get(split)]
    if "train" in absent:
        yield Finding("splits", "error", f"{counts}: nothing to train on")
    elif absent:
        yield Finding("splits", "warning", f"{counts}: no {' and no '.join(absent)}")
    else:
        yield Finding("splits", "ok", f"{counts} patches")


def labels(data: Measurements) -> Iterable[Finding]:
    seen = Counter((truth.ref.split, truth.ref.key) for truth in data.truths)
    twice = [f"{split} {key}: {n} times" for (split, key), n in seen.items() if n > 1]
    message = "row labels that occur twice, so that results overwrite each other"
    yield either("labels", twice, message, "every patch has a name of its own")


def files(data: Measurements) -> Iterable[Finding]:
    faults = _faults(data, "files")
    missing = sum(fault.what == "missing file" for fault in faults)
    if faults:
        message = f"missing files: {missing}; unreadable files: {len(faults) - missing}"
        yield Finding("files", "error", message, described(faults))
    else:
        message = f"{len(data.truths)} truths and {len(data.acquired)} acquisitions were read, none is missing"
        yield Finding("files", "ok", message)
    if outside := _faults(data, "paths"):
        yield either("files", outside, "paths that lead out of the folder", "")


def store(data: Measurements) -> Iterable[Finding]:
    if data.kind != "prepared":
        return
    patches = f"({data.sampled} patches)"
    for check, wrong, right in (
        ("checksums", "shards that are not as they were written", "all shards are as they were written"),
        ("shards", "shards of other shapes than the manifest says", "all shards have their shapes"),
        (
            "tables",
            f"tables of spectral matching that are not those of the images {patches}",
            f"the tables of spectral matching are those of the images {patches}",
        ),
    ):
        finding = either(check, _faults(data, check), wrong, right)
        anew = "; prepare the data anew" if finding.level == "error" else ""
        yield finding._replace(message=finding.message + anew)


def pairs(data: Measurements) -> Iterable[Finding]:
    message = "patches whose images and dates don't go together, so that they can't be used"
    yield either("pairs", _faults(data, "pairs"), message, "every acquisition has its date")


def dates(data: Measurements) -> Iterable[Finding]:
    offsets = [offset for split in data.offsets.values() for series in split for offset in series]
    slipped, named = _faults(data, "dates"), _faults(data, "names")
    if slipped:
        message = f"dates have slipped against images: those that contradict the acquisition's key: {len(slipped)}"
        yield Finding("dates", "error", message, described(slipped))
    elif len(named) > MOSTLY * len(offsets):
        message = "names of files carry other dates than the table (of processing?)"
        yield Finding("dates", "warning", message, described(named))
    elif named:
        message = f"dates have slipped against images: those that contradict the file's name: {len(named)}"
        yield Finding("dates", "error", message, described(named))
    elif far := sum(abs(offset) > FAR for offset in offsets):
        yield Finding("dates", "warning", f"acquisitions more than {FAR} days from the truth: {far}")
    else:
        span = f"from {min(offsets)} to {max(offsets)} days from the truth" if offsets else "none"
        yield Finding("dates", "ok", f"dates and images agree; {span}")
    if repeated := _repeated(data.acquired):
        message = f"acquisitions that are one image under two dates: {len(repeated)}"
        yield Finding("dates", level_of(len(repeated), len(data.acquired)), message, some(repeated))


def _repeated(acquired: Sequence[Acquired]) -> list[str]:
    seen: dict[tuple[Ref, bytes], Acquired] = {}
    found = []
    for view in acquired:
        first = seen.setdefault((view.ref, view.digest), view)
        if first is not view:
            found.append(f"{name_of(view.ref)}: {view.name} is {first.name}")
    return found


def sizes(data: Measurements) -> Iterable[Finding]:
    hr, lr = _common_side(data.truths, _CROP), _common_side(data.acquired, 1)
    scale = round(hr / lr) if lr else 0
    if not data.truths or not data.acquired:
        return
    crop = _CROP // scale if scale in SCALES else 1
    if scale not in SCALES or lr // crop * crop * scale != hr:
        message = (
            f"truths of {hr} pixels (once cropped) beside acquisitions of {lr}: they must be 2, 4 or 8 times finer"
        )
        yield Finding("sizes", "error", message)
        return
    coarse = [f"{name_of(truth.ref)}: {truth.dtype}" for truth in data.truths if truth.dtype != "uint8"]
    if coarse:
        yield Finding(
            "sizes", "error", f"truths that are not 8-bit, so that they can't be used: {len(coarse)}", some(coarse)
        )
    truths = [f"{name_of(t.ref)}: {_shape(t)}" for t in data.truths if _side(t.shape, _CROP) != hr]
    views = [f"{name_of(v.ref)} {v.name}: {_shape(v)}" for v in data.acquired if _side(v.shape, 1) != lr]
    if truths or views:
        level = worst_level([level_of(len(truths), len(data.truths)), level_of(len(views), len(data.acquired))])
        message = (
            f"truths that are not {hr}×{hr} once cropped: {len(truths)}; acquisitions that are not {lr}×{lr}: "
            f"{len(views)}; they are left out, together with their dates"
        )
        yield Finding("sizes", level, message, some(truths + views))
    elif not coarse:
        yield Finding("sizes", "ok", f"truths {hr}×{hr} once cropped, acquisitions {lr}×{lr}: {scale} times finer")


def _common_side(images: Sequence[MeasuredTruth] | Sequence[Acquired], multiple: int) -> int:
    """The side of most images once cropped."""
    sides = Counter(_side(image.shape, multiple) for image in images)
    return max(sides, key=lambda side: (side > 0, sides[side]), default=0)


def _side(shape: tuple[int, ...], multiple: int) -> int:
    """The side of a square once cropped; 0 for what isn't one."""
    height, width = (size // multiple * multiple for size in shape)
    return height if height == width else 0


def _shape(image: MeasuredTruth | Acquired) -> str:
    return "×".join(map(str, image.shape))


def _faults(data: Measurements, check: str) -> list[Fault]:
    return [fault for fault in data.faults if fault.check == check]


MOVED = 1.5  # low-resolution pixels: an acquisition that lies further off is misregistered
MOVED_SHARE = 0.05  # of acquisitions, from which it matters
SYSTEMATIC = 0.5  # low-resolution pixels that the whole data set may lie off
REVERSED = -0.2  # how red minus blue of truth and acquisitions go together where the bands are swapped


def duplicates(data: Measurements, read: ReadTruth) -> Iterable[Finding]:
    """Equal and nearly equal patches within a split and in two, and overlaps of places."""
    pairs = [*equal_pairs(data.truths), *nearly_equal_pairs(data.truths, read)]
    within = [pair for pair in pairs if pair[0].ref.split == pair[1].ref.split]
    if within:
        counts = Counter(pair[1].ref.split for pair in within)
        level = worst_level(level_of(count, data.patches[split]) for split, count in counts.items())
        message = f"patches that occur twice in their split: {len(within)}"
        yield Finding("duplicates", level, message, some(map(_both, within)))
    else:
        yield Finding("duplicates", "ok", "no patch occurs twice in its split")
    yield from _leakage(data, read, [(a, b) for a, b in pairs if apart(a.ref.split, b.ref.split)])


def _leakage(data: Measurements, read: ReadTruth, leaks: list[TruthPair]) -> Iterable[Finding]:
    overlaps = overlapping_pairs(data.truths)
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
        placed = sum(truth.place is not None for truth in data.truths)
        where = f"nor do places overlap ({placed} are known)" if placed else "places are not known"
        yield Finding("leakage", "ok", f"no patch is in two splits; {where}")


def _both(pair: TruthPair) -> str:
    return f"{name_of(pair[0].ref)} and {name_of(pair[1].ref)}"


def registration(data: Measurements) -> Iterable[Finding]:
    measured = [(view, view.displacement) for view in data.acquired if view.displacement is not None]
    if not measured:
        yield Finding("registration", "warning", "too little structure to measure how images lie on each other")
        return
    down, right = np.median([(lies.rows, lies.columns) for _, lies in measured], axis=0)
    lengths = np.array([lies.length for _, lies in measured])
    moved = [(view, lies) for view, lies in measured if lies.length > MOVED]
    message = (
        f"acquisitions lie {_pixels(down, right)} off the truth in the median; half of them within "
        f"{np.median(lengths):.1f}, 9 of 10 within {np.percentile(lengths, 90):.1f} "
        f"({len(measured)} of {len(data.acquired)} could be measured)"
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


def place(data: Measurements) -> Iterable[Finding]:
    finding = either(
        "place",
        list(map(name_of, data.elsewhere)),
        "truths that show another place than their acquisitions",
        "truths show what their acquisitions show",
    )
    yield finding._replace(message=f"{finding.message} of {data.sampled}") if data.elsewhere else finding


def bands(data: Measurements) -> Iterable[Finding]:
    orders = [view.band_order for view in data.acquired if view.displacement is not None]
    if orders and (middle := float(np.median(orders))) < REVERSED:
        message = f"red and blue are swapped in the truths or the acquisitions (correlation {middle:.2f})"
        yield Finding("bands", "error", message)
    else:
        yield Finding("bands", "ok", "red and blue stand in the same order in truths and acquisitions")


MOST_PATCHES = 0.5
OFFSET_SURE, OFFSET_PERHAPS = 0.25, 0.05  # share of acquisitions whose darkest pixels all lie around 1000
MISSING_VIEW, MISSING_SHARE = 0.5, 0.25  # share of an acquisition, of all pixels, that may have no data
MISSING_TRUTH = 0.05  # share of a truth
CLIPPED_SOME, CLIPPED_MOST = 0.1, 0.5  # share of pixels beyond the maximum of normalisation
WHITE_SOME, WHITE_MOST = 0.05, 0.25  # share of the truth at the top of its range

_CURES = {
    "x1": "multiply by 10000",
    "8-bit": "give reflectance, not pictures",
    "dark": "give reflectance, not pictures",
    "offset": "subtract 1000",
    "negative": "add 1000",
    "large": "divide until reflectance 1 is 10000",
}


def scaling(data: Measurements) -> Iterable[Finding]:
    counts = Counter(view.meaning for view in data.acquired if view.meaning != "empty")
    total = counts.total()
    if not total:
        yield Finding("scaling", "error", "no acquisition has data")
        return
    examples = some(
        f"{name_of(view.ref)} {view.name}: {MEANINGS[view.meaning]}"
        for view in data.acquired
        if view.meaning not in ("x10000", "empty")
    )
    kind, most = counts.most_common(1)[0]
    wrong = [name for name in ("x1", "8-bit", "large", "negative") if counts[name]]
    if kind in _CURES and most > MOST_PATCHES * total:
        message = f"acquisitions hold {MEANINGS[kind]}, not reflectance × 10000: {_CURES[kind]}"
        yield Finding("scaling", "error", message, examples)
    elif wrong:
        words = ", ".join(f"{MEANINGS[name]} in {counts[name]} of {total} ({_CURES[name]})" for name in wrong)
        level = level_of(sum(counts[name] for name in wrong), total)
        yield Finding("scaling", level, f"scalings are mixed: {words}", examples)
    elif counts["offset"] > OFFSET_PERHAPS * total:
        sure = counts["offset"] > OFFSET_SURE * total
        message = (
            f"acquisitions without a pixel darker than reflectance 0.1: {counts['offset']} of {total}: "
            f"{'they hold' if sure else 'clouds, bare ground, or'} {MEANINGS['offset']} ({_CURES['offset']})"
        )
        yield Finding("scaling", "error" if sure else "warning", message, examples)
    else:
        yield Finding("scaling", "ok", f"acquisitions hold {MEANINGS['x10000']}")


def nodata(data: Measurements) -> Iterable[Finding]:
    views = [view for view in data.acquired if view.missing > MISSING_VIEW]
    truths = [truth for truth in data.truths if truth.black > MISSING_TRUTH]
    share = float(np.mean([view.missing for view in data.acquired])) if data.acquired else 0.0
    listed = [f"{name_of(truth.ref)}: truth {truth.black:.0%}" for truth in truths]
    listed += [f"{name_of(view.ref)} {view.name}: {view.missing:.0%}" for view in views]
    message = f"{share:.2%} of the acquisitions' pixels have no data"
    level: Level = "ok"
    if views or truths:
        message += f"; acquisitions with more holes than data: {len(views)}, truths with holes: {len(truths)}"
        level = "error" if level_of(len(truths), len(data.truths)) == "error" else "warning"
    if share > MISSING_SHARE:
        level = "error"
    yield Finding("nodata", level, message, some(listed))


def clipping(data: Measurements) -> Iterable[Finding]:
    if not data.acquired or not data.truths:
        return
    above = np.mean([view.above for view in data.acquired], axis=0)
    white = float(np.mean([truth.white for truth in data.truths]))
    saturated = float(np.mean([view.saturated for view in data.acquired]))
    message = (
        f"{', '.join(f'{share:.1%}' for share in above)} of {listed(data.bands)} are brighter than the maxima of "
        f"normalisation ({', '.join(f'{m:g}' for m in data.maxima)}), {saturated:.2%} saturated; "
        f"{white:.2%} of the truth is at its top"
    )
    level: Level = "ok"
    if above.max() > CLIPPED_SOME or white > WHITE_SOME or saturated > FEW:
        is_lost = above.max() > CLIPPED_MOST and data.kind == "prepared"  # of a raw set preparing decides
        level = "error" if is_lost or white > WHITE_MOST else "warning"
    if above.max() > CLIPPED_SOME:
        message += "; prepare it with --percentiles 98"
    yield Finding("clipping", level, message)
