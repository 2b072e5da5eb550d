"""Finding acquisitions: dates, bands, scales, products, masks; bad input in one line."""

import logging
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import rasterio

from tests.scenes import ground, write_safe, write_series, write_tif
from utils.errors import ConfigError, DataError
from utils.geo.acquisitions import day_in, find_acquisitions
from utils.geo.bands import RGB
from utils.geo.raster import AlignedReader, Grid
from utils.geo.sentinel2_safe import read_elements, read_safe
from utils.geo.sources import Acquisition
from utils.geo.windows import Box, Span

DAY = date(2023, 8, 7)
NUMBERS = (ground(8, 9) * 10000).round().astype(np.uint16)


def one(path: Path, **options: object) -> Acquisition:
    (found,) = find_acquisitions([path], **options)  # type: ignore[arg-type]
    return found


def values(acquisition: Acquisition) -> np.ndarray:
    """All of its reflectance (C, h, w)."""
    with rasterio.open(acquisition.bands[0][0]) as source:
        grid = Grid(source.crs, source.transform, source.height, source.width)
    reader = AlignedReader(acquisition, grid)
    try:
        return reader.read(Box(Span(0, grid.height), Span(0, grid.width))).reflectance
    finally:
        reader.close()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2023-08-07", DAY),
        ("s2_20230807_bretagne", DAY),
        ("x2023_08_07", DAY),
        ("S2B_MSIL2A_20230807T105031_N0509_R051_T30TXT_20230901T140000", DAY),
        ("T30TXT_20230807T105031_B04", DAY),
        ("tile_12345678_2023-08-07", DAY),
        ("20231345", None),
        ("2023-0807", None),
        ("120230807", None),
        ("image", None),
    ],
)
def test_day_in(text: str, expected: date | None) -> None:
    assert day_in(text) == expected


def test_a_folder_in_order_of_dates(tmp_path: Path) -> None:
    for name in ("b_20230810", "a_20230812", "S2A_MSIL2A_20230801T105031_N0509_R051_T30TXT_20230901T140000"):
        write_tif(tmp_path / f"{name}.tif", NUMBERS)
    (tmp_path / ".hidden.tif").write_text("")
    (tmp_path / "readme.txt").write_text("")
    found = find_acquisitions([tmp_path])
    assert [a.day for a in found] == [date(2023, 8, 1), date(2023, 8, 10), date(2023, 8, 12)]


def test_dates_given_and_dates_in_tags(tmp_path: Path) -> None:
    write_tif(tmp_path / "a.tif", NUMBERS)
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


def test_a_lone_image_needs_no_date(tmp_path: Path) -> None:
    assert one(write_tif(tmp_path / "a.tif", NUMBERS)).day is None


def test_bands_by_name_by_number_and_by_order(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bgr = write_tif(tmp_path / "bgr.tif", np.stack([*NUMBERS[::-1], NUMBERS[0]]), names=("Blue", "B3", "B04", "B08"))
    np.testing.assert_allclose(values(one(bgr)), NUMBERS / 10000, rtol=1e-6)
    np.testing.assert_allclose(values(one(bgr, numbers=[1, 2, 3])), NUMBERS[::-1] / 10000, rtol=1e-6)
    bare = write_tif(tmp_path / "bare.tif", NUMBERS, names=())
    with caplog.at_level(logging.INFO):
        find_acquisitions([bare])
    assert caplog.messages == ["bare.tif: bands have no names; taken as red, green, blue"]


@pytest.mark.parametrize("bands", [1, 2, 4])
def test_bands_that_cannot_be_told_apart(tmp_path: Path, bands: int) -> None:
    path = write_tif(tmp_path / "a.tif", np.ones((bands, 4, 4), np.uint16), names=())
    with pytest.raises(DataError, match=rf"a\.tif: {bands} band"):
        one(path)
    with pytest.raises(DataError, match="--bands 9,1,2 asks for others"):
        one(path, numbers=[9, 1, 2])


def test_scale_by_type_by_tag_and_given(tmp_path: Path) -> None:
    reflectance = NUMBERS / 10000
    cases: dict[str, tuple[np.ndarray, dict[str, float]]] = {
        "integers": (NUMBERS, {}),
        "signed": (NUMBERS.astype(np.int16), {}),
        "floats": (NUMBERS.astype(np.float32), {}),
        "unit": (reflectance.astype(np.float32), {}),
        "given": (NUMBERS // 10, {"scale": 1000.0}),
        "eight": ((reflectance * 255).astype(np.uint8), {"scale": 255.0}),
    }
    for name, (pixels, options) in cases.items():
        path = write_tif(tmp_path / f"{name}.tif", pixels)
        np.testing.assert_allclose(values(one(path, **options)), reflectance, atol=5e-3, err_msg=name)
    tagged = write_tif(tmp_path / "tagged.tif", NUMBERS + 1000)
    with rasterio.open(tagged, "r+") as file:
        file.scales, file.offsets = (0.0001,) * 3, (-0.1,) * 3
    np.testing.assert_allclose(values(one(tagged)), reflectance, atol=1e-6)


def test_scales_that_cannot_be(tmp_path: Path) -> None:
    path = write_tif(tmp_path / "a.tif", NUMBERS.astype(np.uint8))
    with pytest.raises(DataError, match=r"8-bit.*--scale; of build_dataset\.py --lr_unit"):
        one(path)
    with pytest.raises(ConfigError, match=r"--scale 0\.0001"):
        one(path, scale=0.0001)


@pytest.mark.parametrize("level", ["1C", "2A"])
@pytest.mark.parametrize("offset", [0, -1000])
def test_products_give_reflectance(tmp_path: Path, level: str, offset: int) -> None:
    reflectance = ground(32, 32)
    product = one(write_safe(tmp_path, reflectance, day=DAY, level=level, offset=offset))
    assert product.day == DAY
    np.testing.assert_allclose(values(product), reflectance, atol=5.1e-5)


def test_a_folder_of_products(tmp_path: Path) -> None:
    classes = np.full((8, 8), 4, np.uint8)
    write_safe(tmp_path, ground(16, 16), day=DAY, offset=-1000, classes=classes)
    write_safe(tmp_path, ground(16, 16), day=date(2021, 5, 1), suffix=".tif")
    found = find_acquisitions([tmp_path])
    assert [a.day for a in found] == [date(2021, 5, 1), DAY]
    assert [a.classes is None for a in found] == [True, False]
    assert [a.day for a in find_acquisitions([tmp_path / found[1].name])] == [DAY]


def damaged(tmp_path: Path, before: str, after: str) -> Path:
    product = write_safe(tmp_path, ground(16, 16), day=DAY, offset=-1000)
    metadata = product / "MTD_MSIL2A.xml"
    text = metadata.read_text()
    assert before in text
    metadata.write_text(text.replace(before, after))
    return product


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("BOA_QUANTIFICATION_VALUE", "OTHER", "no BOA_QUANTIFICATION_VALUE"),
        (">10000<", ">many<", "not a number"),
        (">10000<", ">0<", "not positive"),
        ("PRODUCT_START_TIME", "OTHER", "no PRODUCT_START_TIME"),
        ("2023-08-07T", "yesterday", "not a time"),
        ('band_id="3"', 'band_id="99"', "not for each of the bands"),
        ("</n1:Level-2A_User_Product>", "", "not readable as XML"),
        ('<?xml version="1.0" encoding="UTF-8"?>', '<!DOCTYPE x [<!ENTITY a "b">]>', "document type"),
    ],
)
def test_damaged_metadata(tmp_path: Path, before: str, after: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_safe(damaged(tmp_path, before, after), bands=RGB)


def test_entities_are_never_expanded(tmp_path: Path) -> None:
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]><x>&b;</x>'
    (tmp_path / "a.xml").write_text(bomb)
    (tmp_path / "b.xml").write_text('<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/hostname">]><x>&a;</x>')
    for name in ("a.xml", "b.xml"):
        with pytest.raises(DataError, match="document type"):
            read_elements((tmp_path / name).read_bytes(), source=name)


def test_incomplete_products(tmp_path: Path) -> None:
    product = write_safe(tmp_path, ground(16, 16), day=DAY)
    red = next(product.rglob("*_B04_10m.jp2"))
    red.rename(red.with_name(red.name.replace("10m", "20m")))
    with pytest.raises(DataError, match="B04 only at 20m"):
        read_safe(product, bands=RGB)
    next(product.rglob("*_B04_20m.jp2")).unlink()
    with pytest.raises(DataError, match="no B04 image"):
        read_safe(product, bands=RGB)
    (product / "MTD_MSIL2A.xml").unlink()
    with pytest.raises(DataError, match="this one has 0"):
        read_safe(product, bands=RGB)


def test_classes_beside_the_image_and_in_a_folder(tmp_path: Path) -> None:
    images, masks = tmp_path / "images", tmp_path / "masks"
    days = write_series(images, height=8, width=8, dates=3)
    classes = np.full((1, 8, 8), 4, np.uint8)
    write_tif(images / f"{days[0]}_SCL.tif", classes, names=())
    write_tif(images / f"scl_{days[1]:%Y%m%d}.tif", classes, names=())
    found = find_acquisitions([images])
    assert [a.classes[0].name if a.classes else None for a in found] == [
        f"{days[0]}_SCL.tif", f"scl_{days[1]:%Y%m%d}.tif", None,
    ]  # fmt: skip
    write_tif(masks / f"anything_{days[2]}.tif", classes, names=())
    found = find_acquisitions([images], masks=masks)
    assert [a.classes[0].parent.name if a.classes else None for a in found] == [None, None, "masks"]
    write_tif(masks / f"other_{days[2]}.tif", classes, names=())
    with pytest.raises(DataError, match="2 cloud masks"):
        find_acquisitions([images], masks=masks)


def test_a_mask_folder_without_a_mask_for_any_image(tmp_path: Path) -> None:
    write_series(tmp_path / "images", height=8, width=8, dates=2)
    write_tif(tmp_path / "masks" / "1999-01-01.tif", np.ones((1, 8, 8), np.uint8), names=())
    with pytest.raises(DataError, match="no raster there"):
        find_acquisitions([tmp_path / "images"], masks=tmp_path / "masks")


def test_a_band_called_scl(tmp_path: Path) -> None:
    path = write_tif(tmp_path / "a.tif", np.stack([*NUMBERS, NUMBERS[0]]), names=("B04", "B03", "B02", "SCL"))
    assert one(path).classes == (path, 4)


def test_a_tile_whose_name_ends_in_scl_is_an_image(tmp_path: Path) -> None:
    assert one(write_tif(tmp_path / "T31SCL_20230807.tif", NUMBERS)).day == DAY


def test_inputs_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "text.tif").write_text("no raster")
    (tmp_path / "product.zip").write_text("")
    empty = tmp_path / "empty"
    empty.mkdir()
    for path, said in (
        (tmp_path / "text.tif", "not a raster"),
        (tmp_path / "product.zip", "not a zip file"),
        (empty, "holds no GeoTIFF"),
        (tmp_path / "nowhere", "no such file or folder"),
    ):
        with pytest.raises(DataError, match=said):
            one(path)
