"""Verdicts on files, sizes and dates."""

from collections import Counter
from collections.abc import Iterable, Sequence

from data_gen.inspection.evidence import Acquired, Evidence, Truth
from data_gen.inspection.findings import Finding, described, level_of, name_of, some, worst
from data_gen.inspection.sources import Fault, Ref
from utils.store import SCALES

FAR = 400  # days: no data set of one year has such an offset
MOSTLY = 0.5
_CROP = 8  # truths are cropped to multiples of this


def splits(evidence: Evidence) -> Iterable[Finding]:
    counts = ", ".join(f"{split} {count}" for split, count in evidence.patches.items()) or "no patch"
    absent = [split for split in ("train", "val", "test") if not evidence.patches.get(split)]
    if "train" in absent:
        yield Finding("splits", "error", f"{counts}: nothing to train on")
    elif absent:
        yield Finding("splits", "warning", f"{counts}: no {' and no '.join(absent)}")
    else:
        yield Finding("splits", "ok", f"{counts} patches")


def labels(evidence: Evidence) -> Iterable[Finding]:
    seen = Counter((truth.ref.split, truth.ref.key) for truth in evidence.truths)
    twice = [f"{split} {key}: {n} times" for (split, key), n in seen.items() if n > 1]
    if twice:
        message = f"row labels that occur twice, so that results overwrite each other: {len(twice)}"
        yield Finding("labels", "error", message, some(twice))
    else:
        yield Finding("labels", "ok", "every patch has a name of its own")


def files(evidence: Evidence) -> Iterable[Finding]:
    faults = _faults(evidence, "files")
    if faults:
        missing = sum("missing file" in fault.what for fault in faults)
        message = f"missing files: {missing}; unreadable files: {len(faults) - missing}"
        yield Finding("files", "error", message, described(faults))
    else:
        message = f"{len(evidence.truths)} truths and {len(evidence.acquired)} acquisitions were read, none is missing"
        yield Finding("files", "ok", message)
    if outside := _faults(evidence, "paths"):
        yield Finding("files", "error", f"paths that lead out of the folder: {len(outside)}", described(outside))


def store(evidence: Evidence) -> Iterable[Finding]:
    if evidence.kind != "prepared":
        return
    anew = "prepare the data anew"
    patches = f"({evidence.sampled} patches)"
    messages = {
        "checksums": ("shards that are not as they were written", "all shards are as they were written"),
        "shards": ("shards of other shapes than the manifest says", "all shards have their shapes"),
        "tables": (
            f"tables of spectral matching that are not those of the images {patches}",
            f"the tables of spectral matching are those of the images {patches}",
        ),
    }
    for check, (wrong, right) in messages.items():
        faults = _faults(evidence, check)
        if faults:
            yield Finding(check, "error", f"{wrong}: {len(faults)}; {anew}", described(faults))
        else:
            yield Finding(check, "ok", right)


def pairs(evidence: Evidence) -> Iterable[Finding]:
    if faults := _faults(evidence, "pairs"):
        message = f"patches whose images and dates don't go together, so that they can't be used: {len(faults)}"
        yield Finding("pairs", "error", message, described(faults))
    else:
        yield Finding("pairs", "ok", "every acquisition has its date")


def dates(evidence: Evidence) -> Iterable[Finding]:
    offsets = [offset for split in evidence.offsets.values() for series in split for offset in series]
    slipped, named = _faults(evidence, "dates"), _faults(evidence, "names")
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
    if repeated := _repeated(evidence.acquired):
        message = f"acquisitions that are one image under two dates: {len(repeated)}"
        yield Finding("dates", level_of(len(repeated), len(evidence.acquired)), message, some(repeated))


def _repeated(acquired: Sequence[Acquired]) -> list[str]:
    seen: dict[tuple[Ref, bytes], Acquired] = {}
    found = []
    for view in acquired:
        first = seen.setdefault((view.ref, view.digest), view)
        if first is not view:
            found.append(f"{name_of(view.ref)}: {view.name} is {first.name}")
    return found


def sizes(evidence: Evidence) -> Iterable[Finding]:
    hr, lr = _common_side(evidence.truths, _CROP), _common_side(evidence.acquired, 1)
    scale = round(hr / lr) if lr else 0
    if not evidence.truths or not evidence.acquired:
        return
    crop = _CROP // scale if scale in SCALES else 1
    if scale not in SCALES or lr // crop * crop * scale != hr:
        message = (
            f"truths of {hr} pixels (once cropped) beside acquisitions of {lr}: they must be 2, 4 or 8 times finer"
        )
        yield Finding("sizes", "error", message)
        return
    coarse = [f"{name_of(truth.ref)}: {truth.dtype}" for truth in evidence.truths if truth.dtype != "uint8"]
    if coarse:
        yield Finding(
            "sizes", "error", f"truths that are not 8-bit, so that they can't be used: {len(coarse)}", some(coarse)
        )
    truths = [f"{name_of(t.ref)}: {_shape(t)}" for t in evidence.truths if _side(t.shape, _CROP) != hr]
    views = [f"{name_of(v.ref)} {v.name}: {_shape(v)}" for v in evidence.acquired if _side(v.shape, 1) != lr]
    if truths or views:
        level = worst([level_of(len(truths), len(evidence.truths)), level_of(len(views), len(evidence.acquired))])
        message = (
            f"truths that are not {hr}×{hr} once cropped: {len(truths)}; acquisitions that are not {lr}×{lr}: "
            f"{len(views)}; they are left out, together with their dates"
        )
        yield Finding("sizes", level, message, some(truths + views))
    elif not coarse:
        yield Finding("sizes", "ok", f"truths {hr}×{hr} once cropped, acquisitions {lr}×{lr}: {scale} times finer")


def _common_side(images: Sequence[Truth] | Sequence[Acquired], multiple: int) -> int:
    """The side of most images once cropped."""
    sides = Counter(_side(image.shape, multiple) for image in images)
    return max(sides, key=lambda side: (side > 0, sides[side]), default=0)


def _side(shape: tuple[int, ...], multiple: int) -> int:
    """The side of a square once cropped; 0 for what isn't one."""
    height, width = (size // multiple * multiple for size in shape)
    return height if height == width else 0


def _shape(image: Truth | Acquired) -> str:
    return "×".join(map(str, image.shape))


def _faults(evidence: Evidence, check: str) -> list[Fault]:
    return [fault for fault in evidence.faults if fault.check == check]
