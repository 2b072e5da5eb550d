"""Look at a data set, and say what is wrong with it: one function a subject.

An error is what training (or evaluation) would go wrong with, a warning what somebody should look at; docs/data.md
explains each.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from data_gen.checks.measure import MEANINGS, Acquired, MeasuredTruth, Measurements, measure_source
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
from data_gen.checks.sources import Fault, PreparedSource, RawSource, Ref, Source
from data_gen.dataset import cropped, patch_rasters
from utils.geo.bands import listed
from utils.store import FOLDER, MANIFEST, SCALES, prepared_folder

Level = Literal["ok", "warning", "error"]

_LEVELS: tuple[Level, ...] = ("ok", "warning", "error")
_EXAMPLES = 5
_FEW = 0.01  # share up to which patches or acquisitions that are left out don't matter
_MOSTLY = 0.5
_FAR = 400  # days: no data set of one year has such an offset
_CROP = 8  # truths are cropped to multiples of this
_MOVED = 1.5  # low-resolution pixels: an acquisition that lies further off is misregistered
_MOVED_SHARE = 0.05  # of acquisitions, from which it matters
_SYSTEMATIC = 0.5  # low-resolution pixels that the whole data set may lie off
_REVERSED = -0.2  # how red minus blue of truth and acquisitions go together where the bands are swapped
_OFFSET_SURE, _OFFSET_PERHAPS = 0.25, 0.05  # share of acquisitions whose darkest pixels all lie around 1000
_MISSING_VIEW, _MISSING_SHARE = 0.5, 0.25  # share of an acquisition, of all pixels, that may have no data
_MISSING_TRUTH = 0.05  # share of a truth
_CLIPPED_SOME, _CLIPPED_MOST = 0.1, 0.5  # share of pixels beyond the maximum of normalisation
_WHITE_SOME, _WHITE_MOST = 0.05, 0.25  # share of the truth at the top of its range

_CURES = {
    "x1": "multiply by 10000",
    "8-bit": "give reflectance, not pictures",
    "dark": "give reflectance, not pictures",
    "offset": "subtract 1000",
    "negative": "add 1000",
    "large": "divide until reflectance 1 is 10000",
}


class Finding(NamedTuple):
    """What was found of one subject."""

    check: str
    level: Level
    message: str
    examples: tuple[str, ...] = ()


@patch_rasters()
def check_data_set(
    root: Path, *, sample: int, bands: tuple[str, ...] | None = None
) -> tuple[Measurements, list[Finding]]:
    """Measure a data set and say what is wrong with it.

    Args:
        root: a raw data set or a prepared folder. A raw root that was prepared is looked at as raw.
        sample: patches whose acquisitions are read, 0 for all. Truths and dates are always all looked at.
        bands: of a raw data set; by default those that its rasters describe.

    Returns:
        What was measured; the findings, in the order to read them in.

    Raises:
        DataError: it can't be read.
    """
    is_raw = not (root / MANIFEST).is_file() and any(root.glob("dataset_*.pkl"))
    is_prepared = not is_raw and any((folder / MANIFEST).is_file() for folder in (root, root / FOLDER))
    source: Source = PreparedSource(prepared_folder(root)) if is_prepared else RawSource(root, bands=bands)
    data = measure_source(source, sample=sample)
    findings = [finding for check in _CHECKS for finding in check(data)]
    return data, [*findings, *_duplicates(data, lambda truth: source.truth(truth.ref)[0])]


def _level(wrong: int, of: int) -> Level:
    """How bad it is that so many patches or acquisitions are left out."""
    return "ok" if not wrong else "warning" if wrong <= _FEW * of else "error"


def _worst(levels: Iterable[Level]) -> Level:
    return max(levels, key=_LEVELS.index, default="ok")


def _some(items: Iterable[object]) -> tuple[str, ...]:
    """The first few, and how many more."""
    found = [f"{x.ref.label}: {x.path}: {x.what}" if isinstance(x, Fault) else str(x) for x in items]
    more = len(found) - _EXAMPLES
    return (*found[:_EXAMPLES], f"and {more} more") if more > 0 else tuple(found)


def _either(check: str, wrong: Sequence[object], message: str, fine: str) -> Finding:
    """An error that counts and lists what is wrong, or, where nothing is, that all is well."""
    return Finding(check, "error", f"{message}: {len(wrong)}", _some(wrong)) if wrong else Finding(check, "ok", fine)


def _faults(data: Measurements, check: str) -> list[Fault]:
    return [fault for fault in data.source.faults if fault.check == check]


def _splits(data: Measurements) -> Iterator[Finding]:
    counts = ", ".join(f"{split} {count}" for split, count in data.patches.items()) or "no patch"
    absent = [split for split in ("train", "val", "test") if not data.patches.get(split)]
    if "train" in absent:
        yield Finding("splits", "error", f"{counts}: nothing to train on")
    elif absent:
        yield Finding("splits", "warning", f"{counts}: no {' and no '.join(absent)}")
    else:
        yield Finding("splits", "ok", f"{counts} patches")


def _files(data: Measurements) -> Iterator[Finding]:
    faults = _faults(data, "files")
    missing = sum(fault.what == "missing file" for fault in faults)
    message = f"{len(data.truths)} truths and {len(data.acquired)} acquisitions were read, none is missing"
    if faults:
        message = f"missing files: {missing}; unreadable files: {len(faults) - missing}"
    yield Finding("files", "error" if faults else "ok", message, _some(faults))


def _lists(data: Measurements) -> Iterator[Finding]:
    """What is wrong where anything is listed."""
    if data.source.kind == "prepared":
        patches = f"({data.sampled} patches); prepare the data anew"
        for check, wrong, right in (
            (
                "checksums",
                "shards that are not as they were written; prepare the data anew",
                "shards are as they were written",
            ),
            (
                "shards",
                "shards of other shapes than the manifest says; prepare the data anew",
                "shards have their shapes",
            ),
            (
                "tables",
                f"tables of spectral matching that are not those of the images {patches}",
                "tables are those of the images",
            ),
        ):
            yield _either(check, _faults(data, check), wrong, f"all {right}")
    seen = Counter(truth.label for truth in data.truths)
    twice = [f"{label}: {count} times" for label, count in seen.items() if count > 1]
    message = "row labels that occur twice, so that results overwrite each other"
    yield _either("labels", twice, message, "every patch has a name of its own")
    message = "patches whose images and dates don't go together, so that they can't be used"
    yield _either("pairs", _faults(data, "pairs"), message, "every acquisition has its date")
    message = f"truths of {data.sampled} that show another place than their acquisitions"
    elsewhere = [ref.label for ref in data.elsewhere]
    yield _either("place", elsewhere, message, "truths show what their acquisitions show")


def _sizes(data: Measurements) -> Iterator[Finding]:
    if not data.truths or not data.acquired:
        return
    hr, lr = _common_side(data.truths, _CROP), _common_side(data.acquired, 1)
    scale = round(hr / lr) if lr else 0
    crop = _CROP // scale if scale in SCALES else 1
    if scale not in SCALES or cropped(lr, crop) * scale != hr:
        message = f"truths of {hr} pixels (once cropped) beside acquisitions of {lr}"
        yield Finding("sizes", "error", f"{message}: they must be 2, 4 or 8 times finer")
        return
    if deep := [f"{truth.label}: {truth.dtype}" for truth in data.truths if truth.dtype != "uint8"]:
        yield _either("sizes", deep, "truths that are not 8-bit, so that they can't be used", "")
    truths = [f"{x.label}: {_shape(x)}" for x in data.truths if _side(x, _CROP) != hr]
    views = [f"{x.label}: {_shape(x)}" for x in data.acquired if _side(x, 1) != lr]
    if truths or views:
        level = _worst([_level(len(truths), len(data.truths)), _level(len(views), len(data.acquired))])
        message = (
            f"truths that are not {hr}×{hr} once cropped: {len(truths)}; acquisitions that are not {lr}×{lr}: "
            f"{len(views)}; they are left out, together with their dates"
        )
        yield Finding("sizes", level, message, _some(truths + views))
    elif not deep:
        yield Finding("sizes", "ok", f"truths {hr}×{hr} once cropped, acquisitions {lr}×{lr}: {scale} times finer")


def _common_side(images: Sequence[MeasuredTruth | Acquired], multiple: int) -> int:
    """The side of most images once cropped."""
    sides = Counter(_side(image, multiple) for image in images)
    return max(sides, key=lambda side: (side > 0, sides[side]))


def _side(image: MeasuredTruth | Acquired, multiple: int) -> int:
    """The side of a square once cropped; 0 for what isn't one."""
    height, width = (cropped(size, multiple) for size in image.shape)
    return height if height == width else 0


def _shape(image: MeasuredTruth | Acquired) -> str:
    return "×".join(map(str, image.shape))


def _dates(data: Measurements) -> Iterator[Finding]:
    offsets = [offset for split in data.offsets.values() for series in split for offset in series]
    slipped, named = _faults(data, "dates"), _faults(data, "names")
    message = "dates have slipped against images: those that contradict the"
    if slipped:
        yield _either("dates", slipped, f"{message} acquisition's key", "")
    elif len(named) > _MOSTLY * len(offsets):
        yield Finding(
            "dates", "warning", "names of files carry other dates than the table (of processing?)", _some(named)
        )
    elif named:
        yield _either("dates", named, f"{message} file's name", "")
    elif far := sum(abs(offset) > _FAR for offset in offsets):
        yield Finding("dates", "warning", f"acquisitions more than {_FAR} days from the truth: {far}")
    else:
        span = f"from {min(offsets)} to {max(offsets)} days from the truth" if offsets else "none"
        yield Finding("dates", "ok", f"dates and images agree; {span}")
    first: dict[tuple[Ref, bytes], Acquired] = {}
    for view in data.acquired:
        first.setdefault((view.ref, view.digest), view)
    repeated = [
        f"{view.ref.label}: {view.name} is {known.name}"
        for view in data.acquired
        if (known := first[view.ref, view.digest]) is not view
    ]
    if repeated:
        message = f"acquisitions that are one image under two dates: {len(repeated)}"
        yield Finding("dates", _level(len(repeated), len(data.acquired)), message, _some(repeated))


def _duplicates(data: Measurements, read: ReadTruth) -> Iterator[Finding]:
    """Equal and nearly equal patches within a split and in two, and overlaps of places."""
    pairs = [*equal_pairs(data.truths), *nearly_equal_pairs(data.truths, read)]
    within = [pair for pair in pairs if pair[0].ref.split == pair[1].ref.split]
    if within:
        counts = Counter(pair[1].ref.split for pair in within)
        level = _worst(_level(count, data.patches[split]) for split, count in counts.items())
        yield Finding("duplicates", level, f"patches that occur twice in their split: {len(within)}", _both(within))
    else:
        yield Finding("duplicates", "ok", "no patch occurs twice in its split")
    leaks = [(a, b) for a, b in pairs if apart(a.ref.split, b.ref.split)]
    if leaks:
        message = f"what is tested was trained on: patches of one split that are in another too: {len(leaks)}"
        yield Finding("leakage", "error", message, _both(leaks))
    if overlaps := overlapping_pairs(data.truths):
        alike = shown_alike(overlaps, read)
        examples = _some(f"{a.label} and {b.label}: {share:.0%} of a patch" for (a, b), share, *_ in overlaps)
        if alike is None or alike > RELATED:
            message = f"pairs of patches of two splits that overlap on the ground: {len(overlaps)}"
            yield Finding("leakage", "error", message, examples)
        else:
            message = (
                "places of patches of different splits overlap, but the images show different ground: the places "
                "aren't the images' own, so they can't tell what overlaps"
            )
            yield Finding("leakage", "warning", message, examples)
    elif not leaks:
        placed = sum(truth.place is not None for truth in data.truths)
        where = f"nor do places overlap ({placed} are known)" if placed else "places are not known"
        yield Finding("leakage", "ok", f"no patch is in two splits; {where}")


def _both(pairs: Sequence[TruthPair]) -> tuple[str, ...]:
    return _some(f"{first.label} and {second.label}" for first, second in pairs)


def _registration(data: Measurements) -> Iterator[Finding]:
    measured = [(view, view.displacement) for view in data.acquired if view.displacement is not None]
    if not measured:
        yield Finding("registration", "warning", "too little structure to measure how images lie on each other")
        return
    down, right = np.median([(lies.rows, lies.columns) for _, lies in measured], axis=0)
    lengths = np.array([lies.length for _, lies in measured])
    moved = [(view, lies) for view, lies in measured if lies.length > _MOVED]
    message = (
        f"acquisitions lie {_pixels(down, right)} off the truth in the median; half of them within "
        f"{np.median(lengths):.1f}, 9 of 10 within {np.percentile(lengths, 90):.1f} "
        f"({len(measured)} of {len(data.acquired)} could be measured)"
    )
    level: Level = "ok"
    if moved:
        message += f"; off by more than {_MOVED}: {len(moved)}"
        level = "error" if len(moved) > _MOVED_SHARE * len(measured) else "warning"
    if np.hypot(down, right) > _SYSTEMATIC:
        message, level = f"{message}: truth and acquisitions lie on different grids", "error"
    examples = _some(f"{view.label}: {_pixels(lies.rows, lies.columns)}" for view, lies in moved)
    yield Finding("registration", level, message, examples)


def _pixels(down: float, right: float) -> str:
    return "({:+.1f} down, {:+.1f} right) pixels".format(*(round(float(x), 1) + 0.0 for x in (down, right)))


def _bands(data: Measurements) -> Iterator[Finding]:
    orders = [view.band_order for view in data.acquired if view.displacement is not None]
    if orders and (middle := float(np.median(orders))) < _REVERSED:
        message = f"red and blue are swapped in the truths or the acquisitions (correlation {middle:.2f})"
        yield Finding("bands", "error", message)
    else:
        yield Finding("bands", "ok", "red and blue stand in the same order in truths and acquisitions")


def _scaling(data: Measurements) -> Iterator[Finding]:
    views = [view for view in data.acquired if view.meaning != "empty"]
    if not views:
        yield Finding("scaling", "error", "no acquisition has data")
        return
    counts, total = Counter(view.meaning for view in views), len(views)
    kind, most = counts.most_common(1)[0]
    wrong = [name for name in ("x1", "8-bit", "large", "negative") if counts[name]]
    level: Level = "error"
    if kind in _CURES and most > _MOSTLY * total:
        message = f"acquisitions hold {MEANINGS[kind]}, not reflectance × 10000: {_CURES[kind]}"
    elif wrong:
        words = ", ".join(f"{MEANINGS[name]} in {counts[name]} of {total} ({_CURES[name]})" for name in wrong)
        message, level = f"scalings are mixed: {words}", _level(sum(counts[name] for name in wrong), total)
    elif counts["offset"] > _OFFSET_PERHAPS * total:
        level = "error" if counts["offset"] > _OFFSET_SURE * total else "warning"
        meaning = f"{'they hold' if level == 'error' else 'clouds, bare ground, or'} {MEANINGS['offset']}"
        dark = f"acquisitions without a pixel darker than reflectance 0.1: {counts['offset']} of {total}"
        message = f"{dark}: {meaning} ({_CURES['offset']})"
    else:
        yield Finding("scaling", "ok", f"acquisitions hold {MEANINGS['x10000']}")
        return
    examples = _some(f"{view.label}: {MEANINGS[view.meaning]}" for view in views if view.meaning != "x10000")
    yield Finding("scaling", level, message, examples)


def _nodata(data: Measurements) -> Iterator[Finding]:
    views = [view for view in data.acquired if view.missing > _MISSING_VIEW]
    truths = [truth for truth in data.truths if truth.black > _MISSING_TRUTH]
    share = float(np.mean([view.missing for view in data.acquired])) if data.acquired else 0.0
    examples = [f"{truth.label}: truth {truth.black:.0%}" for truth in truths]
    examples += [f"{view.label}: {view.missing:.0%}" for view in views]
    message = f"{share:.2%} of the acquisitions' pixels have no data"
    level: Level = "ok"
    if views or truths:
        message += f"; acquisitions with more holes than data: {len(views)}, truths with holes: {len(truths)}"
        level = _worst(["warning", _level(len(truths), len(data.truths))])
    yield Finding("nodata", "error" if share > _MISSING_SHARE else level, message, _some(examples))


def _clipping(data: Measurements) -> Iterator[Finding]:
    if not data.acquired or not data.truths:
        return
    above = np.mean([view.above for view in data.acquired], axis=0)
    white = float(np.mean([truth.white for truth in data.truths]))
    saturated = float(np.mean([view.saturated for view in data.acquired]))
    message = (
        f"{', '.join(f'{share:.1%}' for share in above)} of {listed(data.source.bands)} are brighter than the maxima "
        f"of normalisation ({', '.join(f'{m:g}' for m in data.source.maxima)}), {saturated:.2%} saturated; "
        f"{white:.2%} of the truth is at its top"
    )
    level: Level = "ok"
    if above.max() > _CLIPPED_SOME or white > _WHITE_SOME or saturated > _FEW:
        is_lost = above.max() > _CLIPPED_MOST and data.source.kind == "prepared"  # of a raw set preparing decides
        level = "error" if is_lost or white > _WHITE_MOST else "warning"
    if above.max() > _CLIPPED_SOME:
        message += "; prepare it with --percentiles 98"
    yield Finding("clipping", level, message)


_CHECKS = (_splits, _files, _lists, _sizes, _dates, _scaling, _nodata, _clipping, _registration, _bands)
