"""Splits by blocks: places that are trained on and places that are tested on don't touch."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from utils.errors import DataError
from utils.randomness import Stream, bits

SPLITS = ("train", "val", "test")
BLOCKS = (8, 4, 2, 1)  # patches along a block's side that are tried
_DRAWS = 32  # assignments of blocks that are tried for each size
_MOST_CELLS = 50_000_000  # of the rectangle around all places

Cell = tuple[int, int]  # row and column of a patch in the grid


def assign(
    patches: Mapping[Cell, int], shares: Mapping[str, float], *, block: int | None, gap: int, seed: int
) -> dict[Cell, str]:
    """The split of each place; places that are left out, so that no two splits touch, are missing.

    Squares of ``block`` × ``block`` places (None: the size that works best) go to one split as a whole, chosen by
    chance. Then places within ``gap`` of a split that counts more (test, then val) are left out. Of several such draws
    the one is taken that loses the fewest patches and meets the shares best.

    Args:
        patches: how many patches a place has.
        shares: of each split; they needn't sum to one. A split of share 0 gets nothing.

    Raises:
        DataError: there are too few places.
    """
    wanted = {split: shares[split] / sum(shares.values()) for split in SPLITS if shares[split] > 0}
    rows, columns = np.array(list(patches)).T
    rows, columns = rows - rows.min(), columns - columns.min()
    if (rows.max() + 1) * (columns.max() + 1) > _MOST_CELLS:
        raise DataError("the images lie too far apart for one data set; build one of each region")
    counts = np.zeros((rows.max() + 1, columns.max() + 1), dtype=np.int64)
    counts[rows, columns] = list(patches.values())
    best, least = None, np.inf
    for size in BLOCKS if block is None else (block,):
        for draw in range(_DRAWS):
            labels = _draw_blocks(counts, wanted, block=size, seed=seed, draw=draw)
            _leave_gaps(labels, gap)
            cost = _cost(counts, labels, wanted)
            if cost < least:
                best, least = labels, cost
    if best is None:
        raise DataError(
            f"{len(patches)} places are too few for {', '.join(wanted)} that don't touch: "
            "use a smaller --patch, --gap 0, or no share for one of them, e.g. --val 0"
        )
    found = {cell: int(best[row, column]) for cell, row, column in zip(patches, rows, columns, strict=True)}
    return {cell: SPLITS[label] for cell, label in found.items() if label >= 0}


def _draw_blocks(
    counts: NDArray[np.int64], wanted: Mapping[str, float], *, block: int, seed: int, draw: int
) -> NDArray[np.int8]:
    """A split for each place (its position in SPLITS; −1: there is no patch), block by block in an order by chance."""
    height, width = (-(-side // block) for side in counts.shape)
    padded = np.pad(counts, [(0, height * block - counts.shape[0]), (0, width * block - counts.shape[1])])
    sizes = padded.reshape(height, block, width, block).sum((1, 3))  # (blocks down, blocks right)
    order = bits(Stream.SPLITS, seed, draw, torch.arange(sizes.size)).argsort(stable=True).numpy()
    missing = {split: share * int(counts.sum()) for split, share in wanted.items()}
    chosen = np.full(sizes.size, -1, dtype=np.int8)
    filled = order[sizes.ravel()[order] > 0]
    empty = list(wanted)
    for left, number in zip(range(len(filled), 0, -1), filled, strict=True):
        split = max(empty if left <= len(empty) else wanted, key=missing.__getitem__)
        missing[split] -= int(sizes.flat[number])
        chosen[number] = SPLITS.index(split)
        empty = [other for other in empty if other != split]
    labels = np.kron(chosen.reshape(height, width), np.ones((block, block), dtype=np.int8))
    return np.where(counts > 0, labels[: counts.shape[0], : counts.shape[1]], -1)


def _leave_gaps(labels: NDArray[np.int8], gap: int) -> None:
    """Leave out what lies within ``gap`` of test, then of val: train, the largest split, loses most places."""
    if not gap:
        return
    square = np.ones((2 * gap + 1, 2 * gap + 1), dtype=bool)
    for kept in (2, 1):  # positions in SPLITS
        near = ndimage.binary_dilation(labels == kept, structure=square)
        labels[near & (labels >= 0) & (labels < kept)] = -1


def _cost(counts: NDArray[np.int64], labels: NDArray[np.int8], wanted: Mapping[str, float]) -> float:
    """Share of patches lost, and how far the shares of the others are off; infinite where a split is empty."""
    kept = {split: int(counts[labels == SPLITS.index(split)].sum()) for split in wanted}
    if min(kept.values()) == 0:
        return np.inf
    total = sum(kept.values())
    return 1 - total / int(counts.sum()) + sum(abs(kept[split] / total - share) for split, share in wanted.items())
