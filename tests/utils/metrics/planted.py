"""Images whose right, missing and invented details are known, and random ones that another package has judged."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from utils.metrics.pixel import to_uint8
from utils.radiometry import bicubic

SCALE = 4
HOUSE = 6  # pixels
Levels = NDArray[np.uint8]


class Place(NamedTuple):
    """A place with parcels and houses, (1, C, ...) uint8."""

    lr: Tensor
    hr: Tensor
    corners: list[tuple[int, int]]  # upper left pixels where a house stands, or could


def place(seed: int, *, side: int = 160, houses: int = 12) -> Place:
    random = np.random.RandomState(seed)
    noise = random.randint(0, 256, (4, side, side))
    octaves = [
        smoothed(noise[i], reach) * 5 // (2 * reach + 1) for i, reach in enumerate((0, 1, 3, 6))
    ]  # coarse is strong
    relief = sum(octaves) - np.mean(sum(octaves))
    hr = 80 + np.stack([relief * gain for gain in (0.03, 0.04, 0.035)])
    cells = random.permutation((side // 16 - 3) ** 2)[: 2 * houses]  # none overlap, all lie inside of the crop
    corners = [(24 + 16 * int(cell // (side // 16 - 3)), 21 + 16 * int(cell % (side // 16 - 3))) for cell in cells]
    image = torch.from_numpy(hr.clip(0, 255).astype(np.uint8))[None]
    image = with_houses(image, corners[:houses])
    lr = torch.nn.functional.avg_pool2d(image.double(), SCALE).round().to(torch.uint8)
    return Place(lr, image, corners)


def with_houses(image: Tensor, corners: list[tuple[int, int]]) -> Tensor:
    image = image.clone()
    for y, x in corners:
        image[..., y : y + HOUSE, x : x + HOUSE] = 220
    return image


def without_houses(image: Tensor, blurred: Tensor, corners: list[tuple[int, int]]) -> Tensor:
    """What a blurred image shows there takes the houses' place."""
    image = image.clone()
    for y, x in corners:
        window = (..., slice(y - 2, y + HOUSE + 2), slice(x - 2, x + HOUSE + 2))
        image[window] = blurred[window]
    return image


def enlarged(lr: Tensor) -> Tensor:
    """The bicubic image, uint8."""
    return to_uint8(bicubic(lr.float() / 127.5 - 1, scale=SCALE))


def random_case(number: int) -> tuple[Levels, Levels, Levels]:
    """Input (3, h, w), result and truth (3, 4h, 4w), by integers alone, so that they are the same everywhere."""
    random = np.random.RandomState(number)
    side = 30 + 2 * number
    shape = (3, SCALE * side, SCALE * side)
    hr = stretched(smoothed(random.randint(0, 256, shape), 1) + smoothed(random.randint(0, 40, shape), 4))
    summed = hr.reshape(3, side, SCALE, side, SCALE).sum(axis=(2, 4))
    lr = stretched(summed + random.randint(0, 300, (3, side, side)))
    moved = np.roll(hr, random.randint(-2, 3, 2), axis=(1, 2)).astype(int)
    invented = random.randint(1, 4) * random.randint(0, 256, shape)
    return lr, stretched(3 * moved + invented + 2 * smoothed(moved, 1) // 9), hr


def smoothed(x: NDArray[np.integer], reach: int) -> NDArray[np.integer]:
    """Sums over windows of 2 · reach + 1 pixels."""
    for axis in (-2, -1):
        x = sum((np.roll(x, shift, axis) for shift in range(-reach, reach + 1)), start=np.zeros_like(x))
    return x


def stretched(x: NDArray[np.integer]) -> Levels:
    """The range of an image as levels 10..230."""
    return (10 + (x - x.min()) * 220 // (x.max() - x.min())).astype(np.uint8)
