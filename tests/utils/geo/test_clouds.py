"""Which pixels of an acquisition count."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.geo.bands import RGB
from utils.geo.clouds import BRIGHT_MARGIN, CLOUD_MARGIN, DOUBTFUL, NOTHING, Mask, cloud_free, grow, has_data

EVERYWHERE = np.ones((40, 40), bool)


def test_every_kind_of_missing_pixel_is_missing_alone() -> None:
    raw = np.full((3, 3, 3), 500, np.uint16)
    masks = np.full((3, 3, 3), 255, np.uint8)
    raw[:, 0, 0] = 0  # swath's edge
    raw[1, 0, 1] = 65535  # saturated in one band
    raw[2, 0, 2] = 0  # dark in one band: that is no edge
    masks[1, 1, 0] = 0  # GDAL: nodata in one band
    expected = np.array([[False, False, True], [False, True, True], [True, True, True]])
    np.testing.assert_array_equal(has_data(raw, masks), expected)


@pytest.mark.parametrize(
    ("values", "dtype"), [([np.nan, 0.1], np.float32), ([np.inf, 0.1], np.float32), ([32767, 500], np.int16)]
)
def test_what_is_no_number_or_saturated_is_missing(values: list[float], dtype: type) -> None:
    raw = np.array(values, dtype).reshape(1, 1, 2)
    np.testing.assert_array_equal(has_data(raw, np.full((1, 1, 2), 255, np.uint8)), [[False, True]])


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 3), st.integers(0, 2**31))
def test_grow_reaches_its_radius(height: int, width: int, radius: int, seed: int) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < 0.1
    expected = np.zeros_like(mask)
    for y, x in itertools.product(range(height), range(width)):
        expected[y, x] = mask[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1].any()
    np.testing.assert_array_equal(grow(mask, radius), expected)
    np.testing.assert_array_equal(grow(mask, -radius), ~grow(~mask, radius))


def test_clouds_by_class_grow_but_missing_pixels_do_not() -> None:
    classes = np.resize(np.array([2, 4, 5, 6, 7, 11], np.uint8), (30, 30))  # which stay
    classes[10, 10], classes[25, 25] = 9, 0
    bright, data = np.full((3, 30, 30), 0.9, np.float32), np.ones((30, 30), bool)
    found = cloud_free(bright, data, classes, bands=RGB) == NOTHING
    assert found.sum() == (2 * CLOUD_MARGIN + 1) ** 2 + 1 and found[10, 10] and found[25, 25]


def by_brightness(colour: tuple[float, float, float], *, size: int, data: Mask = EVERYWHERE) -> Mask:
    """What is cloud on dark ground with a square of a colour in the middle."""
    image = np.full((3, 40, 40), 0.05, np.float32)
    low = 20 - size // 2
    image[:, low : low + size, low : low + size] = np.array(colour).reshape(3, 1, 1)
    assert (cloud_free(image, data, None, bands=("B05", "B06", "B07")) != DOUBTFUL).all()  # which tell nothing
    return cloud_free(image, data, None, bands=RGB) == DOUBTFUL


@pytest.mark.parametrize(
    ("colour", "size", "side"),
    [((0.5, 0.5, 0.5), 12, 12 + 2 * BRIGHT_MARGIN), ((0.5, 0.5, 0.5), 4, 0), ((0.45, 0.35, 0.25), 20, 0),
     ((0.12, 0.1, 0.08), 20, 0)],
    ids=["cloud", "roof", "sand", "field"],
)  # fmt: skip
def test_what_is_bright_white_and_large_is_a_cloud(colour: tuple[float, float, float], size: int, side: int) -> None:
    assert by_brightness(colour, size=size).sum() == side**2


def test_a_cloud_at_the_edge_of_the_data_is_found_and_the_edge_is_none() -> None:
    data = EVERYWHERE.copy()
    data[:, 3:] = False
    assert by_brightness((0.5, 0.5, 0.5), size=40, data=data)[:, :3].all()
    assert not by_brightness((0.05, 0.05, 0.05), size=40, data=data).any()
