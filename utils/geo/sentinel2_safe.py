"""Sentinel-2 products as they are distributed: a .SAFE folder with its metadata, or a zip of one; level 1C or 2A."""

import re
import zipfile
import zlib
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import ParseError

from defusedxml import ElementTree

from utils.errors import DataError
from utils.geo.bands import METRES, Acquisition

LARGEST_METADATA = 32 * 2**20  # bytes
_QUANTITIES = {  # what the metadata of a level call quantification and offset
    "MTD_MSIL2A.xml": ("BOA_QUANTIFICATION_VALUE", "BOA_ADD_OFFSET"),
    "MTD_MSIL1C.xml": ("QUANTIFICATION_VALUE", "RADIO_ADD_OFFSET"),
}
# Bands in the order of the metadata's band_id.
_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError, ValueError)


class _ProductFiles(NamedTuple):
    """The files of a product, in a folder or an archive."""

    root: Path  # GDAL's name of the product's own folder
    members: list[str]  # below it
    metadata: str  # the name of its XML file
    xml: bytes


def is_safe(path: Path) -> bool:
    """Whether this is a product's folder, or a zip file, which should hold one."""
    if path.is_dir():
        return path.suffix.upper() == ".SAFE" or any(path.glob("MTD_MSIL*.xml"))
    return path.suffix.lower() == ".zip"


def read_safe(product: Path, *, bands: Sequence[str]) -> Acquisition:
    """What a product holds of some bands. Raises DataError where it is incomplete or its metadata can't be read."""
    files = _in_folder(product) if product.is_dir() else _in_archive(product)
    source = f"{product}/{files.metadata}"
    quantity, offset = _QUANTITIES[files.metadata]
    texts: dict[str, str] = {}
    stated: dict[str, str] = {}
    try:
        for element in ElementTree.fromstring(files.xml, forbid_dtd=True).iter():  # and with the DTD every entity
            name, text = element.tag.rpartition("}")[2], (element.text or "").strip()
            texts.setdefault(name, text)
            if name == offset:
                stated[element.get("band_id", "")] = text
        quantification, day = float(texts[quantity]), date.fromisoformat(texts["PRODUCT_START_TIME"][:10])
        offsets = [float(stated[str(_BANDS.index(band))]) if stated else 0.0 for band in bands]
    except KeyError as missing:
        raise DataError(f"{source}: incomplete: no {missing} in it, or no {offset} of that band") from None
    except (ParseError, ValueError, LookupError) as error:
        raise DataError(f"{source}: not the metadata of a product: {error}") from None
    if not 0 < quantification < float("inf"):
        raise DataError(f"{source}: {quantity} is {quantification:g}, not positive")
    classes = _images(files.members, "SCL")
    return Acquisition(
        product.name,
        day,
        names=tuple(bands),
        bands=tuple((files.root / _band(product, files.members, band), 1) for band in bands),
        # Reflectance = (value + offset) / quantification; the offset is -1000 since processing baseline 04.00.
        meanings=tuple((1 / quantification, offset * (1 / quantification)) for offset in offsets),
        classes=(files.root / classes[0], 1) if classes else None,
    )


def _in_folder(folder: Path) -> _ProductFiles:
    found = [name for name in _QUANTITIES if (folder / name).is_file()]
    if len(found) != 1:
        raise DataError(f"{folder}: holds {len(found)} of {', '.join(_QUANTITIES)}; a .SAFE product holds one")
    members = [path.relative_to(folder).as_posix() for path in folder.glob("GRANULE/*/IMG_DATA/**/*")]
    return _ProductFiles(folder, members, found[0], (folder / found[0]).read_bytes())


def _in_archive(path: Path) -> _ProductFiles:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            found = [name for name in names if name.rpartition("/")[2] in _QUANTITIES]
            if len(found) != 1:
                raise DataError(f"{path}: holds {len(found)} Sentinel-2 products ({', '.join(_QUANTITIES)}), not one")
            if archive.getinfo(found[0]).file_size > LARGEST_METADATA:
                raise DataError(f"{path}/{found[0]}: too large for a product's metadata; not read")
            xml = archive.read(found[0])
    except _ZIP_ERRORS as error:
        raise DataError(f"{path}: not a zip file that can be read: {error}") from None
    folder, _, metadata = found[0].rpartition("/")
    members = [name.removeprefix(f"{folder}/") for name in names if name.startswith(folder)]
    return _ProductFiles(Path(f"/vsizip/{{{path.resolve()}}}/{folder}"), members, metadata, xml)


def _images(members: Sequence[str], band: str) -> list[str]:
    """Files of a band: ..._B04_10m.jp2 (level 2A), ..._B04.jp2 (1C), ..._SCL_20m.jp2; GeoTIFFs alike."""
    pattern = re.compile(rf"GRANULE/[^/]+/IMG_DATA/(?:.*/)?[^/]*_{band}(?:_([126]0)m)?\.(jp2|tiff?)", re.IGNORECASE)
    found = [match for match in map(pattern.fullmatch, members) if match]
    return [match[0] for match in sorted(found, key=lambda match: (match[1] or "0", match[0]))]  # the finest first


def _band(product: Path, members: Sequence[str], band: str) -> str:
    found = _images(members, band)
    granules = {member.split("/")[1] for member in found}
    if not found:
        raise DataError(f"{product}: no {band} image under GRANULE/*/IMG_DATA; unpack the whole product")
    if len(granules) > 1:
        raise DataError(f"{product}: holds {len(granules)} granules; split it: one is read")
    finest, stated = METRES.get(band, 20), re.search(r"_([126]0)m\.", found[0])
    if stated and int(stated[1]) > finest:
        raise DataError(f"{product}: {band} only at {stated[1]}m; the {finest} m image (R{finest}m) is needed")
    return found[0]
