"""How much of the added detail is right, missing or invented.

After Aybar et al., *A comprehensive benchmark for optical remote sensing image super-resolution*, IEEE GRSL 2024, with
the definitions and the settings of their package opensr-test 1.3.3. As in `utils.metrics.pixel`: on integers 0..255,
here read as shares of 255, batched, one float64 number an image.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from utils.errors import DataError
from utils.metrics.pixel import DATA_RANGE, to_uint8
from utils.radiometry import apply_table, bilinear, count_levels

CROP = 16  # pixels of the result that are left out on each side (at most, as many whole pixels of the input as fit)
MAX_SHIFT = 5.0  # pixels: a longer shift is taken for a failure of the alignment
SHIFT_STEPS = 50  # steps a pixel, to which the alignment is found
QUANTILE = 0.75  # a pixel counts where one of its three distances is above this quantile of d(LR, HR)
DISTANCE_WEIGHT = 0.05  # of the distance from the line d_im + d_om = 1, in all three scores
TEMPERATURE = 0.25  # of the soft minimum over the three scores
SETTINGS = (
    f"crop {CROP} px, histogram matched, aligned by phase correlation to 1/{SHIFT_STEPS}, distance |a - b| / |a + b|, "
    f"pixels above the {QUANTILE:.0%} quantile, constants {DISTANCE_WEIGHT}, soft minimum at {TEMPERATURE}"
)
CLASSES = ("improvement", "omission", "hallucination")


class Correctness(NamedTuple):
    """Figures of a batch, and where they come from."""

    figures: dict[str, Tensor]  # (B,) float64 each
    maps: Tensor  # (B, 3, H', W') float32: the shares of CLASSES, NaN where the pixel doesn't count
    shift: Tensor  # (B, 2): rows and columns by which the result was moved onto the truth, pixels
    crop: int  # pixels by which H' and W' are cropped on each side


def correctness(
    sr: Tensor, hr: Tensor, *, lr_nearest: Tensor, lr: Tensor | None = None, mask: Tensor | None = None
) -> Correctness:
    """Consistency with the input, synthesis of detail, and whether that detail is the truth's.

    Args:
        sr: results, (B, C, H, W), uint8 or float in [-1, 1].
        hr: truths with the input's colours, likewise.
        lr_nearest: the acquisitions nearest in time to the truths, (B, C, H / s, W / s), likewise.
        lr: all acquisitions, (B, T, C, H / s, W / s), likewise. With them also omission and hallucination where the
            distance to the input is, at each pixel, that to the date most like the result: what another date shows
            is not invented.
        mask: (B, T), which of them were acquired.

    Returns:
        The figures reflectance_consistency (mean absolute difference to the input, 0..1), angle_consistency (degrees),
        shift_consistency (input pixels; NaN where none is found), synthesis (mean absolute difference to the enlarged
        input, 0..1), improvement, omission, hallucination (shares that add up to 1) and, for a series, series_omission
        and series_hallucination.

    Raises:
        DataError: The sizes don't fit each other, or nothing is left within the crop.
    """
    scale = sr.shape[-1] // max(1, lr_nearest.shape[-1])
    if sr.shape != hr.shape or tuple(scale * side for side in lr_nearest.shape[-2:]) != tuple(sr.shape[-2:]):
        shapes = ", ".join(str(tuple(images.shape)) for images in (sr, hr, lr_nearest))
        raise DataError(f"correctness needs result and truth of one size, a multiple of the input's, not {shapes}")
    crop = CROP // scale  # pixels of the input
    if not is_large_enough(lr_nearest.shape[-2:], scale=scale):
        raise DataError(f"correctness crops {CROP} pixels on each side, so nothing is left of {tuple(sr.shape[-2:])}")
    sr, hr = (_cropped(to_uint8(images), crop * scale) for images in (sr, hr))
    lr_nearest = _cropped(to_uint8(lr_nearest), crop)
    rows, maps, shifts = [], [], []
    for i in range(len(sr)):  # one at a time: what belongs to an image stays in a core's cache
        views = None if lr is None or mask is None else _cropped(to_uint8(lr[i, mask[i]]), crop)
        figures, shares, shift = _judged(sr[i], hr[i], lr_nearest[i], views)
        rows.append(figures)
        maps.append(shares)
        shifts.append(shift)
    columns = {name: torch.stack([figures[name] for figures in rows]).double() for name in rows[0]}
    return Correctness(figures=columns, maps=torch.stack(maps), shift=torch.stack(shifts), crop=crop * scale)


def is_large_enough(size: Sequence[int], *, scale: int) -> bool:
    """Whether anything is left of an input's (h, w) within the crop."""
    return min(size) > 2 * (CROP // scale) + 1


def _judged(
    sr: Tensor, hr: Tensor, lr_nearest: Tensor, views: Tensor | None
) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """One cropped image, uint8: its figures () each, its maps (3, H, W), and the shift (2,)."""
    low, result, truth = (levels.float() / DATA_RANGE for levels in (lr_nearest, sr, hr))  # (C, h, w), (C, H, W) twice
    averaged = F.interpolate(result[None], size=low.shape[-2:], mode="bilinear", antialias=True)[0]  # (C, h, w)
    low_shift = phase_shift(low.mean(dim=0), averaged.mean(dim=0)).norm()

    harmonised = _matched(sr, hr)  # without systematic differences of colour ...
    shift = phase_shift(harmonised.mean(dim=0), truth.mean(dim=0))  # (2,)
    shift = torch.where(shift.norm() > MAX_SHIFT, 0.0, shift)
    harmonised = translate(harmonised, shift)  # ... and of place
    scale = truth.shape[-1] // low.shape[-1]
    enlarged = bilinear(low, scale=scale)
    figures = {
        "reflectance_consistency": (low - averaged).abs_().mean(dtype=torch.float64),
        "angle_consistency": _angle(low, averaged).nanmean(),
        "shift_consistency": torch.where(low_shift > MAX_SHIFT, torch.nan, low_shift),
        "synthesis": (enlarged - harmonised).abs_().mean(dtype=torch.float64),
    }

    d_ref, d_om = _difference(enlarged, truth), _difference(enlarged, harmonised)  # (H, W)
    d_im = _difference(harmonised, truth)
    threshold = d_ref.flatten().kthvalue(int(QUANTILE * d_ref.numel())).values
    counted = (torch.maximum(torch.maximum(d_ref, d_im), d_om) > threshold).flatten().nonzero()[:, 0]  # (N,)
    d_ref, d_om, d_im = (d.flatten().index_select(0, counted) for d in (d_ref, d_om, d_im))
    shares = _shares(d_ref=d_ref, d_im=d_im, d_om=d_om)  # (3, N)
    maps = shares.new_full((len(CLASSES), truth[0].numel()), torch.nan)
    maps.index_copy_(1, counted, shares)
    figures |= dict(zip(CLASSES, shares.nanmean(dim=1), strict=True))
    if views is not None:
        details = harmonised.flatten(1).index_select(1, counted)
        for view in views.float().div_(DATA_RANGE):  # (C, h, w)
            shown = bilinear(view, scale=scale).flatten(1).index_select(1, counted)
            d_om = torch.minimum(d_om, _difference(shown, details))
        _, omission, hallucination = _shares(d_ref=d_ref, d_im=d_im, d_om=d_om).nanmean(dim=1)
        figures |= {"series_omission": omission, "series_hallucination": hallucination}
    return figures, maps.unflatten(1, truth.shape[1:]), shift


def phase_shift(moving: Tensor, reference: Tensor, *, steps: int = SHIFT_STEPS) -> Tensor:
    """By how much an image must be moved to lie on another: (H, W) twice -> rows and columns, (2,) float32 pixels.

    The highest peak of the phase correlation, then of its upsampling around that peak by a matrix product (Guizar-
    Sicairos, Thurman and Fienup, Optics Letters 2008), as skimage.registration.phase_cross_correlation.
    """
    product = torch.fft.fft2(reference) * torch.fft.fft2(moving).conj()  # (H, W)
    product /= product.abs().clamp_(min=100 * torch.finfo(moving.dtype).eps)
    peak = torch.fft.ifft2(product).abs().argmax()
    sides = moving.shape
    coarse = torch.stack([peak // sides[1], peak % sides[1]])
    coarse = torch.stack([torch.where(at > side // 2, at - side, at) for at, side in zip(coarse, sides, strict=True)])

    window = int(1.5 * steps)
    fine = torch.arange(-(window // 2), window - window // 2, device=moving.device) / steps  # (P,)
    rows, columns = (
        torch.polar(torch.ones_like(angles), angles)  # (P, H), (P, W)
        for angles in (
            2 * torch.pi * (at + fine)[:, None] * torch.fft.fftfreq(side, device=moving.device)
            for at, side in zip(coarse, sides, strict=True)
        )
    )
    peak = (rows @ product @ columns.T).abs().argmax()
    return coarse + torch.stack([fine[peak // window], fine[peak % window]])


def translate(image: Tensor, shift: Tensor) -> Tensor:
    """An image (C, H, W) moved by rows and columns (2,), between pixels linearly, the edges repeated outside."""
    reach = int(shift.abs().max().ceil()) + 1
    image = F.pad(image[None], (reach,) * 4, mode="replicate")[0]
    for axis, back in ((1, -shift[0]), (2, -shift[1])):
        first, side = reach + int(back.floor()), image.shape[axis] - 2 * reach
        image = image.narrow(axis, first, side).lerp(image.narrow(axis, first + 1, side), back - back.floor())
    return image


def _cropped(x: Tensor, border: int) -> Tensor:
    return x[..., border : x.shape[-2] - border, border : x.shape[-1] - border]


def _matched(levels: Tensor, reference: Tensor) -> Tensor:
    """Levels (C, H, W) with the histograms of a reference's bands, as shares of 255, float32."""
    tables = []
    for counts, wanted in zip(count_levels(levels.cpu()).numpy(), count_levels(reference.cpu()).numpy(), strict=True):
        present = np.flatnonzero(wanted)
        tables.append(np.interp(counts.cumsum() / counts.sum(), wanted[present].cumsum() / wanted.sum(), present))
    return apply_table(levels, torch.from_numpy(np.stack(tables) / DATA_RANGE).float().to(levels.device))


def _angle(x: Tensor, y: Tensor) -> Tensor:
    """Angle between two images' spectra, (C, h, w) -> (h, w) degrees, NaN where one is black."""
    x, y = x.double(), y.double()
    cosine = (x * y).sum(dim=0) / ((x * x).sum(dim=0) * (y * y).sum(dim=0)).sqrt_()
    return torch.rad2deg(cosine.clamp_(-1, 1).acos_())


def _difference(x: Tensor, y: Tensor) -> Tensor:
    """Normalised difference, mean over bands: (C, ...) -> (...)."""
    return (x - y).abs_().div_((x + y).add_(1e-8)).mean(dim=0)


def _shares(*, d_ref: Tensor, d_im: Tensor, d_om: Tensor) -> Tensor:
    """How much of each pixel's detail is improvement, omission and hallucination, (N,) each -> (3, N).

    Args:
        d_ref: distance of input and truth, what there is to add.
        d_im: distance of result and truth.
        d_om: distance of result and input.
    """
    im, om = d_im / d_ref, d_om / d_ref
    beyond = -torch.expm1(DISTANCE_WEIGHT * (1 - im - om))  # 1 - exp(-w (im + om - 1)), 0 on the line im + om = 1
    scores = torch.stack([im + om * beyond, om + im * beyond, torch.exp(-DISTANCE_WEIGHT * im * om)])
    return scores.div_(-TEMPERATURE).softmax(dim=0)
