"""Which pixels of an acquisition count."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.geo.clouds import (
    BRIGHT_MARGIN,
    CLOUD_MARGIN,
    Mask,
    cloudy_brightness,
    cloudy_classes,
    grow,
    has_data,
)


def test_every_kind_of_missing_pixel_is_missing_alone() -> None:
    raw = np.full((3, 3, 3), 500, np.uint16)
    masks = np.full((3, 3, 3), 255, np.uint8)
    raw[:, 0, 0] = 0  # swath's edge
    raw[1, 0, 1] = 65535  # saturated in one band
    raw[2, 0, 2] = 0  # dark in one band: that is no edge
    masks[1, 1, 0] = 0  # GDAL: nodata in one band
    expected = np.array([[False, False, True], [False, True, True], [True, True, True]])
    np.testing.assert_array_equal(has_data(raw, masks), expected)


def test_not_a_number_is_missing_alone() -> None:
    raw = np.full((3, 2, 2), 0.1, np.float32)
    raw[0, 0, 0], raw[1, 1, 1] = np.nan, np.inf
    np.testing.assert_array_equal(has_data(raw, np.full((3, 2, 2), 255, np.uint8)), [[False, True], [True, False]])


def test_signed_numbers_saturate_at_their_own_maximum() -> None:
    raw = np.array([32767, 500], np.int16).reshape(1, 1, 2)
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
    classes = np.full((30, 30), 4, np.uint8)
    classes[10, 10], classes[25, 25] = 9, 0
    found = cloudy_classes(classes)
    side = 2 * CLOUD_MARGIN + 1
    assert found.sum() == side * side + 1
    assert found[10, 10]
    assert found[25, 25]


@pytest.mark.parametrize("number", [2, 4, 5, 6, 7, 11])
def test_classes_that_stay(number: int) -> None:
    assert not cloudy_classes(np.full((4, 4), number, np.uint8)).any()


def colours(red: float, green: float, blue: float, *, size: int, side: int = 40) -> np.ndarray:
    """Dark ground with a square of a colour in the middle."""
    image = np.full((3, side, side), 0.05, np.float32)
    low = side // 2 - size // 2
    image[:, low : low + size, low : low + size] = np.array([red, green, blue]).reshape(3, 1, 1)
    return image


EVERYWHERE = np.ones((40, 40), bool)


def by_brightness(image: np.ndarray, data: Mask) -> Mask:
    return cloudy_brightness(image[0], image[2], data)


def test_a_bright_white_patch_is_a_cloud_with_a_margin() -> None:
    found = by_brightness(colours(0.5, 0.5, 0.5, size=12), EVERYWHERE)
    assert found.sum() == (12 + 2 * BRIGHT_MARGIN) ** 2


@pytest.mark.parametrize(
    ("what", "image"),
    [
        ("a roof", colours(0.5, 0.5, 0.5, size=4)),
        ("sand", colours(0.45, 0.35, 0.25, size=20)),
        ("a field", colours(0.12, 0.1, 0.08, size=20)),
    ],
)
def test_no_cloud(what: str, image: np.ndarray) -> None:
    assert not by_brightness(image, EVERYWHERE).any(), what


def test_a_cloud_at_the_edge_of_the_data_is_found_and_the_edge_is_none() -> None:
    image, data = colours(0.5, 0.5, 0.5, size=40), EVERYWHERE.copy()
    data[:, 3:] = False
    assert by_brightness(image, data)[:, :3].all()
    assert not by_brightness((image * 0.1).astype(np.float32), data).any()
