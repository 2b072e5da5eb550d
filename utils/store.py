"""The prepared store: a folder of shards and one manifest.

Each shard is a `.pt` file with a dict of plain tensors (`layout` names them) for a few hundred samples of one split;
`manifest.json` holds the format version, shapes, normalisation, the parameters of preprocessing, checksums, and what
was skipped and why. Shards appear whole or not at all, the manifest last: a folder without one is not a store.
Files are mapped into memory with `weights_only=True`, after their size was checked against what the manifest claims.
"""

import bisect
import hashlib
import itertools
import json
import math
import re
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard

import torch
from torch import Tensor

from utils.errors import DataError
from utils.files import archive_fault, atomic_write, is_text, write_text

Key = int | str

FORMAT = "misr-store"
VERSION = 1
MANIFEST = "manifest.json"
FOLDER = "preprocessed"  # where a raw root keeps its store
BANDS = 3
SCALES = (2, 4, 8)
SPLIT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_LARGEST_SIDE = 1 << 12
_LARGEST_MANIFEST = 1 << 30  # bytes
_MOST_SAMPLES = 1 << 31

Shard = dict[str, Any]


@dataclass(frozen=True)
class Geometry:
    """The one patch size of a store, in pixels after cropping."""

    hr_size: int
    scale: int
    length: int  # acquisitions a sample, padded ones included

    @property
    def lr_size(self) -> int:
        return self.hr_size // self.scale


@dataclass(frozen=True)
class ShardInfo:
    """What the manifest says of one file."""

    file: str
    samples: int
    singles: int  # samples whose single-image input is not the nearest view of their series
    clipped: int  # pixels that didn't fit 16 bits
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    geometry: Geometry
    maxima: tuple[float, ...]  # reflectance that becomes 1, a band
    normalisation: str  # where the maxima come from
    parameters: dict[str, Any]
    tables: dict[str, str]  # raw table -> sha256
    splits: dict[str, list[ShardInfo]]
    skipped: list[dict[str, Any]]  # split, key, what (patch or acquisition), path, reason


def layout(geometry: Geometry, *, samples: int, singles: int) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Type and shape of every tensor of a shard.

    `hr` 8-bit levels; `lr` reflectance × 10000; `dates` days from the truth; `alphas` True = acquired; `matching` and
    `matching_moment` the tables of spectral matching to the nearest view. `single` is −1 where the single-image input
    is that view, else the row of `single_*` that holds it.
    """
    n, m, t, s = samples, singles, geometry.length, geometry.lr_size
    return {
        "hr": (torch.uint8, (n, BANDS, geometry.hr_size, geometry.hr_size)),
        "lr": (torch.int16, (n, t, BANDS, s, s)),
        "dates": (torch.int16, (n, t)),
        "alphas": (torch.bool, (n, t)),
        "matching": (torch.float32, (n, BANDS, 256)),
        "matching_moment": (torch.float32, (n, BANDS, 256)),
        "single": (torch.int16, (n,)),
        "single_lr": (torch.int16, (m, BANDS, s, s)),
        "single_dates": (torch.int16, (m,)),
        "single_matching": (torch.float32, (m, BANDS, 256)),
        "single_matching_moment": (torch.float32, (m, BANDS, 256)),
    }


def shard_bytes(geometry: Geometry, *, samples: int, singles: int) -> int:
    """Bytes of a shard's tensors."""
    tensors = layout(geometry, samples=samples, singles=singles).values()
    return sum(dtype.itemsize * math.prod(shape) for dtype, shape in tensors)


# ---------------------------------------------------------------------------------------------------------------------
# Writing


class _Hashing:
    """A file that knows the checksum of what was written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self._digest.update(data)
        self.size += len(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


def write_shard(path: Path, shard: Mapping[str, Any], *, clipped: int) -> ShardInfo:
    """Write a shard whole or not at all: aside, flushed, renamed."""
    with atomic_write(path) as aside, aside.open("wb") as file:
        hashing = _Hashing(file)
        torch.save(dict(shard), hashing)  # type: ignore[arg-type]  # a name would end up in the file
    return ShardInfo(
        file=path.name,
        samples=len(shard["hr"]),
        singles=len(shard["single_lr"]),
        clipped=clipped,
        bytes=hashing.size,
        sha256=hashing.hexdigest(),
    )


def write_manifest(folder: Path, manifest: Manifest) -> None:
    content = {"format": FORMAT, "version": VERSION, **asdict(manifest)}
    write_text(folder / MANIFEST, json.dumps(content, indent=1) + "\n")


# ---------------------------------------------------------------------------------------------------------------------
# Opening


def prepared_folder(root: Path) -> Path:
    """The prepared store of a data folder: the folder itself, or `preprocessed/` in a raw one."""
    for folder in (root, root / FOLDER):
        if (folder / MANIFEST).is_file():
            return folder
    if not root.is_dir():
        raise DataError(f"data folder {root} doesn't exist; set data_root or BREIZHSR_ROOT")
    raise DataError(f"{root} is not prepared (or not to the end): run `python data_gen/preprocess_data.py {root}`")


def read_manifest(folder: Path) -> Manifest:
    """The manifest, checked; raises DataError that names the file and the key."""
    path = folder / MANIFEST
    try:
        if path.stat().st_size > _LARGEST_MANIFEST:
            raise DataError(f"{path}: too large for a manifest")
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: can't be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: damaged ({error}); prepare the data anew") from error
    return _Reader(path).manifest(content)


class _Reader:
    """Checks everything that a manifest claims."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def manifest(self, content: Any) -> Manifest:
        content = self._typed(content, dict, "the whole")
        if content.get("format") != FORMAT:
            self._refuse("format", f"is not {FORMAT!r}: not a prepared store")
        if content.get("version") != VERSION:
            self._refuse("version", f"is {content.get('version')!r}, this code reads {VERSION}; prepare the data anew")
        shape = self._typed(content.get("geometry"), dict, "geometry")
        geometry = Geometry(
            hr_size=self._integer(shape.get("hr_size"), 8, _LARGEST_SIDE, "hr_size"),
            scale=self._integer(shape.get("scale"), 2, max(SCALES), "scale"),
            length=self._integer(shape.get("length"), 1, 1 << 12, "length"),
        )
        if geometry.scale not in SCALES or geometry.hr_size % 8:
            self._refuse("geometry", "hr_size must be a multiple of 8, scale 2, 4 or 8")
        maxima = self._typed(content.get("maxima"), list, "maxima")
        if len(maxima) != BANDS or not all(isinstance(m, float) and math.isfinite(m) and m > 0 for m in maxima):
            self._refuse("maxima", f"must be {BANDS} positive numbers")
        splits = self._typed(content.get("splits"), dict, "splits")
        return Manifest(
            geometry=geometry,
            maxima=tuple(maxima),
            normalisation=self._typed(content.get("normalisation"), str, "normalisation"),
            parameters=self._typed(content.get("parameters"), dict, "parameters"),
            tables=self._typed(content.get("tables"), dict, "tables"),
            splits={name: self._split(name, shards, geometry) for name, shards in splits.items()},
            skipped=[self._skipped(entry) for entry in self._typed(content.get("skipped"), list, "skipped")],
        )

    def _split(self, name: str, shards: Any, geometry: Geometry) -> list[ShardInfo]:
        if not SPLIT_NAME.fullmatch(name):
            self._refuse("splits", f"{name[:40]!r} is no name for a split")
        return [
            self._shard(name, number, shard, geometry) for number, shard in enumerate(self._typed(shards, list, name))
        ]

    def _shard(self, split: str, number: int, content: Any, geometry: Geometry) -> ShardInfo:
        content = self._typed(content, dict, f"splits.{split}")
        samples = self._integer(content.get("samples"), 0, _MOST_SAMPLES, "samples")
        info = ShardInfo(
            file=self._typed(content.get("file"), str, "file"),
            samples=samples,
            singles=self._integer(content.get("singles"), 0, samples, "singles"),
            clipped=self._integer(content.get("clipped"), 0, 1 << 62, "clipped"),
            bytes=self._integer(content.get("bytes"), 0, 1 << 62, "bytes"),
            sha256=self._typed(content.get("sha256"), str, "sha256"),
        )
        if not re.fullmatch(rf"{re.escape(split)}-\d{{5,}}\.pt", info.file):
            self._refuse("file", f"{info.file[:80]!r} is no shard of split {split}")
        path = self._path.with_name(info.file)
        if path.is_symlink() or not path.is_file():
            raise DataError(f"{path} is missing; prepare the data anew")
        size = path.stat().st_size
        if size != info.bytes or size < shard_bytes(geometry, samples=samples, singles=info.singles):
            raise DataError(f"{path} has {size} bytes, its manifest says otherwise; prepare the data anew")
        return info

    def _skipped(self, entry: Any) -> dict[str, Any]:
        entry = self._typed(entry, dict, "skipped")
        for key in ("split", "what", "path", "reason"):
            self._typed(entry.get(key), str, f"skipped.{key}")
        return entry

    def _typed(self, x: Any, kind: type, key: str) -> Any:
        if not isinstance(x, kind):
            self._refuse(key, f"must be a {kind.__name__}")
        return x

    def _integer(self, x: Any, low: int, high: int, key: str) -> int:
        if not isinstance(x, int) or isinstance(x, bool) or not low <= x <= high:
            self._refuse(key, f"must be an integer in [{low}, {high}]")
        return x

    def _refuse(self, key: str, message: str) -> None:
        raise DataError(f"{self._path}: {key}: {message}")


class Store:
    """One split of a prepared store. Shards are mapped when first used."""

    def __init__(self, folder: Path, split: str) -> None:
        self.folder = folder
        self.split = split
        self.manifest = read_manifest(folder)
        if split not in self.manifest.splits:
            raise DataError(f"{folder} has no split {split!r}; there are: {', '.join(self.manifest.splits)}")
        self.shards = self.manifest.splits[split]
        self._starts = list(itertools.accumulate((info.samples for info in self.shards), initial=0))
        self._open: dict[int, Shard] = {}

    def __len__(self) -> int:
        return self._starts[-1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}  # workers map the files themselves

    def locate(self, position: int) -> tuple[Shard, int]:
        """The shard that holds a sample, and the sample's row in it."""
        if not 0 <= position < len(self):
            raise IndexError(f"position {position} of a split with {len(self)} samples")
        number = bisect.bisect_right(self._starts, position) - 1
        return self.shard(number), position - self._starts[number]

    def shard(self, number: int) -> Shard:
        if number not in self._open:
            self._open[number] = open_shard(self.folder, self.shards[number], self.manifest.geometry)
        return self._open[number]

    def keys(self) -> list[Key]:
        """The row labels of the split."""
        return [key for number in range(len(self.shards)) for key in self.shard(number)["key"]]


def open_shard(folder: Path, info: ShardInfo, geometry: Geometry) -> Shard:
    """Map a shard into memory and check that it is what the manifest says."""
    path = folder / info.file
    try:
        with zipfile.ZipFile(path) as archive:
            if fault := archive_fault(archive, size=path.stat().st_size):
                raise ValueError(fault)
        shard = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except Exception as error:  # a damaged file can fail in any way
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: can't be read ({reason}); prepare the data anew") from error
    expected = layout(geometry, samples=info.samples, singles=info.singles)
    for name, (dtype, shape) in expected.items():
        x = shard.get(name) if isinstance(shard, dict) else None
        if not _is_plain(x) or x.dtype != dtype or x.shape != shape or not x.is_contiguous():
            raise DataError(f"{path}: {name} is not {dtype} {list(shape)}; prepare the data anew")
    keys = shard.get("key")
    if not isinstance(keys, list) or len(keys) != info.samples or not all(map(_is_key, keys)):
        raise DataError(f"{path}: its keys don't match its samples; prepare the data anew")
    if ((shard["single"] < -1) | (shard["single"] >= info.singles)).any():
        raise DataError(f"{path}: single names rows that there are not; prepare the data anew")
    return shard


def _is_key(x: Any) -> bool:
    return (type(x) is int and x.bit_length() <= 64) or (type(x) is str and is_text(x))


def _is_plain(x: Any) -> TypeGuard[Tensor]:
    """A tensor with memory of its own and nothing to be done before it is read."""
    return type(x) is Tensor and x.layout == torch.strided and x.device.type == "cpu" and not x.requires_grad


def checksum(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
