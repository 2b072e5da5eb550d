"""Small things that several networks share."""

from torch import nn


def doublings(scale: int) -> int:
    """How many times ×2 makes ``scale``. Raises ValueError unless it is 2, 4, 8, ..."""
    count = scale.bit_length() - 1
    if count < 1 or scale != 1 << count:
        raise ValueError(f"scale must be a power of two from 2 on, not {scale}")
    return count


def conv3x3(in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)
