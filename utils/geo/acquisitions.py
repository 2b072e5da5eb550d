"""Which Sentinel-2 acquisitions there are: files, bands, dates, what their numbers mean. No pixels are read here."""

import contextlib
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.enums import ColorInterp
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader

from utils.errors import ConfigError, DataError
from utils.geo.sentinel2_safe import is_safe, read_safe

logger = logging.getLogger(__name__)

GDAL_ERRORS = (RasterioError, CPLE_BaseError, OSError, ValueError)  # what reading a damaged file can end in
RASTERS = (".tif", ".tiff", ".jp2")
DATE_TAGS = ("ACQUISITION_DATE", "SENSING_DATE", "SENSING_TIME", "PRODUCT_START_TIME", "DATETIME", "DATE", "TIMESTAMP")
BAND_NAMES = ({"b04", "b4", "red"}, {"b03", "b3", "green"}, {"b02", "b2", "blue"})
COLOURS = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
QUANTIFICATION = 10000.0  # Sentinel-2's number for reflectance 1

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_JPEG_2000 = (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")
_PRODUCT = re.compile(r"S2[A-Z]_MSIL\d[A-Z]_(\d{4})(\d{2})(\d{2})T")
_DAY = re.compile(r"(?<!\d)(\d{4})([-_]?)(\d{2})\2(\d{2})(?!\d)")
_SCL = re.compile(r"(?<![a-z0-9])scl(_?[12]0m)?(?![a-z])", re.IGNORECASE)

Band = tuple[Path, int]  # a file and the number of the band in it, from 1


@dataclass(frozen=True)
class Acquisition:
    """One image: reflectance = value · gain + offset, band by band."""

    name: str
    day: date | None  # None only where it is the only one
    bands: tuple[Band, ...]
    gains: tuple[float, ...]
    offsets: tuple[float, ...]
    classes: Band | None = None  # scene classification


def find_acquisitions(
    inputs: Sequence[Path],
    *,
    days: Sequence[date] = (),
    bands: Sequence[int] = (),
    scale: float | None = None,
    masks: Path | None = None,
) -> list[Acquisition]:
    """The acquisitions that paths name, in order of their dates.

    Args:
        inputs: GeoTIFFs, folders of them, .SAFE products, folders of those.
        days: dates of the images in order of their names, instead of those that names and tags state.
        bands: numbers of the bands, from 1, in the order red, green, blue.
        scale: the number that means reflectance 1.
        masks: a folder with a scene classification for each date; else files and bands called SCL are looked for.

    Raises:
        DataError: what is no raster, has no date or no bands that can be told apart.
        ConfigError: ``days`` or ``scale`` that can't be.
    """
    if scale is not None and scale < 1:
        raise ConfigError(f"--scale {scale:g}: give the pixel value that means reflectance 1, e.g. 10000")
    files, products = _list(inputs)
    images = [path for path in files if not _SCL.search(path.stem)]
    beside = [path for path in files if _SCL.search(path.stem)] if masks is None else _rasters(masks)
    if days and len(days) != len(images) + len(products):
        raise ConfigError(f"--dates gives {len(days)} dates for {len(images) + len(products)} images")
    if not images and not products:
        raise DataError(f"{inputs[0]}: holds no GeoTIFF and no .SAFE product")
    given = dict(zip(sorted([*images, *products]), days, strict=False))
    found = [_from_safe(path, day=given.get(path)) for path in products]
    for path in images:
        found.append(_from_raster(path, day=given.get(path), bands=bands, scale=scale, beside=beside))
    if len(found) > 1:
        for acquisition in found:
            if acquisition.day is None:
                name = acquisition.name
                raise DataError(
                    f"{name}: no date in its name (2023-08-07 or 20230807) or tags; rename it or give --dates"
                )
    if masks is not None and not any(acquisition.classes for acquisition in found):
        raise DataError(f"--mask {masks}: no raster there is of the date of an image")
    return sorted(found, key=lambda acquisition: (acquisition.day or date.min, acquisition.name))


@contextlib.contextmanager
def open_raster(path: Path) -> Iterator[DatasetReader]:
    """A GeoTIFF or JPEG 2000 file, told by how it begins. Raises DataError for anything else.

    GDAL would also follow a file that only names others, on this machine or on the network. A damaged file may be
    noticed at any time while it is open.
    """
    try:
        with path.open("rb") as file:
            begin = file.read(12)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file or folder") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: can't be read: {error}") from None
    tiff = begin.startswith(_TIFF)
    if not tiff and not begin.startswith(_JPEG_2000):
        raise DataError(f"{path}: not a raster image: neither a GeoTIFF nor JPEG 2000")
    try:
        with rasterio.open(path, driver="GTiff" if tiff else None) as source:
            yield source
    except GDAL_ERRORS as error:
        said = " ".join(str(error.__cause__ or error).split())[:200]
        raise DataError(f"{path}: not a raster image that GDAL can read: {said}") from None


def day_in(text: str) -> date | None:
    """The first date in a text: of a Sentinel-2 product name, or written 2023-08-07, 2023_08_07 or 20230807."""
    product = _PRODUCT.search(text)
    candidates = [product.groups()] if product else [match.group(1, 3, 4) for match in _DAY.finditer(text)]
    for year, month, day in candidates:
        try:
            found = date(int(year), int(month), int(day))
        except ValueError:
            continue
        if 1980 <= found.year < 2100:
            return found
    return None


def _list(inputs: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Raster files and .SAFE products among the inputs and in the folders among them, by name."""
    files: list[Path] = []
    products: list[Path] = []
    for path in inputs:
        if not path.exists():
            raise DataError(f"{path}: no such file or folder")
        if is_safe(path):
            products.append(path)
        elif path.is_dir():
            files += _rasters(path)
            products += sorted(child for child in path.iterdir() if is_safe(child))
        elif path.suffix.lower() == ".zip":
            raise DataError(f"{path}: unpack the product first")
        else:
            files.append(path)
    return files, products


def _rasters(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in RASTERS and not p.name.startswith("."))


def _from_safe(folder: Path, *, day: date | None) -> Acquisition:
    product = read_safe(folder)
    gain = 1 / product.quantification
    return Acquisition(
        name=folder.name,
        day=day or product.day,
        bands=tuple((path, 1) for path in product.bands),
        gains=(gain,) * len(product.bands),
        offsets=tuple(offset * gain for offset in product.offsets),
        classes=(product.scene_classification, 1) if product.scene_classification else None,
    )


def _from_raster(
    path: Path, *, day: date | None, bands: Sequence[int], scale: float | None, beside: Sequence[Path]
) -> Acquisition:
    with open_raster(path) as source:
        names = [(description or "").strip().lower() for description in source.descriptions]
        classes = (path, names.index("scl") + 1) if "scl" in names else None
        indexes = _choose_bands(source, path, names, bands)
        gains, offsets = _meaning(source, path, indexes, scale)
        tags = {key.upper(): value for key, value in source.tags().items()}
    day = day or day_in(path.stem) or next(filter(None, (day_in(tags.get(tag, "")) for tag in DATE_TAGS)), None)
    return Acquisition(
        name=path.name,
        day=day,
        bands=tuple((path, index) for index in indexes),
        gains=gains,
        offsets=offsets,
        classes=_classes_beside(path, day, beside) or classes,
    )


def _choose_bands(source: DatasetReader, path: Path, names: Sequence[str], wanted: Sequence[int]) -> list[int]:
    if wanted:
        if max(wanted) > source.count or min(wanted) < 1:
            raise DataError(f"{path}: has {source.count} bands; --bands {','.join(map(str, wanted))} asks for others")
        return list(wanted)
    by_name = [next((i for i, name in enumerate(names, 1) if name in known), 0) for known in BAND_NAMES]
    if all(by_name):
        return by_name
    by_colour = [source.colorinterp.index(colour) + 1 if colour in source.colorinterp else 0 for colour in COLOURS]
    if all(by_colour):
        return by_colour
    if source.count == 3:
        logger.info(f"{path.name}: bands have no names; taken as red, green, blue")
        return [1, 2, 3]
    raise DataError(
        f"{path}: {source.count} band{'s' * (source.count != 1)}, not described as B04, B03, B02 (red, green, blue); "
        "three are needed: say which with --bands"
    )


def _meaning(
    source: DatasetReader, path: Path, indexes: Sequence[int], scale: float | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Gains and offsets that make reflectance: from ``scale``, the file's own tags, or the type of its numbers."""
    gains = tuple(source.scales[index - 1] for index in indexes)
    offsets = tuple(source.offsets[index - 1] for index in indexes)
    kind = np.dtype(source.dtypes[indexes[0] - 1])
    if scale is None and (set(gains), set(offsets)) != ({1.0}, {0.0}):
        return gains, offsets
    if scale is None:
        if kind == np.uint8:
            raise DataError(f"{path}: 8-bit numbers are a picture, not reflectance; give --scale if they are")
        scale = QUANTIFICATION
        if kind.kind == "f":
            shape = (len(indexes), min(source.height, 256), min(source.width, 256))
            peek = source.read(list(indexes), out_shape=shape, masked=True).filled(np.nan)
            scale = QUANTIFICATION if np.nanpercentile(np.nan_to_num(peek), 90) > 2 else 1.0
            logger.info(f"{path.name}: floating point numbers, taken as reflectance × {scale:g}")
    return (1 / scale,) * len(indexes), (0.0,) * len(indexes)


def _classes_beside(image: Path, day: date | None, beside: Sequence[Path]) -> Band | None:
    """The scene classification of an image: the same name but for "SCL", else the only one of the same date."""
    plain = [path for path in beside if _SCL.sub("", path.stem).strip("_-. ") == image.stem or path.stem == image.stem]
    dated = [path for path in beside if day is not None and day_in(path.stem) == day]
    found = plain or dated
    if len(found) > 1:
        raise DataError(
            f"{image}: {len(found)} cloud masks could be its own ({found[0].name}, {found[1].name}); keep one"
        )
    return (found[0], 1) if found else None
