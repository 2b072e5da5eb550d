"""From a raw data set to the prepared store, in parallel by shards.

A shard covers a fixed range of rows of one split. It is written whole, then a note beside it (`<shard>.json`) says what
it holds; the manifest is written last. A stopped run is resumed by keeping the shards whose notes carry the same
fingerprint: the same tables, the same parameters.
"""

import contextlib
import hashlib
import json
import logging
import re
import shutil
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data_gen.dataset import TableRow, find_geometry, read_rows, table_paths
from data_gen.shards import (
    Options,
    ShardJob,
    ShardRecord,
    StorePlan,
    count_values,
    make_shard,
    percentile,
    strict_message,
)
from data_gen.workers import cores, pool, run_jobs
from utils.errors import DataError
from utils.radiometry import PUBLISHED_BANDS
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
_DEFAULT_PERCENTILE = 98  # of bands that BreizhSR's publication says nothing of
_WORTH_A_PROCESS = 500  # patches: fewer are done before another process has started

logger = logging.getLogger(__name__)
Rows = dict[str, list[TableRow]]  # by split, or by shard


def prepare(
    root: Path, *, output: Path | None = None, options: Options | None = None, workers: int | None = None
) -> Manifest:
    """Prepare a raw data set for training, or finish what a stopped run began.

    Args:
        root: the raw data set.
        output: the folder of the store; its `preprocessed/` by default.
        options: what goes into the store.
        workers: processes; 1 for this one alone, None for as many as pay.

    Raises:
        DataError: there is nothing to prepare, no room for it, or, with ``options.strict``, something unusable.
    """
    folder, options = output or root / FOLDER, options or Options()
    try:
        paths = table_paths(root)
        tables = {path.name: checksum(path) for path in paths}
        fingerprint = _fingerprint(tables, options)
        manifest = _finished(folder, fingerprint)
        if manifest is None:
            splits = read_rows(paths)
            rows = [row for rows in splits.values() for row in rows]
            geometry = find_geometry(root, rows, length=options.max_s2_images, bands=options.bands)
            plan = StorePlan(root, folder, options, geometry, fingerprint)
            manifest = _carry_out(plan, splits, tables=tables, workers=workers)
    except OSError as error:  # a full disk, a read-only one, not a folder
        place = error.filename or folder
        raise DataError(f"{place}: {error.strerror or error}; --output says where to write") from error
    if options.strict and manifest.skipped:
        raise DataError(strict_message(manifest.skipped[0]))
    return manifest


def _carry_out(plan: StorePlan, splits: Rows, *, tables: dict[str, str], workers: int | None) -> Manifest:
    plan.folder.mkdir(parents=True, exist_ok=True)
    shards = _shards(splits, plan.geometry)
    records = _kept(plan, shards, splits)
    missing = {name: rows for name, rows in shards.items() if name not in records}
    patches = sum(map(len, missing.values()))
    workers = max(1, min(len(missing), workers or min(cores(), 1 + patches // _WORTH_A_PROCESS)))
    _check_room(plan, patches=patches, workers=workers)
    with pool(workers) as executor:
        plan = replace(plan, maxima=_maxima(plan, shards, executor))
        jobs = [ShardJob(plan, name, rows) for name, rows in missing.items()]
        with tqdm(total=patches, unit="patch", disable=patches == 0) as bar:
            for job, record in run_jobs(executor, make_shard, jobs):
                records[job.name] = record
                bar.update(len(job.rows))
    ordered = [records[name] for name in shards]
    manifest = Manifest(
        geometry=plan.geometry,
        maxima=plan.maxima,
        normalisation=_normalisation(plan.options, plan.geometry.bands),
        parameters={
            "max_s2_images": plan.options.max_s2_images,
            "select": plan.options.select,
            "percentile": plan.options.percentile,
            "fingerprint": plan.fingerprint,
        },
        tables=tables,
        splits={split: [r.info for r in ordered if _split_of(r.info.file) == split] for split in splits},
        skipped=[entry for record in ordered for entry in record.skipped],
    )
    write_manifest(plan.folder, manifest)
    for name in shards:
        plan.record_path(name).unlink(missing_ok=True)
    return manifest


def _shards(splits: Rows, geometry: Geometry) -> Rows:
    """The rows of every shard, by its name."""
    n = max(1, min(_MOST_SAMPLES, _TARGET_BYTES // shard_bytes(geometry, samples=1, singles=0)))
    return {
        f"{split}-{start // n:05d}": rows[start : start + n]
        for split, rows in splits.items()
        for start in range(0, len(rows), n)
    }


def _split_of(name: str) -> str:
    return name.rpartition("-")[0]


def _normalisation(options: Options, bands: Sequence[str]) -> str:
    if options.percentile is not None:
        return f"{options.percentile:g}th percentiles of the train split"
    if options.maxima is not None:
        return "as given"
    others = ", ".join(band for band in bands if band not in PUBLISHED_BANDS)
    measured = f"; of {others} {_DEFAULT_PERCENTILE}th percentiles of this one's" if others else ""
    return f"98th percentiles of BreizhSR's train split, as published{measured}"


def _maxima(plan: StorePlan, shards: Rows, executor: ProcessPoolExecutor | None) -> tuple[float, ...]:
    """The reflectance that becomes 1, a band: given, published, or a percentile of the train split."""
    bands, percent = plan.geometry.bands, plan.options.percentile
    if plan.options.maxima is not None:
        if len(plan.options.maxima) != len(bands):
            raise DataError(f"--maxima gives {len(plan.options.maxima)} numbers for the bands {', '.join(bands)}")
        return plan.options.maxima
    if percent is None and set(bands) <= PUBLISHED_BANDS.keys():
        return tuple(PUBLISHED_BANDS[band] for band in bands)
    jobs = [ShardJob(plan, name, rows) for name, rows in shards.items() if _split_of(name) == "train"]
    counts = np.zeros((1, 1), dtype=np.int64)  # (bands, 32768)
    with tqdm(total=sum(len(job.rows) for job in jobs), unit="patch", desc="percentiles") as bar:
        for job, part in run_jobs(executor, count_values, jobs):
            counts = counts + part
            bar.update(len(job.rows))
    if not counts.any():
        raise DataError(f"{plan.root}: the train split has no usable patch to take percentiles of")
    found = [max(1.0, percentile(of_band, percent or _DEFAULT_PERCENTILE)) / 10000 for of_band in counts]
    known = {} if percent is not None else PUBLISHED_BANDS
    return tuple(known.get(band, top) for band, top in zip(bands, found, strict=True))


# ---------------------------------------------------------------------------------------------------------------------
# What is there already


_LATER = ("maxima", "bands")  # options that earlier versions didn't have


def _fingerprint(tables: dict[str, str], options: Options) -> str:
    """What the content of a store follows from, as far as it can be told without reading the rasters."""
    asked = {key: value for key, value in asdict(options).items() if key not in _LATER or value is not None}
    described = {**asked, "strict": None, "tables": tables, "version": VERSION, "shard": _TARGET_BYTES}
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def _finished(folder: Path, fingerprint: str) -> Manifest | None:
    """The manifest of a store that is what was asked for; any other store makes way."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    if FORMAT not in path.read_text(encoding="utf-8", errors="replace"):
        raise DataError(f"{path} belongs to something else; choose another --output")
    try:
        manifest = read_manifest(folder)
    except DataError as error:
        logger.info("starting over: %s", error)
    else:
        if manifest.parameters.get("fingerprint") == fingerprint:
            return manifest
        logger.info("starting over: %s was prepared from other tables or with other parameters", folder)
        _clear(folder, splits=manifest.splits, keep=())
    path.unlink()
    return None


def _kept(plan: StorePlan, shards: Iterable[str], splits: Iterable[str]) -> dict[str, ShardRecord]:
    """The records of the shards that a stopped run left; everything else of it is removed."""
    found: dict[str, ShardRecord] = {}
    names = list(shards)
    begun = any(plan.record_path(name).exists() for name in names)
    for name in names:
        with contextlib.suppress(OSError, ValueError):
            record = ShardRecord.model_validate_json(plan.record_path(name).read_bytes())
            size = (plan.folder / f"{name}.pt").stat().st_size
            if (record.fingerprint, record.info.file, record.info.bytes) == (plan.fingerprint, f"{name}.pt", size):
                found[name] = record
    if found:
        logger.info("going on: %d of %d shards were finished before", len(found), len(names))
    elif begun:
        logger.info("starting over: %s was begun from other tables or with other parameters", plan.folder)
    _clear(plan.folder, splits=splits, keep=found)
    return found


def _clear(folder: Path, *, splits: Iterable[str], keep: Container[str]) -> None:
    """Remove shards, records and what a killed run was writing."""
    ours = re.compile(rf"\.?((?:{'|'.join(map(re.escape, splits))})-\d{{5,}})\.(?:pt|json)(?:\.\d+\.tmp)?")
    for path in folder.iterdir():
        match = ours.fullmatch(path.name)
        if match and (match[1] not in keep or path.suffix == ".tmp"):
            path.unlink()


# ---------------------------------------------------------------------------------------------------------------------
# Estimates and words


def _check_room(plan: StorePlan, *, patches: int, workers: int) -> None:
    """Say what is to be done, and refuse what the disk has no room for."""
    needed = patches * shard_bytes(plan.geometry, samples=1, singles=0)
    free = shutil.disk_usage(plan.folder).free
    size = plan.geometry.hr_size
    logger.info(
        f"{patches} patches of {size}×{size} to prepare: about {_megabytes(needed)} ({_megabytes(free)} free), "
        f"with {workers} process{'' if workers == 1 else 'es'}"
    )
    if needed > free:
        raise DataError(
            f"{plan.folder}: {_megabytes(needed)} are needed, {_megabytes(free)} are free; choose another --output"
        )


def store_summary(manifest: Manifest) -> str:
    """What a store holds and what was left out of it, in a line."""
    counts = ", ".join(f"{split} {sum(s.samples for s in shards)}" for split, shards in manifest.splits.items())
    size = sum(shard.bytes for shards in manifest.splits.values() for shard in shards)
    kinds = Counter(entry.what for entry in manifest.skipped)
    skipped = ", ".join(f"{n} {kind}{'s' if n > 1 else ''}" for kind, n in sorted(kinds.items()))
    return f"{counts} patches, {_megabytes(size)}" + (f"; left out: {skipped} ({MANIFEST} says why)" if skipped else "")


def _megabytes(n: int) -> str:
    return f"{n / 1e9:.1f} GB" if n >= 1e9 else f"{n / 1e6:.1f} MB"
