"""Which dates a cell gets."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.scenes.date_selection import CELL, FEATHER, DateChoice, feathered
from utils.geo.clouds import DOUBTFUL, GOOD, NOTHING, Mask, Quality
from utils.geo.windows import Box


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
