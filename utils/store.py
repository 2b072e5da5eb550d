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
from pathlib import Path
from typing import Annotated, Any, Literal, TypeGuard

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from torch import Tensor

from utils.errors import DataError
from utils.files import archive_fault, atomic_write, is_text, write_text
from utils.geo.bands import RGB, SENTINEL2_BANDS, described_bands

Key = int | str

FORMAT: Literal["misr-store"] = "misr-store"
VERSION: Literal[1] = 1
MANIFEST = "manifest.json"
FOLDER = "preprocessed"  # where a raw root keeps its store
SCALES = (2, 4, 8)
SPLIT_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")
_LARGEST_MANIFEST = 1 << 30  # bytes

Shard = dict[str, Any]


class _Checked(BaseModel):
    """Values of exactly the types that are written down, no unknown keys, nothing changed later."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Geometry(_Checked):
    """The one patch size of a store, in pixels after cropping."""

    hr_size: int = Field(ge=8, le=1 << 12, multiple_of=8)
    scale: int
    length: int = Field(ge=1, le=1 << 12)  # acquisitions a sample, padded ones included
    bands: tuple[str, ...] = RGB  # what earlier versions wrote had red, green, blue

    @field_validator("scale")
    @classmethod
    def _known_scale(cls, scale: int) -> int:
        if scale not in SCALES:
            raise ValueError(f"{scale} is not one of {', '.join(map(str, SCALES))}")
        return scale

    @field_validator("bands")
    @classmethod
    def _known_bands(cls, bands: tuple[str, ...]) -> tuple[str, ...]:
        if described_bands(bands) != bands:
            raise ValueError(f"not a list of different bands of {', '.join(SENTINEL2_BANDS)}")
        return bands

    @property
    def lr_size(self) -> int:
        return self.hr_size // self.scale


class ShardInfo(_Checked):
    """What the manifest says of one file."""

    file: str
    samples: int = Field(ge=0, le=1 << 31)
    singles: int = Field(ge=0, le=1 << 31)  # samples whose single-image input is not the nearest view of their series
    clipped: int = Field(ge=0, le=1 << 62)  # pixels that didn't fit 16 bits
    bytes: int = Field(ge=0, le=1 << 62)
    sha256: str


class Skipped(_Checked):
    """What was left out of the store, and why."""

    split: str
    key: Key
    what: str  # patch or acquisition
    path: str
    reason: str


class Manifest(_Checked):
    """What `manifest.json` holds."""

    format: Literal["misr-store"] = FORMAT
    version: Literal[1] = VERSION
    geometry: Geometry
    maxima: tuple[_Positive, ...]  # reflectance that becomes 1, a band
    normalisation: str  # where the maxima come from
    parameters: dict[str, Any]
    tables: dict[str, str]  # raw table -> sha256
    splits: dict[Annotated[str, Field(pattern=SPLIT_NAME.pattern)], list[ShardInfo]]
    skipped: list[Skipped]

    @field_validator("maxima")
    @classmethod
    def _one_a_band(cls, maxima: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
        geometry = info.data.get("geometry")
        if geometry is not None and len(maxima) != len(geometry.bands):
            raise ValueError(f"{len(maxima)} numbers for {len(geometry.bands)} bands")
        return maxima


def layout(geometry: Geometry, *, samples: int, singles: int) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Type and shape of every tensor of a shard.

    `hr` 8-bit levels; `lr` reflectance × 10000; `dates` days from the truth; `alphas` True = acquired; `matching` and
    `matching_moment` the tables of spectral matching to the nearest view. `single` is −1 where the single-image input
    is that view, else the row of `single_*` that holds it.
    """
    n, m, t, s, c = samples, singles, geometry.length, geometry.lr_size, len(geometry.bands)
    return {
        "hr": (torch.uint8, (n, c, geometry.hr_size, geometry.hr_size)),
        "lr": (torch.int16, (n, t, c, s, s)),
        "dates": (torch.int16, (n, t)),
        "alphas": (torch.bool, (n, t)),
        "matching": (torch.float32, (n, c, 256)),
        "matching_moment": (torch.float32, (n, c, 256)),
        "single": (torch.int16, (n,)),
        "single_lr": (torch.int16, (m, c, s, s)),
        "single_dates": (torch.int16, (m,)),
        "single_matching": (torch.float32, (m, c, 256)),
        "single_matching_moment": (torch.float32, (m, c, 256)),
    }


def shard_bytes(geometry: Geometry, *, samples: int, singles: int) -> int:
    """Bytes of a shard's tensors."""
    tensors = layout(geometry, samples=samples, singles=singles).values()
    return sum(dtype.itemsize * math.prod(shape) for dtype, shape in tensors)


# ---------------------------------------------------------------------------------------------------------------------
# Writing


def write_shard(path: Path, shard: Mapping[str, Any], *, clipped: int) -> ShardInfo:
    """Write a shard whole or not at all: aside, flushed, renamed."""
    with atomic_write(path) as aside:
        with aside.open("wb") as file:  # given the path, torch would write its name into the file
            torch.save(dict(shard), file)
        return ShardInfo(
            file=path.name,
            samples=len(shard["hr"]),
            singles=len(shard["single_lr"]),
            clipped=clipped,
            bytes=aside.stat().st_size,
            sha256=checksum(aside),
        )


def write_manifest(folder: Path, manifest: Manifest) -> None:
    write_text(folder / MANIFEST, json.dumps(manifest.model_dump(mode="json"), indent=1) + "\n")


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
    """The manifest of a store, its claims checked against the files that it names.

    Raises:
        DataError: names the file and the key.
    """
    path = folder / MANIFEST
    try:
        if path.stat().st_size > _LARGEST_MANIFEST:
            raise DataError(f"{path}: too large for a manifest")
        manifest = Manifest.model_validate_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: can't be read: {error.strerror}") from error
    except ValidationError as error:
        raise DataError(f"{path}: {first_fault(error)}; prepare the data anew") from None
    for split, shards in manifest.splits.items():
        for info in shards:
            _check_file(path, split, info, manifest.geometry)
    return manifest


def first_fault(error: ValidationError) -> str:
    """The key and the words of the first thing that pydantic found."""
    fault = error.errors(include_url=False, include_context=False)[0]
    return f"{'.'.join(map(str, fault['loc'])) or 'the file'}: {fault['msg'][0].lower()}{fault['msg'][1:]}"


def _check_file(manifest: Path, split: str, info: ShardInfo, geometry: Geometry) -> None:
    if not re.fullmatch(rf"{re.escape(split)}-\d{{5,}}\.pt", info.file):
        raise DataError(f"{manifest}: file: {info.file[:80]!r} is no shard of split {split}; prepare the data anew")
    path = manifest.with_name(info.file)
    if path.is_symlink() or not path.is_file():
        raise DataError(f"{path} is missing; prepare the data anew")
    size = path.stat().st_size
    least = shard_bytes(geometry, samples=info.samples, singles=info.singles)
    if info.singles > info.samples or size != info.bytes or size < least:
        raise DataError(f"{path} has {size} bytes, its manifest says otherwise; prepare the data anew")


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
