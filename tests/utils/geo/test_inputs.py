"""One scene in every form that people have it in gives the same numbers; what is hostile gives one line."""

import json
import struct
import zipfile
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from affine import Affine

from tests.scenes import TRANSFORM, ground, write_band_files, write_item, write_safe, write_tif, zipped
from tests.utils.geo.server import serving
from utils.errors import DataError
from utils.geo import stac
from utils.geo.acquisitions import find_acquisitions
from utils.geo.bands import RGB, band_name, band_names
from utils.geo.raster import AlignedReader, grid_of_acquisition
from utils.geo.sources import Acquisition, network_options

DAY = date(2023, 8, 7)
PLACE = ground(64, 72)
NUMBERS = (PLACE * 10000).round().astype(np.uint16)
CLASSES = np.where(np.arange(32 * 36).reshape(32, 36) % 7, 4, 9).astype(np.uint8)
HALF = TRANSFORM @ Affine.scale(2)


def values(acquisition: Acquisition) -> tuple[np.ndarray, np.ndarray | None]:
    with network_options(acquisition.files):
        grid = grid_of_acquisition(acquisition)
        reader = AlignedReader(acquisition, grid)
        try:
            pixels = reader.read(grid.box)
        finally:
            reader.close()
    return pixels.reflectance, pixels.classes


def one(path: Path, **options: Any) -> Acquisition:
    (found,) = find_acquisitions([path], **options)
    return found


def as_geotiff(folder: Path) -> Path:
    write_tif(folder / "2023-08-07_SCL.tif", CLASSES[None], transform=HALF, names=())
    return write_tif(folder / "2023-08-07.tif", NUMBERS).parent


def as_folder_a_date(folder: Path) -> Path:
    write_band_files(folder / "2023-08-07", NUMBERS)
    write_tif(folder / "2023-08-07" / "SCL.tif", CLASSES[None], transform=HALF, names=())
    write_tif(folder / "2023-08-07" / "TCI.tif", (NUMBERS // 40).astype(np.uint8), names=())
    return folder


def as_one_folder(folder: Path) -> Path:
    return as_folder_a_date(folder) / "2023-08-07"


def as_flat_names(folder: Path) -> Path:
    jp2: dict[str, Any] = {"driver": "JP2OpenJPEG", "QUALITY": "100", "REVERSIBLE": "YES"}
    prefix = "T30TXT_20230807T105621_"
    for name, values in zip(RGB, NUMBERS, strict=True):
        write_tif(folder / f"{prefix}{name}_10m.jp2", values[None], names=(), **jp2)
    write_tif(folder / f"{prefix}B04_20m.jp2", NUMBERS[:1, ::2, ::2], transform=HALF, names=(), **jp2)
    write_tif(folder / f"{prefix}TCI_10m.jp2", (NUMBERS // 40).astype(np.uint8), names=(), **jp2)
    write_tif(folder / f"{prefix}SCL_20m.jp2", CLASSES[None], transform=HALF, names=(), **jp2)
    return folder


def as_earth_search_names(folder: Path) -> Path:
    write_band_files(folder, NUMBERS, prefix="S2A_30TXT_20230807_0_L2A_")
    write_tif(folder / "S2A_30TXT_20230807_0_L2A_SCL.tif", CLASSES[None], transform=HALF, names=())
    return folder


def as_safe(folder: Path) -> Path:
    return write_safe(folder, PLACE, day=DAY, offset=-1000, classes=CLASSES)


def as_zip(folder: Path) -> Path:
    product = as_safe(folder)
    return zipped(product, product.with_name(product.name + ".zip"))


def as_zip_in_a_folder(folder: Path) -> Path:
    return as_zip(folder).parent


def as_item(folder: Path) -> Path:
    write_band_files(folder / "cogs", NUMBERS + 1000)
    write_tif(folder / "cogs" / "SCL.tif", CLASSES[None], transform=HALF, names=())
    hrefs = {band: f"./cogs/{band}.tif" for band in (*RGB, "scl")}
    shift = {"s2:processing_baseline": "05.09"}
    return write_item(folder / "item.json", day=DAY, hrefs={**hrefs, "scl": "cogs/SCL.tif"}, properties=shift)


def as_item_with_scale(folder: Path) -> Path:
    write_band_files(folder, NUMBERS + 1000)
    write_tif(folder / "SCL.tif", CLASSES[None], transform=HALF, names=())
    hrefs = {**{band: f"{band}.tif" for band in RGB}, "scl": "SCL.tif"}
    stated: dict[str, Any] = {"raster:bands": [{"scale": 0.0001, "offset": -0.1, "nodata": 0}]}
    return write_item(folder / "a.json", day=DAY, hrefs=hrefs, **stated)


def as_item_whose_offset_was_applied(folder: Path) -> Path:
    write_band_files(folder, NUMBERS)
    write_tif(folder / "SCL.tif", CLASSES[None], transform=HALF, names=())
    hrefs = {**{band: f"{band}.tif" for band in RGB}, "scl": "SCL.tif"}
    wrong: dict[str, Any] = {"raster:bands": [{"scale": 0.0001, "offset": -0.1}]}
    applied = {"earthsearch:boa_offset_applied": True, "s2:processing_baseline": "05.09"}
    return write_item(folder / "a.json", day=DAY, hrefs=hrefs, properties=applied, **wrong)


FORMS: list[Callable[[Path], Path]] = [
    as_folder_a_date, as_one_folder, as_flat_names, as_earth_search_names, as_safe, as_zip, as_zip_in_a_folder,
    as_item, as_item_with_scale, as_item_whose_offset_was_applied,
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_pixels(tmp_path: Path, form: Callable[[Path], Path]) -> None:
    expected, classes = values(one(as_geotiff(tmp_path / "expected")))
    found = one(form(tmp_path / "given"))
    assert found.day == DAY
    reflectance, own = values(found)
    np.testing.assert_allclose(reflectance, expected, atol=1e-7)  # (v + 1000) / 10000 - 0.1 rounds once more
    assert own is not None
    np.testing.assert_array_equal(own, classes)


def test_several_dates_of_band_files(tmp_path: Path) -> None:
    for day in ("2023-08-12", "2023-08-07"):
        write_band_files(tmp_path / day, NUMBERS)
    for day in ("20230901", "20230906"):
        write_band_files(tmp_path, NUMBERS, prefix=f"T30TXT_{day}T105621_")
    found = find_acquisitions([tmp_path])
    assert [str(a.day) for a in found] == ["2023-08-07", "2023-08-12", "2023-09-01", "2023-09-06"]
    assert all(a.classes is None for a in found)


def test_bands_of_other_resolutions_come_onto_the_finest_grid(tmp_path: Path) -> None:
    ten = ("B04", "B05", "B08")
    write_band_files(tmp_path / "2023-08-07", NUMBERS, names=ten)
    found = one(tmp_path, bands=ten)
    reflectance, _ = values(found)
    assert reflectance.shape == PLACE.shape
    np.testing.assert_allclose(reflectance[[0, 2]][:, :54, :62], NUMBERS[[0, 2], :54, :62] / 10000, rtol=1e-6)
    inner = reflectance[1, 8:-8, 8:-8]
    coarse = NUMBERS[1, ::2, ::2].repeat(2, 0).repeat(2, 1)[8:-8, 8:-8] / 10000
    assert np.corrcoef(inner.ravel(), coarse.ravel())[0, 1] > 0.8
    assert not np.array_equal(inner, coarse.astype(np.float32))  # interpolated


def test_bands_are_found_by_name_wherever_they_are(tmp_path: Path) -> None:
    four = np.stack([*NUMBERS, NUMBERS[0] + 2000])
    path = write_tif(tmp_path / "a.tif", four[[3, 2, 0, 1]], names=("nir", "B2", "Red", "B03"))
    reflectance, _ = values(one(path, bands=(*RGB, "B08")))
    np.testing.assert_allclose(reflectance, four / 10000, rtol=1e-6)
    with pytest.raises(DataError, match=r"a\.tif: its bands are described as nir, B2, Red, B03; needed: B05"):
        one(path, bands=("B05", "B06"))


def test_bands_described_as_others_are_no_red_green_blue(tmp_path: Path) -> None:
    path = write_tif(tmp_path / "a.tif", NUMBERS, names=("B05", "B06", "B07"))
    with pytest.raises(DataError, match="described as B05, B06, B07; needed: B04"):
        one(path)
    assert values(one(path, numbers=[1, 2, 3]))[0].shape == PLACE.shape


@pytest.mark.parametrize(
    ("text", "name"),
    [("B4", "B04"), ("b04", "B04"), (" Red ", "B04"), ("B8A", "B8A"), ("B08A", "B8A"), ("B13", None), ("B00", None),
     ("nir", "B08"), ("swir16", "B11"), ("band 4", None), ("", None), ("B", None), ("1", None)],
)  # fmt: skip
def test_names_of_bands(text: str, name: str | None) -> None:
    assert band_name(text) == name


def test_lists_of_bands() -> None:
    assert band_names(["red", "B3", "B02", "nir"]) == (*RGB, "B08")
    for wrong in (["red", "B04"], ["purple"], []):
        with pytest.raises(ValueError, match="band"):
            band_names(wrong)


def test_numbers_that_hold_the_offset_of_newer_products(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_tif(tmp_path / "a" / "2023-08-07.tif", NUMBERS + 1000)
    write_tif(tmp_path / "b" / "2023-08-07.tif", NUMBERS)
    write_tif(tmp_path / "c" / "2019-08-07.tif", NUMBERS + 1000)
    find_acquisitions([tmp_path / "b", tmp_path / "c"])
    assert caplog.text == ""
    find_acquisitions([tmp_path / "a", tmp_path / "b"])
    assert "1 of 2 images (2023-08-07.tif, ...) have no number below 1000" in caplog.text


def test_band_files_that_lack_one(tmp_path: Path) -> None:
    write_band_files(tmp_path / "2023-08-07", NUMBERS[:2], names=("B04", "B03"))
    with pytest.raises(DataError, match="2023-08-07: files of B03, B04, none of B02"):
        one(tmp_path)


# Over the network

ITEM = {"type": "Feature", "assets": {}, "properties": {}}


@pytest.mark.parametrize("way", ["plain", "busy"])
def test_items_over_the_network(tmp_path: Path, way: str) -> None:
    write_band_files(tmp_path / "server", NUMBERS, driver="COG")
    expected, _ = values(one(as_geotiff(tmp_path / "expected")))
    log: list[str] = []
    with serving(tmp_path / "server", log=log) as address:
        hrefs = {band: f"{address}/{way}/{band}.tif?key=secret" for band in RGB}
        item = write_item(tmp_path / "a.json", day=DAY, hrefs=hrefs)
        with pytest.raises(DataError, match=r"on 127\.0\.0\.1; give --remote"):
            one(item)
        assert log == []
        reflectance, _ = values(one(item, remote=True))
    np.testing.assert_array_equal(reflectance, expected)


@pytest.mark.parametrize(
    ("way", "said"), [("away", "redirects elsewhere"), ("secret", "status 403"), ("cut", "GDAL can read|can't be read")]
)
def test_servers_that_do_not_serve(tmp_path: Path, way: str, said: str) -> None:
    write_band_files(tmp_path / "server", NUMBERS, driver="COG")
    with serving(tmp_path / "server") as address:
        hrefs = {band: f"{address}/{way}/{band}.tif?key=secret" for band in RGB}
        item = write_item(tmp_path / "a.json", day=DAY, hrefs=hrefs)
        with pytest.raises(DataError, match=said) as caught:
            values(one(item, remote=True))
    assert "secret" not in str(caught.value).replace("/secret/", "")


def test_a_server_that_takes_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stac, "SECONDS", 0.2)
    write_band_files(tmp_path / "server", NUMBERS, driver="COG")
    with serving(tmp_path / "server") as address:
        item = write_item(tmp_path / "a.json", day=DAY, hrefs={band: f"{address}/slow/{band}.tif" for band in RGB})
        with pytest.raises(DataError, match=r"slow/B04\.tif can't be read: timed out"):
            one(item, remote=True)


@pytest.mark.parametrize(
    "href", ["../../../etc/passwd", "/etc/passwd", "file:///etc/passwd", "http://example.com/a.tif", "s3://a/b.tif",
             "/vsicurl/http://example.com/a.tif", "https:///a.tif", "..%2f..%2fa.tif"],
)  # fmt: skip
def test_items_that_point_elsewhere(tmp_path: Path, href: str) -> None:
    (tmp_path / "in").mkdir()
    item = write_item(tmp_path / "in" / "a.json", day=DAY, hrefs=dict.fromkeys(RGB, href))
    with pytest.raises(DataError, match=r"a\.json: item") as caught:
        one(item, remote=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        "", "[]", "null", "{", "[" * 100_000, '{"type": "FeatureCollection", "features": []}', '{"a": NaN}',
        '{"type": "FeatureCollection", "features": 7}', '{"type": "Feature", "assets": {}, "properties": {}}',
        '{"type": "Feature", "assets": [], "properties": {}}', '{"type": "Catalog"}', "\x00\x01",
        '{"type": "Feature", "assets": {"B04": {"href": 3}}, "properties": {"datetime": "2023-08-07T00:00:00Z"}}',
        '{"type": "Feature", "assets": {}, "properties": {"datetime": "' + "9" * 5000 + '"}}',
        json.dumps({"type": "FeatureCollection", "features": [ITEM] * 6000}),
    ],
)  # fmt: skip
def test_files_that_are_no_items(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"a\.json") as caught:
        one(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


@pytest.mark.parametrize("field", [{"offset": 1e999}, {"scale": "much"}, {"scale": 0}, {"scale": -1}, {"scale": None}])
def test_scales_of_items_that_cannot_be(tmp_path: Path, field: dict[str, Any]) -> None:
    write_band_files(tmp_path, NUMBERS)
    hrefs = {band: f"{band}.tif" for band in RGB}
    stated: dict[str, Any] = {"raster:bands": [field]}
    item = write_item(tmp_path / "a.json", day=DAY, hrefs=hrefs, **stated)
    if field == {"scale": None}:
        assert one(item).gains == (1e-4,) * 3
        return
    with pytest.raises(DataError, match=r"no reflectance|no number"):
        one(item)


# Archives


def archive(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def test_archives_that_are_hostile(tmp_path: Path) -> None:
    out = archive(tmp_path / "out.zip", {"../evil.xml": b"x", "a.SAFE/MTD_MSIL2A.xml": b"<a/>"})
    rooted = archive(tmp_path / "rooted.zip", {"/etc/MTD_MSIL2A.xml": b"<a/>"})
    bomb = archive(tmp_path / "bomb.zip", {"a.SAFE/MTD_MSIL2A.xml": b" " * (40 << 20)})
    claims = archive(tmp_path / "claims.zip", {"a.SAFE/MTD_MSIL2A.xml": b"x" * 1000})
    content = claims.read_bytes()
    claims.write_bytes(content.replace(struct.pack("<I", 1000), struct.pack("<I", 4_000_000_000)))
    two = archive(tmp_path / "two.zip", {"a/MTD_MSIL2A.xml": b"", "b/MTD_MSIL2A.xml": b""})
    many = tmp_path / "many.zip"
    many.write_bytes(b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 65535, 65535, 4_000_000_000, 0, 0))
    text = tmp_path / "text.zip"
    text.write_text("no zip")
    cut = tmp_path / "cut.zip"
    cut.write_bytes(as_zip(tmp_path / "whole").read_bytes()[:-2000])
    nested = archive(tmp_path / "nested.zip", {"b.zip": b"PK"})
    for path, said in (
        (out, "leads out"), (rooted, "leads out"), (bomb, "unpack to|too large"), (claims, "would unpack to 4"),
        (two, "holds 2"), (many, "not a zip"), (text, "not a zip"), (cut, "not a zip"), (nested, "holds 0"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=said) as caught:
            one(path)
        assert path.name in str(caught.value) and "\n" not in str(caught.value)


def test_an_archive_whose_image_is_cut_or_no_image(tmp_path: Path) -> None:
    whole = as_zip(tmp_path / "whole")
    with zipfile.ZipFile(whole) as file:
        members = {name: file.read(name) for name in file.namelist() if not name.endswith("/")}
    name = next(name for name in members if "_B04_" in name)
    for content, said in (
        (members[name][:300], "GDAL can read|can't be read"),
        (b"<VRTDataset/>", "neither a GeoTIFF"),
    ):
        path = archive(tmp_path / "a.zip", {**members, name: content})
        with pytest.raises(DataError, match=said) as caught:
            values(one(path))
        assert "\n" not in str(caught.value)


def test_a_raster_that_claims_absurd_sizes(tmp_path: Path) -> None:
    path = write_tif(tmp_path / "a.tif", np.zeros((1, 1, 1_000_001), np.uint8), names=())
    with pytest.raises(DataError, match="too many"):
        one(path)
