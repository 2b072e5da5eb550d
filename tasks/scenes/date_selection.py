"""Which pixels of an acquisition can be used, and which acquisitions a place is made from."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from utils.geo.clouds import GOOD, NOTHING, Mask, Quality
from utils.geo.windows import Box, Span

CELL = 32  # pixels on a side of the squares whose dates are chosen together
FEATHER = 8  # pixels over which a square fades into its neighbour
_BLOCK = 16  # cells on a side that are looked at together


class DateChoice:
    """For each cell of a fixed grid over the scene, the acquisitions that it is made from.

    The choice looks at a cell's own pixels alone, so it is the same whatever windows are asked for.

    Args:
        quality: (acquisition, box) -> what its pixels in a box inside the scene are worth.
        offsets: days from the target date to each acquisition.
        num_dates: how many acquisitions are wanted.
        min_valid: an acquisition is taken if at least this part of a cell is usable. Where too few are, the part of
            the pixels that any acquisition has counts instead (edges of swaths). Where no acquisition has enough, one
            with any good pixel is taken, or else one with any doubtful pixel.
    """

    def __init__(
        self,
        *,
        quality: Callable[[int, Box], Quality],
        offsets: Sequence[int],
        num_dates: int,
        min_valid: float,
        height: int,
        width: int,
    ) -> None:
        self._quality = quality
        self._near = sorted(range(len(offsets)), key=lambda i: (abs(offsets[i]), offsets[i]))
        self._amount = num_dates
        self._min_valid = min_valid
        self._scene = Box(Span(0, height), Span(0, width))
        self._blocks: dict[tuple[int, int], list[list[tuple[int, ...]]]] = {}

    def cell(self, row: int, column: int) -> tuple[int, ...]:
        """Acquisitions of a cell, nearest to the target date first; at most ``num_dates``."""
        block = row // _BLOCK, column // _BLOCK
        if block not in self._blocks:
            self._blocks[block] = self._choose(*block)
        return self._blocks[block][row % _BLOCK][column % _BLOCK]

    def _choose(self, block_row: int, block_column: int) -> list[list[tuple[int, ...]]]:
        side = _BLOCK * CELL
        box = Box(*(Span(i * side, (i + 1) * side) for i in (block_row, block_column))).within(self._scene)
        pixels = _per_cell(np.ones(box.shape, bool))
        seen = np.zeros(box.shape, bool)
        good: dict[int, NDArray[np.int64]] = {}
        any_worth: dict[int, NDArray[np.int64]] = {}
        enough = np.zeros(pixels.shape, int)
        for acquisition in self._near:
            if enough.min() >= self._amount:
                break
            quality = self._quality(acquisition, box)
            seen |= quality == GOOD
            good[acquisition] = _per_cell(quality == GOOD)
            any_worth[acquisition] = _per_cell(quality > NOTHING)
            enough += good[acquisition] >= self._min_valid * pixels
        ever = _per_cell(seen)

        def chosen(i: int, j: int) -> tuple[int, ...]:
            wanted = self._amount  # only the first step must find so many; one is enough for the weaker steps
            steps = (
                (good, self._min_valid * pixels[i, j]),
                (good, self._min_valid * ever[i, j]),
                (good, 1),
                (any_worth, 1),
            )
            for counts, least in steps:
                found = [a for a, count in counts.items() if count[i, j] >= max(least, 1)]
                if len(found) >= wanted:
                    break
                wanted = 1
            return tuple(found[: self._amount])

        return [[chosen(i, j) for j in range(pixels.shape[1])] for i in range(pixels.shape[0])]


def _per_cell(mask: Mask) -> NDArray[np.int64]:
    """How many pixels of each cell of a block are set."""
    height, width = mask.shape
    rows = np.add.reduceat(mask.astype(np.int64), np.arange(0, height, CELL), axis=0)
    return np.add.reduceat(rows, np.arange(0, width, CELL), axis=1)


def feathered(labels: NDArray[np.integer], count: int) -> NDArray[np.float32]:
    """How much each of ``count`` labels weighs, (count, h, w), from labels (h + 2·FEATHER, w + 2·FEATHER).

    Each label's area is smoothed by the same kernel, so the weights sum to one and no border is sharp.
    """
    kernel = np.hanning(2 * FEATHER + 3)[1:-1]
    taps = torch.from_numpy(kernel / kernel.sum()).float()
    areas = torch.from_numpy(labels[None] == np.arange(count)[:, None, None]).float()[:, None]  # (count, 1, ...)
    smooth = F.conv2d(F.conv2d(areas, taps.view(1, 1, -1, 1)), taps.view(1, 1, 1, -1))
    return smooth[:, 0].numpy()
