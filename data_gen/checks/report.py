"""What a check found: as a table for people, as JSON for programs, as a contact sheet."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_gen.checks.measure import MEANINGS, REFLECTANCE, Measurements
from data_gen.checks.rules import Finding
from utils.files import write_text
from utils.geo.bands import common_name, false_colours, shown_positions
from utils.images import Picture, sheet

LEVELS = ("least", "1 %", "median", "99 %", "greatest")
_BIN = 30  # days of a bar of the histogram
_BAR = 40  # characters of the longest bar
_NOTHING = (255, 0, 255)  # the colour of pixels without data: no landscape has it


def findings_summary(data: Measurements, findings: Sequence[Finding]) -> dict[str, Any]:
    """All numbers and findings, as plain data."""
    return {
        "root": str(data.root),
        "kind": data.kind,
        "bands": list(data.bands),
        "splits": {split: _split(data, split) for split in data.patches},
        "patches_whose_acquisitions_were_read": data.sampled,
        "offsets": {"days_a_bin": _BIN, "bins": _histogram(data)},
        "acquisitions": _acquisitions(data),
        "truths": _truths(data),
        "findings": [finding._asdict() for finding in findings],
        "errors": count(findings, "error"),
        "warnings": count(findings, "warning"),
    }


def count(findings: Iterable[Finding], level: str) -> int:
    return sum(finding.level == level for finding in findings)


def _split(data: Measurements, split: str) -> dict[str, Any]:
    series = data.offsets.get(split, [])
    lengths = [len(offsets) for offsets in series]
    nearest = [min(map(abs, offsets)) for offsets in series if offsets]
    return {
        "patches": data.patches[split],
        "acquisitions": sum(lengths),
        "series": _three(lengths),
        "days_to_the_nearest": _three(nearest),
    }


def _three(numbers: Sequence[int]) -> dict[str, float] | None:
    if not numbers:
        return None
    return {"least": min(numbers), "median": float(np.median(numbers)), "most": max(numbers)}


def _histogram(data: Measurements) -> list[dict[str, int]]:
    """Acquisitions by days from the truth, from the first day of each bin."""
    offsets = [offset for split in data.offsets.values() for series in split for offset in series]
    bins: dict[int, int] = {}
    for offset in offsets:
        bins[offset // _BIN * _BIN] = bins.get(offset // _BIN * _BIN, 0) + 1
    return [{"from": start, "acquisitions": number} for start, number in sorted(bins.items())]


def _acquisitions(data: Measurements) -> dict[str, Any]:
    names = list(map(common_name, data.bands))
    views = [view for view in data.acquired if view.meaning != "empty"]
    if not views:
        return {"read": len(data.acquired)}
    ends = np.array([view.ends for view in views])  # (n, 3, 2)
    percentiles = np.percentile(np.concatenate(data.pooled, axis=1), [1, 50, 99], axis=1)
    levels = [ends[..., 0].min(0), *percentiles, ends[..., 1].max(0)]
    lies = [view.displacement for view in views if view.displacement is not None]
    return {
        "read": len(data.acquired),
        "types": sorted({view.dtype for view in data.acquired}),
        "meanings": {MEANINGS[kind]: sum(v.meaning == kind for v in views) for kind in {v.meaning for v in views}},
        "values": {
            band: dict(zip(LEVELS, (float(level[i]) for level in levels), strict=True)) for i, band in enumerate(names)
        },
        "maxima": dict(zip(names, (m * REFLECTANCE for m in data.maxima), strict=False)),
        "share_without_data": float(np.mean([view.missing for view in data.acquired])),
        "share_saturated": float(np.mean([view.saturated for view in views])),
        "share_above_maxima": dict(zip(names, np.mean([view.above for view in views], axis=0).tolist(), strict=False)),
        "displacements": [
            {"split": v.ref.split, "key": v.ref.key, "acquisition": v.name, "days": v.offset, **_lies(v.displacement)}
            for v in views
        ],
        "median_displacement": {
            "rows": float(np.median([lie.rows for lie in lies])),
            "columns": float(np.median([lie.columns for lie in lies])),
        }
        if lies
        else None,
    }


def _lies(displacement: Any) -> dict[str, float | None]:
    if displacement is None:
        return {"rows": None, "columns": None, "likeness": None}
    return {name: round(value, 3) for name, value in displacement._asdict().items()}


def _truths(data: Measurements) -> dict[str, Any]:
    truths = data.truths
    if not truths:
        return {"read": 0}
    return {
        "read": len(truths),
        "types": sorted({truth.dtype for truth in truths}),
        "sizes": sorted({"×".join(map(str, truth.shape)) for truth in truths}),
        "values": {
            band: {"least": min(t.low[i] for t in truths), "greatest": max(t.high[i] for t in truths)}
            for i, band in enumerate(map(common_name, data.bands))
        },
        "share_black": float(np.mean([truth.black for truth in truths])),
        "share_at_the_top": float(np.mean([truth.white for truth in truths])),
    }


# ---------------------------------------------------------------------------------------------------------------------


def write_json(path: Path, content: dict[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def table(content: dict[str, Any], findings: Sequence[Finding]) -> str:
    """The summary for people."""
    lines: list[str] = []
    write = lines.append
    write(f"{content['root']}: {content['kind']} data set")
    write("")
    write(f"{'split':<12}{'patches':>9}{'acquisitions':>14}   {'a patch':<16}days to the nearest")
    for split, numbers in content["splits"].items():
        series, nearest = (_range(numbers[name]) for name in ("series", "days_to_the_nearest"))
        write(f"{split:<12}{numbers['patches']:>9}{numbers['acquisitions']:>14}   {series:<16}{nearest}")
    write("")
    bins = content["offsets"]["bins"]
    most = max((bin["acquisitions"] for bin in bins), default=1)
    for bin in bins:
        name = f"{bin['from']:+d} to {bin['from'] + _BIN - 1:+d} days"
        write(f"{name:<22}{bin['acquisitions']:>9}  {'█' * max(1, round(_BAR * bin['acquisitions'] / most))}")
    write("")
    values = content["acquisitions"].get("values", {})
    if values:
        write(f"{'acquisitions':<12}" + "".join(f"{level:>10}" for level in LEVELS) + f"{'maximum':>10}{'above':>9}")
        for band, levels in values.items():
            top, above = (content["acquisitions"][name][band] for name in ("maxima", "share_above_maxima"))
            numbers = "".join(f"{levels[level]:>10.5g}" for level in LEVELS)
            write(f"{band:<12}{numbers}{top:>10.5g}{above:>9.1%}")
        write("")
    for finding in findings:
        write(f"{finding.check:<14}{finding.level:<9}{finding.message}")
        for example in finding.examples:
            write(f"{'':<23}{_printable(example)}")
    write("")
    errors, warnings = content["errors"], content["warnings"]
    conclusion = "training on it would go wrong" if errors else "it can be trained on"
    write(f"{_plural(errors, 'error')}, {_plural(warnings, 'warning')}: {conclusion}")
    return "\n".join(lines) + "\n"


def _range(three: dict[str, float] | None) -> str:
    return "–" if three is None else f"{three['least']:g} – {three['median']:g} – {three['most']:g}"


def _plural(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _printable(text: str, *, most: int = 200) -> str:
    """Text from a file, without what would steer a terminal."""
    return "".join(sign if sign.isprintable() else "?" for sign in text[:most])


# ---------------------------------------------------------------------------------------------------------------------


def contact_sheet(data: Measurements) -> Image.Image:
    """A row a patch: its truth, the acquisition nearest in time, and others by date, as the network sees them.

    Pixels without data are magenta. Below: days from the truth, and how far the image lies off it.
    """
    widest = max((len(row.views) for row in data.rows), default=1)
    shown = list(shown_positions(data.bands))
    maxima = [data.maxima[i] for i in shown]
    pictures: list[list[Picture | None]] = []
    captions: list[list[str]] = []
    for row in data.rows:
        pictures.append([_truth(row.truth[shown]), *(_view(v.pixels[shown], v.missing, maxima) for v, _ in row.views)])
        captions.append([_printable(f"{row.ref.split} {row.ref.key}", most=28)])
        for view, lies in row.views:
            off = f", {lies.length:.1f} px off" if lies else ""
            captions[-1].append(f"{view.offset:+d} d{off}")
        padding = widest - len(row.views)
        pictures[-1] += [None] * padding
        captions[-1] += [""] * padding
    titles = [false_colours(data.bands) or "truth", "nearest", *("" for _ in range(widest - 1))]
    return sheet(pictures, titles, captions)


def _truth(pixels: NDArray[Any]) -> Picture:
    if pixels.dtype != np.uint8:
        low, high = np.percentile(pixels, [1, 99])
        pixels = ((pixels - low) / max(high - low, 1e-9) * 255).clip(0, 255)
    return np.ascontiguousarray(pixels.astype(np.uint8).transpose(1, 2, 0))


def _view(pixels: NDArray[Any], missing: NDArray[np.bool_], maxima: Sequence[float]) -> Picture:
    top = np.array(maxima).reshape(-1, 1, 1) * REFLECTANCE
    levels = np.where(missing, 0, pixels.astype(np.float64)) / top * 255
    picture = levels.clip(0, 255).astype(np.uint8).transpose(1, 2, 0).copy()
    picture[missing] = _NOTHING
    return picture
