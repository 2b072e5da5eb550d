"""Doubling an image by repeating its pixels."""

import torch
from torch import Tensor
from torch.nn import functional as F


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
