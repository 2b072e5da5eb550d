"""From a raw data set to the prepared store, in parallel by shards.

A shard covers a fixed range of rows of one split. It is written whole, then a note beside it (`<shard>.json`) says what
it holds; the manifest is written last. A stopped run is resumed by keeping the shards whose notes carry the same
fingerprint: the same tables, the same parameters.
"""

import contextlib
import hashlib
import json
import logging
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_gen.dataset import Patch, PatchReader, Row, Unusable, find_geometry, read_rows, table_paths
from utils.errors import DataError
from utils.files import write_text
from utils.radiometry import PUBLISHED_MAXIMA, count_levels, matching_table, normalise_lr, reflectance
from utils.store import (
    BANDS,
    FOLDER,
    MANIFEST,
    VERSION,
    Geometry,
    Manifest,
    Shard,
    ShardInfo,
    checksum,
    layout,
    read_manifest,
    shard_bytes,
    write_manifest,
    write_shard,
)

_TARGET_BYTES = 128 << 20  # of a shard
_MOST_SAMPLES = 512  # in a shard
_STARTING = 5  # seconds that a process must save to be worth starting
_VALUES = 1 << 15  # reflectance × 10000 from 0 that 16 bits hold

Say = Callable[[str], None]
Advance = Callable[[int], object]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Options:
    """What preprocessing can be asked for."""

    max_s2_images: int = 8
    select: str = "nearest"
    percentile: float | None = None  # of the train split's reflectance; None: BreizhSR's published maxima
    strict: bool = False  # what can't be used is an error


@dataclass(frozen=True)
class Plan:
    """What there is to do."""

    root: Path
    folder: Path
    options: Options
    geometry: Geometry
    tables: dict[str, str]  # name -> sha256
    splits: dict[str, list[Row]]
    fingerprint: str

    def shards(self) -> dict[str, list[Row]]:
        """The rows of every shard, by its name."""
        n = max(1, min(_MOST_SAMPLES, _TARGET_BYTES // shard_bytes(self.geometry, samples=1, singles=0)))
        return {
            f"{split}-{start // n:05d}": rows[start : start + n]
            for split, rows in self.splits.items()
            for start in range(0, len(rows), n)
        }


@dataclass(frozen=True)
class Task:
    """One shard to make."""

    name: str
    rows: list[Row]
    root: Path
    folder: Path
    options: Options
    geometry: Geometry
    maxima: tuple[float, ...]
    fingerprint: str


@dataclass(frozen=True)
class Note:
    """What a finished shard holds, and what was left out of it."""

    fingerprint: str
    info: ShardInfo
    skipped: list[dict[str, Any]]


def prepare(
    root: Path,
    *,
    output: Path | None = None,
    options: Options,
    workers: int | None = None,
    say: Say,
    progress: Callable[[int], contextlib.AbstractContextManager[Advance]],
) -> Manifest:
    """Prepare the raw data set in ``root`` into ``output`` (default: its `preprocessed/`), and give back the manifest.

    ``workers``: processes; 1 for this one alone, None for as many as pay. ``say`` gets a line at a time.
    ``progress(n)`` is entered with the number of patches to do and gives what is called with each number done.
    Raises DataError.
    """
    folder = output or root / FOLDER
    paths = table_paths(root)
    tables = {path.name: checksum(path) for path in paths}
    fingerprint = _fingerprint(tables, options)
    manifest = _finished(folder, fingerprint, say)
    if manifest is None:
        splits = read_rows(paths)
        rows = [row for rows in splits.values() for row in rows]
        geometry = find_geometry(root, rows, length=options.max_s2_images)
        plan = Plan(root, folder, options, geometry, tables, splits, fingerprint)
        try:
            manifest = _carry_out(plan, workers=workers, say=say, progress=progress)
        except OSError as error:
            raise DataError(
                f"{folder}: can't be written ({error.strerror or error}); choose another --output"
            ) from error
    if options.strict and manifest.skipped:
        raise DataError(_strict_message(manifest.skipped[0]))
    say(f"{folder} is prepared: {_summary(manifest)}")
    return manifest


def _carry_out(
    plan: Plan,
    *,
    workers: int | None,
    say: Say,
    progress: Callable[[int], contextlib.AbstractContextManager[Advance]],
) -> Manifest:
    plan.folder.mkdir(parents=True, exist_ok=True)
    shards = plan.shards()
    notes = _kept(plan, shards, say)
    missing = {name: rows for name, rows in shards.items() if name not in notes}
    patches = sum(map(len, missing.values()))
    seconds = patches * _seconds_per_patch(plan)
    workers = min(len(missing), workers or min(_cores(), 1 + int(seconds / _STARTING)))
    _estimate(plan, patches=patches, seconds=seconds / max(1, workers), workers=workers, say=say)
    with _pool(workers) as pool:
        maxima = _maxima(plan, pool)
        tasks = [
            Task(name, rows, plan.root, plan.folder, plan.options, plan.geometry, maxima, plan.fingerprint)
            for name, rows in missing.items()
        ]
        with progress(patches) as advance:
            for task, note in _run(pool, make_shard, tasks):
                notes[task.name] = note
                advance(len(task.rows))
    manifest = Manifest(
        geometry=plan.geometry,
        maxima=maxima,
        normalisation=_origin_of_maxima(plan.options),
        parameters={
            "max_s2_images": plan.options.max_s2_images,
            "select": plan.options.select,
            "percentile": plan.options.percentile,
            "fingerprint": plan.fingerprint,
        },
        tables=plan.tables,
        splits={split: [notes[name].info for name in shards if _split_of(name) == split] for split in plan.splits},
        skipped=[entry for name in shards for entry in notes[name].skipped],
    )
    write_manifest(plan.folder, manifest)
    _remove(plan.folder, *_NOTES)
    return manifest


# ---------------------------------------------------------------------------------------------------------------------
# What is there already

_SHARDS = ("*-[0-9][0-9][0-9][0-9][0-9].pt", ".*-[0-9][0-9][0-9][0-9][0-9].*.tmp")
_NOTES = ("*-[0-9][0-9][0-9][0-9][0-9].json",)


def _fingerprint(tables: dict[str, str], options: Options) -> str:
    """What the content of a store follows from, as far as it can be told without reading the rasters."""
    described = {**asdict(options), "strict": None, "tables": tables, "version": VERSION, "shard": _TARGET_BYTES}
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def _finished(folder: Path, fingerprint: str, say: Say) -> Manifest | None:
    """The manifest of a store that is what was asked for; any other store makes way."""
    if not (folder / MANIFEST).is_file():
        return None
    try:
        manifest = read_manifest(folder)
    except DataError as error:
        say(f"starting over: {error}")
    else:
        if manifest.parameters.get("fingerprint") == fingerprint:
            return manifest
        say(f"starting over: {folder} was prepared from other tables or with other parameters")
    _remove(folder, MANIFEST, *_SHARDS, *_NOTES)
    return None


def _kept(plan: Plan, shards: Iterable[str], say: Say) -> dict[str, Note]:
    """The notes of the shards that a stopped run left; everything else of it is removed."""
    found: dict[str, Note] = {}
    for name in shards:
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            content = json.loads((plan.folder / f"{name}.json").read_text(encoding="utf-8"))
            note = Note(content["fingerprint"], ShardInfo(**content["info"]), content["skipped"])
            size = (plan.folder / f"{name}.pt").stat().st_size
            if (note.fingerprint, note.info.file, note.info.bytes) == (plan.fingerprint, f"{name}.pt", size):
                found[name] = note
    stale = [path for pattern in (*_SHARDS, *_NOTES) for path in plan.folder.glob(pattern) if path.stem not in found]
    if found:
        say(f"going on: {len(found)} finished shards are kept")
    elif any(path.suffix == ".json" for path in stale):
        say(f"starting over: {plan.folder} was begun from other tables or with other parameters")
    for path in stale:
        path.unlink()
    return found


def _remove(folder: Path, *patterns: str) -> None:
    for pattern in patterns:
        for path in folder.glob(pattern):
            path.unlink()


def _estimate(plan: Plan, *, patches: int, seconds: float, workers: int, say: Say) -> None:
    """Say what is to be done, and refuse what the disk has no room for."""
    needed = patches * shard_bytes(plan.geometry, samples=1, singles=0)
    free = shutil.disk_usage(plan.folder).free
    size = plan.geometry.hr_size
    say(
        f"{patches} patches of {size}×{size} to prepare: about {_bytes(needed)} ({_bytes(free)} free), "
        f"{_duration(seconds)} with {workers} process{'' if workers == 1 else 'es'}"
    )
    if needed > free:
        raise DataError(f"{plan.folder}: {_bytes(needed)} are needed, {_bytes(free)} are free; choose another --output")


def _seconds_per_patch(plan: Plan) -> float:
    """Of a few rows from the middle of the data set."""
    rows = [row for rows in plan.splits.values() for row in rows]
    few = rows[len(rows) // 2 :][:3]
    reader = PatchReader(plan.root, geometry=plan.geometry, select=plan.options.select)
    start = time.perf_counter()
    patches = []
    for row in few:
        with contextlib.suppress(Unusable):
            patches.append(reader.read(row))
    assemble(patches, geometry=plan.geometry, maxima=PUBLISHED_MAXIMA)
    return (time.perf_counter() - start) / max(1, len(few))


# ---------------------------------------------------------------------------------------------------------------------
# Shards


def make_shard(task: Task) -> Note:
    """Read the rows of a shard, write it, and the note beside it."""
    reader = PatchReader(task.root, geometry=task.geometry, select=task.options.select)
    patches: list[Patch] = []
    skipped: list[dict[str, Any]] = []

    def skip(row: Row, what: str, path: Any, reason: str) -> None:
        entry = {"split": row.split, "key": row.key, "what": what, "path": str(path), "reason": reason}
        if task.options.strict:
            raise DataError(_strict_message(entry))
        skipped.append(entry)

    for row in task.rows:
        try:
            patch = reader.read(row)
        except Unusable as reason:
            skip(row, "patch", row.hr, str(reason))
        else:
            for path, why in patch.dropped:
                skip(row, "acquisition", path, why)
            patches.append(patch)
    shard = assemble(patches, geometry=task.geometry, maxima=task.maxima)
    clipped = sum(view.clipped for patch in patches for view in patch.views)
    info = write_shard(task.folder / f"{task.name}.pt", shard, clipped=clipped)
    note = Note(task.fingerprint, info, skipped)
    write_text(task.folder / f"{task.name}.json", json.dumps(asdict(note)))
    return note


def assemble(patches: list[Patch], *, geometry: Geometry, maxima: tuple[float, ...]) -> Shard:
    """The tensors of a shard."""
    singles = [patch for patch in patches if patch.single is not patch.views[patch.nearest()]]
    shapes = layout(geometry, samples=len(patches), singles=len(singles))
    shard: Shard = {name: torch.empty(shape, dtype=dtype) for name, (dtype, shape) in shapes.items()}
    for row, patch in enumerate(patches):
        padding = geometry.length - len(patch.views)
        padded = patch.views + patch.views[-1:] * padding
        shard["hr"][row] = patch.hr
        shard["lr"][row] = torch.stack([view.lr for view in padded])
        shard["dates"][row] = torch.tensor([view.offset for view in padded])
        shard["alphas"][row] = torch.arange(geometry.length) < len(patch.views)
        _tables(shard, "", row, patch.hr, patch.views[patch.nearest()].lr, maxima)
    shard["single"].fill_(-1)
    for number, patch in enumerate(singles):
        shard["single"][patches.index(patch)] = number
        shard["single_lr"][number] = patch.single.lr
        shard["single_dates"][number] = patch.single.offset
        _tables(shard, "single_", number, patch.hr, patch.single.lr, maxima)
    names = sorted({name for patch in patches for name in patch.columns})
    shard["key"] = [patch.key for patch in patches]
    shard["columns"] = {name: [patch.columns.get(name) for patch in patches] for name in names}
    return shard


def _tables(shard: Shard, prefix: str, row: int, hr: Tensor, lr: Tensor, maxima: tuple[float, ...]) -> None:
    counts, normalised = count_levels(hr), normalise_lr(reflectance(lr), maxima)
    shard[f"{prefix}matching"][row] = matching_table(counts, normalised, method="histogram")
    shard[f"{prefix}matching_moment"][row] = matching_table(counts, normalised, method="moment")


# ---------------------------------------------------------------------------------------------------------------------
# Normalisation


def _maxima(plan: Plan, pool: ProcessPoolExecutor | None) -> tuple[float, ...]:
    """The reflectance that becomes 1, a band: published, or a percentile over the acquisitions of the train split."""
    if plan.options.percentile is None:
        return PUBLISHED_MAXIMA
    tasks = [
        Task(name, rows, plan.root, plan.folder, plan.options, plan.geometry, PUBLISHED_MAXIMA, plan.fingerprint)
        for name, rows in plan.shards().items()
        if _split_of(name) == "train"
    ]
    counts = np.zeros((BANDS, _VALUES), dtype=np.int64)
    for _, part in _run(pool, count_values, tasks):
        counts += part
    if not counts.sum():
        raise DataError(f"{plan.root}: no usable patch in the train split to take percentiles of")
    return tuple(max(percentile(band, plan.options.percentile), 1.0) / 10000 for band in counts)


def count_values(task: Task) -> NDArray[np.int64]:
    """How often each value of reflectance × 10000 occurs in the series of a shard's rows, (bands, 32768)."""
    reader = PatchReader(task.root, geometry=task.geometry, select=task.options.select)
    counts = np.zeros((BANDS, _VALUES), dtype=np.int64)
    for row in task.rows:
        with contextlib.suppress(Unusable):
            for view in reader.read(row).views:
                for band in range(BANDS):
                    counts[band] += np.bincount(view.lr[band].clamp(min=0).flatten().numpy(), minlength=_VALUES)
    return counts


def percentile(counts: NDArray[np.int64], percent: float) -> float:
    """The percentile of values 0, 1, 2... that occur ``counts`` times, interpolated as ``numpy.percentile`` does."""
    ends = np.cumsum(counts)
    rank = percent / 100 * (int(ends[-1]) - 1)
    low, high = np.searchsorted(ends, [np.floor(rank), np.ceil(rank)], side="right")
    return float(low + (high - low) * (rank - np.floor(rank)))


def _origin_of_maxima(options: Options) -> str:
    if options.percentile is None:
        return "98th percentiles of BreizhSR's train split, as published"
    return f"{options.percentile:g}th percentiles of the train split"


# ---------------------------------------------------------------------------------------------------------------------
# Processes


@contextlib.contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor | None]:
    """Processes of their own (spawned: GDAL and torch don't like to be forked); None for one."""
    if workers <= 1:
        yield None
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process decides
    torch.set_num_threads(1)
    quiet()
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=[parent], daemon=True).start()


def _end_with(process: BaseProcess) -> None:
    """Don't outlive a main process that was killed."""
    process.join()
    os._exit(1)


def quiet() -> None:
    """What GDAL has to say of a file becomes a reason in the manifest; it needn't be on the screen too."""
    logging.getLogger("rasterio").setLevel(logging.CRITICAL)


def _run(
    pool: ProcessPoolExecutor | None, function: Callable[[Task], Result], tasks: list[Task]
) -> Iterator[tuple[Task, Result]]:
    """(task, result) as they are done."""
    if pool is None:
        yield from ((task, function(task)) for task in tasks)
        return
    futures = {pool.submit(function, task): task for task in tasks}
    try:
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise DataError("a worker process died, perhaps for lack of memory; try fewer --workers") from error
    finally:
        for future in futures:
            future.cancel()


# ---------------------------------------------------------------------------------------------------------------------
# Words


def _split_of(name: str) -> str:
    return name.rpartition("-")[0]


def _strict_message(entry: dict[str, Any]) -> str:
    return f"--strict: {entry['split']} {entry['key']}: {entry['what']} {entry['path']}: {entry['reason']}"


def _summary(manifest: Manifest) -> str:
    counts = ", ".join(f"{split} {sum(s.samples for s in shards)}" for split, shards in manifest.splits.items())
    size = sum(shard.bytes for shards in manifest.splits.values() for shard in shards)
    what = Counter(entry["what"] for entry in manifest.skipped)
    skipped = ", ".join(f"{n} {kind}{'s' if n > 1 else ''}" for kind, n in sorted(what.items()))
    return f"{counts} patches, {_bytes(size)}" + (f"; skipped {skipped} ({MANIFEST} says why)" if skipped else "")


def _bytes(n: int) -> str:
    return f"{n / 1e9:.1f} GB" if n >= 1e9 else f"{n / 1e6:.1f} MB"


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{max(1, round(seconds))} s"
