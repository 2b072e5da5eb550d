"""Shards of the prepared store, made from rows of a raw data set."""

import contextlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_gen.dataset import Patch, PatchReader, Row, Unusable
from utils.errors import DataError
from utils.files import write_text
from utils.radiometry import count_levels, matching_table, normalise_lr, reflectance
from utils.store import BANDS, Geometry, Shard, ShardInfo, layout, write_shard

_VALUES = 1 << 15  # reflectance × 10000 from 0 that 16 bits hold


@dataclass(frozen=True)
class Task:
    """One shard to make."""

    name: str  # of its file, without the ending
    rows: list[Row]
    root: Path
    folder: Path
    geometry: Geometry
    select: str
    strict: bool  # what can't be used is an error
    maxima: tuple[float, ...]
    fingerprint: str


@dataclass(frozen=True)
class Note:
    """What a finished shard holds, and what was left out of it; beside the shard until the store is complete."""

    fingerprint: str
    info: ShardInfo
    skipped: list[dict[str, Any]]  # split, key, what, path, reason


def note_path(folder: Path, name: str) -> Path:
    return folder / f"{name}.json"


def read_note(folder: Path, name: str) -> Note:
    """Raises OSError or what a damaged file gives: ValueError, TypeError, KeyError."""
    content = json.loads(note_path(folder, name).read_text(encoding="utf-8"))
    return Note(content["fingerprint"], ShardInfo(**content["info"]), content["skipped"])


def make_shard(task: Task) -> Note:
    """Read the rows of a shard, write it, then the note beside it."""
    reader = PatchReader(task.root, geometry=task.geometry, select=task.select)
    patches: list[Patch] = []
    skipped: list[dict[str, Any]] = []

    def skip(row: Row, what: str, path: Any, reason: str) -> None:
        skipped.append({"split": row.split, "key": row.key, "what": what, "path": str(path), "reason": reason})
        if task.strict:
            raise DataError(strict_message(skipped[-1]))

    for row in task.rows:
        try:
            patch = reader.read(row)
        except Unusable as reason:
            skip(row, "patch", row.hr, str(reason))
            continue
        for path, why in patch.dropped:
            skip(row, "acquisition", path, why)
        patches.append(patch)
    shard = assemble(patches, geometry=task.geometry, maxima=task.maxima)
    clipped = sum(view.clipped for patch in patches for view in patch.views)
    info = write_shard(task.folder / f"{task.name}.pt", shard, clipped=clipped)
    note = Note(task.fingerprint, info, skipped)
    write_text(note_path(task.folder, task.name), json.dumps(asdict(note)))
    return note


def strict_message(entry: dict[str, Any]) -> str:
    """The error of --strict for something that was left out."""
    where = f"{entry['split']} {entry['key']}: {entry['what']} {entry['path']!r}"
    return f"{where}: {entry['reason']}; without --strict it is left out"


def assemble(patches: list[Patch], *, geometry: Geometry, maxima: tuple[float, ...]) -> Shard:
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


def count_values(task: Task) -> NDArray[np.int64]:
    """How often each value of reflectance × 10000 occurs in the series of a shard's rows, (bands, 32768)."""
    reader = PatchReader(task.root, geometry=task.geometry, select=task.select)
    counts = np.zeros((BANDS, _VALUES), dtype=np.int64)
    for row in task.rows:
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
