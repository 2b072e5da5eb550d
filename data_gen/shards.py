"""Shards of the prepared store, made from rows of a raw data set."""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel
from torch import Tensor

from data_gen.dataset import PatchReader, RawPatch, TableRow, Unusable
from utils.errors import DataError
from utils.files import write_text
from utils.radiometry import count_levels, matching_table, normalise_lr, reflectance
from utils.store import Geometry, Shard, ShardInfo, Skipped, layout, write_shard

_VALUES = 1 << 15  # reflectance × 10000 from 0 that 16 bits hold


@dataclass(frozen=True)
class Options:
    """What preprocessing can be asked for."""

    max_s2_images: int = 8
    select: str = "nearest"
    percentile: float | None = None  # of the train split's reflectance; None: BreizhSR's published maxima
    strict: bool = False  # what can't be used is an error
    maxima: tuple[float, ...] | None = None  # the reflectance of each band that becomes 1; not with percentile
    bands: tuple[str, ...] | None = None  # None: those that the rasters describe


@dataclass(frozen=True)
class StorePlan:
    """What all shards of a store share."""

    root: Path
    folder: Path
    options: Options
    geometry: Geometry
    fingerprint: str  # of the tables and the options
    maxima: tuple[float, ...] = ()  # known once percentiles were taken

    def reader(self) -> PatchReader:
        return PatchReader(self.root, geometry=self.geometry, select=self.options.select)

    def record_path(self, name: str) -> Path:
        return self.folder / f"{name}.json"


@dataclass(frozen=True)
class ShardJob:
    """One shard to make."""

    plan: StorePlan
    name: str  # of its file, without the ending
    rows: list[TableRow]


class ShardRecord(BaseModel):
    """What a finished shard holds, and what was left out of it; beside the shard until the store is complete."""

    fingerprint: str
    info: ShardInfo
    skipped: list[Skipped]


def make_shard(job: ShardJob) -> ShardRecord:
    """Read the rows of a shard, write it, then the record beside it."""
    reader = job.plan.reader()
    patches: list[RawPatch] = []
    skipped: list[Skipped] = []

    def skip(row: TableRow, what: str, path: Any, reason: str) -> None:
        skipped.append(Skipped(split=row.split, key=row.key, what=what, path=str(path), reason=reason))
        if job.plan.options.strict:
            raise DataError(strict_message(skipped[-1]))

    for row in job.rows:
        try:
            patch = reader.read(row)
        except Unusable as reason:
            skip(row, "patch", row.hr, str(reason))
            continue
        for path, why in patch.dropped:
            skip(row, "acquisition", path, why)
        patches.append(patch)
    shard = assemble(patches, geometry=job.plan.geometry, maxima=job.plan.maxima)
    clipped = sum(view.clipped for patch in patches for view in patch.views)
    info = write_shard(job.plan.folder / f"{job.name}.pt", shard, clipped=clipped)
    record = ShardRecord(fingerprint=job.plan.fingerprint, info=info, skipped=skipped)
    write_text(job.plan.record_path(job.name), record.model_dump_json())
    return record


def strict_message(entry: Skipped) -> str:
    """The error of --strict for something that was left out."""
    where = f"{entry.split} {entry.key}: {entry.what} {entry.path!r}"
    return f"{where}: {entry.reason}; without --strict it is left out"


def assemble(patches: list[RawPatch], *, geometry: Geometry, maxima: tuple[float, ...]) -> Shard:
    """The content of a shard."""
    singles = [patch for patch in patches if patch.single is not patch.views[patch.nearest()]]
    shapes = layout(geometry, samples=len(patches), singles=len(singles))
    shard: Shard = {name: torch.empty(shape, dtype=dtype) for name, (dtype, shape) in shapes.items()}
    shard["single"].fill_(-1)
    single = 0
    for row, patch in enumerate(patches):
        nearest = patch.views[patch.nearest()]
        padded = patch.views + patch.views[-1:] * (geometry.length - len(patch.views))
        shard["hr"][row] = patch.hr
        shard["lr"][row] = torch.stack([view.lr for view in padded])
        shard["dates"][row] = torch.tensor([view.offset for view in padded])
        shard["alphas"][row] = torch.arange(geometry.length) < len(patch.views)
        _fill_tables(shard, "", row, hr=patch.hr, lr=nearest.lr, maxima=maxima)
        if patch.single is not nearest:
            shard["single"][row] = single
            shard["single_lr"][single] = patch.single.lr
            shard["single_dates"][single] = patch.single.offset
            _fill_tables(shard, "single_", single, hr=patch.hr, lr=patch.single.lr, maxima=maxima)
            single += 1
    names = sorted({name for patch in patches for name in patch.columns})
    shard["key"] = [patch.key for patch in patches]
    shard["columns"] = {name: [patch.columns.get(name) for patch in patches] for name in names}
    return shard


def _fill_tables(shard: Shard, prefix: str, row: int, *, hr: Tensor, lr: Tensor, maxima: tuple[float, ...]) -> None:
    counts, normalised = count_levels(hr), normalise_lr(reflectance(lr), maxima)
    shard[f"{prefix}matching"][row] = matching_table(counts, normalised, method="histogram")
    shard[f"{prefix}matching_moment"][row] = matching_table(counts, normalised, method="moment")


# ---------------------------------------------------------------------------------------------------------------------
# Percentiles


def count_values(job: ShardJob) -> NDArray[np.int64]:
    """How often each value of reflectance × 10000 occurs in the series of a shard's rows, (bands, 32768)."""
    reader = job.plan.reader()
    counts = np.zeros((len(job.plan.geometry.bands), _VALUES), dtype=np.int64)
    for row in job.rows:
        with contextlib.suppress(Unusable):
            for view in reader.read(row).views:
                for band, values in enumerate(view.lr.clamp(min=0).flatten(1).numpy()):
                    counts[band] += np.bincount(values, minlength=_VALUES)
    return counts


def percentile(counts: NDArray[np.int64], percent: float) -> float:
    """The percentile of values 0, 1, 2... that occur ``counts`` times, interpolated as ``numpy.percentile`` does."""
    ends = np.cumsum(counts)
    rank = percent / 100 * (int(ends[-1]) - 1)
    low, high = np.searchsorted(ends, [np.floor(rank), np.ceil(rank)], side="right")
    return float(low + (high - low) * (rank - np.floor(rank)))
