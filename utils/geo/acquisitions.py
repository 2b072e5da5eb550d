"""Which Sentinel-2 acquisitions there are: files, bands, dates, what their numbers mean."""

import logging
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rasterio.enums import ColorInterp
from rasterio.io import DatasetReader
from rasterio.windows import Window

from utils.errors import ConfigError, DataError
from utils.geo.bands import RGB, band_name, common_name
from utils.geo.sentinel2_safe import is_safe, read_safe
from utils.geo.sources import Acquisition, Band, is_remote, network_options, open_raster, shown
from utils.geo.stac import StacItem, read_items

logger = logging.getLogger(__name__)

RASTERS = (".tif", ".tiff", ".jp2")
ITEMS = (".json", ".geojson")
DATE_TAGS = ("ACQUISITION_DATE", "SENSING_DATE", "SENSING_TIME", "PRODUCT_START_TIME", "DATETIME", "DATE", "TIMESTAMP")
COLOURS = {"B04": ColorInterp.red, "B03": ColorInterp.green, "B02": ColorInterp.blue}
QUANTIFICATION = 10000.0  # Sentinel-2's number for reflectance 1
SHIFT, SHIFTED_SINCE = 1000, date(2022, 1, 25)  # processing baseline 04.00: products add 1000 to their numbers
PEEK = 512  # pixels on a side that are looked at

_PRODUCT = re.compile(r"S2[A-Z]_MSIL\d[A-Z]_(\d{4})(\d{2})(\d{2})T")
_DAY = re.compile(r"(?<!\d)(\d{4})([-_]?)(\d{2})\2(\d{2})(?!\d)")
_SCL = re.compile(r"(?<![a-z0-9])scl(_?[126]0m)?(?![a-z])", re.IGNORECASE)
_ONE_BAND = re.compile(r"(?:(.*)[-_. ])?([a-z0-9]+)", re.IGNORECASE)  # what comes before it, its name
_METRES = re.compile(r"_([126]0)m$", re.IGNORECASE)
_OTHER_FILES = ("tci", "aot", "wvp", "cld", "snw", "visual", "preview", "thumbnail", "overview")  # beside band files


class _BandFile(NamedTuple):
    """A file that holds one band."""

    band: str
    metres: int  # a pixel, where the name says so; else 0
    path: Path


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
    found: dict[Path, Acquisition] = {path: _from_safe(path, bands=bands) for path in products}
    for path in images:
        found[path] = _from_raster(path, bands=bands, numbers=numbers, scale=scale)
    for path, members in groups.items():
        found[path] = _from_band_files(path, members, bands=bands, scale=scale)
    for path in items:
        for position, item in enumerate(read_items(path, bands=bands, remote=remote)):
            found[path / f"{position:06}"] = _from_item(item, bands=bands, scale=scale)
    if not found:
        raise DataError(f"{inputs[0]}: holds no GeoTIFF, no .SAFE product and no STAC item")
    if days and len(days) != len(found):
        raise ConfigError(f"the options give {len(days)} dates for {len(found)} images")
    given = dict(zip(sorted(found), days, strict=False))
    result = []
    for path, acquisition in found.items():
        dated = replace(acquisition, day=given.get(path, acquisition.day))
        if dated.day is None and len(found) > 1:
            raise DataError(
                f"{dated.name}: no date in its name (2023-08-07 or 20230807) or tags; rename it or give "
                "--dates (of build_dataset.py --hr_dates, --lr_dates)"
            )
        classes = _classes_beside(path, dated.day, beside) if path in groups or path in images else None
        result.append(replace(dated, classes=classes or dated.classes))
    if masks is not None and not any(acquisition.classes for acquisition in result):
        raise DataError(f"--mask {masks}: no raster there is of the date of an image")
    _look_for_offset(result)
    return sorted(result, key=lambda acquisition: (acquisition.day or date.min, acquisition.name))


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
                    files += [file for file in _rasters(folder) if _SCL.search(file.stem) or _band_file(file)]
        elif path.suffix.lower() in ITEMS:
            items.append(path)
        else:
            files.append(path)
    return files, products, items


def _product_name(path: Path) -> str:
    return path.name.upper().removesuffix(".ZIP").removesuffix(".SAFE")


def _rasters(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in RASTERS and not p.name.startswith("."))


def _band_file(path: Path) -> tuple[str, _BandFile] | None:
    """What comes before the band in the name of a file that is called after one, and what the name says."""
    metres = _METRES.search(path.stem)
    match = _ONE_BAND.fullmatch(_METRES.sub("", path.stem))
    band = band_name(match[2]) if match else None
    return (match[1] or "", _BandFile(band, int(metres[1]) if metres else 0, path)) if match and band else None


def _grouped(files: Sequence[Path]) -> tuple[list[Path], dict[Path, list[_BandFile]]]:
    """Files of several bands, and those of one band each, by acquisition (a folder and the start of their names)."""
    images: list[Path] = []
    groups: dict[Path, list[_BandFile]] = defaultdict(list)
    for path in files:
        named = _band_file(path)
        if named is not None and _has_one_band(path):
            groups[path.parent / named[0]].append(named[1])
        else:
            images.append(path)
    folders = {member.path.parent for members in groups.values() for member in members}
    others = re.compile(rf"(?:.*[-_. ])?({'|'.join(_OTHER_FILES)})(?:_[126]0m)?", re.IGNORECASE)
    return [path for path in images if path.parent not in folders or not others.fullmatch(path.stem)], dict(groups)


def _has_one_band(path: Path) -> bool:
    with open_raster(path) as source:
        return source.count == 1


def _from_safe(path: Path, *, bands: Sequence[str]) -> Acquisition:
    product = read_safe(path, bands=bands)
    gain = 1 / product.quantification
    return Acquisition(
        name=path.name,
        day=product.day,
        names=tuple(bands),
        bands=tuple((file, 1) for file in product.bands),
        gains=(gain,) * len(bands),
        offsets=tuple(offset * gain for offset in product.offsets),
        classes=(product.scene_classification, 1) if product.scene_classification else None,
    )


def _from_raster(path: Path, *, bands: Sequence[str], numbers: Sequence[int], scale: float | None) -> Acquisition:
    with open_raster(path) as source:
        names = [(description or "").strip() for description in source.descriptions]
        lower = [name.lower() for name in names]
        classes = (path, lower.index("scl") + 1) if "scl" in lower else None
        indexes = _choose_bands(source, path, names, bands, numbers)
        gains, offsets = _meaning(source, path, indexes, scale)
        day = day_in(path.stem) or _day_in_tags(source)
    located = tuple((path, index) for index in indexes)
    return Acquisition(path.name, day, tuple(bands), located, gains, offsets, classes)


def _from_band_files(
    path: Path, members: Sequence[_BandFile], *, bands: Sequence[str], scale: float | None
) -> Acquisition:
    finest = {member.band: member for member in sorted(members, key=lambda m: m.metres or 1, reverse=True)}
    missing = [band for band in bands if band not in finest]
    if missing:
        raise DataError(f"{path}: files of {', '.join(sorted(finest))}, none of {', '.join(missing)}")
    meanings = []
    for band in bands:
        with open_raster(finest[band].path) as source:
            meanings.append(_meaning(source, finest[band].path, [1], scale))
            tagged = _day_in_tags(source)
    folder = finest[bands[0]].path.parent
    day = (day_in(path.name) if path != folder else None) or day_in(folder.name) or tagged
    return Acquisition(
        name=path.name,
        day=day,
        names=tuple(bands),
        bands=tuple((finest[band].path, 1) for band in bands),
        gains=tuple(gains[0] for gains, _ in meanings),
        offsets=tuple(offsets[0] for _, offsets in meanings),
    )


def _from_item(item: StacItem, *, bands: Sequence[str], scale: float | None) -> Acquisition:
    meanings = []
    for band in bands:
        path, index = item.bands[band]
        with network_options([path]), open_raster(path) as source:
            if index > source.count:
                raise DataError(f"{shown(path)}: has {source.count} bands; item {item.name} says {band} is {index}")
            if is_remote(path) and source.block_shapes[0][1] == source.width > 512:
                raise DataError(f"{shown(path)}: not cloud-optimized (its pixels are not in tiles): copy it here first")
            gains, offsets = _meaning(source, path, [index], scale) if band not in item.meanings or scale else ((), ())
        meanings.append((gains[0], offsets[0]) if gains else item.meanings[band])
    return Acquisition(
        name=item.name,
        day=item.day,
        names=tuple(bands),
        bands=tuple(item.bands[band] for band in bands),
        gains=tuple(gain for gain, _ in meanings),
        offsets=tuple(offset for _, offset in meanings),
        classes=item.classes,
    )


def _day_in_tags(source: DatasetReader) -> date | None:
    tags = {key.upper(): value for key, value in source.tags().items()}
    return next(filter(None, (day_in(tags.get(tag, "")) for tag in DATE_TAGS)), None)


def _choose_bands(
    source: DatasetReader, path: Path, names: Sequence[str], bands: Sequence[str], numbers: Sequence[int]
) -> list[int]:
    """Where the wanted bands are: as asked for, by name, by colour, or in the order of the file."""
    if numbers:
        if max(numbers) > source.count or min(numbers) < 1:
            raise DataError(f"{path}: has {source.count} bands; --bands {','.join(map(str, numbers))} asks for others")
        return list(numbers)
    known = [band_name(name) for name in names]
    if all(band in known for band in bands):
        return [known.index(band) + 1 for band in bands]
    wanted = ", ".join(f"{band} ({common_name(band)})" if common_name(band) != band else band for band in bands)
    if any(known):
        described = ", ".join(name or "?" for name in names)
        raise DataError(f"{path}: its bands are described as {described}; needed: {wanted}; or say which with --bands")
    colours = [COLOURS.get(band) for band in bands]
    if all(colour in source.colorinterp for colour in colours):
        return [source.colorinterp.index(colour) + 1 for colour in colours]
    if source.count == len(bands):
        taken = ", ".join(map(common_name, bands))
        logger.info(f"{path.name}: bands have no names; taken as {taken}")
        return list(range(1, source.count + 1))
    raise DataError(
        f"{path}: {source.count} band{'s' * (source.count != 1)} without names that tell which; {len(bands)} are "
        f"needed, {wanted}: say which with --bands"
    )


def _meaning(
    source: DatasetReader, path: Path, indexes: Sequence[int], scale: float | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Gains and offsets that make reflectance: from ``scale``, the file's own tags, or the type of its numbers."""
    gains = tuple(source.scales[index - 1] for index in indexes)
    offsets = tuple(source.offsets[index - 1] for index in indexes)
    kind = np.dtype(source.dtypes[indexes[0] - 1])
    if scale is None and (set(gains), set(offsets)) != ({1.0}, {0.0}):
        if not np.isfinite([*gains, *offsets]).all() or 0 in gains:
            raise DataError(f"{path}: states scale {gains[0]:g} and offset {offsets[0]:g}, which give no reflectance")
        return gains, offsets
    if scale is None:
        if kind == np.uint8:
            raise DataError(
                f"{path}: 8-bit numbers are a picture, not reflectance; if they are, give the number that "
                "means reflectance 1 (--scale; of build_dataset.py --lr_unit)"
            )
        scale = QUANTIFICATION
        if kind.kind == "f":
            shape = (len(indexes), min(source.height, 256), min(source.width, 256))
            peek = source.read(list(indexes), out_shape=shape, masked=True).filled(np.nan)
            scale = QUANTIFICATION if np.nanpercentile(np.nan_to_num(peek), 90) > 2 else 1.0
            logger.info(f"{path.name}: floating point numbers, taken as reflectance × {scale:g}")
    return (1 / scale,) * len(indexes), (0.0,) * len(indexes)


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
    stated = set(acquisition.gains) != {1 / QUANTIFICATION} or set(acquisition.offsets) != {0.0}
    if stated or is_remote(path) or (acquisition.day or SHIFTED_SINCE) < SHIFTED_SINCE:
        return False
    try:
        with open_raster(path) as source:
            height, width = (min(size, PEEK) for size in source.shape)
            middle = Window((source.width - width) // 2, (source.height - height) // 2, width, height)
            values = source.read(index, window=middle)
    except DataError:
        return False  # said where it is read
    return values.dtype.kind in "iu" and bool(values.any()) and int(values[values > 0].min(initial=SHIFT)) >= SHIFT


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
        raise DataError(
            f"{image}: {len(found)} cloud masks could be its own ({found[0].name}, {found[1].name}); keep one"
        )
    return (found[0], 1) if found else None
