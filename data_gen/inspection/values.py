"""Verdicts on what the numbers of images mean: scaling, holes, clipping."""

from collections import Counter
from collections.abc import Iterable

import numpy as np

from data_gen.inspection.evidence import MEANINGS, Evidence
from data_gen.inspection.findings import FEW, Finding, Level, level_of, name_of, some

MOSTLY = 0.5
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


def scaling(evidence: Evidence) -> Iterable[Finding]:
    counts = Counter(view.meaning for view in evidence.acquired if view.meaning != "empty")
    total = counts.total()
    if not total:
        yield Finding("scaling", "error", "no acquisition has data")
        return
    examples = some(
        f"{name_of(view.ref)} {view.name}: {MEANINGS[view.meaning]}"
        for view in evidence.acquired
        if view.meaning not in ("x10000", "empty")
    )
    kind, most = counts.most_common(1)[0]
    wrong = [name for name in ("x1", "8-bit", "large", "negative") if counts[name]]
    if kind in _CURES and most > MOSTLY * total:
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


def nodata(evidence: Evidence) -> Iterable[Finding]:
    views = [view for view in evidence.acquired if view.missing > MISSING_VIEW]
    truths = [truth for truth in evidence.truths if truth.black > MISSING_TRUTH]
    share = float(np.mean([view.missing for view in evidence.acquired])) if evidence.acquired else 0.0
    listed = [f"{name_of(truth.ref)}: truth {truth.black:.0%}" for truth in truths]
    listed += [f"{name_of(view.ref)} {view.name}: {view.missing:.0%}" for view in views]
    message = f"{share:.2%} of the acquisitions' pixels have no data"
    level: Level = "ok"
    if views or truths:
        message += f"; acquisitions with more holes than data: {len(views)}, truths with holes: {len(truths)}"
        level = "error" if level_of(len(truths), len(evidence.truths)) == "error" else "warning"
    if share > MISSING_SHARE:
        level = "error"
    yield Finding("nodata", level, message, some(listed))


def clipping(evidence: Evidence) -> Iterable[Finding]:
    if not evidence.acquired or not evidence.truths:
        return
    above = np.mean([view.above for view in evidence.acquired], axis=0)
    white = float(np.mean([truth.white for truth in evidence.truths]))
    saturated = float(np.mean([view.saturated for view in evidence.acquired]))
    message = (
        f"{', '.join(f'{share:.1%}' for share in above)} of red, green, blue are brighter than the maxima of "
        f"normalisation ({', '.join(f'{m:g}' for m in evidence.maxima)}), {saturated:.2%} saturated; "
        f"{white:.2%} of the truth is at its top"
    )
    level: Level = "ok"
    if above.max() > CLIPPED_SOME or white > WHITE_SOME or saturated > FEW:
        level = "error" if above.max() > CLIPPED_MOST or white > WHITE_MOST else "warning"
    if above.max() > CLIPPED_SOME:
        message += "; prepare it with --percentiles 98"
    yield Finding("clipping", level, message)
