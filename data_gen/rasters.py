"""The rasters of a raw data set: opened within its folder, their bands found by name, their numbers as 16 bits.

What can't be read is never a crash but `Unusable`, with the reason.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import RasterioError

from utils.errors import DataError
from utils.geo.bands import described_bands

GDAL_OPTIONS = {  # one file is one open: no listing of folders, no sidecar files, no threads
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_PAM_ENABLED": "NO",
    "GDAL_NUM_THREADS": "1",
}
_LARGEST_SIDE = 1 << 12
_INT16 = np.iinfo(np.int16)


class Unusable(Exception):
    """Why a patch or an acquisition can't be used."""


class Missing(Unusable):
    """There is no file."""


def to_int16(pixels: NDArray[Any], *, nodata: float | None) -> tuple[NDArray[np.int16], int, bool]:
    """Reflectance × 10000 of any numeric type as int16: (pixels, how many didn't fit, whether all are nodata).

    Nodata and what is not finite become 0; fractions are rounded.
    """
    missing = ~np.isfinite(pixels) if pixels.dtype.kind == "f" else np.zeros(pixels.shape, dtype=bool)
    if nodata is not None:
        missing |= pixels == nodata
    if missing.any():
        pixels = np.where(missing, 0, pixels)
    if pixels.dtype.kind == "f":
        pixels = np.rint(pixels)
    outside = (pixels < _INT16.min) | (pixels > _INT16.max)
    clipped = int(outside.sum())
    if clipped:
        pixels = pixels.clip(_INT16.min, _INT16.max)
    return pixels.astype(np.int16), clipped, not pixels.any()


def inside(root: Path, relative: str) -> Path:
    """The path of a file that a table names. Raises DataError where it leads out of ``root``, a resolved folder."""
    try:
        path = (root / relative).resolve()
    except (OSError, ValueError, RuntimeError):  # a loop of links, a zero byte, a name too long
        raise Unusable(f"no file can have the path {relative[:80]!r}") from None
    if not path.is_relative_to(root):
        raise DataError(f"the table names {relative[:200]!r}, which leads out of {root}; put the data inside it")
    return path


class opened:
    """Opens a GeoTIFF that has the bands; what goes wrong, also while it is read, is a reason.

    Without its georeference by default: that takes four times as long to read as the pixels and is seldom needed.
    """

    def __init__(self, path: Path, bands: Sequence[str] = (), *, georeferenced: bool = False) -> None:
        self._path, self._bands = path, bands
        self._where = {} if georeferenced else {"GEOREF_SOURCES": "NONE"}

    def __enter__(self) -> rasterio.DatasetReader:
        try:
            if not self._path.is_file():
                raise Missing("missing file")
            self._source = rasterio.open(self._path, driver="GTiff", sharing=False, **self._where)
        except (RasterioError, OSError, ValueError) as error:
            raise Unusable(f"unreadable raster ({_line(error)})") from error
        try:
            if self._bands:
                band_numbers(self._source, self._bands)
            if max(self._source.shape) > _LARGEST_SIDE:
                raise Unusable("larger than any patch")
        except Unusable:
            self._source.close()
            raise
        return self._source

    def __exit__(self, *_: object) -> None:
        self._source.close()


def band_numbers(source: rasterio.DatasetReader, bands: Sequence[str]) -> list[int]:
    """Which bands of a file, from 1, are those: by their descriptions, else all in order. Raises Unusable."""
    named = described_bands(source.descriptions)
    if named is not None and set(bands) <= set(named):
        return [named.index(band) + 1 for band in bands]
    if named is not None or source.count != len(bands):
        found = f"{source.count} bands" + (f" ({', '.join(named)})" if named else "")
        raise Unusable(f"{found}, {len(bands)} are expected ({', '.join(bands)})")
    return list(range(1, source.count + 1))


def pixels_of(source: rasterio.DatasetReader, bands: Sequence[str]) -> NDArray[Any]:
    """The bands of a raster, (C, h, w)."""
    try:
        pixels = source.read(band_numbers(source, bands))
    except (RasterioError, OSError, ValueError, MemoryError) as error:
        raise Unusable(f"unreadable raster ({_line(error)})") from error
    if pixels.dtype.kind not in "uif":
        raise Unusable(f"its pixels are {pixels.dtype}, not numbers")
    return pixels


def _line(error: BaseException) -> str:
    """The cause of an error of GDAL's in a line."""
    return " ".join(str(error.__cause__ or error).split())[:200]
