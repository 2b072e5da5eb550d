"""How much detail of each size an image holds: its radial power spectrum."""

import torch
from torch import Tensor


def radial_power(images: Tensor) -> tuple[Tensor, Tensor]:
    """Power spectra, mean over channels and directions (as Durall et al., *Watch your up-convolution*, CVPR 2020).

    Args:
        images: (B, C, H, W), any numeric type.

    Returns:
        frequencies (K,) in cycles a pixel, from one cycle an image up to 0.5 (details of two pixels), and
        power (B, K) float64. A Hann window keeps the borders of the image out of it.
    """
    height, width = images.shape[-2:]
    x = images.double()
    x = x - x.mean(dim=(-2, -1), keepdim=True)
    window = [torch.hann_window(side, dtype=torch.float64, device=x.device) for side in (height, width)]
    weights = window[0][:, None] * window[1]
    spectrum = torch.fft.fft2(x * weights).abs().square().mean(dim=1) / weights.square().sum()  # (B, H, W)

    rings = min(height, width) // 2
    fy, fx = (torch.fft.fftfreq(side, dtype=torch.float64, device=x.device) for side in (height, width))
    ring = ((fy[:, None] ** 2 + fx**2).sqrt() * 2 * rings).round().long()  # (H, W): 0 is the mean, rings is 0.5
    inside = (ring >= 1) & (ring <= rings)
    total = x.new_zeros(len(x), rings).index_add_(1, ring[inside] - 1, spectrum[:, inside])
    count = torch.bincount(ring[inside] - 1, minlength=rings)
    frequencies = torch.arange(1, rings + 1, dtype=torch.float64, device=x.device) / (2 * rings)
    return frequencies, total / count
