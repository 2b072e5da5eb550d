"""One batch, super-resolved and measured: the figures, pictures and spectra of its patches, and what can be trusted."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from models.samplers import Callback
from tasks.base import Result, Task, sampling_noise, series_of
from utils.config.settings import Settings
from utils.dataloader import Batch
from utils.distributed import World
from utils.geo.bands import NIR, RED, RGB, false_colours, shown_positions
from utils.images import Attention, Picture, error_map, heat, picture, spread_map
from utils.metrics.calibration import FAMILIES, CalibrationSums, calibration_sums
from utils.metrics.correctness import CLASSES, SETTINGS, Correctness, correctness, is_large_enough
from utils.metrics.frc import INPUT_PIXEL, THRESHOLDS, RingSums, resolution, ring_sums
from utils.metrics.lpips import LPIPS
from utils.metrics.pixel import by_band, extended, measure, ndvi_error, radial_power, to_uint8
from utils.metrics.registry import METHODS
from utils.radiometry import PUBLISHED_MAXIMA, match_low_frequencies
from utils.randomness import word

Figures = dict[str, Any]  # of one patch, by the columns of metrics.csv


@dataclass
class EvaluatedPatch:
    """One patch's figures and, where they are kept, its pictures."""

    position: int  # in the split
    figures: Figures
    pictures: dict[str, Picture] = field(default_factory=dict)
    attention: Attention | None = None


class Spectra(NamedTuple):
    """Sums of radial power spectra by what they are of, over so many patches."""

    frequencies: Tensor  # (K,) cycles a pixel
    power: dict[str, Tensor]  # (K,)
    patches: int

    def plus(self, other: "Spectra") -> "Spectra":
        """The sums of both."""
        power = {name: self.power[name] + other.power[name] for name in self.power}
        return Spectra(self.frequencies, power, self.patches + other.patches)


def super_resolve(
    task: Task,
    batch: Batch,
    *,
    settings: Settings,
    world: World,
    samples: int,
    preview: bool = False,
    callback: Callback | None = None,
) -> Result:
    """Predict a batch. Its noise is a function of (seed, sample key), so other samples of the batch don't matter.

    Args:
        batch: B series of dates, on the device of ``world``.
        samples: how many images a generative task draws of each series.
        preview: whether to sample as validation does, with few steps.

    Returns:
        The images, (B, C, H, W) in [-1, 1].
    """
    keys = torch.tensor([word(str(key)) for key in batch.keys], device=world.device)  # (B,)
    noise = sampling_noise(keys, seed=settings.training.seed, samples=samples)
    with torch.inference_mode(), world.autocast(settings.training.amp):
        result = task.predict(series_of(batch), noise=noise, samples=samples, preview=preview, callback=callback)
    if settings.evaluation.consistency and not preview:
        return _consistent(result, batch, scale=settings.data.sr_scale)
    return result


def _consistent(result: Result, batch: Batch, *, scale: int) -> Result:
    """A result whose images average to the acquisition nearest to the target date."""
    nearest = batch.lr[range(len(batch.near)), batch.near] + 1  # (B, C, h, w), 0 or more

    def matched(images: Tensor) -> Tensor:
        """(B, C, H, W)"""
        return match_low_frequencies(images + 1, nearest, scale=scale).clamp(0, 2) - 1

    if result.samples is None:
        return result._replace(sr=matched(result.sr))
    samples = torch.stack([matched(sample) for sample in result.samples.unbind(dim=1)], dim=1)  # (B, k, C, H, W)
    return result._replace(sr=samples.mean(dim=1), samples=samples)


def images_by_method(result: Result, batch: Batch) -> dict[str, Tensor]:
    """What is measured, by the prefix of its columns: the result, the bicubic image, a conditioner's own output."""
    images = {"": result.sr, "bicubic_": batch.base.float()}
    if result.backbone is not None:
        images["backbone_"] = result.backbone
    return images


def measure_batch(
    result: Result,
    batch: Batch,
    *,
    bands: Sequence[str] = RGB,
    maxima: Sequence[float] = PUBLISHED_MAXIMA,
    lpips: LPIPS | None = None,
    sensor_truth: Tensor | None = None,
) -> list[Figures]:
    """Measure the images of a batch.

    Args:
        result: what was predicted.
        batch: what it was predicted from, and the truths.
        bands: what the channels are. For others than red, green, blue there are figures of each band besides.
        maxima: the reflectance that is 1, a band.
        lpips: measured too where it is given, on red, green and blue, where these are among the bands.
        sensor_truth: the truths in their sensor's own colours, (B, C, H, W); with them, all metrics are measured.

    Returns:
        The figures of each patch by column, and its ``key``.
    """
    truth = to_uint8(batch.hr)
    acquisitions = torch.arange(len(batch.near), device=batch.near.device)
    columns: dict[str, list[float]] = {}
    for prefix, image in images_by_method(result, batch).items():
        integers = to_uint8(image)
        figures = measure(integers, truth)
        if lpips is not None and not false_colours(bands):
            colours = list(shown_positions(bands))
            with torch.inference_mode():
                figures["lpips"] = lpips(integers[:, colours].float(), truth[:, colours].float())
        if sensor_truth is not None:
            figures |= extended(integers, truth, lr_nearest=batch.lr[acquisitions, batch.near], hr_sensor=sensor_truth)
        if tuple(bands) != RGB:
            figures |= by_band(integers, truth, bands)
        if {RED, NIR} <= set(bands):
            red, nir = bands.index(RED), bands.index(NIR)
            figures["ndvi_error"] = ndvi_error(integers, truth, maxima=maxima, red=red, nir=nir)
        columns |= {prefix + name: values.tolist() for name, values in figures.items()}
    columns["days_to_nearest"] = batch.dates.abs().masked_fill(~batch.mask, math.inf).amin(dim=1).tolist()
    columns["valid_dates"] = batch.mask.sum(dim=1).tolist()
    if result.samples is not None:
        columns["spread"] = result.samples.std(dim=1, correction=0).mean(dim=(1, 2, 3)).tolist()
    return [{**{name: values[i] for name, values in columns.items()}, "key": key} for i, key in enumerate(batch.keys)]


def batch_pictures(result: Result, batch: Batch, i: int, *, bands: Sequence[str] = RGB) -> dict[str, Picture]:
    """The pictures of patch ``i`` of a batch, by what they show."""
    images = {"nearest input": batch.lr[i, int(batch.near[i])], "bicubic": batch.base[i]}
    if result.backbone is not None:
        images["backbone"] = result.backbone[i]
    images |= {"result": result.sr[i], "truth": batch.hr[i]}
    shown = {name: picture(image, shown_positions(bands)) for name, image in images.items()}
    shown["error"] = error_map(result.sr[i], batch.hr[i])
    if result.samples is not None:
        shown["spread"] = spread_map(result.samples[i])
    return shown


def measure_spectra(result: Result, batch: Batch) -> Spectra:
    """The spectra of a batch, added up by method; the truths' too."""
    images = {METHODS[prefix]: image for prefix, image in images_by_method(result, batch).items()} | {"truth": batch.hr}
    power = {}
    frequencies = torch.zeros(0)
    for name, image in images.items():
        frequencies, patch_power = radial_power(to_uint8(image))  # (K,), (B, K)
        power[name] = patch_power.sum(dim=0).cpu()
    return Spectra(frequencies.cpu(), power, len(batch.keys))


def mean(values: Sequence[float]) -> float:
    """The mean; infinite as soon as one value is (identical images), NaN where there is none."""
    if values and all(map(math.isfinite, values)):
        return math.fsum(values) / len(values)
    return math.inf if any(value == math.inf for value in values) else math.nan


# What can be trusted: which details are right, down to which size, and whether uncertainty is the error


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
        images: what is measured, by the prefix of its columns, (B, C, H, W).
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
