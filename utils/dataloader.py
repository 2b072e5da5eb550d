"""The prepared data set as items, and as batches for training and evaluation.

Workers read integers only. `BreizhSRDataset.to_batch` turns a batch of them into what networks see, on the device:
normalisation, the bicubic base, spectral matching. Which samples and crops a training step sees is a function of
(seed, step) alone, so neither the number of workers or processes nor a resumed run changes it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from utils.cli import worker_init
from utils.errors import ConfigError, TrainingError, UserError
from utils.radiometry import MATCHINGS, apply_table, bicubic, identity_table, normalise_lr, reflectance
from utils.randomness import Stream, integers
from utils.store import Key
from utils.stores import Stores

Raw = dict[str, Any]
Crop = tuple[int, int, int]  # row, column, size, in low-resolution pixels
Sample = tuple[int, Crop | None]  # a position in the split, and a part of the patch

_CPU_PART = 2  # samples that a CPU computes at a time: measured
_MARGIN = 2  # pixels around a crop that bicubic interpolation reads


class Batch(NamedTuple):
    """Samples as networks see them."""

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

    Args:
        root: a prepared folder, or a raw one with `preprocessed/` in it; or several, with the same maxima.
        split: train, val, test or another that the data set has.
        sen2_amount: T, the acquisitions of a sample. 1 is the single-image input; otherwise these are the T nearest
            to the target date, acquired ones before padded copies.
        spectral_matching: histogram, moment or none.
        target_offset_days: the target date moves by so many days. All offsets are counted from there, and the base
            follows; the truth stays as it is.
        weights: of several data sets, the share of each in a training batch; none: equal ones.

    Raises:
        ConfigError: an argument doesn't fit the data set.
        DataError: the data set is missing or damaged.
    """

    def __init__(
        self,
        root: Path | str | Sequence[Path | str],
        split: str,
        *,
        sen2_amount: int = 1,
        spectral_matching: str = "histogram",
        target_offset_days: int = 0,
        weights: Sequence[float] = (),
    ) -> None:
        if spectral_matching not in (*MATCHINGS, "none"):
            raise ConfigError(f"spectral_matching is {spectral_matching!r}; known: {', '.join(MATCHINGS)}, none")
        self.store = Stores([root] if isinstance(root, str | Path) else root, split, weights=weights)
        self.split = split
        length = min(geometry.length for geometry in self.store.geometries)
        if not 1 <= sen2_amount <= length:
            raise ConfigError(
                f"sen2_amount is {sen2_amount}, {self.store.folder} holds {length} acquisitions a patch; "
                "for more prepare the data with a larger --max_s2_images"
            )
        self.sen2_amount = sen2_amount
        self.spectral_matching = spectral_matching
        self.target_offset_days = target_offset_days
        self.maxima = self.store.manifest.maxima
        self.bands = self.store.geometries[0].bands
        self.scale = self.store.scale
        self.lr_size = min(geometry.lr_size for geometry in self.store.geometries)

    def __len__(self) -> int:
        return len(self.store)

    def key(self, position: int) -> Key:
        """The row label of a sample."""
        shard, row = self.store.locate(position)
        return shard["key"][row]

    def raw(self, position: int, crop: Crop | None = None) -> Raw:
        """A sample as integers.

        Args:
            crop: the part of the patch; None for the whole.

        Returns:
            hr (C, H, W) uint8; lr (T, C, h, w) int16; dates, mask (T,); table (C, 256), which matches the colours of
            the truth; base (C, h+4, w+4) int16, the view nearest to the target date with the margin that bicubic
            interpolation reads; near, which view that is; keys, indices.
        """
        shard, row = self.store.locate(position)
        views, chosen, dates, mask, table = self._series(shard, row)
        near = int(dates.abs().masked_fill(~mask, torch.iinfo(dates.dtype).max).argmin())
        top, left, size = crop or (0, 0, shard["lr"].shape[-1])
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
        """Stored views (N, C, h, w), which T of them the sample has, their dates and mask (T,), its table (C, 256)."""
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
            table = identity_table(len(self.bands))
        return views, chosen, dates.int() - self.target_offset_days, mask, table

    def to_batch(self, raw: Raw, device: torch.device | str = "cpu") -> Batch:
        """What networks see, computed on the device from a batch of integers that a loader or `collate` gave."""

        def move(name: str) -> Tensor:
            return raw[name].to(device, non_blocking=True)

        edge = _MARGIN * self.scale

        def normalise(stored: Tensor) -> Tensor:
            return normalise_lr(reflectance(stored), self.maxima)

        def interpolate(stored: Tensor) -> Tensor:  # normalising clamps, so it comes last
            enlarged = bicubic(reflectance(stored), scale=self.scale)[..., edge:-edge, edge:-edge]
            return normalise_lr(enlarged, self.maxima)

        return Batch(
            lr=_in_parts(normalise, move("lr")),  # (B, T, C, h, w)
            dates=move("dates").float(),
            mask=move("mask"),
            base=_in_parts(interpolate, move("base")),  # (B, C, H, W)
            hr=_in_parts(apply_table, move("hr"), move("table")),
            keys=raw["keys"],
            indices=raw["indices"],
            near=move("near"),
        )

    def __getitem__(self, position: int) -> dict[str, Any]:
        """A sample under the names of the published data set.

        Returns:
            img_hr, img_lr_up (C, H, W); img_lr (C, h, w), or (T, C, h, w) for T > 1; item_name; for T > 1
            dates_encoding, alphas (T,) and indices (which view is nearest); outside train and val indexes (the key).
        """
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


def _in_parts(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """A function of a batch; on a CPU of a few samples at a time, so that intermediate results stay in its cache."""
    if inputs[0].device.type != "cpu":
        return function(*inputs)
    parts = zip(*(x.split(_CPU_PART) for x in inputs), strict=True)
    first = function(*next(parts))
    output = first.new_empty(len(inputs[0]), *first.shape[1:])
    output[:_CPU_PART] = first
    for place, part in zip(output[_CPU_PART:].split(_CPU_PART), parts, strict=False):
        place.copy_(function(*part))
    return output


def nearest_views(dates: Tensor, mask: Tensor, *, amount: int) -> Tensor:
    """Which ``amount`` views are nearest to day 0.

    Args:
        dates: (N,) days from the target date.
        mask: (N,) True = acquired; padded copies are chosen last.

    Returns:
        (T,) positions in stored order; of equally near views the first ones are chosen.
    """
    distance = dates.int().abs().masked_fill(~mask, torch.iinfo(torch.int32).max)
    return distance.argsort(stable=True)[:amount].sort().values


def _window(image: Tensor, top: int, left: int, size: int) -> Tensor:
    """A square of an image (C, h, w); where it goes beyond the image, the edge is repeated."""
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


class _RawSamples(Dataset[Raw]):
    """What a loader's workers read."""

    def __init__(self, dataset: BreizhSRDataset) -> None:
        self._dataset = dataset

    def __getitem__(self, sample: Sample) -> Raw:
        return self._dataset.raw(*sample)


@dataclass(frozen=True)
class _TrainingBatches(Sampler[list[Sample]]):
    """The samples of this process's part of each step's batch."""

    dataset: BreizhSRDataset
    places: int  # where a crop can begin, in each direction
    crop: int  # its side; 0: none
    seed: int
    batch_size: int
    steps: range
    part: range  # of the batch

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[Sample]]:
        samples = (step * self.batch_size + index for step in self.steps for index in self.part)
        positions = self.dataset.store.training_positions(samples, batch_size=self.batch_size, seed=self.seed)
        for step in self.steps:
            yield [(next(positions), self._crop(step, index)) for index in self.part]

    def _crop(self, step: int, index: int) -> Crop | None:
        if not self.crop:
            return None
        top, left = integers(Stream.CROP, self.seed, step, index, torch.arange(2), high=self.places).tolist()
        return top, left, self.crop


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
    """This process's raw batches of the steps [start_step, stop_step), for `to_batch`.

    Args:
        batch_size: of all processes together.
        train_crop: side of random crops in low-resolution pixels; 0: whole patches.
        workers: processes that read; 0: this one reads.
        pin_memory: for copies to CUDA.

    Raises:
        ConfigError: the split is empty, or a size doesn't fit.
    """
    for store in dataset.store.parts:
        if len(store) == 0:
            raise ConfigError(f"split {dataset.split!r} of {store.folder} is empty: nothing to train on")
    if not train_crop and len({geometry.lr_size for geometry in dataset.store.geometries}) > 1:
        raise ConfigError(f"the data sets have patches of several sizes: set train_crop, to {dataset.lr_size} at most")
    if not 0 <= train_crop <= dataset.lr_size:
        raise ConfigError(f"train_crop is {train_crop}, the patches have {dataset.lr_size} low-resolution pixels")
    if batch_size < world_size:
        raise ConfigError(f"batch_size is {batch_size}, less than the {world_size} processes")
    batches = _TrainingBatches(
        dataset=dataset,
        places=dataset.lr_size - train_crop + 1,
        crop=train_crop,
        seed=seed,
        batch_size=batch_size,
        steps=range(start_step, stop_step),
        part=range(rank * batch_size // world_size, (rank + 1) * batch_size // world_size),
    )
    return _Loader(dataset, batches, workers=workers, pin_memory=pin_memory)


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
    """Raw batches of this process's share of a split: every ``world_size``-th of the first ``limit`` samples, once."""
    stop = len(dataset) if limit is None else min(limit, len(dataset))
    batches: list[list[Sample]] = []
    for first, end in pairwise(dataset.store.starts):  # a batch never mixes data sets, whose patches may differ in size
        positions = range(first + (rank - first) % world_size, min(end, stop), world_size)
        batches += [
            [(position, None) for position in positions[start : start + batch_size]]
            for start in range(0, len(positions), batch_size)
        ]
    return _Loader(dataset, batches, workers=workers, pin_memory=pin_memory)


class _Loader(DataLoader):
    """Workers' errors arrive as they were raised, without the traceback that torch puts around them."""

    def __init__(
        self, dataset: BreizhSRDataset, batches: Iterable[list[Sample]], *, workers: int, pin_memory: bool
    ) -> None:
        super().__init__(
            _RawSamples(dataset),
            batch_sampler=batches,
            collate_fn=collate,
            num_workers=workers,
            pin_memory=pin_memory,
            generator=torch.Generator(),  # its own: the global one is not drawn from
            worker_init_fn=worker_init,
        )

    def __iter__(self) -> Iterator[Raw]:  # type: ignore[override]
        try:
            yield from super().__iter__()
        except UserError as error:
            raise type(error)(str(error).strip().rsplit(f"{type(error).__name__}: ", 1)[-1]) from None
        except RuntimeError as error:
            if not str(error).startswith("DataLoader worker"):
                raise
            reason = str(error).splitlines()[0]
            raise TrainingError(f"a process that reads data has ended ({reason}): try fewer num_workers") from None
