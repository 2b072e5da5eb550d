"""The prepared data set as items, and as batches for training and evaluation.

Workers read integers only. `BreizhSRDataset.to_batch` turns a batch of them into what networks see, on the device:
normalisation, the bicubic base, spectral matching. Which samples and crops a training step sees is a function of
(seed, step) alone, so the number of workers or processes and a resumed run change nothing.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from utils.errors import ConfigError, TrainingError, UserError
from utils.radiometry import (
    MATCHINGS,
    apply_table,
    bicubic,
    identity_table,
    normalise_lr,
    reflectance,
)
from utils.randomness import Stream, bits, integers
from utils.signals import worker_init
from utils.store import Key, Store, prepared_folder

Raw = dict[str, Any]
Crop = tuple[int, int, int]  # row, column, size, in low-resolution pixels
Address = tuple[int, Crop | None]  # a position in the split, and a part of the patch

_AT_ONCE = 2  # samples that a CPU makes at a time: measured
_MARGIN = 2  # pixels around a crop that bicubic interpolation reaches for


class Batch(NamedTuple):
    """Samples as networks see them. Shapes as in Series; N = T."""

    lr: Tensor  # (B, T, C, h, w) in [-1, 1]
    dates: Tensor  # (B, T) float, days from the target date
    mask: Tensor  # (B, T) True = acquired
    base: Tensor  # (B, C, H, W) bicubic of the view nearest to the target date
    hr: Tensor  # (B, C, H, W) the truth, matched
    keys: list[Key]
    indices: Tensor  # (B,) positions in the split
    near: Tensor  # (B,) which view is nearest to the target date


class BreizhSRDataset(Dataset[dict[str, Any]]):
    """One split of a prepared data set.

    ``root``: a prepared folder, or a raw one with `preprocessed/` in it. ``sen2_amount``: acquisitions a sample; 1 is
    the single-image input, N > 1 the N nearest to the target date, acquired ones before padded copies.
    ``spectral_matching``: histogram | moment | none. ``target_offset_days`` moves the target date by so many days:
    every offset becomes p − offset, the base follows; the truth stays as it is.
    """

    def __init__(
        self,
        root: Path | str,
        split: str,
        *,
        sen2_amount: int = 1,
        spectral_matching: str = "histogram",
        target_offset_days: int = 0,
    ) -> None:
        if spectral_matching not in (*MATCHINGS, "none"):
            raise ConfigError(f"spectral_matching is {spectral_matching!r}; known: {', '.join(MATCHINGS)}, none")
        self.store = Store(prepared_folder(Path(root)), split)
        self.split = split
        geometry = self.store.manifest.geometry
        if not 1 <= sen2_amount <= geometry.length:
            raise ConfigError(
                f"sen2_amount is {sen2_amount}, {self.store.folder} holds {geometry.length} acquisitions a patch; "
                "for more prepare the data with a larger --max_s2_images"
            )
        self.sen2_amount = sen2_amount
        self.spectral_matching = spectral_matching
        self.target_offset_days = target_offset_days
        self.maxima = self.store.manifest.maxima
        self.scale = geometry.scale
        self.lr_size = geometry.lr_size

    def __len__(self) -> int:
        return len(self.store)

    def key(self, position: int) -> Key:
        """The row label of a sample."""
        shard, row = self.store.locate(position)
        return shard["key"][row]

    def raw(self, position: int, crop: Crop | None = None) -> Raw:
        """A sample as integers: hr (3, H, W) uint8; lr (N, 3, h, w) int16; dates, mask (N,); table (3, 256); base
        (3, h+4, w+4) int16, the view nearest to the target date with the margin that bicubic interpolation needs."""
        shard, row = self.store.locate(position)
        views, chosen, dates, mask, table = self._series(shard, row)
        near = int(dates.abs().masked_fill(~mask, torch.iinfo(dates.dtype).max).argmin())
        top, left, size = crop or (0, 0, self.lr_size)
        s = self.scale
        return {
            "hr": shard["hr"][row][:, top * s : (top + size) * s, left * s : (left + size) * s].clone(),
            "lr": views[..., top : top + size, left : left + size][chosen],  # copied once, the crop alone
            "base": _window(views[int(chosen[near])], top - _MARGIN, left - _MARGIN, size + 2 * _MARGIN),
            "dates": dates,
            "mask": mask,
            "near": near,
            "table": table.clone(),
            "keys": shard["key"][row],
            "indices": position,
        }

    def _series(self, shard: dict[str, Any], row: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Stored views (T, 3, h, w), which of them the sample has, their dates and mask (N,), its table (3, 256)."""
        suffix = "_moment" if self.spectral_matching == "moment" else ""
        single = int(shard["single"][row])
        if self.sen2_amount == 1 and self.target_offset_days == 0 and single >= 0:
            views, dates = shard["single_lr"][single, None], shard["single_dates"][single, None]
            chosen, mask = torch.zeros(1, dtype=torch.int64), torch.ones(1, dtype=torch.bool)
            table = shard[f"single_matching{suffix}"][single]
        else:
            mask, table = shard["alphas"][row], shard[f"matching{suffix}"][row]
            dates = shard["dates"][row]
            chosen = nearest_views(dates.int() - self.target_offset_days, mask, amount=self.sen2_amount)
            views, dates, mask = shard["lr"][row], dates[chosen], mask[chosen]
        if self.spectral_matching == "none":
            table = identity_table()
        return views, chosen, dates.int() - self.target_offset_days, mask, table

    def to_batch(self, raw: Raw, device: torch.device | str = "cpu") -> Batch:
        """What networks see, made on the device from a batch of integers (the loaders' or `collate`'s)."""

        def move(name: str) -> Tensor:
            return raw[name].to(device, non_blocking=True)

        edge = _MARGIN * self.scale

        def normalise(stored: Tensor) -> Tensor:
            return normalise_lr(reflectance(stored), self.maxima)

        def interpolate(stored: Tensor) -> Tensor:  # first interpolated, then clamped
            up = bicubic(reflectance(stored), scale=self.scale)[..., edge:-edge, edge:-edge]
            return normalise_lr(up, self.maxima)

        return Batch(
            lr=_made(normalise, move("lr")),  # (B, T, C, h, w)
            dates=move("dates").float(),
            mask=move("mask"),
            base=_made(interpolate, move("base")),  # (B, C, H, W)
            hr=_made(apply_table, move("hr"), move("table")),
            keys=raw["keys"],
            indices=raw["indices"],
            near=move("near"),
        )

    def __getitem__(self, position: int) -> dict[str, Any]:
        """A sample: img_hr, img_lr_up (3, H, W), img_lr (3, h, w) or (N, 3, h, w), item_name; for N > 1 dates_encoding,
        alphas (N,) and indices (which view is the nearest); outside train and val indexes (the row label)."""
        batch = self.to_batch(collate([self.raw(position)]))
        item: dict[str, Any] = {
            "img_hr": batch.hr[0],
            "img_lr": batch.lr[0, 0] if self.sen2_amount == 1 else batch.lr[0],
            "img_lr_up": batch.base[0],
            "item_name": str(position),
        }
        if self.sen2_amount > 1:
            item |= {"dates_encoding": batch.dates[0], "alphas": batch.mask[0].float(), "indices": int(batch.near[0])}
        if self.split not in ("train", "val"):
            item["indexes"] = batch.keys[0]
        return item


def _made(make: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """``make`` of a batch; on a CPU a few samples at a time, so that what lies between stays in its cache."""
    batch = len(inputs[0])
    if inputs[0].device.type != "cpu" or batch <= _AT_ONCE:
        return make(*inputs)
    parts = zip(*(x.split(_AT_ONCE) for x in inputs), strict=True)
    first = make(*next(parts))
    out = first.new_empty(batch, *first.shape[1:])
    out[:_AT_ONCE] = first
    for place, part in zip(out[_AT_ONCE:].split(_AT_ONCE), parts, strict=True):
        place.copy_(make(*part))
    return out


def nearest_views(dates: Tensor, mask: Tensor, *, amount: int) -> Tensor:
    """Which ``amount`` views are nearest to day 0, in stored order; padded copies last, ties in stored order. (T,)."""
    distance = dates.int().abs().masked_fill(~mask, torch.iinfo(torch.int32).max)
    return distance.argsort(stable=True)[:amount].sort().values


def _window(image: Tensor, top: int, left: int, size: int) -> Tensor:
    """A square of an image (C, h, w), its edge replicated where the square reaches out."""
    height, width = image.shape[-2:]
    rows = torch.arange(top, top + size).clamp(0, height - 1)
    columns = torch.arange(left, left + size).clamp(0, width - 1)
    return image[:, rows[:, None], columns]


def collate(samples: list[Raw]) -> Raw:
    """Stack samples into a batch; keys become a list."""
    batch: Raw = {}
    for name, first in samples[0].items():
        values = [sample[name] for sample in samples]
        if isinstance(first, Tensor):
            batch[name] = torch.stack(values)
        else:
            batch[name] = values if name == "keys" else torch.tensor(values)
    return batch


class _Samples(Dataset[Raw]):
    """Raw samples by address: a position and a crop."""

    def __init__(self, dataset: BreizhSRDataset) -> None:
        self._dataset = dataset

    def __getitem__(self, address: Address) -> Raw:
        position, crop = address
        return self._dataset.raw(position, crop)


class _TrainingOrder(Sampler[list[Address]]):
    """The addresses of this rank's part of each step's batch."""

    def __init__(
        self,
        dataset: BreizhSRDataset,
        *,
        batch_size: int,
        seed: int,
        start_step: int,
        stop_step: int,
        train_crop: int,
        rank: int,
        world_size: int,
    ) -> None:
        self._size = len(dataset)
        self._lr_size = dataset.lr_size
        self._batch_size = batch_size
        self._seed = seed
        self._steps = range(start_step, stop_step)
        self._crop = train_crop
        self._part = range(rank * batch_size // world_size, (rank + 1) * batch_size // world_size)

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[list[Address]]:
        samples = (step * self._batch_size + index for step in self._steps for index in self._part)
        positions = training_positions(self._size, samples, seed=self._seed)
        for step in self._steps:
            yield [(next(positions), self._crop_of(step, index)) for index in self._part]

    def _crop_of(self, step: int, index: int) -> Crop | None:
        if not self._crop:
            return None
        places = self._lr_size - self._crop + 1
        top, left = integers(Stream.CROP, self._seed, step, index, torch.arange(2), high=places).tolist()
        return top, left, self._crop


def permutation(size: int, *, seed: int, epoch: int) -> Tensor:
    """The order of the samples in one epoch, (size,)."""
    return bits(Stream.ORDER, seed, epoch, torch.arange(size)).argsort(stable=True)


def training_positions(size: int, samples: Iterable[int], *, seed: int) -> Iterator[int]:
    """Which position each sample of the endless sequence of permutations has in a split of ``size``."""
    epoch, order = -1, torch.empty(0)
    for sample in samples:
        if sample // size != epoch:
            epoch = sample // size
            order = permutation(size, seed=seed, epoch=epoch)
        yield int(order[sample % size])


def training_loader(
    dataset: BreizhSRDataset,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    stop_step: int,
    train_crop: int = 0,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 0,
    pin_memory: bool = False,
) -> Iterable[Raw]:
    """This rank's raw batches of the steps [start_step, stop_step), for `to_batch`.

    ``batch_size`` is the global one; ``train_crop`` the side of random crops in low-resolution pixels, 0: none.
    """
    if len(dataset) == 0:
        raise ConfigError(f"split {dataset.split!r} of {dataset.store.folder} is empty: nothing to train on")
    if not 0 <= train_crop <= dataset.lr_size:
        raise ConfigError(f"train_crop is {train_crop}, the patches have {dataset.lr_size} low-resolution pixels")
    if batch_size < world_size:
        raise ConfigError(f"batch_size is {batch_size}, less than the {world_size} processes")
    order = _TrainingOrder(
        dataset,
        batch_size=batch_size,
        seed=seed,
        start_step=start_step,
        stop_step=stop_step,
        train_crop=train_crop,
        rank=rank,
        world_size=world_size,
    )
    return _loader(dataset, order, workers=workers, pin_memory=pin_memory)


def evaluation_loader(
    dataset: BreizhSRDataset,
    *,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    workers: int = 0,
    limit: int | None = None,
    pin_memory: bool = False,
) -> Iterable[Raw]:
    """Raw batches of this rank's share (every world_size-th) of the first ``limit`` samples, each once, in order."""
    stop = len(dataset) if limit is None else min(limit, len(dataset))
    positions = range(rank, stop, world_size)
    batches: list[list[Address]] = [
        [(position, None) for position in positions[start : start + batch_size]]
        for start in range(0, len(positions), batch_size)
    ]
    return _loader(dataset, batches, workers=workers, pin_memory=pin_memory)


def _loader(
    dataset: BreizhSRDataset, batches: Iterable[list[Address]], *, workers: int, pin_memory: bool
) -> Iterable[Raw]:
    loader = DataLoader(
        _Samples(dataset),
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=workers,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # its own: the global one is not drawn from
        worker_init_fn=worker_init,
    )
    return _OneLineErrors(loader)


class _OneLineErrors:
    """A loader whose workers' errors arrive as they were raised, without the traceback that torch puts around them."""

    def __init__(self, loader: DataLoader) -> None:
        self._loader = loader

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Raw]:
        try:
            yield from self._loader
        except UserError as error:
            raise type(error)(str(error).strip().rsplit(f"{type(error).__name__}: ", 1)[-1]) from None
        except RuntimeError as error:
            if not str(error).startswith("DataLoader worker"):
                raise
            reason = str(error).splitlines()[0]
            raise TrainingError(f"a process that reads data has ended ({reason}): try fewer num_workers") from None
