"""One scene in every form that people have it in gives the same numbers; bad and hostile input is one line."""

import logging
import struct
import zipfile
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine

from tests.scenes import TRANSFORM, ground, write_band_files, write_item, write_safe, write_series, write_tif, zipped
from utils.errors import ConfigError, DataError
from utils.geo.acquisitions import day_in, find_acquisitions
from utils.geo.bands import RGB, Acquisition
from utils.geo.raster import AlignedReader, grid_of_acquisition
from utils.geo.stac import network_options

DAY = date(2023, 8, 7)
PLACE = ground(64, 72)
NUMBERS = (PLACE * 10000).round().astype(np.uint16)
CLASSES = np.where(np.arange(32 * 36).reshape(32, 36) % 7, 4, 9).astype(np.uint8)
HALF = TRANSFORM @ Affine.scale(2)
JP2: dict[str, Any] = {"driver": "JP2OpenJPEG", "QUALITY": "100", "REVERSIBLE": "YES"}


def one(path: Path, **options: Any) -> Acquisition:
    (found,) = find_acquisitions([path], **options)
    return found


def values(acquisition: Acquisition) -> tuple[np.ndarray, np.ndarray | None]:
    """Its reflectance (C, h, w) and classes (h, w)."""
    with network_options(acquisition.files):
        grid = grid_of_acquisition(acquisition)
        reader = AlignedReader(acquisition, grid)
        try:
            pixels = reader.read(grid.box)
        finally:
            reader.close()
    return pixels.reflectance, pixels.classes


def says(said: str, path: Path, **options: Any) -> None:
    """What can't be read is an error of one line."""
    with pytest.raises((DataError, ConfigError), match=said) as caught:
        values(one(path, **options))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


# Forms


def write_classes(path: Path, **profile: Any) -> None:
    write_tif(path, CLASSES[None], transform=HALF, names=(), **profile)


def band_files(folder: Path, prefix: str = "2023-08-07/", suffix: str = ".tif", **profile: Any) -> Path:
    """A file a band, and what lies beside them."""
    for name, pixels in zip(RGB, NUMBERS, strict=True):
        write_tif(folder / f"{prefix}{name}{suffix}", pixels[None], names=(), **profile)
    write_tif(folder / f"{prefix}TCI{suffix}", (NUMBERS // 40).astype(np.uint8), names=(), **profile)
    write_classes(folder / f"{prefix}SCL{suffix.replace('1', '2')}", **profile)
    return folder


def flat_names(folder: Path) -> Path:
    prefix = "T30TXT_20230807T105621_"
    write_tif(folder / f"{prefix}B04_20m.jp2", NUMBERS[:1, ::2, ::2], transform=HALF, names=(), **JP2)
    return band_files(folder, prefix, "_10m.jp2", **JP2)


def safe(folder: Path) -> Path:
    return write_safe(folder, PLACE, day=DAY, offset=-1000, classes=CLASSES)


def zip_of_a_product(folder: Path) -> Path:
    product = safe(folder)
    return zipped(product, product.with_name(product.name + ".zip"))


def item(folder: Path, *, shift: int = 1000, properties: dict[str, Any] | None = None, **stated: Any) -> Path:
    write_band_files(folder / "cogs", NUMBERS + shift)
    write_classes(folder / "cogs" / "SCL.tif")
    hrefs = {**{band: f"./cogs/{band}.tif" for band in RGB}, "scl": "cogs/SCL.tif"}
    return write_item(folder / "item.json", day=DAY, hrefs=hrefs, properties=properties, **stated)


SCALE: dict[str, Any] = {"raster:bands": [{"scale": 0.0001, "offset": -0.1, "nodata": 0}]}
NEWER = {"s2:processing_baseline": "05.09"}
FORMS: dict[str, Callable[[Path], Path]] = {
    "a folder a date": band_files,
    "one folder": lambda folder: band_files(folder) / "2023-08-07",
    "flat names": flat_names,
    "names of Earth Search": lambda folder: band_files(folder, "S2A_30TXT_20230807_0_L2A_"),
    "a product": safe,
    "a zip": zip_of_a_product,
    "a zip in a folder": lambda folder: zip_of_a_product(folder).parent,
    "an item of a newer baseline": lambda folder: item(folder, properties=NEWER),
    "an item with a scale": lambda folder: item(folder, **SCALE),
    "an item whose offset was applied": lambda folder: item(
        folder, shift=0, properties={**NEWER, "earthsearch:boa_offset_applied": True}, **SCALE
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_pixels(tmp_path: Path, form: str) -> None:
    found = one(FORMS[form](tmp_path))
    assert found.day == DAY
    reflectance, classes = values(found)
    np.testing.assert_allclose(reflectance, NUMBERS / 10000, atol=1e-7)  # (v + 1000) / 10000 - 0.1 rounds once more
    np.testing.assert_array_equal(classes, CLASSES.repeat(2, 0).repeat(2, 1))


def test_bands_of_other_resolutions_come_onto_the_finest_grid(tmp_path: Path) -> None:
    write_band_files(tmp_path / "2023-08-07", NUMBERS, names=("B04", "B05", "B08"))
    reflectance, _ = values(one(tmp_path, bands=("B04", "B05", "B08")))
    np.testing.assert_allclose(reflectance[[0, 2]][:, :54, :62], NUMBERS[[0, 2], :54, :62] / 10000, rtol=1e-6)
    inner = reflectance[1, 8:-8, 8:-8]
    coarse = NUMBERS[1, ::2, ::2].repeat(2, 0).repeat(2, 1)[8:-8, 8:-8] / 10000
    assert np.corrcoef(inner.ravel(), coarse.ravel())[0, 1] > 0.8
    assert not np.array_equal(inner, coarse.astype(np.float32))  # interpolated


# Dates


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2023-08-07", DAY), ("s2_20230807_bretagne", DAY), ("x2023_08_07", DAY), ("tile_12345678_2023-08-07", DAY),
        ("S2B_MSIL2A_20230807T105031_N0509_R051_T30TXT_20230901T140000", DAY), ("T30TXT_20230807T105031_B04", DAY),
        ("20231345", None), ("2023-0807", None), ("120230807", None), ("image", None),
    ],
)  # fmt: skip
def test_day_in(text: str, expected: date | None) -> None:
    assert day_in(text) == expected


def test_a_folder_of_everything_in_order_of_dates(tmp_path: Path) -> None:
    write_tif(tmp_path / "b_20230810.tif", NUMBERS)
    write_tif(tmp_path / "S2A_MSIL2A_20230801T105031_N0509_R051_T30TXT_20230901T140000.tif", NUMBERS)
    for day in ("2023-08-12", "2023-08-07"):
        write_band_files(tmp_path / day, NUMBERS)
    for day in ("20230901", "20230906"):
        write_band_files(tmp_path, NUMBERS, prefix=f"T30TXT_{day}T105621_")
    write_safe(tmp_path, PLACE, day=date(2023, 7, 7), offset=-1000, classes=CLASSES)
    write_safe(tmp_path, PLACE, day=date(2021, 5, 1), suffix=".tif")
    (tmp_path / ".hidden.tif").write_text("")
    (tmp_path / "readme.txt").write_text("")
    found = find_acquisitions([tmp_path])
    days = [date(2021, 5, 1), date(2023, 7, 7), *(date(2023, 8, day) for day in (1, 7, 10, 12))]
    assert [a.day for a in found] == [*days, date(2023, 9, 1), date(2023, 9, 6)]
    assert [a.day for a in found if a.classes] == [date(2023, 7, 7)]


def test_dates_given_and_dates_in_tags(tmp_path: Path) -> None:
    assert one(write_tif(tmp_path / "a.tif", NUMBERS)).day is None  # which a lone image doesn't need
    tagged = write_tif(tmp_path / "b.tif", NUMBERS)
    with rasterio.open(tagged, "r+") as file:
        file.update_tags(acquisition_date="2023-08-07T10:50:31Z")
    assert one(tagged).day == DAY
    found = find_acquisitions([tmp_path], days=[date(2020, 1, 2), date(2020, 1, 1)])
    assert [(a.name, a.day) for a in found] == [("b.tif", date(2020, 1, 1)), ("a.tif", date(2020, 1, 2))]
    with pytest.raises(DataError, match=r"a\.tif: no date"):
        find_acquisitions([tmp_path])
    with pytest.raises(ConfigError, match="1 dates for 2 images"):
        find_acquisitions([tmp_path], days=[DAY])


# Bands


def test_bands_by_name_by_number_by_colour_and_by_order(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    four = np.stack([*NUMBERS, NUMBERS[0] + 2000])
    mixed = write_tif(tmp_path / "mixed.tif", four[[3, 2, 0, 1]], names=("nir", "B2", "Red", "B03"))
    np.testing.assert_allclose(values(one(mixed, bands=(*RGB, "B08")))[0], four / 10000, rtol=1e-6)
    np.testing.assert_allclose(values(one(mixed, numbers=[2, 4, 3]))[0], NUMBERS[::-1] / 10000, rtol=1e-6)
    coloured = write_tif(tmp_path / "coloured.tif", NUMBERS[::-1], names=())
    with rasterio.open(coloured, "r+") as file:
        file.colorinterp = [rasterio.enums.ColorInterp[name] for name in ("blue", "green", "red")]
    np.testing.assert_allclose(values(one(coloured))[0], NUMBERS / 10000, rtol=1e-6)
    bare = write_tif(tmp_path / "bare.tif", NUMBERS, names=())
    with caplog.at_level(logging.INFO):
        one(bare)
    assert caplog.messages == ["bare.tif: bands have no names; taken as red, green, blue"]
    says(r"mixed\.tif: its bands are described as nir, B2, Red, B03; needed: B05", mixed, bands=("B05", "B06"))
    says("--bands gives 2 numbers", mixed, numbers=[1, 2])
    says("--bands 9,1,2 asks for others", mixed, numbers=[9, 1, 2])
    says(r"two\.tif: its bands \(2\) have no names", write_tif(tmp_path / "two.tif", NUMBERS[:2], names=()))
    write_band_files(tmp_path / "2023-08-07", NUMBERS[:2], names=("B04", "B03"))
    says("2023-08-07: files of B03, B04, none of B02", tmp_path / "2023-08-07")


# Numbers


@pytest.mark.parametrize(
    ("factor", "dtype", "options"),
    [(1, np.int16, {}), (1, np.float32, {}), (1e-4, np.float32, {}), (0.1, np.uint16, {"scale": 1000.0}),
     (0.0255, np.uint8, {"scale": 255.0})],
)  # fmt: skip
def test_scale_by_type_and_given(tmp_path: Path, factor: float, dtype: type, options: dict[str, float]) -> None:
    path = write_tif(tmp_path / "a.tif", (NUMBERS * factor).astype(dtype))
    np.testing.assert_allclose(values(one(path, **options))[0], NUMBERS / 10000, atol=5e-3)


def test_scale_by_tag_and_scales_that_cannot_be(tmp_path: Path) -> None:
    path = write_tif(tmp_path / "a.tif", NUMBERS + 1000)
    with rasterio.open(path, "r+") as file:
        file.scales, file.offsets = (0.0001,) * 3, (-0.1,) * 3
    np.testing.assert_allclose(values(one(path))[0], NUMBERS / 10000, atol=1e-6)
    says(r"--scale 0\.0001", path, scale=0.0001)
    with rasterio.open(path, "r+") as file:
        file.scales = (0, 1, 1)
    says("no reflectance", path)
    says(r"8-bit.*--scale; of build_dataset\.py --lr_unit", write_tif(tmp_path / "b.tif", NUMBERS.astype(np.uint8)))


def test_numbers_that_hold_the_offset_of_newer_products(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_tif(tmp_path / "a" / "2023-08-07.tif", NUMBERS + 1000)
    write_tif(tmp_path / "b" / "2023-08-07.tif", NUMBERS)
    write_tif(tmp_path / "c" / "2019-08-07.tif", NUMBERS + 1000)
    find_acquisitions([tmp_path / "b", tmp_path / "c"])
    assert caplog.text == ""
    find_acquisitions([tmp_path / "a", tmp_path / "b"])
    assert "1 of 2 images (2023-08-07.tif, ...) have no number below 1000" in caplog.text


# Scene classifications


def test_classes_as_a_band_beside_the_image_and_in_a_folder(tmp_path: Path) -> None:
    four = write_tif(tmp_path / "four.tif", np.stack([*NUMBERS, NUMBERS[0]]), names=("B04", "B03", "B02", "SCL"))
    assert one(four).classes == (four, 4)
    images, masks = tmp_path / "images", tmp_path / "masks"
    days = write_series(images, height=8, width=8, dates=3)
    classes = np.full((1, 8, 8), 4, np.uint8)
    write_tif(images / f"{days[0]}_SCL.tif", classes, names=())
    write_tif(images / f"scl_{days[1]:%Y%m%d}.tif", classes, names=())
    write_tif(images / "T31SCL_2020-01-01.tif", NUMBERS)  # an image, whose tile is called so
    found = find_acquisitions([images])
    assert [a.classes[0].name if a.classes else None for a in found] == [
        None, f"{days[0]}_SCL.tif", f"scl_{days[1]:%Y%m%d}.tif", None,
    ]  # fmt: skip
    write_tif(masks / "1999-01-01.tif", classes, names=())
    with pytest.raises(DataError, match="no raster there"):
        find_acquisitions([images], masks=masks)
    write_tif(masks / f"anything_{days[2]}.tif", classes, names=())
    found = find_acquisitions([images], masks=masks)
    assert [a.classes[0].parent.name if a.classes else None for a in found] == [None, None, None, "masks"]
    write_tif(masks / f"other_{days[2]}.tif", classes, names=())
    with pytest.raises(DataError, match="2 cloud masks"):
        find_acquisitions([images], masks=masks)


# Products


@pytest.mark.parametrize("level", ["1C", "2A"])
@pytest.mark.parametrize("offset", [0, -1000])
def test_products_give_reflectance(tmp_path: Path, level: str, offset: int) -> None:
    product = one(write_safe(tmp_path, PLACE, day=DAY, level=level, offset=offset))
    np.testing.assert_allclose(values(product)[0], PLACE, atol=5.1e-5)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("BOA_QUANTIFICATION_VALUE", "OTHER", "no 'BOA_QUANTIFICATION_VALUE'"), (">10000<", ">many<", "many"),
        (">10000<", ">0<", "not positive"), ("PRODUCT_START_TIME", "OTHER", "no 'PRODUCT_START_TIME'"),
        ("2023-08-07T", "yesterday", "yesterday"), ('band_id="3"', 'band_id="99"', "BOA_ADD_OFFSET"),
        ("</n1:Level-2A_User_Product>", "", "no element found"),
        ('<?xml version="1.0" encoding="UTF-8"?>', '<!DOCTYPE x [<!ENTITY a "b">]>', "DTDForbidden"),
        ('<?xml version="1.0" encoding="UTF-8"?>', '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/x">]>', "DTDForbidden"),
    ],
)  # fmt: skip
def test_damaged_metadata(tmp_path: Path, before: str, after: str, said: str) -> None:
    product = write_safe(tmp_path, PLACE, day=DAY, offset=-1000)
    metadata = product / "MTD_MSIL2A.xml"
    metadata.write_text(metadata.read_text().replace(before, after))
    says(rf"MTD_MSIL2A\.xml: .*{said}", product)


def test_incomplete_products(tmp_path: Path) -> None:
    product = write_safe(tmp_path, PLACE, day=DAY)
    red = next(product.rglob("*_B04_10m.jp2"))
    second = product / "GRANULE" / "other" / "IMG_DATA" / red.name
    second.parent.mkdir(parents=True)
    second.write_bytes(b"")
    says("2 granules", product)
    second.unlink()
    red.rename(red.with_name(red.name.replace("10m", "20m")))
    says("B04 only at 20m", product)
    next(product.rglob("*_B04_20m.jp2")).unlink()
    says("no B04 image", product)
    (product / "MTD_MSIL2A.xml").unlink()
    says("holds 0", product)


# Hostile files


def archive(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def test_archives_that_are_hostile(tmp_path: Path) -> None:
    whole = zip_of_a_product(tmp_path / "whole")
    with zipfile.ZipFile(whole) as file:
        members = {name: file.read(name) for name in file.namelist() if not name.endswith("/")}
    red, metadata = (next(name for name in members if part in name) for part in ("_B04_", "MTD_"))
    outside = archive(tmp_path / "e.zip", {f"/{tmp_path}/MTD_MSIL2A.xml": members[metadata]})
    write_tif(tmp_path / "GRANULE" / "L2A" / "IMG_DATA" / "x_B04_10m.tif", NUMBERS[:1])  # which isn't in the archive
    claims = archive(tmp_path / "claims.zip", {"a.SAFE/MTD_MSIL2A.xml": b"x" * 1000})
    claims.write_bytes(claims.read_bytes().replace(struct.pack("<I", 1000), struct.pack("<I", 4_000_000_000)))
    many, text, cut = (tmp_path / f"{name}.zip" for name in ("many", "text", "cut"))
    many.write_bytes(b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 65535, 65535, 4_000_000_000, 0, 0))
    text.write_text("no zip")
    cut.write_bytes(whole.read_bytes()[:-2000])
    for path, said in (
        (archive(tmp_path / "a.zip", {"../x.xml": b"x", "a.SAFE/MTD_MSIL2A.xml": b"<a/>"}), "incomplete"),
        (archive(tmp_path / "b.zip", {"/etc/MTD_MSIL2A.xml": b"<a/>"}), "incomplete"),
        (archive(tmp_path / "c.zip", {"a.SAFE/MTD_MSIL2A.xml": b" " * (40 << 20)}), "too large"),
        (archive(tmp_path / "d.zip", {"a/MTD_MSIL2A.xml": b"", "b/MTD_MSIL2A.xml": b""}), "holds 2"),
        (archive(tmp_path / "f.zip", {"b.zip": b"PK"}), "holds 0"),
        (archive(tmp_path / "g.zip", {**members, red: members[red][:300]}), "can't be read"),
        (archive(tmp_path / "h.zip", {**members, red: b"<VRTDataset/>"}), "not a raster image"),
        (outside, "no B04 image"), (claims, "too large"), (many, "not a zip"), (text, "not a zip"), (cut, "not a zip"),
    ):  # fmt: skip
        says(rf"{path.name}.*({said})", path)


def test_inputs_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "text.tif").write_text("no raster")
    (tmp_path / "empty").mkdir()
    says("not a raster image", tmp_path / "text.tif")
    says("holds no GeoTIFF", tmp_path / "empty")
    says("no such file or folder", tmp_path / "nowhere")
    says("no such folder", tmp_path, masks=tmp_path / "nowhere")
    says("too many", write_tif(tmp_path / "a.tif", np.zeros((1, 1, 1_000_001), np.uint8), names=()))
