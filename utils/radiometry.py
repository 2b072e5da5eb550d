"""Radiometry: from integers on disk to what the networks see, batched and on any device.

SPOT-6/7 is x/255·2 − 1. Sentinel-2 reflectance is clamped to [0, m] and becomes x/m·2 − 1, where m are percentiles of
the data set, a number a band. A SPOT band has at most 256 levels, so recolouring it to a Sentinel-2 image (spectral
matching) is a table of 256 entries, computed once and applied as a gather.
"""

import functools
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from utils.geo.bands import RGB

PUBLISHED_MAXIMA = (0.2058, 0.1583, 0.1118)  # 98th percentiles of BreizhSR's train split: red, green, blue
PUBLISHED_BANDS = dict(zip(RGB, PUBLISHED_MAXIMA, strict=True))
LEVELS = 256
_Reals = NDArray[np.floating]
_Counts = NDArray[np.integer]
_REACH = 2  # low-resolution pixels on either side that enter a bicubic one


def normalise_lr(reflectance: Tensor, maxima: Sequence[float] | Tensor) -> Tensor:
    """Reflectance (..., C, h, w) to [-1, 1], each band clamped to [0, maximum of the band]."""
    top = torch.as_tensor(maxima, dtype=reflectance.dtype, device=reflectance.device).view(-1, 1, 1)  # (C, 1, 1)
    return (reflectance / top).clamp_(0, 1).mul_(2).sub_(1)


def denormalise_lr(x: Tensor, maxima: Sequence[float] | Tensor) -> Tensor:
    """[-1, 1] back to reflectance (..., C, h, w)."""
    top = torch.as_tensor(maxima, dtype=x.dtype, device=x.device).view(-1, 1, 1)
    return (x + 1) / 2 * top


def normalise_hr(levels: Tensor) -> Tensor:
    """8-bit levels, any shape and type, to float32 in [-1, 1]."""
    return levels.to(torch.float32) / 255 * 2 - 1


def reflectance(stored: Tensor) -> Tensor:
    """Stored integers, reflectance × 10000, to float32 reflectance."""
    return stored / 10000


def bicubic(x: Tensor, *, scale: int) -> Tensor:
    """(..., C, h, w) -> (..., C, s·h, s·w): a = -0.75, half-pixel centres, edges replicated (OpenCV's INTER_CUBIC)."""
    return _enlarged(x, scale, "bicubic")


def bilinear(x: Tensor, *, scale: int) -> Tensor:
    """(..., C, h, w) -> (..., C, s·h, s·w): half-pixel centres, edges replicated."""
    return _enlarged(x, scale, "bilinear")


def _enlarged(x: Tensor, scale: int, mode: str) -> Tensor:
    images = x.reshape(-1, *x.shape[-3:])  # (N, C, h, w)
    up = _products(images, scale, mode) if x.device.type == "cpu" else _interpolated(images, scale, mode)
    return up.view(*x.shape[:-2], *up.shape[-2:])


def _interpolated(x: Tensor, scale: int, mode: str) -> Tensor:
    return F.interpolate(x, scale_factor=scale, mode=mode, align_corners=False)


def _products(x: Tensor, scale: int, mode: str) -> Tensor:
    """The same as matrix products, five times as fast on a CPU: rows as a whole, columns by bands of five taps."""
    wide = F.pad(x @ _matrix(x.shape[-1], scale, mode).to(x).T, (0, 0, _REACH, _REACH), mode="replicate")
    bands = wide.unfold(-2, 2 * _REACH + 1, 1).transpose(-1, -2)  # (N, C, h, 5, s·w), a view
    middle = slice(_REACH * scale, (_REACH + 1) * scale)
    taps = _matrix(2 * _REACH + 1, scale, mode)[middle].to(x)  # (s, 5)
    return (taps @ bands).flatten(-3, -2)  # (N, C, h, s, s·w) -> (N, C, s·h, s·w)


@functools.lru_cache(maxsize=16)
def _matrix(length: int, scale: int, mode: str) -> Tensor:
    """What takes ``length`` pixels to s times as many, (s·length, length) float64."""
    with torch.inference_mode(False):  # kept, and perhaps needed for a gradient later
        impulses = torch.eye(length, dtype=torch.float64).view(1, length, length, 1).expand(-1, -1, -1, 2)
        return _interpolated(impulses, scale, mode)[0, :, :, 0].T.contiguous()


def match_histogram(levels: _Reals, counts: _Counts, reference: _Reals) -> _Reals:
    """The values (n,) that n ascending levels take so that an image of them is distributed as ``reference``.

    ``counts`` (n,) says how many pixels of the image have each level. Quantiles are interpolated in float64, as
    ``skimage.exposure.match_histograms`` does (Gonzalez and Woods, *Digital Image Processing*).
    """
    values, reference_counts = np.unique(reference, return_counts=True)
    quantiles = np.cumsum(counts) / counts.sum()
    reference_quantiles = np.cumsum(reference_counts) / reference.size
    return np.interp(quantiles, reference_quantiles, values)


def match_moment(levels: _Reals, counts: _Counts, reference: _Reals) -> _Reals:
    """The values (n,) that n levels take so that an image of them gets mean and standard deviation of ``reference``.

    ``counts`` as above. Deviations are those of the population; a constant image becomes the mean.
    """
    levels = levels.astype(np.float64)
    mean = np.average(levels, weights=counts)
    deviation = np.sqrt(np.average((levels - mean) ** 2, weights=counts))
    gain = reference.std(dtype=np.float64) / deviation if deviation > 0 else 0.0
    return (levels - mean) * gain + reference.mean(dtype=np.float64)


MATCHINGS: dict[str, Callable[[_Reals, _Counts, _Reals], _Reals]] = {
    "histogram": match_histogram,
    "moment": match_moment,
}


def identity_table(channels: int) -> Tensor:
    """The table that only normalises, (C, 256)."""
    return normalise_hr(torch.arange(LEVELS)).repeat(channels, 1)


def count_levels(hr: Tensor) -> Tensor:
    """How many pixels of each band of an image (C, H, W) uint8 have each level: (C, 256) int64."""
    return torch.from_numpy(np.stack([np.bincount(band.ravel(), minlength=LEVELS) for band in hr.numpy()]))


def matching_table(counts: Tensor, lr: Tensor, *, method: str) -> Tensor:
    """The table of spectral matching, (C, 256) float32: what each level of each band of the SPOT image becomes.

    ``counts``: (C, 256) of `count_levels`; ``lr``: (C, h, w) normalised, the acquisition that the colours are taken
    from; ``method``: a key of MATCHINGS.
    """
    levels = normalise_hr(torch.arange(LEVELS)).numpy()
    rows = [MATCHINGS[method](levels, n, reference) for n, reference in zip(counts.numpy(), lr.numpy(), strict=True)]
    return torch.from_numpy(np.stack(rows).astype(np.float32))


def apply_table(levels: Tensor, table: Tensor) -> Tensor:
    """Look up 8-bit levels (..., C, H, W) in a table (..., C, 256): (..., C, H, W), of the table's type."""
    return table.gather(-1, levels.flatten(-2).long()).view(levels.shape)


def match_low_frequencies(image: Tensor, lr: Tensor, *, scale: int, rounds: int = 4) -> Tensor:
    """An image changed smoothly until it averages to its input.

    Iterative back-projection (Irani and Peleg, 1991); what is left after the rounds is evened out by factors.

    Args:
        image: reflectance (B, C, s*h, s*w), or anything else that is 0 or more.
        lr: what the mean of s*s pixels shall be, in the same unit, 0 or more: (B, C, h, w).
        scale: s.
        rounds: of back-projection.
    """
    for _ in range(rounds):
        image = image + bicubic(lr - F.avg_pool2d(image, scale), scale=scale)
    image = image.clamp(min=0)
    mean, wanted = (F.interpolate(x, scale_factor=scale, mode="nearest") for x in (F.avg_pool2d(image, scale), lr))
    return torch.where(mean > 0, image * wanted / mean.clamp(min=torch.finfo(mean.dtype).tiny), wanted)
