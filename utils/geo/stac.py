"""STAC items: JSON files that say where the bands of an acquisition lie and what they mean; files on the network.

A file at an address has GDAL's name as its ``Path``: ``/vsicurl?...url=ADDRESS``.
"""

import contextlib
from collections.abc import Iterable, Sequence
from datetime import datetime
from http.client import HTTPException
from pathlib import Path
from typing import Annotated, Literal
from urllib import request
from urllib.error import HTTPError
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

import rasterio
from pydantic import AliasChoices, BaseModel, Field, TypeAdapter, ValidationError

from utils.errors import DataError
from utils.geo.bands import Acquisition, Band, Meaning, band_name

LARGEST_FILE = 64 * 2**20  # bytes; an item has about 20 KB
MOST_ITEMS = 5000
LOOPBACK = ("127.0.0.1", "localhost", "::1")
SECONDS = 20  # that a server may take to answer
TRIES = 3

# Since processing baseline 04.00 level 2A's numbers are reflectance × 10000 + 1000.
SHIFTED_BASELINE = 4.0
SHIFTED_MEANING = (1e-4, -0.1)

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_REMOTE = "/vsicurl?"
# Retries for a server that is busy or breaks off; no request goes to anything but the address itself.
_REMOTE_OPTIONS = {"max_retry": 3, "retry_delay": 0.5, "list_dir": "no", "empty_dir": "yes", "use_head": "no"}

UNSTATED: Meaning = (1.0, 0.0)


# What is read of a file; more may stand beside it.


class _Described(BaseModel):
    name: str | None = None
    common_name: str | None = Field(None, validation_alias=AliasChoices("common_name", "eo:common_name"))
    scale: float | None = Field(None, gt=0, lt=1e6, validation_alias=AliasChoices("scale", "raster:scale"))
    offset: float | None = Field(None, gt=-1e6, lt=1e6, validation_alias=AliasChoices("offset", "raster:offset"))

    @property
    def meaning(self) -> Meaning:
        return self.scale or 1.0, self.offset or 0.0

    def is_called(self, band: str) -> bool:
        return any(band_name(text or "") == band for text in (self.name, self.common_name))


class _Asset(_Described):
    href: str
    type: str | None = None
    roles: list[str] | None = None
    common: list[_Described] = Field([], alias="bands")
    optical: list[_Described] = Field([], alias="eo:bands")
    raster: list[_Described] = Field([], alias="raster:bands")

    @property
    def bands(self) -> list[_Described]:
        return self.optical or self.common

    def meaning_of(self, index: int) -> Meaning:
        stated = self.raster or self.common or [self]
        return stated[index].meaning if index < len(stated) else UNSTATED


class _Properties(BaseModel):
    at: datetime | None = Field(None, alias="datetime")
    start: datetime | None = Field(None, alias="start_datetime")
    baseline: str | float | None = Field(
        None, validation_alias=AliasChoices("processing:version", "s2:processing_baseline")
    )
    offset_applied: bool | None = Field(None, alias="earthsearch:boa_offset_applied")

    @property
    def is_shifted(self) -> bool:
        """Whether numbers hold the offset of processing baseline 04.00, where the item gives no scale and offset."""
        with contextlib.suppress(ValueError):
            return float(self.baseline or 0) >= SHIFTED_BASELINE and not self.offset_applied
        return False


class _Item(BaseModel):
    type: Literal["Feature"]
    id: str = ""
    properties: _Properties
    assets: dict[str, _Asset]


class _Collection(BaseModel):
    type: Literal["FeatureCollection"]
    features: list[_Item] = Field(min_length=1, max_length=MOST_ITEMS)


_FILE: TypeAdapter[_Item | _Collection] = TypeAdapter(Annotated[_Item | _Collection, Field(discriminator="type")])


def read_items(path: Path, *, bands: Sequence[str], remote: bool) -> list[Acquisition]:
    """What the items of a file say, one or a collection of them; meanings are UNSTATED where they leave it to a file.

    Args:
        bands: those that are needed.
        remote: files on the network may be named.

    Raises:
        DataError: no items, items that lack a band, files outside the item's folder, servers that don't serve.
    """
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise DataError(f"{path}: larger than {LARGEST_FILE >> 20} MB; give fewer items")
        content = _FILE.validate_json(path.read_bytes())
    except ValidationError as error:
        wrong = error.errors()[0]
        said = " ".join(f"{'.'.join(map(str, wrong['loc']))} {wrong['msg']}".split())[:300]
        raise DataError(f"{path}: not a STAC item or a collection of items: {said}") from None
    items = [content] if isinstance(content, _Item) else content.features
    return [_read_item(path, item, bands=bands, remote=remote) for item in items]


def _read_item(path: Path, item: _Item, *, bands: Sequence[str], remote: bool) -> Acquisition:
    name, properties = (item.id or path.stem)[:100], item.properties
    where = f"{path}: item {name}"
    taken = properties.at or properties.start
    if taken is None:
        raise DataError(f"{where}: states no datetime")
    found: list[Band] = []
    meanings: list[Meaning] = []
    for band in bands:
        chosen = _asset_of(item.assets, band)
        if chosen is None:
            raise DataError(f"{where}: no asset holds {band}; it has {', '.join(item.assets)[:300] or 'none'}")
        asset, index = chosen
        found.append((_located(asset.href, path, where=where, remote=remote), index + 1))
        gain, offset = asset.meaning_of(index)
        offset = 0.0 if properties.offset_applied else offset  # whatever raster:bands says
        is_shifted = (gain, offset) == UNSTATED and properties.is_shifted
        meanings.append(SHIFTED_MEANING if is_shifted else (gain, offset))
    classes = next((asset.href for key, asset in item.assets.items() if key.lower().startswith("scl")), None)
    located = None if classes is None else (_located(classes, path, where=where, remote=remote), 1)
    return Acquisition(name, taken.date(), tuple(bands), tuple(found), tuple(meanings), located)


def _asset_of(assets: dict[str, _Asset], band: str) -> tuple[_Asset, int] | None:
    """The asset that holds a band, and which of its bands: by its key, by what its only band is called, by any."""
    shown = {"visual", "overview", "thumbnail"}
    data = [(key, asset) for key, asset in assets.items() if not shown & {key.lower(), *(asset.roles or [])}]
    data.sort(key=lambda pair: "jp2" in (pair[1].type or "") or pair[1].href.lower().endswith(".jp2"))  # GeoTIFFs first
    for key, asset in data:
        if len(asset.bands) <= 1 and band_name(key.partition("_")[0].partition("-")[0]) == band:
            return asset, 0
    single = [asset for _, asset in data if len(asset.bands) == 1]
    several = [asset for _, asset in data if len(asset.bands) > 1]
    named = (
        (asset, i) for asset in single + several for i in range(len(asset.bands)) if asset.bands[i].is_called(band)
    )
    return next(named, None)


def _located(href: str, item: Path, *, where: str, remote: bool) -> Path:
    """GDAL's name of an asset's file. Raises DataError for one that may not be read."""
    try:
        address = urlsplit(href)
        path = (item.parent / unquote(address.path)).resolve()
    except ValueError as error:
        raise DataError(f"{where}: {href[:200]!r}: {error}") from None
    if address.scheme in ("", "file"):
        if not path.is_relative_to(item.parent.resolve()):
            raise DataError(f"{where}: {href[:200]!r} leads out of the item's folder; not read")
        return path
    if address.scheme != "https" and not (address.scheme == "http" and address.hostname in LOOPBACK):
        raise DataError(f"{where}: {href[:200]!r} is neither a file beside the item nor an https address")
    if not remote:
        raise DataError(f"{where}: its files are on {address.hostname}; give --remote to read them over the network")
    _check_server(href, where=where)
    return Path(_REMOTE + urlencode({**_REMOTE_OPTIONS, "url": href}))


# The network


def _check_server(address: str, *, where: str) -> None:
    """Ask for the first bytes: the server must answer in time, itself, and with a TIFF. Raises DataError."""
    opener = request.OpenerDirector()  # without the handler that follows redirects
    for handler in (request.ProxyHandler, request.HTTPHandler, request.HTTPSHandler, request.HTTPErrorProcessor):
        opener.add_handler(handler())
    opener.add_handler(request.HTTPDefaultErrorHandler())
    said = ""
    for _ in range(TRIES):
        try:
            first = request.Request(address, headers={"Range": "bytes=0-15"})
            with opener.open(first, timeout=SECONDS) as answer:
                if answer.read(4) in _TIFF:
                    return
            said = "is no Cloud-Optimized GeoTIFF"
            break
        except HTTPError as error:
            redirects = "; it redirects elsewhere, which isn't followed" * (300 <= error.code < 400)
            said = f"can't be read: status {error.code}{redirects}"
            if error.code < 500 and error.code != 429:
                break
        except (OSError, HTTPException, ValueError) as error:
            said = f"can't be read: {error}"
    raise DataError(f"{where}: {address.partition('?')[0]} {said}")


def is_remote(path: Path) -> bool:
    return str(path).startswith(_REMOTE)


def network_options(paths: Iterable[Path]) -> contextlib.AbstractContextManager:
    """What holds while GDAL reads files, some of which may lie on the network: time limits, no passwords of others."""
    if not any(map(is_remote, paths)):
        return contextlib.nullcontext()
    return rasterio.Env(
        GDAL_HTTP_TIMEOUT=60, GDAL_HTTP_CONNECTTIMEOUT=15, GDAL_HTTP_NETRC="NO",
        GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR",
    )  # fmt: skip


def shown(path: Path) -> str:
    """A file's name for people; of an address without what follows the question mark, which may be secret."""
    if not is_remote(path):
        return str(path)
    address = urlsplit(parse_qs(str(path).removeprefix(_REMOTE))["url"][0])
    return f"{address.scheme}://{address.netloc}{address.path}"
