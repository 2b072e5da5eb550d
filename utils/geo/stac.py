"""STAC items: JSON files that say where the bands of an acquisition lie, when it was made, what its numbers mean."""

import json
import math
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from datetime import date
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO, Any, NamedTuple, NoReturn
from urllib.parse import unquote, urlsplit

from utils.errors import DataError
from utils.geo.bands import band_name
from utils.geo.sources import Band, remote_path

LARGEST_FILE = 64 * 2**20  # bytes; an item has about 20 KB
MOST_ITEMS = 5000
LOOPBACK = ("127.0.0.1", "localhost", "::1")
SECONDS = 20  # that a server may take to answer
TRIES = 3

# Since processing baseline 04.00 level 2A's numbers are reflectance × 10000 + 1000.
SHIFTED_BASELINE = 4.0
SHIFTED_MEANING = (1e-4, -0.1)


class StacItem(NamedTuple):
    """An acquisition as an item describes it."""

    name: str
    day: date
    bands: dict[str, Band]  # by Sentinel-2's names
    meanings: dict[str, tuple[float, float]]  # gain and offset, where the item states them
    classes: Band | None


class _Asset(NamedTuple):
    key: str
    href: str
    kind: str  # its media type, which may be ""
    roles: Sequence[str]
    names: list[list[str]]  # what each of its bands may be called
    meanings: list[tuple[float, float] | None]  # of each of its bands


def read_items(path: Path, *, bands: Sequence[str], remote: bool) -> list[StacItem]:
    """The items of a file: one, or a collection of them.

    Args:
        bands: those that are needed.
        remote: files on the network may be named.

    Raises:
        DataError: no items, items that lack a band, files outside the item's folder, servers that don't serve.
    """
    content = _content(path)
    items = content.get("features") if content.get("type") == "FeatureCollection" else [content]
    if not isinstance(items, list) or not items or not all(_is_item(item) for item in items):
        raise DataError(f"{path}: not a STAC item and not a collection of items")
    if len(items) > MOST_ITEMS:
        raise DataError(f"{path}: {len(items)} items; {MOST_ITEMS} are read at most")
    return [_read_item(path, item, bands=bands, remote=remote) for item in items]


def _content(path: Path) -> dict[str, Any]:
    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is no number")

    try:
        if path.stat().st_size > LARGEST_FILE:
            raise DataError(f"{path}: larger than {LARGEST_FILE >> 20} MB; give fewer items")
        content = json.loads(path.read_bytes(), parse_constant=refuse)
    except (ValueError, RecursionError, OSError) as error:
        raise DataError(f"{path}: not readable as JSON: {error}") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: not a STAC item and not a collection of items")
    return content


def _is_item(item: object) -> bool:
    return (
        isinstance(item, dict)
        and item.get("type") == "Feature"
        and all(isinstance(item.get(key), dict) for key in ("assets", "properties"))
    )


def _read_item(path: Path, item: dict[str, Any], *, bands: Sequence[str], remote: bool) -> StacItem:
    name, properties = str(item.get("id") or path.stem)[:100], item["properties"]
    where = f"{path}: item {name}"
    stated = properties.get("datetime") or properties.get("start_datetime")
    try:
        day = date.fromisoformat(str(stated)[:10])
    except ValueError:
        raise DataError(f"{where}: its datetime is {str(stated)[:40]!r}, no time") from None
    assets = list(_assets(item["assets"], where=where))
    shifted = _is_shifted(properties)
    found: dict[str, Band] = {}
    meanings: dict[str, tuple[float, float]] = {}
    for band in bands:
        chosen = _asset_of(assets, band)
        if chosen is None:
            keys = ", ".join(asset.key for asset in assets)[:300]
            raise DataError(f"{where}: no asset holds {band}; it has {keys or 'none'}")
        asset, index = chosen
        found[band] = _located(asset.href, path, where=where, remote=remote), index + 1
        meaning = asset.meanings[index] if index < len(asset.meanings) else None
        if meaning is not None and properties.get("earthsearch:boa_offset_applied") is True:
            meaning = meaning[0], 0.0  # whatever raster:bands says
        if meaning is None and shifted:
            meaning = SHIFTED_MEANING
        if meaning is not None:
            meanings[band] = meaning
    classes = next((asset for asset in assets if asset.key.lower().startswith("scl")), None)
    located = _located(classes.href, path, where=where, remote=remote) if classes else None
    return StacItem(name, day, found, meanings, (located, 1) if located else None)


def _is_shifted(properties: dict[str, Any]) -> bool:
    """Whether numbers hold the offset of processing baseline 04.00, where the item gives no scale and offset."""
    baseline = properties.get("processing:version", properties.get("s2:processing_baseline"))
    try:
        return float(str(baseline)) >= SHIFTED_BASELINE and not properties.get("earthsearch:boa_offset_applied")
    except ValueError:
        return False


def _assets(assets: dict[str, Any], *, where: str) -> Iterator[_Asset]:
    for key, asset in assets.items():
        if not isinstance(asset, dict) or not isinstance(asset.get("href"), str):
            continue
        lists = [asset.get(field) for field in ("bands", "eo:bands", "raster:bands")]
        common, optical, raster = (
            [band for band in bands if isinstance(band, dict)] if isinstance(bands, list) else [] for bands in lists
        )
        described = optical or common
        names = [
            [str(band[field]) for field in ("name", "common_name", "eo:common_name") if field in band]
            for band in described
        ]
        meanings = [_meaning(band, where=f"{where}, asset {key}") for band in raster or common or [asset]]
        roles = asset.get("roles")
        yield _Asset(
            key, asset["href"], str(asset.get("type", "")), roles if isinstance(roles, list) else [], names, meanings
        )


def _meaning(band: dict[str, Any], *, where: str) -> tuple[float, float] | None:
    """Gain and offset of a band, where it states either."""
    gain, offset = (band.get(field, band.get(f"raster:{field}")) for field in ("scale", "offset"))
    if gain is None and offset is None:
        return None
    gain, offset = 1.0 if gain is None else gain, 0.0 if offset is None else offset
    if not all(isinstance(x, int | float) and math.isfinite(x) and abs(x) < 1e6 for x in (gain, offset)) or gain <= 0:
        raise DataError(f"{where}: scale {str(gain)[:40]} and offset {str(offset)[:40]} give no reflectance")
    return float(gain), float(offset)


def _asset_of(assets: Sequence[_Asset], band: str) -> tuple[_Asset, int] | None:
    """The asset that holds a band, and which of its bands: by its key, by what its only band is called, by any."""
    data = [a for a in assets if not {"visual", "overview", "thumbnail"} & {a.key.lower(), *map(str, a.roles)}]
    data.sort(key=lambda asset: "jp2" in asset.kind or asset.href.lower().endswith(".jp2"))  # GeoTIFFs first
    for asset in data:
        if len(asset.names) <= 1 and band_name(asset.key.partition("_")[0].partition("-")[0]) == band:
            return asset, 0
    for single in (True, False):
        for asset in data:
            for index, names in enumerate(asset.names):
                if (len(asset.names) == 1) == single and band in map(band_name, names):
                    return asset, index
    return None


def _located(href: str, item: Path, *, where: str, remote: bool) -> Path:
    """GDAL's name of an asset's file. Raises DataError for one that may not be read."""
    address = urlsplit(href)
    if address.scheme in ("", "file"):
        folder = item.parent.resolve()
        path = (folder / unquote(address.path)).resolve()
        if not path.is_relative_to(folder):
            raise DataError(f"{where}: {href[:200]!r} leads out of the item's folder; not read")
        return path
    if address.scheme != "https" and not (address.scheme == "http" and address.hostname in LOOPBACK):
        raise DataError(f"{where}: {href[:200]!r} is neither a file beside the item nor an https address")
    if not remote:
        raise DataError(f"{where}: its files are on {address.hostname}; give --remote to read them over the network")
    _check_server(href, where=where)
    return remote_path(href)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        return None


def _check_server(address: str, *, where: str) -> None:
    """Ask for the first bytes: the server must answer in time, itself, and with a TIFF. Raises DataError."""
    shown = address.partition("?")[0]
    request = urllib.request.Request(address, headers={"Range": "bytes=0-15"})
    opener = urllib.request.build_opener(_NoRedirect)
    said: object = ""
    for _ in range(TRIES):
        try:
            with opener.open(request, timeout=SECONDS) as answer:
                begin = answer.read(16)
        except urllib.error.HTTPError as error:
            if 300 <= error.code < 400:
                raise DataError(f"{where}: {shown} redirects elsewhere; name the file's own address") from None
            said = f"status {error.code}"
            if error.code < 500 and error.code != 429:
                break
            continue
        except (OSError, HTTPException, ValueError) as error:
            said = error
            continue
        if not begin.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
            raise DataError(f"{where}: {shown} is no Cloud-Optimized GeoTIFF")
        return
    raise DataError(f"{where}: {shown} can't be read: {said}")
