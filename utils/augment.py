"""Augmentation of a training batch, on its device; every choice is a function of (seed, step, sample)."""

from collections.abc import Callable, Collection

import torch
from torch import Tensor

from utils.dataloader import Batch
from utils.randomness import Stream, bits, integers

_DROP_ONE_IN = 4  # acquisitions, on average, the nearest one apart
_FIRST, _LAST = torch.iinfo(torch.int64).min, torch.iinfo(torch.int64).max


def augment(batch: Batch, names: Collection[str], *, seed: int, step: int, positions: Tensor) -> Batch:
    """Change the truth, the bicubic base and all acquisitions of a sample alike.

    Args:
        names: of the changes. flips: each direction with probability 1/2. turns: by 0 to 3 quarters. drop_dates:
            acquisitions become padding, never the one nearest to the target date. shuffle_dates: acquisitions change
            their order, padding stays last. vary_dates: a batch keeps 1 to T acquisitions, the nearest and others by
            chance; few more often than many.
        positions: (B,) of the samples in the batch of all processes.
    """

    def draw(stream: Stream, high: int) -> Tensor:
        """A number in [0, high) for each sample, (B,)."""
        return integers(stream, seed, step, positions, high=high)

    if "flips" in names:
        batch = _where(draw(Stream.FLIP_X, 2) == 1, batch, lambda x: x.flip(-1))
        batch = _where(draw(Stream.FLIP_Y, 2) == 1, batch, lambda x: x.flip(-2))
    if "turns" in names:
        quarters = draw(Stream.TURN, 4)
        batch = _where(quarters % 2 == 1, batch, lambda x: x.rot90(1, (-2, -1)))
        batch = _where(quarters >= 2, batch, lambda x: x.rot90(2, (-2, -1)))
    num_dates = batch.lr.shape[1]
    dates = torch.arange(num_dates, device=positions.device)  # (T,)
    if "drop_dates" in names and num_dates > 1:
        dropped = integers(Stream.DROP_DATES, seed, step, positions[:, None], dates, high=_DROP_ONE_IN) == 0  # (B, T)
        dropped &= dates != batch.near[:, None]
        batch = _pad(batch, batch.mask & ~dropped)
    if "vary_dates" in names and num_dates > 1:
        kept = 1 + int(integers(Stream.VARY_DATES, seed, step, torch.arange(2), high=num_dates).min())
        ranks = bits(Stream.VARY_DATES, seed, step, positions[:, None], dates).masked_fill(~batch.mask, _LAST)
        order = ranks.masked_fill(dates == batch.near[:, None], _FIRST).argsort(dim=1)[:, :kept]
        batch = _reorder(batch, order)
        num_dates, dates = kept, dates[:kept]
    if "shuffle_dates" in names and num_dates > 1:
        ranks = bits(Stream.SHUFFLE_DATES, seed, step, positions[:, None], dates)  # (B, T)
        order = ranks.masked_fill(~batch.mask, _LAST).argsort(dim=1, stable=True)
        batch = _reorder(batch, order)
    return batch


def _where(chosen: Tensor, batch: Batch, change: Callable[[Tensor], Tensor]) -> Batch:
    """A batch with the images of the chosen samples (B,) changed."""

    def change_chosen(images: Tensor) -> Tensor:
        return torch.where(chosen.view(-1, *[1] * (images.dim() - 1)), change(images), images)

    return batch._replace(lr=change_chosen(batch.lr), base=change_chosen(batch.base), hr=change_chosen(batch.hr))


def _pad(batch: Batch, mask: Tensor) -> Batch:
    """The acquisitions of ``mask`` (B, T) in order, padded by repeating the last one, as a shorter series is stored."""
    order = (~mask).int().argsort(dim=1, stable=True)  # kept ones first
    kept = mask.sum(dim=1, keepdim=True)  # (B, 1)
    position = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)  # (B, T)
    source = order.gather(1, torch.minimum(position, kept - 1))
    return _reorder(batch, source)._replace(mask=position < kept)


def _reorder(batch: Batch, order: Tensor) -> Batch:
    """Acquisitions in another order (B, T); `near` follows the acquisition that it names."""
    rows = torch.arange(len(order), device=order.device)[:, None]
    near = (order == batch.near[:, None]).int().argmax(dim=1)
    return batch._replace(
        lr=batch.lr[rows, order], dates=batch.dates[rows, order], mask=batch.mask[rows, order], near=near
    )
