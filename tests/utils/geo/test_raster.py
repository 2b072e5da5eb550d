"""Grids, windows, resampling, Cloud-Optimized GeoTIFFs."""

import contextlib
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.transform import array_bounds
from rasterio.warp import transform_bounds
from rio_cogeo.cogeo import cog_validate

from tests.scenes import CRS, TRANSFORM, ground, write_tif
from utils.errors import ConfigError, DataError
from utils.geo.acquisitions import find_acquisitions
from utils.geo.raster import BLOCK, AlignedReader, Grid, Pixels, Raster, region_of, writing_cog
from utils.geo.windows import Box, Span

GRID = Grid(rasterio.CRS.from_string(CRS), TRANSFORM, 60, 80)
NUMBERS = (ground(60, 80) * 10000).round().astype(np.uint16)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tif(tmp_path_factory.mktemp("image") / "a.tif", NUMBERS)


def read(*paths: Path, box: Box = GRID.box) -> Pixels:
    (acquisition,) = find_acquisitions(paths)
    with contextlib.closing(AlignedReader(acquisition, GRID)) as reader:
        return reader.read(box)


@settings(deadline=None, max_examples=20)
@given(y=st.integers(0, 59), x=st.integers(0, 79), h=st.integers(1, 60), w=st.integers(1, 80))
def test_a_window_is_a_part_of_the_whole(image: Path, y: int, x: int, h: int, w: int) -> None:
    box = Box(Span(y, y + h), Span(x, x + w)).within(GRID.box)
    rows, columns = box.slices(GRID.box)
    np.testing.assert_allclose(read(image, box=box).reflectance, NUMBERS[:, rows, columns] / 10000, rtol=1e-6)


def test_missing_pixels(tmp_path: Path) -> None:
    floats = (NUMBERS / 10000).astype(np.float32)
    floats[1, 5, 7] = np.nan
    expected = np.ones((60, 80), bool)
    expected[5, 7] = False
    pixels = read(write_tif(tmp_path / "nan.tif", floats))
    np.testing.assert_array_equal(pixels.data, expected)
    assert np.isfinite(pixels.reflectance).all()
    numbers = NUMBERS.copy()
    numbers[0, 5, 7] = 9
    np.testing.assert_array_equal(read(write_tif(tmp_path / "nodata.tif", numbers, nodata=9)).data, expected)


def test_another_grid_in_whole_pixels_is_copied(tmp_path: Path) -> None:
    shifted = write_tif(tmp_path / "a.tif", NUMBERS, transform=TRANSFORM @ Affine.translation(10, -5))
    pixels = read(shifted)
    expected = np.zeros((60, 80), bool)
    expected[:55, 10:] = True
    np.testing.assert_array_equal(pixels.data, expected)
    np.testing.assert_allclose(pixels.reflectance[:, :55, 10:], NUMBERS[:, 5:, :70] / 10000, rtol=1e-6)


def test_another_coordinate_system_is_resampled(tmp_path: Path) -> None:
    y, x = np.mgrid[0:200, 0:200]
    smooth = np.stack([2000 + 8 * x + 5 * y] * 3).astype(np.uint16)
    left, bottom, right, top = transform_bounds(CRS, "EPSG:2154", *array_bounds(60, 80, TRANSFORM))
    first = write_tif(tmp_path / "first.tif", smooth[:, :60, :80])
    size = max(right - left, top - bottom) / 180
    transform = Affine(size, 0, left - 10 * size, 0, -size, top + 10 * size)
    with rasterio.open(first) as source:
        other = np.zeros((3, 200, 200), np.uint16)
        rasterio.warp.reproject(
            rasterio.band(source, [1, 2, 3]), other, dst_transform=transform, dst_crs="EPSG:2154", resampling=1
        )
    pixels = read(write_tif(tmp_path / "other.tif", other, transform=transform, crs="EPSG:2154"))
    inner = Box(Span(8, 52), Span(8, 72)).slices(GRID.box)
    assert pixels.data[inner].all()
    assert np.abs(pixels.reflectance[:, *inner] * 10000 - smooth[:, *inner]).max() < 8


def test_a_kernel_mixes_nothing_into_missing_pixels(tmp_path: Path) -> None:
    numbers = NUMBERS.copy()
    numbers[:, 20:30, 20:30] = 65535
    pixels = read(write_tif(tmp_path / "a.tif", numbers, transform=TRANSFORM @ Affine.translation(0.5, 0.5)))
    assert not pixels.data[20:30, 20:30].any()
    assert pixels.reflectance[:, pixels.data].max() < 0.6
    assert pixels.data.mean() > 0.85


def test_no_overlap_no_coordinates_and_a_file_that_breaks_off(tmp_path: Path) -> None:
    away = write_tif(tmp_path / "away.tif", NUMBERS, transform=TRANSFORM @ Affine.translation(1000, 0))
    cut = write_tif(tmp_path / "cut.tif", NUMBERS, names=(), driver="COG")  # whose directory comes first
    cut.write_bytes(cut.read_bytes()[:-2000])
    twisted = write_tif(tmp_path / "twisted.tif", NUMBERS, transform=Affine(0, 0, 1, 0, 0, 2))
    for path, said in (
        (away, r"away\.tif: doesn't overlap"), (cut, "can't be read"), (twisted, "georeference is damaged"),
        (write_tif(tmp_path / "bare.tif", NUMBERS, crs=None), "no coordinate system"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=said):
            read(path)


def test_classes_lie_on_the_images_grid(tmp_path: Path) -> None:
    classes = (np.arange(30 * 40).reshape(1, 30, 40) % 12).astype(np.uint8)
    fine = classes.repeat(2, 1).repeat(2, 2)
    image, beside = write_tif(tmp_path / "a.tif", NUMBERS), tmp_path / "a_SCL.tif"
    write_tif(beside, classes, transform=TRANSFORM @ Affine.scale(2), names=())
    np.testing.assert_array_equal(read(image, beside).classes, fine[0])
    write_tif(beside, fine, crs=None, transform=Affine.identity(), names=())
    np.testing.assert_array_equal(read(image, beside).classes, fine[0])
    write_tif(beside, classes, transform=TRANSFORM @ Affine.translation(999, 0), names=())
    with pytest.raises(DataError, match=r"a_SCL\.tif: doesn't overlap"):
        read(image, beside)


def test_regions() -> None:
    assert region_of(GRID) == GRID.box
    assert region_of(GRID, window=(70, 50, 30, 5)) == Box(Span(50, 55), Span(70, 80))
    west, south, east, north = GRID.part(Box(Span(10, 20), Span(30, 50))).bounds
    assert region_of(GRID, bbox=(west, south, east, north)) == Box(Span(10, 20), Span(30, 50))
    assert region_of(GRID, bbox=(west + 1, south + 1, east - 1, north - 1)) == Box(Span(10, 20), Span(30, 50))
    degrees = transform_bounds(CRS, "EPSG:4326", west, south, east, north)
    rows, columns = region_of(GRID, bbox=degrees)
    assert rows.start <= 10 < 20 <= rows.stop
    assert rows.size < 14
    assert columns.start <= 30 < 50 <= columns.stop


@pytest.mark.parametrize(
    "asked",
    [{"window": (80, 0, 5, 5)}, {"window": (0, 0, 0, 5)}, {"window": (-9, 0, 9, 5)}, {"bbox": (0.0, 0.0, 1.0, 1.0)},
     {"bbox": (1.0, 0.0, 0.0, 1.0)}, {"bbox": (0.0, 0.0, 1.0, 1.0), "window": (0, 0, 1, 1)}],
)  # fmt: skip
def test_regions_that_are_none(asked: dict) -> None:
    with pytest.raises(ConfigError):
        region_of(GRID, **asked)


def write_cog(path: Path, *, height: int = 700, width: int = 1100, dtype: str = "uint16") -> np.ndarray:
    grid = Grid(GRID.crs, TRANSFORM, height, width).part(Box(Span(0, height), Span(0, width)))
    pixels = (ground(height, width) * 10000).astype(dtype)
    with writing_cog(path, Raster(grid, dtype, 0, ("red", "green", "blue"), {"DATE": "2023-08-07"})) as writer:
        for box in writer.blocks():
            writer.write(pixels[:, *box.slices(grid.box)], box)
    return pixels


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_a_cog_is_valid_and_holds_what_was_written(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "a.tif"
    pixels = write_cog(path, dtype=dtype)
    valid, errors, warnings = cog_validate(path, strict=True)
    assert (valid, errors, warnings) == (True, [], [])
    with rasterio.open(path) as result:
        np.testing.assert_array_equal(result.read(), pixels)
        assert (result.crs, result.transform, result.nodata) == (GRID.crs, TRANSFORM, 0)
        assert result.descriptions == ("red", "green", "blue") and result.tags()["DATE"] == "2023-08-07"
        assert result.block_shapes == [(BLOCK, BLOCK)] * 3 and result.overviews(1)
        assert result.compression.name == "deflate"
    assert list(tmp_path.iterdir()) == [path]
    first = path.read_bytes()
    write_cog(path, dtype=dtype)
    assert path.read_bytes() == first  # equal pixels make equal files


def test_a_cog_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_text("the old one")
    grid = Grid(GRID.crs, TRANSFORM, 600, 600)
    with pytest.raises(RuntimeError), writing_cog(path, Raster(grid, "uint8", 0, ("red",), {})):
        raise RuntimeError
    with pytest.raises(DataError, match="disk full"), writing_cog(path, Raster(grid, "uint8", 0, ("red",), {})) as cog:
        cog.write(np.zeros((2, 9, 9)), Box(Span(0, 9), Span(0, 9)))  # GDAL refuses it
    assert path.read_text() == "the old one"
    assert list(tmp_path.iterdir()) == [path]


def test_a_part_covers_exactly_its_ground() -> None:
    fine = GRID.part(Box(Span(3, 10), Span(5, 25)), scale=4)
    assert fine.shape == (28, 80)
    assert fine.bounds == GRID.part(Box(Span(3, 10), Span(5, 25))).bounds
    assert fine.transform.a == 2.5
