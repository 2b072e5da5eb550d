"""Sentinel-2 products as they are distributed: a .SAFE folder with its metadata, or a zip of one; level 1C or 2A."""

import re
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException, ElementTree

from utils.errors import DataError
from utils.geo.bands import METRES
from utils.geo.sources import LARGEST_METADATA, member_path, open_archive

# band_id of the metadata's offset lists.
_NUMBERS = {band: str(i) for i, band in enumerate(
    ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
)}  # fmt: skip
_METADATA = re.compile(r"MTD_MSIL(1C|2A)\.xml")


class SafeProduct(NamedTuple):
    """What is needed of a product: reflectance = (value + offset) / quantification."""

    day: date
    bands: tuple[Path, ...]  # at their own resolution
    quantification: float
    offsets: tuple[float, ...]  # of each band, in its own numbers; -1000 since processing baseline 04.00
    scene_classification: Path | None  # 20 m; level 2A only


class _ProductFiles(NamedTuple):
    """The files of a product, in a folder or an archive."""

    members: list[str]  # below the product's own folder
    read: Callable[[str], bytes]
    path: Callable[[str], Path]


def is_safe(path: Path) -> bool:
    """Whether this is a product's folder, or a zip file, which should hold one."""
    if path.is_dir():
        return path.suffix.upper() == ".SAFE" or any(path.glob("MTD_MSIL*.xml"))
    return path.suffix.lower() == ".zip"


def read_safe(product: Path, *, bands: Sequence[str]) -> SafeProduct:
    """What a product holds of some bands. Raises DataError where it is incomplete or its metadata can't be read."""
    files = _in_folder(product) if product.is_dir() else _in_archive(product)
    found = [member for member in files.members if _METADATA.fullmatch(member)]
    if len(found) != 1:
        raise DataError(
            f"{product}: a .SAFE product holds one MTD_MSIL1C.xml or MTD_MSIL2A.xml; this one has {len(found)}"
        )
    metadata = f"{product}/{found[0]}"
    elements = read_elements(files.read(found[0]), source=metadata)
    quantity, offset = {
        "MTD_MSIL2A.xml": ("BOA_QUANTIFICATION_VALUE", "BOA_ADD_OFFSET"),
        "MTD_MSIL1C.xml": ("QUANTIFICATION_VALUE", "RADIO_ADD_OFFSET"),
    }[found[0]]
    quantification = _number(_only(elements, quantity, metadata), metadata)
    if not 0 < quantification < float("inf"):
        raise DataError(f"{metadata}: {quantity} is {quantification:g}, not positive")
    offsets = {e.get("band_id"): _number(e, metadata) for e in elements if _name(e) == offset}
    if offsets and not {_NUMBERS[band] for band in bands} <= set(offsets):
        raise DataError(f"{metadata}: {offset} is there, but not for each of the bands {', '.join(bands)}")
    classes = _images(files.members, "SCL")
    return SafeProduct(
        day=_day(_only(elements, "PRODUCT_START_TIME", metadata), metadata),
        bands=tuple(files.path(_band(product, files.members, band)) for band in bands),
        quantification=quantification,
        offsets=tuple(offsets.get(_NUMBERS[band], 0.0) for band in bands),
        scene_classification=files.path(classes[0]) if classes else None,
    )


def _in_folder(folder: Path) -> _ProductFiles:
    paths = [*folder.glob("MTD_MSIL*.xml"), *folder.glob("GRANULE/*/IMG_DATA/**/*")]
    return _ProductFiles(
        members=[path.relative_to(folder).as_posix() for path in paths],
        read=lambda member: (folder / member).read_bytes(),
        path=lambda member: folder / member,
    )


def _in_archive(path: Path) -> _ProductFiles:
    with open_archive(path) as archive:
        names = archive.namelist()
    roots = {name.rpartition("/")[0] for name in names if _METADATA.fullmatch(name.rpartition("/")[2])}
    if len(roots) != 1:
        raise DataError(f"{path}: holds {len(roots)} Sentinel-2 products (MTD_MSIL1C.xml or MTD_MSIL2A.xml), not one")
    root = "".join(f"{folder}/" for folder in roots if folder)

    def read(member: str) -> bytes:
        with open_archive(path) as archive:
            if archive.getinfo(root + member).file_size > LARGEST_METADATA:
                raise DataError(f"{path}/{member}: too large for a product's metadata; not read")
            return archive.read(root + member)

    return _ProductFiles(
        members=[name.removeprefix(root) for name in names if name.startswith(root)],
        read=read,
        path=lambda member: member_path(path, root + member),
    )


def read_elements(content: bytes, *, source: str) -> list[Element]:
    """All elements of an XML file.

    Raises:
        DataError: no plain XML; a document type, and with it every entity, is refused.
    """
    try:
        return list(ElementTree.fromstring(content, forbid_dtd=True).iter())
    except (ParseError, ValueError, LookupError) as error:
        if isinstance(error, DefusedXmlException):
            raise DataError(
                f"{source}: not read: it holds a document type declaration, product metadata doesn't"
            ) from None
        raise DataError(f"{source}: not readable as XML: {error}") from None


def _name(element: Element) -> str:
    """Without its namespace."""
    return element.tag.rpartition("}")[2]


def _text(element: Element) -> str:
    return (element.text or "").strip()


def _only(elements: list[Element], name: str, metadata: str) -> Element:
    found = [element for element in elements if _name(element) == name]
    if not found:
        raise DataError(f"{metadata}: no {name}; the product's metadata is incomplete")
    return found[0]


def _number(element: Element, metadata: str) -> float:
    try:
        return float(_text(element))
    except ValueError:
        raise DataError(f"{metadata}: {_name(element)} is {_text(element)!r}, not a number") from None


def _day(element: Element, metadata: str) -> date:
    try:
        return date.fromisoformat(_text(element)[:10])
    except ValueError:
        raise DataError(f"{metadata}: {_name(element)} is {_text(element)!r}, not a time") from None


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
