"""Augmentation of a training batch, on its device; every choice is a function of (seed, step, sample)."""

from collections.abc import Callable, Collection

import torch
from torch import Tensor

from utils.dataloader import Batch
from utils.randomness import Stream, bits, integers

_DROPPED = 4  # each acquisition but the nearest is dropped with probability 1/4


def augment(batch: Batch, names: Collection[str], *, seed: int, step: int, positions: Tensor) -> Batch:
    """Apply what ``names`` lists; the truth, the bicubic base and all acquisitions of a sample are changed alike.

    flips: each direction with probability 1/2. turns: by 0 to 3 quarters. drop_dates: acquisitions become padding,
    never the one nearest to the target date. shuffle_dates: acquisitions in another order, padding stays last.
    positions: (B,) of the samples in the global batch.
    """

    def drawn(stream: Stream, high: int) -> Tensor:
        """A number in [0, high) for each sample, (B,)."""
        return integers(stream, seed, step, positions, high=high)

    if "flips" in names:
        batch = _where(drawn(Stream.FLIP_X, 2) == 1, batch, lambda x: x.flip(-1))
        batch = _where(drawn(Stream.FLIP_Y, 2) == 1, batch, lambda x: x.flip(-2))
    if "turns" in names:
        quarters = drawn(Stream.TURN, 4)
        batch = _where(quarters % 2 == 1, batch, lambda x: x.rot90(1, (-2, -1)))
        batch = _where(quarters >= 2, batch, lambda x: x.rot90(2, (-2, -1)))
    length = batch.lr.shape[1]
    each = torch.arange(length, device=positions.device)  # (T,)
    if "drop_dates" in names and length > 1:
        dropped = integers(Stream.DROP_DATES, seed, step, positions[:, None], each, high=_DROPPED) == 0  # (B, T)
        dropped &= each != batch.near[:, None]
        batch = _pad(batch, batch.mask & ~dropped)
    if "shuffle_dates" in names and length > 1:
        drawn_places = bits(Stream.SHUFFLE_DATES, seed, step, positions[:, None], each)  # (B, T)
        order = drawn_places.masked_fill(~batch.mask, torch.iinfo(torch.int64).max).argsort(dim=1, stable=True)
        batch = _reorder(batch, order)
    return batch


def _where(chosen: Tensor, batch: Batch, change: Callable[[Tensor], Tensor]) -> Batch:
    """Change the images of the chosen samples (B,)."""

    def some(x: Tensor) -> Tensor:
        return torch.where(chosen.view(-1, *[1] * (x.dim() - 1)), change(x), x)

    return batch._replace(lr=some(batch.lr), base=some(batch.base), hr=some(batch.hr))


def _pad(batch: Batch, mask: Tensor) -> Batch:
    """The acquisitions of ``mask`` (B, T) in order, padded by repeating the last one, as a shorter series is stored."""
    order = (~mask).int().argsort(dim=1, stable=True)  # kept ones first
    kept = mask.sum(dim=1, keepdim=True)  # (B, 1)
    place = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
    source = order.gather(1, torch.minimum(place, kept - 1))
    return _reorder(batch, source)._replace(mask=place < kept)


def _reorder(batch: Batch, order: Tensor) -> Batch:
    """Acquisitions in another order (B, T); `near` follows the view it names."""
    rows = torch.arange(len(order), device=order.device)[:, None]
    near = (order == batch.near[:, None]).int().argmax(dim=1)
    return batch._replace(
        lr=batch.lr[rows, order], dates=batch.dates[rows, order], mask=batch.mask[rows, order], near=near
    )
