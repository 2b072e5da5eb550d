"""Which pixels count, and which dates a cell gets."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.scenes.date_selection import CELL, FEATHER, DateChoice, feathered
from utils.geo.clouds import (
    BRIGHT_MARGIN,
    CLOUD_MARGIN,
    DOUBTFUL,
    GOOD,
    NOTHING,
    Mask,
    Quality,
    cloudy_brightness,
    cloudy_classes,
    grow,
    has_data,
)
from utils.geo.windows import Box, Span


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


def choose(
    masks: Sequence[Mask | Quality], offsets: list[int], *, num_dates: int, min_valid: float = 0.5
) -> DateChoice:
    def quality(index: int, box: Box) -> Quality:
        part = masks[index][box.rows.start : box.rows.stop, box.columns.start : box.columns.stop]
        return (np.where(part, GOOD, NOTHING) if part.dtype == bool else part).astype(np.uint8)

    height, width = masks[0].shape
    return DateChoice(
        quality=quality, offsets=offsets, num_dates=num_dates, min_valid=min_valid, height=height, width=width
    )


def full(part: float = 1.0) -> Mask:
    """A cell of which a part of the rows is usable."""
    mask = np.zeros((CELL, CELL), bool)
    mask[: round(CELL * part)] = True
    return mask


def test_nearest_dates_first_and_of_two_as_near_the_earlier() -> None:
    choice = choose([full()] * 4, [10, 5, -5, 0], num_dates=3)
    assert choice.cell(0, 0) == (3, 2, 1)


def test_dates_with_too_few_pixels_are_left_out() -> None:
    choice = choose([full(0.4), full(0.6), full()], [0, 10, 20], num_dates=2)
    assert choice.cell(0, 0) == (1, 2)


def test_fewer_than_asked_for_where_there_are_no_more() -> None:
    assert choose([full(0.1), full()], [0, 10], num_dates=2).cell(0, 0) == (1,)


def test_at_the_edge_of_a_swath_the_part_that_any_date_has_counts() -> None:
    choice = choose([full(0.3), full(0.25), full(0.05)], [0, 5, 10], num_dates=3)
    assert choice.cell(0, 0) == (0, 1)


def test_where_no_date_has_enough_any_pixel_counts() -> None:
    masks = [np.roll(full(0.25), CELL // 4 * i, axis=0) for i in range(4)]
    assert choose(masks, [3, 2, 1, 0], num_dates=2).cell(0, 0) == (3, 2)


def test_doubtful_pixels_are_better_than_none_and_worse_than_a_good_one() -> None:
    bright = np.full((CELL, CELL), DOUBTFUL, np.uint8)
    assert choose([bright, bright], [5, 0], num_dates=2).cell(0, 0) == (1, 0)
    assert choose([bright, full(0.01 + 1 / CELL)], [0, 5], num_dates=2).cell(0, 0) == (1,)


def test_nothing_where_nothing_is() -> None:
    assert choose([full(0), full(0)], [0, 5], num_dates=2).cell(0, 0) == ()


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 700), st.integers(1, 90), st.integers(0, 2**31))
def test_a_cell_depends_on_its_own_pixels_alone(height: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    coverage = rng.random((5, -(-height // 16), -(-width // 16))).repeat(16, 1).repeat(16, 2)[:, :height, :width]
    masks = [rng.random((height, width)) < part for part in coverage]
    offsets = [0, -3, 4, 8, -9]
    whole = choose(masks, offsets, num_dates=3)
    row, column = int(rng.integers(-(-height // CELL))), int(rng.integers(-(-width // CELL)))
    rows, columns = slice(row * CELL, (row + 1) * CELL), slice(column * CELL, (column + 1) * CELL)
    alone = choose([mask[rows, columns] for mask in masks], offsets, num_dates=3)
    assert whole.cell(row, column) == alone.cell(0, 0)


@given(st.integers(1, 5), st.integers(0, 2**31))
def test_weights_of_labels_sum_to_one_and_change_slowly(count: int, seed: int) -> None:
    side = 40
    cells = np.random.default_rng(seed).integers(0, count, (4, 4)).repeat(16, 0).repeat(16, 1)
    labels = cells[: side + 2 * FEATHER, : side + 2 * FEATHER]
    weights = feathered(labels, count)
    assert weights.shape == (count, side, side)
    np.testing.assert_allclose(weights.sum(axis=0), 1, atol=1e-5)
    assert np.abs(np.diff(weights, axis=1)).max() < 0.15
    inner = labels[FEATHER:-FEATHER, FEATHER:-FEATHER]
    for y, x in ((0, 0), (20, 33)):  # far from borders of its own label the weight is one
        around = labels[y : y + 2 * FEATHER + 1, x : x + 2 * FEATHER + 1]
        if (around == inner[y, x]).all():
            assert weights[inner[y, x], y, x] == pytest.approx(1)


def test_boxes() -> None:
    box = Box(Span(4, 10), Span(-2, 5))
    assert box.shape == (6, 7)
    assert box.grown(1).within(Box(Span(0, 8), Span(0, 9))) == Box(Span(3, 8), Span(0, 6))
    assert box.slices(Box(Span(4, 100), Span(-3, 9))) == (slice(0, 6), slice(1, 8))
