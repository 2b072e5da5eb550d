"""Small things that several networks share."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def doublings(scale: int) -> int:
    """How many times ×2 makes ``scale``. Raises ValueError unless it is 2, 4, 8, ..."""
    count = scale.bit_length() - 1
    if count < 1 or scale != 1 << count:
        raise ValueError(f"scale must be a power of two from 2 on, not {scale}")
    return count


def conv3x3(in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)


def repeat_pixels(x: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, C, 2h, 2w), each pixel four times: nearest-neighbour interpolation.

    Compiled, interpolation is an indexing, and its gradient a scatter that torch 2.13's inductor may put after the
    gradient's use: the losses are right, the gradients are not. An expansion has a plain sum for a gradient.
    """
    if torch.compiler.is_compiling():
        batch, channels, height, width = x.shape
        repeated = x[:, :, :, None, :, None].expand(-1, -1, -1, 2, -1, 2)  # (B, C, h, 2, w, 2)
        return repeated.reshape(batch, channels, 2 * height, 2 * width)
    return F.interpolate(x, scale_factor=2, mode="nearest")
