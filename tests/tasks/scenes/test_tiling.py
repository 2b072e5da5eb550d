"""Windows cover, weights sum to one, batches shrink."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.scenes.tiling import Layout, overlap_for, plan, run_in_batches
from utils.errors import ConfigError, TrainingError
from utils.geo.windows import ALIGNMENT, Box, Span

spans = st.tuples(st.integers(0, 300), st.integers(1, 200)).map(lambda x: Span(x[0], x[0] + x[1]))
regions = st.tuples(spans, spans).map(lambda x: Box(*x))


def layout_of(region: Box, data: st.DataObject) -> Layout:
    halo = data.draw(st.integers(0, 20), "halo")
    overlap = data.draw(st.sampled_from([overlap_for(halo), 0, 8, 16]), "overlap")
    tile = data.draw(st.integers(overlap + 8, overlap + 90), "tile")
    return plan(region, tile=tile, overlap=overlap, halo=halo)


def assert_weights_sum_to_one(layout: Layout) -> None:
    scale = 2
    fine = layout.region.times(scale)
    total = np.zeros(fine.shape)
    weights = layout.weights(scale)
    for cell in np.random.default_rng(0).permutation(layout.order()):  # in any order
        support = layout.support(*cell).times(scale)
        shared = fine.within(support)
        assert min(shared.shape) >= 0
        total[shared.slices(fine)] += weights[shared.slices(support)]
    np.testing.assert_allclose(total, 1, atol=1e-6)


@given(regions, st.data())
def test_weights_sum_to_one_in_the_region(region: Box, data: st.DataObject) -> None:
    assert_weights_sum_to_one(layout_of(region, data))


@pytest.mark.parametrize("tile", [24, 32, 40])
def test_weights_sum_to_one_where_windows_share_most_of_themselves(tile: int) -> None:
    assert_weights_sum_to_one(plan(Box(Span(0, 60), Span(3, 50)), tile=tile, overlap=16, halo=0))


@given(regions, st.data())
def test_windows_are_aligned_and_their_used_part_has_its_context(region: Box, data: st.DataObject) -> None:
    layout = layout_of(region, data)
    for cell in layout.order():
        window, support = layout.window(*cell), layout.support(*cell)
        assert all(side % ALIGNMENT == 0 for span in window for side in span)
        assert window.grown(-layout.trim) == support


@given(st.integers(0, 100))
def test_the_default_overlap_gives_the_whole_context(halo: int) -> None:
    layout = plan(Box(Span(0, 500), Span(0, 500)), tile=512, overlap=overlap_for(halo), halo=halo)
    assert layout.trim == halo
    assert layout.ramp >= 4


@given(regions, st.data())
def test_covering_finds_the_tiles_that_meet_a_box(region: Box, data: st.DataObject) -> None:
    layout = layout_of(region, data)
    rows, columns = (
        data.draw(st.tuples(st.integers(span.start, span.stop - 1), st.integers(1, 60)), name)
        for span, name in zip(region, ("rows", "columns"), strict=True)
    )
    box = Box(*(Span(start, start + size) for start, size in (rows, columns))).within(region)
    meeting = [cell for cell in sorted(layout.order()) if min(layout.support(*cell).within(box).shape) > 0]
    assert list(layout.covering(box)) == meeting


def test_an_image_smaller_than_a_tile_is_one_small_window() -> None:
    layout = plan(Box(Span(0, 10), Span(0, 20)), tile=96, overlap=16, halo=6)
    assert layout.counts == (1, 1)
    assert layout.tile == (40, 48)  # ten more on each side, in eights


@pytest.mark.parametrize(("tile", "overlap"), [(16, 16), (8, 16), (0, 0), (96, -8)])
def test_a_tile_must_exceed_the_overlap(tile: int, overlap: int) -> None:
    with pytest.raises(ConfigError, match="--tile"):
        plan(Box(Span(0, 10), Span(0, 20)), tile=tile, overlap=overlap, halo=6)


def test_tiles_are_visited_block_by_block() -> None:
    layout = plan(Box(Span(0, 3000), Span(0, 3000)), tile=96, overlap=16, halo=6)
    blocks = [tuple(span.start // 1024 for span in layout.window(*cell)) for cell in layout.order()]
    changes = sum(a != b for a, b in itertools.pairwise(blocks))
    assert changes == len(set(blocks)) - 1
    assert len(set(layout.order())) == np.prod(layout.counts)


@settings(deadline=None)
@given(st.lists(st.integers(), max_size=40), st.integers(1, 16), st.integers(1, 16))
def test_batches_shrink_until_they_fit(items: list[int], batch: int, fits: int) -> None:
    done: list[int] = []

    def compute(part: Sequence[int]) -> None:
        if len(part) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        done.extend(part)

    left = run_in_batches(compute, items, batch=batch)
    assert done == items
    assert left == batch if batch <= fits else min(len(items), 1) <= left <= batch


@pytest.mark.parametrize("words", ["MPS backend out of memory", "DefaultCPUAllocator: can't allocate memory"])
def test_one_that_never_fits_is_an_error_for_people(words: str) -> None:
    def compute(part: Sequence[int]) -> None:
        raise RuntimeError(words)

    with pytest.raises(TrainingError, match="--tile"):
        run_in_batches(compute, [1, 2, 3], batch=4)


def test_other_errors_pass() -> None:
    def compute(part: Sequence[int]) -> None:
        raise RuntimeError("shapes don't match")

    with pytest.raises(RuntimeError, match="shapes"):
        run_in_batches(compute, [1, 2], batch=2)
