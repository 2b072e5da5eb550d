"""What a check found: as a table for people, as JSON for programs, as a contact sheet."""

import json
from collections import Counter
from collections.abc import Sequence
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

_LEVELS = ("least", "1 %", "median", "99 %", "greatest")
_BIN = 30  # days of a bar of the histogram
_BAR = 40  # characters of the longest bar
_NOTHING = (255, 0, 255)  # the colour of pixels without data: no landscape has it


def findings_summary(data: Measurements, findings: Sequence[Finding]) -> dict[str, Any]:
    """All numbers and findings, as plain data."""
    levels = Counter(finding.level for finding in findings)
    bins = Counter(offset // _BIN * _BIN for split in data.offsets.values() for series in split for offset in series)
    return {
        "root": str(data.source.root),
        "kind": data.source.kind,
        "bands": list(data.source.bands),
        "splits": {split: _split(series) for split, series in data.offsets.items()},
        "patches_whose_acquisitions_were_read": data.sampled,
        "offsets": {
            "days_a_bin": _BIN,
            "bins": [{"from": start, "acquisitions": number} for start, number in sorted(bins.items())],
        },
        "acquisitions": _acquisitions(data),
        "truths": _truths(data),
        "findings": [finding._asdict() for finding in findings],
        "errors": levels["error"],
        "warnings": levels["warning"],
    }


def _split(series: Sequence[Sequence[int]]) -> dict[str, Any]:
    lengths = list(map(len, series))
    return {
        "patches": len(series),
        "acquisitions": sum(lengths),
        "series": _three(lengths),
        "days_to_the_nearest": _three([min(map(abs, offsets)) for offsets in series if offsets]),
    }


def _three(numbers: Sequence[int]) -> dict[str, float] | None:
    return {"least": min(numbers), "median": float(np.median(numbers)), "most": max(numbers)} if numbers else None


def _acquisitions(data: Measurements) -> dict[str, Any]:
    names = list(map(common_name, data.source.bands))
    views = [view for view in data.acquired if view.meaning != "empty"]
    if not views:
        return {"read": len(data.acquired)}
    middle = np.percentile(np.concatenate(data.pooled, axis=1), [1, 50, 99], axis=1)
    levels = [np.min([view.low for view in views], axis=0), *middle, np.max([view.high for view in views], axis=0)]
    lies = [(view.displacement.rows, view.displacement.columns) for view in views if view.displacement]
    return {
        "read": len(data.acquired),
        "types": sorted({view.dtype for view in data.acquired}),
        "meanings": {MEANINGS[kind]: number for kind, number in Counter(view.meaning for view in views).items()},
        "values": {
            name: dict(zip(_LEVELS, values, strict=True))
            for name, values in zip(names, np.transpose(levels).tolist(), strict=True)
        },
        "maxima": dict(zip(names, (m * REFLECTANCE for m in data.source.maxima), strict=True)),
        "share_without_data": float(np.mean([view.missing for view in data.acquired])),
        "share_saturated": float(np.mean([view.saturated for view in views])),
        "share_above_maxima": dict(zip(names, np.mean([view.above for view in views], axis=0).tolist(), strict=True)),
        "displacements": [
            {"split": v.ref.split, "key": v.ref.key, "acquisition": v.name, "days": v.offset, **_lies(v.displacement)}
            for v in views
        ],
        "median_displacement": dict(zip(("rows", "columns"), np.median(lies, axis=0).tolist(), strict=True))
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
    least, most = np.min([truth.low for truth in truths], axis=0), np.max([truth.high for truth in truths], axis=0)
    return {
        "read": len(truths),
        "types": sorted({truth.dtype for truth in truths}),
        "sizes": sorted({"×".join(map(str, truth.shape)) for truth in truths}),
        "values": {
            common_name(band): {"least": float(low), "greatest": float(high)}
            for band, low, high in zip(data.source.bands, least, most, strict=True)
        },
        "share_black": float(np.mean([truth.black for truth in truths])),
        "share_at_the_top": float(np.mean([truth.white for truth in truths])),
    }


def write_json(path: Path, content: dict[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def table(content: dict[str, Any]) -> str:
    """The summary for people."""
    lines = [f"{content['root']}: {content['kind']} data set", ""]
    lines.append(f"{'split':<12}{'patches':>9}{'acquisitions':>14}   {'a patch':<16}days to the nearest")
    for split, numbers in content["splits"].items():
        series, nearest = (_range(numbers[name]) for name in ("series", "days_to_the_nearest"))
        lines.append(f"{split:<12}{numbers['patches']:>9}{numbers['acquisitions']:>14}   {series:<16}{nearest}")
    lines.append("")
    bins = content["offsets"]["bins"]
    most = max((bin["acquisitions"] for bin in bins), default=1)
    for bin in bins:
        name = f"{bin['from']:+d} to {bin['from'] + _BIN - 1:+d} days"
        lines.append(f"{name:<22}{bin['acquisitions']:>9}  {'█' * max(1, round(_BAR * bin['acquisitions'] / most))}")
    lines.append("")
    acquisitions = content["acquisitions"]
    if values := acquisitions.get("values"):
        lines.append(f"{'acquisitions':<12}{''.join(f'{name:>10}' for name in (*_LEVELS, 'maximum'))}{'above':>9}")
        for band, levels in values.items():
            numbers = "".join(f"{number:>10.5g}" for number in (*levels.values(), acquisitions["maxima"][band]))
            lines.append(f"{band:<12}{numbers}{acquisitions['share_above_maxima'][band]:>9.1%}")
        lines.append("")
    for finding in content["findings"]:
        lines.append(f"{finding['check']:<14}{finding['level']:<9}{finding['message']}")
        lines += [f"{'':<23}{_printable(example)}" for example in finding["examples"]]
    errors, warnings = content["errors"], content["warnings"]
    conclusion = "training on it would go wrong" if errors else "it can be trained on"
    lines += ["", f"{_plural(errors, 'error')}, {_plural(warnings, 'warning')}: {conclusion}"]
    return "\n".join(lines) + "\n"


def _range(three: dict[str, float] | None) -> str:
    return " – ".join(f"{number:g}" for number in three.values()) if three else "–"


def _plural(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"


def _printable(text: str, *, most: int = 200) -> str:
    """Text from a file, without what would steer a terminal."""
    return "".join(sign if sign.isprintable() else "?" for sign in text[:most])


def contact_sheet(data: Measurements) -> Image.Image:
    """A row a patch: its truth, the acquisition nearest in time, and others by date, as the network sees them.

    Pixels without data are magenta. Below: days from the truth, and how far the image lies off it.
    """
    widest = max((len(row.views) for row in data.rows), default=1)
    shown = list(shown_positions(data.source.bands))
    maxima = [data.source.maxima[i] for i in shown]
    pictures: list[list[Picture | None]] = []
    captions: list[list[str]] = []
    for row in data.rows:
        padding = widest - len(row.views)
        views = [_view(view.pixels[shown], view.missing, maxima) for view, _ in row.views]
        pictures.append([_truth(row.truth[shown]), *views, *[None] * padding])
        captions.append([_printable(row.ref.label, most=28)])
        for view, measured in row.views:
            off = f", {measured.displacement.length:.1f} px off" if measured.displacement else ""
            captions[-1].append(f"{view.offset:+d} d{off}")
        captions[-1] += [""] * padding
    titles = [false_colours(data.source.bands) or "truth", "nearest", *[""] * (widest - 1)]
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
