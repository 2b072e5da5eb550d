"""What of a batch can be trusted: which details are right, down to which size, and whether uncertainty is the error."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from tasks.base import Result
from utils.dataloader import Batch
from utils.geo.bands import shown_positions
from utils.images import Attention, Picture, heat, picture
from utils.metrics.calibration import FAMILIES, CalibrationSums, calibration_sums
from utils.metrics.correctness import CLASSES, SETTINGS, Correctness, correctness, is_large_enough
from utils.metrics.frc import INPUT_PIXEL, THRESHOLDS, RingSums, resolution, ring_sums
from utils.metrics.pixel import to_uint8
from utils.metrics.registry import METHODS


class Trust(NamedTuple):
    """Sums over so many patches."""

    rings: dict[str, RingSums]  # by method
    before: CalibrationSums | None  # of the uncertainty as the model states it, where it states any
    after: CalibrationSums | None  # times the factors of a calibration, where there are some

    def plus(self, other: "Trust") -> "Trust":
        """The sums of both."""
        rings = {method: sums.plus(other.rings[method]) for method, sums in self.rings.items()}
        pairs = ((self.before, other.before), (self.after, other.after))
        return Trust(rings, *(mine.plus(theirs) if mine and theirs else None for mine, theirs in pairs))

    def summary(self, *, scale: int) -> dict[str, Any]:
        """As plain numbers: settings, metres by method, calibration before and after."""
        found: dict[str, Any] = {"correctness_settings": SETTINGS, "resolution": {}}
        for method, sums in self.rings.items():
            found["resolution"][method] = {
                name: float(resolution(sums, threshold=threshold, pixel_size=INPUT_PIXEL / scale))
                for name, threshold in THRESHOLDS.items()
            }
        if self.before is not None:
            found["uncertainty"] = {
                "before": self.before.figures(),
                "after": self.after.figures() if self.after else None,
                "rank_histogram": (self.before.ranks / self.before.pixels).tolist(),
            }
        return found


def measure_trust(
    result: Result, images: Mapping[str, Tensor], batch: Batch, *, calibration: Mapping[str, Any] | None = None
) -> tuple[dict[str, list[float | None]], Trust]:
    """Measure a batch.

    Args:
        result: what was predicted.
        images: what is measured, by the prefix of its columns, (B, C, H, W).
        batch: what it was predicted from, and the truths.
        calibration: factors, one a band, and the family of distributions, where they were fitted.

    Returns:
        The columns of the patches, and the sums over them.
    """
    columns: dict[str, list[float | None]] = {}
    rings: dict[str, RingSums] = {}
    scale = batch.hr.shape[-1] // batch.lr.shape[-1]
    truth = to_uint8(batch.hr)
    for prefix, image in images.items():
        found = _correctness(to_uint8(image), batch, series=prefix != "bicubic_")
        shift, crop = (found.shift, found.crop) if found else (None, 0)
        sums = ring_sums(to_uint8(image), truth, shift=shift, crop=crop)
        figures = dict(found.figures) if found else {}
        for name, threshold in THRESHOLDS.items():
            figures[name] = resolution(sums, threshold=threshold, pixel_size=INPUT_PIXEL / scale)
        for name, values in figures.items():
            columns[prefix + name] = [None if math.isnan(value) else value for value in values.tolist()]
        rings[METHODS[prefix]] = RingSums(*(x.cpu() for x in sums.pooled()))
    before = after = None
    if result.deviation is not None:
        before = calibration_sums(result.sr, batch.hr, result.deviation, samples=result.samples)
        if calibration is not None:
            after = calibration_sums(
                result.sr,
                batch.hr,
                result.deviation,
                samples=result.samples,
                factors=torch.tensor(calibration["factors"]),
                family=FAMILIES[calibration["family"]],
            )
    return columns, Trust(rings, before, after)


def detail_maps(result: Result, batch: Batch, i: int) -> dict[str, Picture]:
    """Where patch ``i`` of a batch improves, omits and invents, as pictures; black where it isn't judged."""
    one = batch._replace(**{name: getattr(batch, name)[i : i + 1] for name in ("lr", "hr", "dates", "mask", "near")})
    found = _correctness(to_uint8(result.sr[i : i + 1]), one, series=False)
    if found is None:
        return {}
    margin = [found.crop] * 4
    return {name: heat(F.pad(found.maps[0, n], margin), maximum=1) for n, name in enumerate(CLASSES)}


def attention_of(result: Result, batch: Batch, i: int, *, bands: Sequence[str]) -> Attention | None:
    """The inputs of patch ``i`` and what the network made of them; None where it has no attention."""
    if result.attention is None:
        return None
    shares = result.attention[:, i].float().mean(dim=(0, 2, 3))  # (T,)
    order = [t for t in batch.dates[i].argsort(stable=True).tolist() if batch.mask[i, t]]
    return Attention(
        inputs=[picture(batch.lr[i, t], shown_positions(bands)) for t in order],
        days=[float(batch.dates[i, t]) for t in order],
        shares=[float(shares[t]) for t in order],
    )


def _correctness(image: Tensor, batch: Batch, *, series: bool) -> Correctness | None:
    """None where the patches are too small."""
    if not is_large_enough(batch.lr.shape[-2:], scale=batch.hr.shape[-1] // batch.lr.shape[-1]):
        return None
    acquisitions = torch.arange(len(batch.near), device=batch.near.device)
    several = series and batch.lr.shape[1] > 1
    return correctness(
        image,
        to_uint8(batch.hr),
        lr_nearest=batch.lr[acquisitions, batch.near],
        lr=batch.lr if several else None,
        mask=batch.mask if several else None,
    )
