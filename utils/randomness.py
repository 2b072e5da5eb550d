"""Addressed randomness: every random number is a function of where it is used, never of what came before.

A counter-based generator: the address (a stream, then integers or tensors of them) is mixed into 64 bits with the
finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014); normal numbers follow by Box and Muller's transform. So a
resumed run, another number of processes or other tiles draw the same numbers, and nothing random needs to
be stored. All arithmetic is done by tensors, so it runs on any device.
"""

import enum
import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor

_GOLDEN_GAMMA = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


class Stream(enum.IntEnum):
    """What a random number is for. It comes first in every address, so two uses never draw the same number.

    Runs are resumed with these values: a new use gets a new value, and a value is never used again.
    """

    START = -1  # what a model starts from: initial weights, the noise of sampling. It mixes to 0: as before streams
    ORDER = 1  # of the samples of an epoch
    CROP = 2
    TIMES = 3  # of the diffusion process in training
    NOISE = 4  # in training
    DROPOUT = 6
    SCENES = 7  # the sampling noise of whole scenes
    SPLITS = 8  # of a data set that is built
    FLIP_X = 9
    FLIP_Y = 10
    TURN = 11
    DROP_DATES = 12
    SHUFFLE_DATES = 13
    VARY_DATES = 15
    MIX = 16  # of several data sets in a batch
    TRIAL = 14  # what a network is measured with


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical shift of int64 (torch's own shift keeps the sign)."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift_right(x, 30)) * _MIX_1
    x = (x ^ _shift_right(x, 27)) * _MIX_2
    return x ^ _shift_right(x, 31)


def bits(stream: Stream, *address: int | Tensor) -> Tensor:
    """64 well-mixed bits for each address, int64; the parts broadcast against each other."""
    return _hash(stream, *address)


def _hash(*parts: int | Tensor) -> Tensor:
    state = torch.zeros((), dtype=torch.int64)
    for part in parts:
        state = _mix(state * 3 + torch.as_tensor(part, dtype=torch.int64) * _GOLDEN_GAMMA + _GOLDEN_GAMMA)
    return state


def seed_of(stream: Stream, *address: int) -> int:
    """A non-negative 63-bit seed for a generator of another library."""
    return int(bits(stream, *address)) & ((1 << 63) - 1)


def integers(stream: Stream, *address: int | Tensor, high: int | Tensor) -> Tensor:
    """Uniform integers in [0, high) at each address."""
    return _shift_right(bits(stream, *address), 1) % high


def normal(stream: Stream, *address: int | Tensor) -> Tensor:
    """Standard normal float32 numbers at each address (Box and Muller, 24-bit uniforms, |x| < 5.8)."""
    return _normal(bits(stream, *address))


def _normal(words: Tensor) -> Tensor:
    radius_part = ((words & 0xFFFFFF).to(torch.float32) + 0.5) / (1 << 24)  # in (0, 1)
    angle_part = (_shift_right(words, 40)).to(torch.float32) / (1 << 24)
    return torch.sqrt(-2 * torch.log(radius_part)) * torch.cos(2 * math.pi * angle_part)


def normal_images(
    stream: Stream, keys: Tensor, *address: int | Tensor, shape: Sequence[int], row: int = 0, column: int = 0
) -> Tensor:
    """Noise images: a function of stream, key, address, channel and absolute pixel position.

    Args:
        keys: (B,), one for each image.
        address: integers, or tensors (B,).
        shape: of an image, (C, H, W).
        row: where the top left pixel lies, so that overlapping tiles agree on their noise.
        column: likewise.

    Returns:
        (B, C, H, W)
    """
    channels, height, width = shape
    c = torch.arange(channels, device=keys.device).view(-1, 1, 1)
    y = torch.arange(row, row + height, device=keys.device).view(-1, 1)
    x = torch.arange(column, column + width, device=keys.device)
    images = bits(stream, keys, *address).view(-1, 1, 1, 1)
    return _normal(_hash(images, (c << 48) ^ (y << 24) ^ x))


def word(text: str) -> int:
    """A 63-bit number for a name, the same on every machine."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
