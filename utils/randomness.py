"""Addressed randomness: every random number is a function of where it is used, never of what came before.

A counter-based generator: the address (integers, or tensors of them) is mixed into 64 bits with the
finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014); normal numbers follow by Box and Muller's transform. So a
resumed run, another number of processes or other tiles draw the same numbers, and nothing random needs to
be stored. All arithmetic is done by tensors, so it runs on any device.
"""

import hashlib
import math

import torch
from torch import Tensor

_GOLDEN_GAMMA = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical shift of int64 (torch's own shift keeps the sign)."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift_right(x, 30)) * _MIX_1
    x = (x ^ _shift_right(x, 27)) * _MIX_2
    return x ^ _shift_right(x, 31)


def bits(*address: int | Tensor) -> Tensor:
    """64 well-mixed bits for each address; the parts broadcast against each other. int64."""
    state = torch.zeros((), dtype=torch.int64)
    for part in address:
        part = torch.as_tensor(part, dtype=torch.int64)
        state = _mix(state.to(part.device) * 3 + part * _GOLDEN_GAMMA + _GOLDEN_GAMMA)
    return state


def seed(*address: int) -> int:
    """A non-negative 63-bit seed for a generator of another library."""
    return int(bits(*address)) & ((1 << 63) - 1)


def integers(high: int | Tensor, *address: int | Tensor) -> Tensor:
    """Uniform integers in [0, high) at each address."""
    return _shift_right(bits(*address), 1) % high


def normal(*address: int | Tensor) -> Tensor:
    """Standard normal float32 numbers at each address (Box and Muller, 24-bit uniforms, |x| < 5.8)."""
    word = bits(*address)
    radius_part = ((word & 0xFFFFFF).to(torch.float32) + 0.5) / (1 << 24)  # in (0, 1)
    angle_part = (_shift_right(word, 40)).to(torch.float32) / (1 << 24)
    return torch.sqrt(-2 * torch.log(radius_part)) * torch.cos(2 * math.pi * angle_part)


def normal_images(keys: Tensor, shape: tuple[int, int, int], *address: int, row: int = 0, column: int = 0) -> Tensor:
    """Noise images: (B, C, H, W) for keys (B,), a function of key, address, channel and absolute pixel position.

    ``row`` and ``column`` say where the top left pixel lies, so that overlapping tiles agree on their noise.
    """
    channels, height, width = shape
    device = keys.device
    c = torch.arange(channels, device=device).view(1, -1, 1, 1)
    y = torch.arange(row, row + height, device=device).view(1, 1, -1, 1)
    x = torch.arange(column, column + width, device=device).view(1, 1, 1, -1)
    image_key = bits(keys, *address).view(-1, 1, 1, 1)
    return normal(image_key, (c << 48) ^ (y << 24) ^ x)


def word(text: str) -> int:
    """A 63-bit number for a name, the same on every machine."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
