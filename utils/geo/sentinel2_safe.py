"""Sentinel-2 products as they are distributed: a .SAFE folder with its metadata, level 1C or 2A."""

import re
from datetime import date
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException, ElementTree

from utils.errors import DataError

# band_id of the metadata's offset lists; the order is that of the networks: red, green, blue.
BANDS = {"B04": "3", "B03": "2", "B02": "1"}


class SafeProduct(NamedTuple):
    """What is needed of a product: reflectance = (value + offset) / quantification."""

    day: date
    bands: tuple[Path, ...]  # red, green, blue at 10 m
    quantification: float
    offsets: tuple[float, ...]  # of each band, in its own numbers; -1000 since processing baseline 04.00
    scene_classification: Path | None  # 20 m; level 2A only


def is_safe(path: Path) -> bool:
    return path.is_dir() and (path.suffix.upper() == ".SAFE" or any(path.glob("MTD_MSIL*.xml")))


def read_safe(folder: Path) -> SafeProduct:
    """Raises DataError where the product is incomplete or its metadata can't be read."""
    found = sorted(folder.glob("MTD_MSIL*.xml"))
    if len(found) != 1:
        raise DataError(
            f"{folder}: a .SAFE product holds one MTD_MSIL1C.xml or MTD_MSIL2A.xml; this one has {len(found)}"
        )
    metadata = found[0]
    elements = read_elements(metadata)
    level = "2A" if metadata.stem.endswith("2A") else "1C"
    quantity, offset = {
        "2A": ("BOA_QUANTIFICATION_VALUE", "BOA_ADD_OFFSET"),
        "1C": ("QUANTIFICATION_VALUE", "RADIO_ADD_OFFSET"),
    }[level]
    quantification = _number(_only(elements, quantity, metadata), metadata)
    if quantification <= 0:
        raise DataError(f"{metadata}: {quantity} is {quantification:g}, not positive")
    offsets = {e.get("band_id"): _number(e, metadata) for e in elements if _name(e) == offset}
    if offsets and not set(BANDS.values()) <= set(offsets):
        raise DataError(f"{metadata}: {offset} is there, but not for each of the bands {', '.join(BANDS)}")
    return SafeProduct(
        day=_day(_only(elements, "PRODUCT_START_TIME", metadata), metadata),
        bands=tuple(_band(folder, band) for band in BANDS),
        quantification=quantification,
        offsets=tuple(offsets.get(number, 0.0) for number in BANDS.values()),
        scene_classification=next(iter(_images(folder, "SCL")), None),
    )


def read_elements(path: Path) -> list[Element]:
    """All elements of an XML file.

    Raises:
        DataError: no plain XML; a document type, and with it every entity, is refused.
    """
    try:
        return list(ElementTree.parse(path, forbid_dtd=True).iter())
    except ParseError as error:
        raise DataError(f"{path}: not readable as XML: {error}") from None
    except DefusedXmlException:
        raise DataError(f"{path}: not read: it holds a document type declaration, product metadata doesn't") from None


def _name(element: Element) -> str:
    """Without its namespace."""
    return element.tag.rpartition("}")[2]


def _text(element: Element) -> str:
    return (element.text or "").strip()


def _only(elements: list[Element], name: str, metadata: Path) -> Element:
    found = [element for element in elements if _name(element) == name]
    if not found:
        raise DataError(f"{metadata}: no {name}; the product's metadata is incomplete")
    return found[0]


def _number(element: Element, metadata: Path) -> float:
    try:
        return float(_text(element))
    except ValueError:
        raise DataError(f"{metadata}: {_name(element)} is {_text(element)!r}, not a number") from None


def _day(element: Element, metadata: Path) -> date:
    try:
        return date.fromisoformat(_text(element)[:10])
    except ValueError:
        raise DataError(f"{metadata}: {_name(element)} is {_text(element)!r}, not a time") from None


def _images(folder: Path, band: str) -> list[Path]:
    """Files of a band: ..._B04_10m.jp2 (level 2A), ..._B04.jp2 (1C), ..._SCL_20m.jp2; GeoTIFFs alike."""
    pattern = re.compile(rf".*_{band}(_[126]0m)?\.(jp2|tiff?)", re.IGNORECASE)
    found = [path for path in folder.glob("GRANULE/*/IMG_DATA/**/*") if pattern.fullmatch(path.name)]
    return sorted(found, key=lambda path: (re.search(r"_10m\.", path.name) is None, path.name))  # the finest first


def _band(folder: Path, band: str) -> Path:
    found = _images(folder, band)
    granules = {path.relative_to(folder).parts[1] for path in found}
    if not found:
        raise DataError(f"{folder}: no {band} image under GRANULE/*/IMG_DATA; unpack the whole product")
    if len(granules) > 1:
        raise DataError(f"{folder}: holds {len(granules)} granules; products with more than one are not read: split it")
    if re.search(r"_[26]0m\.", found[0].name):
        raise DataError(f"{folder}: {band} only at {found[0].stem[-3:]}; the 10 m image (R10m) is needed")
    return found[0]
