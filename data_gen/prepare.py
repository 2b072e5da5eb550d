"""From a raw data set to the prepared store, in parallel by shards.

A shard covers a fixed range of rows of one split. It is written whole, then a note beside it (`<shard>.json`) says what
it holds; the manifest is written last. A stopped run is resumed by keeping the shards whose notes carry the same
fingerprint: the same tables, the same parameters.
"""

import contextlib
import hashlib
import json
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Collection, Container, Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from data_gen.dataset import PatchReader, Row, Unusable, find_geometry, read_rows, table_paths
from data_gen.shards import (
    Note,
    Task,
    assemble,
    count_values,
    make_shard,
    note_path,
    percentile,
    read_note,
    strict_message,
)
from data_gen.workers import cores, pool, run
from utils.errors import DataError
from utils.radiometry import PUBLISHED_MAXIMA
from utils.store import (
    FOLDER,
    FORMAT,
    MANIFEST,
    VERSION,
    Geometry,
    Manifest,
    checksum,
    read_manifest,
    shard_bytes,
    write_manifest,
)

_TARGET_BYTES = 128 << 20  # of a shard
_MOST_SAMPLES = 512  # in a shard
_STARTING = 5  # seconds that a process must save to be worth starting

Say = Callable[[str], object]  # takes a line
Progress = Callable[
    [int], AbstractContextManager[Callable[[int], object]]
]  # entered with a total; called with each part


@dataclass(frozen=True)
class Options:
    """What preprocessing can be asked for."""

    max_s2_images: int = 8
    select: str = "nearest"
    percentile: float | None = None  # of the train split's reflectance; None: BreizhSR's published maxima
    strict: bool = False  # what can't be used is an error
    maxima: tuple[float, ...] | None = None  # the reflectance of each band that becomes 1; not with percentile


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

    def task(self, name: str, rows: list[Row], *, maxima: tuple[float, ...]) -> Task:
        return Task(
            name=name,
            rows=rows,
            root=self.root,
            folder=self.folder,
            geometry=self.geometry,
            select=self.options.select,
            strict=self.options.strict,
            maxima=maxima,
            fingerprint=self.fingerprint,
        )


def prepare(
    root: Path,
    *,
    output: Path | None = None,
    options: Options,
    workers: int | None = None,
    say: Say,
    progress: Progress,
) -> Manifest:
    """Prepare the raw data set in ``root`` into ``output`` (default: its `preprocessed/`), and give back the manifest.

    ``workers``: processes; 1 for this one alone, None for as many as pay. Raises DataError.
    """
    folder = output or root / FOLDER
    try:
        paths = table_paths(root)
        tables = {path.name: checksum(path) for path in paths}
        fingerprint = _fingerprint(tables, options)
        manifest = _finished(folder, fingerprint, say)
        if manifest is None:
            splits = read_rows(paths)
            rows = [row for rows in splits.values() for row in rows]
            geometry = find_geometry(root, rows, length=options.max_s2_images)
            plan = Plan(root, folder, options, geometry, tables, splits, fingerprint)
            manifest = _carry_out(plan, workers=workers, say=say, progress=progress)
    except OSError as error:  # a full disk, a read-only one, not a folder
        place = error.filename or folder
        raise DataError(f"{place}: {error.strerror or error}; --output says where to write") from error
    if options.strict and manifest.skipped:
        raise DataError(strict_message(manifest.skipped[0]))
    say(f"{folder} is prepared: {_summary(manifest)}")
    return manifest


def _carry_out(plan: Plan, *, workers: int | None, say: Say, progress: Progress) -> Manifest:
    plan.folder.mkdir(parents=True, exist_ok=True)
    shards = plan.shards()
    notes = _kept(plan, shards, say)
    missing = {name: rows for name, rows in shards.items() if name not in notes}
    patches = sum(map(len, missing.values()))
    seconds = patches * _seconds_per_patch(plan)
    workers = max(1, min(len(missing), workers or min(cores(), 1 + int(seconds / _STARTING))))
    _estimate(plan, patches=patches, seconds=seconds / workers, workers=workers, say=say)
    with pool(workers) as executor:
        maxima = _maxima(plan, executor, progress)
        tasks = [plan.task(name, rows, maxima=maxima) for name, rows in missing.items()]
        with progress(patches) as advance:
            for task, note in run(executor, make_shard, tasks):
                notes[task.name] = note
                advance(len(task.rows))
    manifest = _manifest(plan, [notes[name] for name in shards], maxima)
    write_manifest(plan.folder, manifest)
    for name in shards:
        note_path(plan.folder, name).unlink(missing_ok=True)
    return manifest


def _manifest(plan: Plan, notes: list[Note], maxima: tuple[float, ...]) -> Manifest:
    percent = plan.options.percentile
    origin = "98th percentiles of BreizhSR's train split, as published"
    if plan.options.maxima is not None:
        origin = "as given"
    return Manifest(
        geometry=plan.geometry,
        maxima=maxima,
        normalisation=origin if percent is None else f"{percent:g}th percentiles of the train split",
        parameters={
            "max_s2_images": plan.options.max_s2_images,
            "select": plan.options.select,
            "percentile": percent,
            "fingerprint": plan.fingerprint,
        },
        tables=plan.tables,
        splits={split: [n.info for n in notes if _split_of(n.info.file) == split] for split in plan.splits},
        skipped=[entry for note in notes for entry in note.skipped],
    )


def _maxima(plan: Plan, executor: ProcessPoolExecutor | None, progress: Progress) -> tuple[float, ...]:
    """The reflectance that becomes 1, a band: published, given, or a percentile of the train split."""
    if plan.options.percentile is None:
        return plan.options.maxima or PUBLISHED_MAXIMA
    shards = {name: rows for name, rows in plan.shards().items() if _split_of(name) == "train"}
    tasks = [plan.task(name, rows, maxima=PUBLISHED_MAXIMA) for name, rows in shards.items()]
    counts = []
    with progress(sum(map(len, shards.values()))) as advance:
        for task, part in run(executor, count_values, tasks):
            counts.append(part)
            advance(len(task.rows))
    if not sum(part.sum() for part in counts):
        raise DataError(f"{plan.root}: the train split has no usable patch to take percentiles of")
    return tuple(max(1.0, percentile(band, plan.options.percentile)) / 10000 for band in np.sum(counts, axis=0))


# ---------------------------------------------------------------------------------------------------------------------
# What is there already


def _fingerprint(tables: dict[str, str], options: Options) -> str:
    """What the content of a store follows from, as far as it can be told without reading the rasters."""
    asked = {key: value for key, value in asdict(options).items() if key != "maxima" or value is not None}
    described = {**asked, "strict": None, "tables": tables, "version": VERSION, "shard": _TARGET_BYTES}
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def _finished(folder: Path, fingerprint: str, say: Say) -> Manifest | None:
    """The manifest of a store that is what was asked for; any other store makes way."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    if FORMAT not in path.read_text(encoding="utf-8", errors="replace"):
        raise DataError(f"{path} belongs to something else; choose another --output")
    try:
        manifest = read_manifest(folder)
    except DataError as error:
        say(f"starting over: {error}")
    else:
        if manifest.parameters.get("fingerprint") == fingerprint:
            return manifest
        say(f"starting over: {folder} was prepared from other tables or with other parameters")
        _clear(folder, splits=manifest.splits, keep=())
    path.unlink()
    return None


def _kept(plan: Plan, shards: Collection[str], say: Say) -> dict[str, Note]:
    """The notes of the shards that a stopped run left; everything else of it is removed."""
    found: dict[str, Note] = {}
    begun = False
    for name in shards:
        begun |= note_path(plan.folder, name).exists()
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            note = read_note(plan.folder, name)
            size = (plan.folder / f"{name}.pt").stat().st_size
            if (note.fingerprint, note.info.file, note.info.bytes) == (plan.fingerprint, f"{name}.pt", size):
                found[name] = note
    if found:
        say(f"going on: {len(found)} of {len(shards)} shards were finished before")
    elif begun:
        say(f"starting over: {plan.folder} was begun from other tables or with other parameters")
    _clear(plan.folder, splits=plan.splits, keep=found)
    return found


def _clear(folder: Path, *, splits: Iterable[str], keep: Container[str]) -> None:
    """Remove shards, notes and what a killed run was writing."""
    ours = re.compile(rf"\.?((?:{'|'.join(map(re.escape, splits))})-\d{{5,}})\.(?:pt|json)(?:\.\d+\.tmp)?")
    for path in folder.iterdir():
        match = ours.fullmatch(path.name)
        if match and (match[1] not in keep or path.suffix == ".tmp"):
            path.unlink()


# ---------------------------------------------------------------------------------------------------------------------
# Estimates and words


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


def _split_of(name: str) -> str:
    return name.rpartition("-")[0]


def _summary(manifest: Manifest) -> str:
    counts = ", ".join(f"{split} {sum(s.samples for s in shards)}" for split, shards in manifest.splits.items())
    size = sum(shard.bytes for shards in manifest.splits.values() for shard in shards)
    what = Counter(entry["what"] for entry in manifest.skipped)
    skipped = ", ".join(f"{n} {kind}{'s' if n > 1 else ''}" for kind, n in sorted(what.items()))
    return f"{counts} patches, {_bytes(size)}" + (f"; left out: {skipped} ({MANIFEST} says why)" if skipped else "")


def _bytes(n: int) -> str:
    return f"{n / 1e9:.1f} GB" if n >= 1e9 else f"{n / 1e6:.1f} MB"


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{max(1, round(seconds))} s"
