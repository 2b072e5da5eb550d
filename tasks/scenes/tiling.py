"""Windows over a scene of any size, and the weights that blend what was predicted in them.

All positions are absolute low-resolution pixels of the scene. A window's outer ``trim`` pixels are context only (what
lies beyond the window reaches that far into a network's result); inside them a ramp of ``ramp`` pixels fades over to
the neighbour. Neighbours share 2·trim + ramp pixels, and their weights sum to one at every pixel, so where borders
fall doesn't show.
"""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from utils.distributed import is_out_of_memory
from utils.errors import ConfigError, TrainingError
from utils.geo.windows import ALIGNMENT, Box, Span, align_down, align_up

logger = logging.getLogger(__name__)

FADE = 4  # the ramp's width where the overlap is made to fit the context
SUPERBLOCK = (
    1024  # tiles are visited block by block, so that blocks of the source (JPEG 2000: 1024 pixels) are decoded once
)

Item = TypeVar("Item")


def overlap_for(halo: int) -> int:
    """The overlap that gives every blended pixel its whole context, in low-resolution pixels."""
    return align_up(2 * halo + FADE)


class Layout(NamedTuple):
    """Equal windows that cover a region."""

    region: Box
    tile: tuple[int, int]  # height and width of a window
    overlap: int
    trim: int
    ramp: int
    counts: tuple[int, int]  # rows and columns of windows

    def window(self, row: int, column: int) -> Box:
        """The window of the grid's cell; it may reach beyond the scene."""
        return Box(*(self._span(axis, index) for axis, index in enumerate((row, column))))

    def _span(self, axis: int, index: int) -> Span:
        origin = align_down(self.region[axis].start - self.trim - self.ramp)
        start = origin + index * self._step(axis)
        return Span(start, start + self.tile[axis])

    def _step(self, axis: int) -> int:
        return max(1, self.tile[axis] - self.overlap)  # a lone window may be smaller than the overlap

    def support(self, row: int, column: int) -> Box:
        """The part of the window that is used."""
        return self.window(row, column).grown(-self.trim)

    def order(self) -> list[tuple[int, int]]:
        """All cells, those near each other together."""

        def key(cell: tuple[int, int]) -> tuple[int, ...]:
            rows, columns = self.window(*cell)
            return rows.start // SUPERBLOCK, columns.start // SUPERBLOCK, *cell

        return sorted(((row, column) for row in range(self.counts[0]) for column in range(self.counts[1])), key=key)

    def covering(self, box: Box) -> Iterator[tuple[int, int]]:
        """The cells whose support meets a box, row by row."""
        ranges = []
        for axis in (0, 1):
            step, first = self._step(axis), self._span(axis, 0).grown(-self.trim)
            low = max(0, (box[axis].start - first.stop) // step + 1)
            high = min(self.counts[axis], -((first.start - box[axis].stop) // step))
            ranges.append(range(low, high))
        return ((row, column) for row in ranges[0] for column in ranges[1])

    def weights(self, scale: int) -> NDArray[np.float32]:
        """The weight of a support's pixels at ``scale`` times the resolution, (scale·h, scale·w)."""
        n = self.ramp * scale
        rise = np.sin((np.arange(n) + 0.5) / max(n, 1) * math.pi / 2) ** 2  # rise + reversed rise = 1
        profiles = []
        for axis in (0, 1):
            profile = np.ones((self.tile[axis] - 2 * self.trim) * scale)
            profile[:n] = rise
            profile[len(profile) - n :] = rise[::-1]
            profiles.append(profile)
        return np.outer(*profiles).astype(np.float32)


def plan(region: Box, *, tile: int, overlap: int, halo: int) -> Layout:
    """Cover a region with windows of ``tile`` pixels, smaller ones where the region is.

    Args:
        region: the low-resolution pixels to cover.
        tile: side of a window.
        overlap: pixels that neighbours share. 2·halo + 4 is enough; with less, pixels miss some of their context.
        halo: how far the network looks, in low-resolution pixels.

    Raises:
        ConfigError: ``tile`` doesn't exceed ``overlap``.
    """
    overlap = align_up(overlap)
    tile = align_up(tile)
    if overlap < 0 or tile < overlap + ALIGNMENT:
        raise ConfigError(
            f"--tile {tile} must exceed --overlap {overlap} (default: what the network needs) by at least 8"
        )
    trim = max(0, min(halo, (overlap - FADE) // 2))
    trim = max(trim, overlap - tile // 2)  # the ramps of a window don't meet: at most two windows share a pixel
    ramp = overlap - 2 * trim
    sizes, counts = [], []
    for span in region:
        start = align_down(span.start - trim - ramp)
        needed = align_up(span.stop + trim + ramp - start)
        size = min(tile, needed)
        sizes.append(size)
        counts.append(1 if size == needed else 1 + -(-(needed - size) // (size - overlap)))
    return Layout(region, (sizes[0], sizes[1]), overlap, trim, ramp, (counts[0], counts[1]))


def run_in_batches(compute: Callable[[Sequence[Item]], None], items: Sequence[Item], *, batch: int) -> int:
    """Call ``compute`` on batches of items; where a device's memory runs out, on smaller batches from then on.

    Returns:
        The batch size that fitted.

    Raises:
        TrainingError: the memory doesn't hold one item.
    """
    done = 0
    while done < len(items):
        try:
            compute(items[done : done + batch])
            done += batch
            continue
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        if batch == 1:
            raise TrainingError("one tile doesn't fit in the device's memory: choose a smaller --tile")
        batch = -(-min(batch, len(items) - done) // 2)
        torch.cuda.empty_cache()
        logger.info(f"out of memory: going on with {batch} windows at a time")
    return batch
