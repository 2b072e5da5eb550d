"""Down to which size the details of a result are the truth's: Fourier ring correlation.

Saxton and Baumeister, Journal of Microscopy 1982; Banterle et al., *Fourier ring correlation as a resolution criterion
for super-resolution microscopy*, Journal of Structural Biology 2013.
"""

from typing import NamedTuple

import torch
from torch import Tensor

THRESHOLDS = {"frc_resolution": 1 / 7, "frc_half": 0.5}  # correlation below which details count as wrong, by column
INPUT_PIXEL = 10.0  # metres, of Sentinel-2's finest bands
_SMOOTHED = 3  # rings whose mean is compared with a threshold: a narrow ring holds few frequencies


class RingSums(NamedTuple):
    """What the correlation is made of; sums of several patches are those of all of them."""

    frequencies: Tensor  # (K,) cycles a pixel, from one cycle an image up to 0.5
    cross: Tensor  # (B, K) float64
    result_power: Tensor  # (B, K)
    truth_power: Tensor  # (B, K)

    def plus(self, other: "RingSums") -> "RingSums":
        return RingSums(self.frequencies, *(mine + theirs for mine, theirs in zip(self[1:], other[1:], strict=True)))

    def pooled(self) -> "RingSums":
        """All patches of a batch as one, (1, K)."""
        return RingSums(self.frequencies, *(sums.sum(dim=0, keepdim=True) for sums in self[1:]))

    @property
    def correlation(self) -> Tensor:
        """(B, K) in [-1, 1]: 1 where all details of this size are the truth's; 0 where one image has none."""
        return (self.cross / (self.result_power * self.truth_power).sqrt()).nan_to_num(nan=0.0)


def ring_sums(sr: Tensor, hr: Tensor, *, shift: Tensor | None = None, crop: int = 0) -> RingSums:
    """Sums over rings of frequencies, over all bands and directions.

    Args:
        sr: results, (B, C, H, W), any numeric type.
        hr: truths, likewise.
        shift: rows and columns by which the results must be moved to lie on the truths, (B, 2) pixels.
        crop: pixels that are left out on each side.
    """
    if crop:
        sr, hr = sr[..., crop:-crop, crop:-crop], hr[..., crop:-crop, crop:-crop]
    height, width = sr.shape[-2:]
    fy, fx = torch.fft.fftfreq(height, device=sr.device)[:, None], torch.fft.rfftfreq(width, device=sr.device)
    rings = min(height, width) // 2
    ring = (torch.hypot(fy, fx.expand(height, -1)) * 2 * rings).round().long()  # (H, W / 2 + 1): 0 is the mean
    ring = ring.masked_fill_(ring > rings, 0).flatten()  # the corners are left out, as the mean is
    twice = torch.full_like(fx, 2.0)  # a column stands for its mirror image too, but for the first and the last
    twice[0] = 1.0
    if width % 2 == 0:
        twice[-1] = 1.0
    window = torch.hann_window(height, device=sr.device)[:, None] * torch.hann_window(width, device=sr.device)
    sums = sr.new_zeros((3, len(sr), rings + 1), dtype=torch.float64)
    for i in range(len(sr)):  # one at a time: it stays in a core's cache
        result, truth = (
            torch.fft.rfft2((x - x.flatten(1).mean(dim=1)[:, None, None]) * window)  # (C, H, W / 2 + 1)
            for x in (sr[i].float(), hr[i].float())
        )
        product = (result * truth.conj()).sum(dim=0)
        if shift is not None:
            angles = -2 * torch.pi * (shift[i, 0] * fy + shift[i, 1] * fx)  # a shift is a factor of each frequency
            product = product * torch.polar(torch.ones_like(angles), angles)
        powers = ((x.real.square() + x.imag.square()).sum(dim=0) for x in (result, truth))
        for total, plane in zip(sums[:, i], (product.real, *powers), strict=True):
            total.index_add_(0, ring, (plane * twice).flatten().double())
    frequencies = torch.arange(1, rings + 1, dtype=torch.float64, device=sr.device) / (2 * rings)
    return RingSums(frequencies, *sums[..., 1:])


def resolution(sums: RingSums, *, threshold: float, pixel_size: float) -> Tensor:
    """The size of the smallest detail that is still right, (B,) float64 in metres.

    Where the correlation, smoothed over three rings, first falls below the threshold (linear between rings): half of
    that frequency's period, so that an image right in every detail has its own pixel size, and one enlarged from
    pixels of 10 m has about 10 m.

    Args:
        sums: of `ring_sums`.
        threshold: 1/7 or 0.5, say.
        pixel_size: of the images, metres.
    """
    curve = sums.correlation
    padded = torch.cat([curve[:, :1], curve, curve[:, -1:]], dim=1)
    curve = padded.unfold(1, _SMOOTHED, 1).mean(dim=-1)  # (B, K)
    below = curve < threshold
    first = below.int().argmax(dim=1)  # (B,); 0 where none is below
    before = (first - 1).clamp(min=0)
    upper, lower = (curve.gather(1, at[:, None])[:, 0] for at in (before, first))
    step = ((upper - threshold) / (upper - lower)).nan_to_num(nan=1.0).where(first > 0, 1.0)
    crossing = sums.frequencies[before] + step * (sums.frequencies[first] - sums.frequencies[before])
    crossing = crossing.where(below.any(dim=1), sums.frequencies[-1])
    return pixel_size / (2 * crossing)
