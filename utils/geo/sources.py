"""What an acquisition is, and how its files are opened: on this machine, inside an archive, or over the network.

A band's ``Path`` is GDAL's name of a file: a path, ``/vsizip/{ARCHIVE}/MEMBER``, or ``/vsicurl?...url=ADDRESS``.
"""

import contextlib
import io
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qs, urlencode, urlsplit

import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader

from utils.errors import DataError

GDAL_ERRORS = (RasterioError, CPLE_BaseError, OSError, ValueError)  # what reading a damaged file can end in
LARGEST_SIDE = 1_000_000  # pixels; a whole tile of Sentinel-2 has 10,980
LARGEST_BLOCK = 2**31  # bytes that GDAL decodes at once
LARGEST_DIRECTORY = 4 * 2**20  # bytes of an archive's table of contents; a product has about 120 files
LARGEST_METADATA = 32 * 2**20  # bytes
LARGEST_RATIO = 1100  # unpacked to packed size; deflate can't pack better

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_JPEG_2000 = (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError, ValueError)
_REMOTE = "/vsicurl?"
# Retries for a server that is busy or breaks off; no request goes to anything but the address itself.
_REMOTE_OPTIONS = {"max_retry": 3, "retry_delay": 0.5, "list_dir": "no", "empty_dir": "yes", "use_head": "no"}

Band = tuple[Path, int]  # a file and the number of the band in it, from 1


@dataclass(frozen=True)
class Acquisition:
    """One image: reflectance = value · gain + offset, band by band."""

    name: str
    day: date | None  # None only where it is the only one
    names: tuple[str, ...]  # Sentinel-2's, of its bands
    bands: tuple[Band, ...]
    gains: tuple[float, ...]
    offsets: tuple[float, ...]
    classes: Band | None = None  # scene classification

    @property
    def files(self) -> list[Path]:
        """Each of its files once."""
        return list(dict.fromkeys(path for path, _ in (*self.bands, *([self.classes] if self.classes else []))))


@contextlib.contextmanager
def open_raster(path: Path) -> Iterator[DatasetReader]:
    """A GeoTIFF or JPEG 2000 file, told by how it begins.

    GDAL by itself would also follow a file that only names others, on this machine or on the network. A damaged file
    may be noticed at any time while it is open.

    Raises:
        DataError: anything else, a damaged file, absurd sizes.
    """
    tiff = is_remote(path) or _is_tiff(path)
    try:
        with rasterio.open(path, driver="GTiff" if tiff else None) as source:
            height, width = source.block_shapes[0]
            block = height * width * max(1, *(_itemsize(kind) for kind in source.dtypes)) * source.count
            if max(source.shape) > LARGEST_SIDE or block > LARGEST_BLOCK:
                raise DataError(
                    f"{shown(path)}: claims {source.width}×{source.height} pixels, blocks of {width}×{height}: too many"
                )
            yield source
    except GDAL_ERRORS as error:
        if is_remote(path):  # what GDAL says may hold the whole address
            raise DataError(f"{shown(path)}: not a GeoTIFF that GDAL can read, or the server broke off") from None
        said = " ".join(str(error.__cause__ or error).split())[:200]
        raise DataError(f"{shown(path)}: not a raster image that GDAL can read: {said}") from None


def _itemsize(dtype: str) -> int:
    return {"complex128": 16, "float64": 8, "int64": 8, "uint64": 8, "complex64": 8}.get(dtype, 4)


def _is_tiff(path: Path) -> bool:
    """A TIFF, else JPEG 2000; anything else raises DataError."""
    member = _member(path)
    try:
        if member is not None:
            with open_archive(member[0]) as archive, archive.open(member[1]) as inner:
                begin = inner.read(12)
        else:
            with path.open("rb") as file:
                begin = file.read(12)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file or folder") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: can't be read: {error}") from None
    tiff = begin.startswith(_TIFF)
    if not tiff and not begin.startswith(_JPEG_2000):
        raise DataError(f"{path}: not a raster image: neither a GeoTIFF nor JPEG 2000")
    return tiff


# Archives


class _BoundedReads(io.FileIO):
    """A file of which nothing huge is read at once: zipfile takes a whole table of contents into memory."""

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > LARGEST_DIRECTORY:
            raise zipfile.BadZipFile("its table of contents is too large")
        return super().read(LARGEST_DIRECTORY if size is None or size < 0 else size) or b""


@contextlib.contextmanager
def open_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """A zip file whose members lie inside it and are no bombs. Raises DataError for any other."""
    try:
        with _BoundedReads(path) as file, zipfile.ZipFile(file) as archive:
            for member in archive.infolist():
                _check(path, member)
            yield archive
    except _ZIP_ERRORS as error:
        raise DataError(f"{path}: not a zip file that can be read: {error}") from None


def _check(path: Path, member: zipfile.ZipInfo) -> None:
    name = member.filename
    if name.startswith("/") or "\\" in name or ":" in name or ".." in PurePosixPath(name).parts:
        raise DataError(f"{path}: a file in it leads out of it: {name[:200]!r}; not read")
    if member.file_size > LARGEST_RATIO * max(member.compress_size, 1):
        raise DataError(f"{path}: {name[:200]!r} would unpack to {member.file_size / 1e9:.1f} GB; not read")


def member_path(archive: Path, member: str) -> Path:
    """GDAL's name of a file in an archive."""
    return Path(f"/vsizip/{{{archive.resolve()}}}") / member


def _member(path: Path) -> tuple[Path, str] | None:
    """The archive and the member that ``member_path`` named."""
    text = str(path)
    if not text.startswith("/vsizip/{"):
        return None
    archive, _, member = text.removeprefix("/vsizip/{").rpartition("}/")
    return Path(archive), member


# The network


def remote_path(address: str) -> Path:
    """GDAL's name of a file at an http address."""
    return Path(_REMOTE + urlencode({**_REMOTE_OPTIONS, "url": address}))


def is_remote(path: Path) -> bool:
    return str(path).startswith(_REMOTE)


def network_options(paths: Iterable[Path]) -> contextlib.AbstractContextManager:
    """What holds while GDAL reads files, some of which may lie on the network: time limits, no passwords of others."""
    if not any(map(is_remote, paths)):
        return contextlib.nullcontext()
    return rasterio.Env(
        GDAL_HTTP_TIMEOUT=60,
        GDAL_HTTP_CONNECTTIMEOUT=15,
        GDAL_HTTP_NETRC="NO",
        GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR",
    )


def shown(path: Path) -> str:
    """A file's name for people; of an address without what follows the question mark, which may be secret."""
    if not is_remote(path):
        return str(path)
    address = urlsplit(parse_qs(str(path).removeprefix(_REMOTE))["url"][0])
    return f"{address.scheme}://{address.netloc}{address.path}"


def short_name(path: Path) -> str:
    return shown(path).rpartition("/")[2]


def file_stamp(path: Path) -> tuple[str, int, int]:
    """What changes when a file does: its name, its size in bytes, when it was written (0, 0 over the network)."""
    if is_remote(path):
        return shown(path), 0, 0
    member = _member(path)
    state = (member[0] if member else path).stat()
    return str(path.resolve() if member is None else path), state.st_size, state.st_mtime_ns
