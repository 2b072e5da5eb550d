"""Whether a result shows the pixels of its input: patterns that repeat from one input pixel to the next.

Networks that give each input pixel a block of its own leave such patterns; errors against a truth hardly see them.
"""

import math

import torch
from torch import Tensor

_NEAR, _FAR = 0.15, 0.4  # where around a frequency its surroundings lie, as a share of it


def border_gradient(sr: Tensor, *, scale: int) -> Tensor:
    """Mean gradient across the borders of input pixels against that inside them: the larger of rows and columns.

    Args:
        sr: results, (B, C, H, W); the input's pixels begin at the top left.
        scale: pixels of the result along a pixel of the input.

    Returns:
        (B,) float64: 1 in images without a pattern, 0.9 to 1.1 after interpolation, 1 where nothing changes.
    """
    ratios = []
    for axis in (-2, -1):
        steps = sr.double().diff(dim=axis).abs().movedim(axis, -1).mean(dim=(1, 2))  # (B, H - 1)
        is_border = torch.arange(steps.shape[-1], device=sr.device) % scale == scale - 1
        across, inside = steps[:, is_border].mean(dim=-1), steps[:, ~is_border].mean(dim=-1)
        ratios.append(torch.where(across == inside, 1.0, across / inside))
    return torch.stack(ratios).amax(dim=0)


def sampling_peak(sr: Tensor, *, scale: int) -> Tensor:
    """By how many dB the spectrum at the input's sampling frequency stands above its surroundings.

    Args:
        sr: results, (B, C, H, W).
        scale: pixels of the result along a pixel of the input.

    Returns:
        (B,) float64: the larger of rows and columns; 0 where nothing stands out, as in interpolated images, whose
        spectrum has a gap there.
    """
    peaks = [torch.zeros(len(sr), dtype=torch.float64, device=sr.device)]
    for axis in (-2, -1):
        lines = sr.double().movedim(axis, -1)
        length = lines.shape[-1] // scale * scale  # the frequency is that of one line of the spectrum
        lines = lines[..., :length] - lines[..., :length].mean(dim=-1, keepdim=True)
        window = torch.hann_window(length, dtype=torch.float64, device=sr.device)
        power = torch.fft.rfft(lines * window).abs().square().mean(dim=(1, 2))  # (B, length / 2 + 1)
        at = length // scale
        near, far = max(2, math.ceil(_NEAR * at)), max(3, math.ceil(_FAR * at))
        around = torch.cat([power[:, at - far : at - near + 1], power[:, at + near : at + far + 1]], dim=1)
        peaks.append(10 * torch.log10(power[:, at - 1 : at + 2].mean(dim=1) / around.mean(dim=1)))
    return torch.stack(peaks).nan_to_num(0.0, posinf=math.inf, neginf=0.0).amax(dim=0)
