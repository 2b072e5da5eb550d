"""Which Sentinel-2 acquisitions there are: files, bands, dates, what their numbers mean."""

import contextlib
import logging
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
from rasterio._err import CPLE_BaseError
from rasterio.enums import ColorInterp
from rasterio.env import ensure_env
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader
from rasterio.windows import Window

from utils.errors import ConfigError, DataError
from utils.geo.bands import RGB, Acquisition, Band, Meaning, band_name, common_name, listed
from utils.geo.sentinel2_safe import is_safe, read_safe
from utils.geo.stac import UNSTATED, is_remote, network_options, read_items, shown

logger = logging.getLogger(__name__)

GDAL_ERRORS = (RasterioError, CPLE_BaseError, OSError, ValueError)  # what reading a damaged file can end in
LARGEST_SIDE = 1_000_000  # pixels; a whole tile of Sentinel-2 has 10,980
LARGEST_BLOCK = 2**31  # bytes that GDAL decodes at once
RASTERS = (".tif", ".tiff", ".jp2")
ITEMS = (".json", ".geojson")
DATE_TAGS = ("ACQUISITION_DATE", "SENSING_DATE", "SENSING_TIME", "PRODUCT_START_TIME", "DATETIME", "DATE", "TIMESTAMP")
COLOURS = {name: ColorInterp[name] for name in ("red", "green", "blue", "nir")}
QUANTIFICATION = 10000.0  # Sentinel-2's number for reflectance 1
SHIFT, SHIFTED_SINCE = 1000, date(2022, 1, 25)  # processing baseline 04.00: products add 1000 to their numbers
PEEK = 512  # pixels on a side that are looked at

_DRIVERS = ["GTiff", "JP2OpenJPEG", "JP2KAK", "JP2ECW"]
_DAY = re.compile(r"(?<!\d)(\d{4})([-_]?)(\d{2})\2(\d{2})(?!\d)")
_SCL = re.compile(r"(?<![a-z0-9])scl(_?[126]0m)?(?![a-z])", re.IGNORECASE)
_ONE_BAND = re.compile(r"(?:(.*)[-_. ])?((?![126]0m)[a-z0-9]+)(?:_([126]0)m)?", re.I)  # what is before it, band, metres
# Of no use beside files of a band each.
_OTHER_FILES = re.compile(r"(.*[-_. ])?(tci|aot|wvp|cld|snw|visual|preview|thumbnail|overview)(_[126]0m)?", re.I)


@contextlib.contextmanager
def open_raster(path: Path) -> Iterator[DatasetReader]:
    """A GeoTIFF or JPEG 2000 file.

    GDAL by itself would also follow a file that only names others, on this machine or on the network. A damaged file
    may be noticed at any time while it is open.

    Raises:
        DataError: anything else, a damaged file, absurd sizes.
    """
    try:
        with ensure_env(DatasetReader)(str(path), driver=["GTiff"] if is_remote(path) else _DRIVERS) as source:
            height, width = source.block_shapes[0]
            block = height * width * source.count * max(8 if "64" in kind else 4 for kind in source.dtypes)
            if max(source.shape) > LARGEST_SIDE or block > LARGEST_BLOCK:
                raise DataError(f"{shown(path)}: claims {source.shape} pixels in blocks of {height, width}: too many")
            yield source
    except GDAL_ERRORS as error:
        # Of an address GDAL may say the whole, with what is secret in it.
        said = "" if is_remote(path) else f": {' '.join(str(error.__cause__ or error).split())[:200]}"
        raise DataError(f"{shown(path)}: can't be read, or not a raster image (GeoTIFF, JPEG 2000){said}") from None


def file_stamp(path: Path) -> tuple[str, int, int]:
    """What changes when a file does: its name, its size in bytes, when it was written (0, 0 over the network)."""
    if is_remote(path):
        return shown(path), 0, 0
    archive = re.match(r"/vsizip/{(.*)}/", str(path))
    state = (Path(archive[1]) if archive else path).stat()
    return str(path if archive else path.resolve()), state.st_size, state.st_mtime_ns


def find_acquisitions(
    inputs: Sequence[Path],
    *,
    bands: Sequence[str] = RGB,
    numbers: Sequence[int] = (),
    days: Sequence[date] = (),
    scale: float | None = None,
    masks: Path | None = None,
    remote: bool = False,
) -> list[Acquisition]:
    """The acquisitions that paths name, in order of their dates.

    Args:
        inputs: GeoTIFFs, files of one band each, .SAFE products (zipped too), folders of all these, STAC items (.json).
        bands: Sentinel-2's names of the bands that are wanted.
        numbers: where these are in files of several bands, from 1, instead of where the files say they are.
        days: dates of the images in order of their names, instead of those that names and tags state.
        scale: the number that means reflectance 1.
        masks: a folder with a scene classification for each date; else files and bands called SCL are looked for.
        remote: STAC items may name files on the network.

    Raises:
        DataError: what is no raster, has no date or no bands that can be told apart.
        ConfigError: ``days``, ``numbers`` or ``scale`` that can't be.
    """
    if scale is not None and scale < 1:
        raise ConfigError(f"--scale {scale:g}: give the pixel value that means reflectance 1, e.g. 10000")
    if numbers and len(numbers) != len(bands):
        raise ConfigError(f"--bands gives {len(numbers)} numbers; the bands are {', '.join(bands)}")
    files, products, items = _list(inputs)
    beside = [path for path in files if _SCL.search(path.stem)] if masks is None else _rasters(masks)
    images, groups = _grouped([path for path in files if not _SCL.search(path.stem)])
    found = {path: read_safe(path, bands=bands) for path in products}
    for path in images:
        found[path] = _from_raster(path, bands=bands, numbers=numbers, scale=scale)
    for path, members in groups.items():
        found[path] = _from_band_files(path, members, bands=bands, scale=scale)
    for path in items:
        for position, item in enumerate(read_items(path, bands=bands, remote=remote)):
            found[path / f"{position:06}"] = _completed(item, scale=scale)
    if not found:
        raise DataError(f"{inputs[0]}: holds no GeoTIFF, no .SAFE product and no STAC item")
    if days and len(days) != len(found):
        raise ConfigError(f"the options give {len(days)} dates for {len(found)} images")
    given = dict(zip(sorted(found), days, strict=False))
    result = []
    for path, acquisition in found.items():
        dated = replace(acquisition, day=given.get(path, acquisition.day))
        if dated.day is None and len(found) > 1:
            options = "--dates (of build_dataset.py --hr_dates, --lr_dates)"
            raise DataError(f"{dated.name}: no date in its name (2023-08-07 or 20230807) or tags; give {options}")
        classes = _classes_beside(path, dated.day, beside) if path in groups or path in images else None
        result.append(replace(dated, classes=classes or dated.classes))
    if masks is not None and not any(acquisition.classes for acquisition in result):
        raise DataError(f"--mask {masks}: no raster there is of the date of an image")
    _look_for_offset(result)
    return sorted(result, key=lambda acquisition: (acquisition.day or date.min, acquisition.name))


def day_in(text: str) -> date | None:
    """The first date in a text, written 2023-08-07, 2023_08_07 or 20230807: of a product's name when it was taken."""
    for match in _DAY.finditer(text):
        year, month, day = map(int, match.group(1, 3, 4))
        with contextlib.suppress(ValueError):
            if 1980 <= year < 2100:
                return date(year, month, day)
    return None


# Files


def _list(inputs: Sequence[Path]) -> tuple[list[Path], list[Path], list[Path]]:
    """Raster files, .SAFE products and STAC items among the inputs and in the folders among them, by name."""
    files: list[Path] = []
    products: list[Path] = []
    items: list[Path] = []
    for path in inputs:
        if not path.exists():
            raise DataError(f"{path}: no such file or folder")
        if is_safe(path):
            products.append(path)
        elif path.is_dir():
            inside = sorted(child for child in path.iterdir() if not child.name.startswith("."))
            unpacked = {_product_name(child) for child in inside if child.is_dir()}
            products += [p for p in inside if is_safe(p) and (p.is_dir() or _product_name(p) not in unpacked)]
            files += _rasters(path)
            for folder in inside:  # one a date, with a file a band
                if folder.is_dir() and not is_safe(folder):
                    files += [file for file in _rasters(folder) if _SCL.search(file.stem) or _band_of(file)]
        else:
            (items if path.suffix.lower() in ITEMS else files).append(path)
    return files, products, items


def _product_name(path: Path) -> str:
    return path.name.upper().removesuffix(".ZIP").removesuffix(".SAFE")


def _rasters(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in RASTERS and not p.name.startswith("."))


def _band_of(path: Path) -> tuple[str, int, Path] | None:
    """Of a file called after a band: the band, metres a pixel (0: not said), and what all of its date share."""
    match = _ONE_BAND.fullmatch(path.stem)
    band = band_name(match[2]) if match else None
    return (band, int(match[3] or 0), path.parent / (match[1] or "")) if match and band else None


def _grouped(files: Sequence[Path]) -> tuple[list[Path], dict[Path, dict[str, Path]]]:
    """Files of several bands, and of each acquisition that has a file a band the finest of each, by what they share."""
    images: list[Path] = []
    groups: dict[Path, list[tuple[int, str, Path]]] = defaultdict(list)  # metres, band, file
    for path in files:
        named = _band_of(path)
        with open_raster(path) as source:
            if named is not None and source.count == 1:
                groups[named[2]].append((named[1], named[0], path))
            else:
                images.append(path)
    folders = {path.parent for members in groups.values() for _, _, path in members}
    images = [path for path in images if path.parent not in folders or not _OTHER_FILES.fullmatch(path.stem)]
    finest_last = {shared: sorted(members, reverse=True) for shared, members in groups.items()}
    return images, {shared: {band: path for _, band, path in members} for shared, members in finest_last.items()}


def _classes_beside(image: Path, day: date | None, beside: Sequence[Path]) -> Band | None:
    """The scene classification of an image: the same name but for "SCL", else the only one of the same date."""
    named: list[Path] = []
    dated: list[Path] = []
    for path in beside:
        name = _SCL.sub("", path.stem).strip("_-. ")
        if path.stem == image.stem or (name in (image.stem, image.name) if name else path.parent == image):
            named.append(path)
        if day is not None and (day_in(path.stem) or day_in(path.parent.name)) == day:
            dated.append(path)
    found = named or dated
    if len(found) > 1:
        raise DataError(f"{image}: {len(found)} cloud masks could be its own, as {found[0].name}; keep one")
    return (found[0], 1) if found else None


# Acquisitions


def _from_raster(path: Path, *, bands: Sequence[str], numbers: Sequence[int], scale: float | None) -> Acquisition:
    with open_raster(path) as source:
        lower = [(description or "").strip().lower() for description in source.descriptions]
        classes = (path, lower.index("scl") + 1) if "scl" in lower else None
        indexes = _choose_bands(source, bands, numbers)
        meanings = _meanings(source, indexes, scale)
        day = day_in(path.stem) or _day_in_tags(source)
    return Acquisition(path.name, day, tuple(bands), tuple((path, index) for index in indexes), meanings, classes)


def _from_band_files(path: Path, files: dict[str, Path], *, bands: Sequence[str], scale: float | None) -> Acquisition:
    missing = [band for band in bands if band not in files]
    if missing:
        raise DataError(f"{path}: files of {', '.join(sorted(files))}, none of {', '.join(missing)}")
    meanings: tuple[Meaning, ...] = ()
    for band in bands:
        with open_raster(files[band]) as source:
            meanings += _meanings(source, [1], scale)
            tagged = _day_in_tags(source)
    folder = files[bands[0]].parent
    day = (day_in(path.name) if path != folder else None) or day_in(folder.name) or tagged
    return Acquisition(path.name, day, tuple(bands), tuple((files[band], 1) for band in bands), meanings)


def _completed(item: Acquisition, *, scale: float | None) -> Acquisition:
    """What an item leaves to its files: what their numbers mean."""
    meanings: tuple[Meaning, ...] = ()
    for name, (path, index), stated in zip(item.names, item.bands, item.meanings, strict=True):
        with network_options([path]), open_raster(path) as source:
            if index > source.count:
                raise DataError(f"{shown(path)}: has {source.count} bands; item {item.name} says {name} is {index}")
            if is_remote(path) and source.block_shapes[0][1] == source.width > 512:
                raise DataError(f"{shown(path)}: not cloud-optimized (its pixels are not in tiles): copy it here first")
            meanings += (stated,) if stated != UNSTATED and not scale else _meanings(source, [index], scale)
    return replace(item, meanings=meanings)


def _day_in_tags(source: DatasetReader) -> date | None:
    tags = {key.upper(): value for key, value in source.tags().items()}
    return next(filter(None, (day_in(tags.get(tag, "")) for tag in DATE_TAGS)), None)


def _choose_bands(source: DatasetReader, bands: Sequence[str], numbers: Sequence[int]) -> list[int]:
    """Where the wanted bands are: as asked for, by name, by colour, or in the order of the file."""
    path = Path(source.name)
    if numbers:
        if max(numbers) > source.count or min(numbers) < 1:
            raise DataError(f"{path}: has {source.count} bands; --bands {','.join(map(str, numbers))} asks for others")
        return list(numbers)
    known = [band_name(name or "") for name in source.descriptions]
    if all(band in known for band in bands):
        return [known.index(band) + 1 for band in bands]
    wanted = ", ".join(f"{band} ({common_name(band)})" if common_name(band) != band else band for band in bands)
    if any(known):
        described = ", ".join(name or "?" for name in source.descriptions)
        raise DataError(f"{path}: its bands are described as {described}; needed: {wanted}; or say which with --bands")
    colours = [COLOURS.get(common_name(band)) for band in bands]
    if all(colour in source.colorinterp for colour in colours):
        return [source.colorinterp.index(colour) + 1 for colour in colours]
    if source.count == len(bands):
        logger.info(f"{path.name}: bands have no names; taken as {listed(bands)}")
        return list(range(1, source.count + 1))
    raise DataError(f"{path}: its bands ({source.count}) have no names; needed: {wanted}; say which with --bands")


def _meanings(source: DatasetReader, indexes: Sequence[int], scale: float | None) -> tuple[Meaning, ...]:
    """Gains and offsets that make reflectance: from ``scale``, the file's own tags, or the type of its numbers."""
    path = Path(shown(Path(source.name)))
    stated = tuple((source.scales[index - 1], source.offsets[index - 1]) for index in indexes)
    kind = np.dtype(source.dtypes[indexes[0] - 1])
    if scale is None and set(stated) != {UNSTATED}:
        for gain, offset in stated:
            if not gain or not np.isfinite([gain, offset]).all():
                raise DataError(f"{path}: states scale {gain:g} and offset {offset:g}, which give no reflectance")
        return stated
    if scale is None:
        if kind == np.uint8:
            options = "(--scale; of build_dataset.py --lr_unit)"
            raise DataError(f"{path}: 8-bit numbers are a picture; give the number that means reflectance 1 {options}")
        scale = QUANTIFICATION
        if kind.kind == "f":
            shape = (len(indexes), min(source.height, 256), min(source.width, 256))
            peek = source.read(list(indexes), out_shape=shape, masked=True).filled(np.nan)
            scale = QUANTIFICATION if np.nanpercentile(np.nan_to_num(peek), 90) > 2 else 1.0
            logger.info(f"{path.name}: floating point numbers, taken as reflectance × {scale:g}")
    return ((1 / scale, 0.0),) * len(indexes)


def _look_for_offset(acquisitions: Sequence[Acquisition]) -> None:
    """Say where the darkest numbers look like those of products since processing baseline 04.00."""
    shifted = [acquisition.name for acquisition in acquisitions if _looks_shifted(acquisition)]
    if 2 * len(shifted) >= len(acquisitions):  # single ones may be cloud all over
        logger.warning(
            f"{len(shifted)} of {len(acquisitions)} images ({shifted[0]}, ...) have no number below {SHIFT}: made "
            "from products since 2022? Then say so: gdal_edit.py -scale 0.0001 -offset -0.1 FILE"
        )


def _looks_shifted(acquisition: Acquisition) -> bool:
    path, index = acquisition.bands[0]
    stated = set(acquisition.meanings) != {(1 / QUANTIFICATION, 0.0)}
    if stated or is_remote(path) or (acquisition.day or SHIFTED_SINCE) < SHIFTED_SINCE:
        return False
    with open_raster(path) as source:
        height, width = (min(size, PEEK) for size in source.shape)
        middle = Window((source.width - width) // 2, (source.height - height) // 2, width, height)
        values = source.read(index, window=middle)
    return values.dtype.kind in "iu" and bool(values.any()) and int(values[values > 0].min(initial=SHIFT)) >= SHIFT
