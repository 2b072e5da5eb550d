"""Splits of places: they never touch, keep their shares, and say when there are too few places."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_gen.custom.splits import assign
from utils.errors import DataError

shares = st.fixed_dictionaries({"train": st.floats(0.1, 1), "val": st.floats(0, 0.5), "test": st.floats(0, 0.5)})


@settings(max_examples=25)
@given(
    height=st.integers(1, 14), width=st.integers(1, 14), shares=shares, gap=st.integers(0, 2), seed=st.integers(0, 99),
    holes=st.sets(st.tuples(st.integers(0, 13), st.integers(0, 13)), max_size=20),
    block=st.sampled_from([None, 1, 3]),
)  # fmt: skip
def test_splits_never_touch(
    height: int, width: int, shares: dict[str, float], gap: int, seed: int, holes: set[tuple[int, int]],
    block: int | None,
) -> None:  # fmt: skip
    patches = {cell: 1 for cell in itertools.product(range(height), range(width)) if cell not in holes}
    if not patches:
        return
    try:
        found = assign(patches, shares, block=block, gap=gap, seed=seed)
    except DataError as error:
        assert "too few" in str(error)
        return
    assert found == assign(patches, shares, block=block, gap=gap, seed=seed)
    assert set(found) <= set(patches) and set(found.values()) == {split for split, share in shares.items() if share > 0}
    for (i, j), split in found.items():
        for down, right in itertools.product(range(-gap, gap + 1), repeat=2):
            assert found.get((i + down, j + right), split) == split
    if gap == 0:
        assert len(found) == len(patches)


def test_a_large_area_keeps_its_shares_and_most_of_its_places() -> None:
    cells = dict.fromkeys(itertools.product(range(120), range(150)), 1)
    found = assign(cells, {"train": 0.8, "val": 0.1, "test": 0.1}, block=None, gap=1, seed=0)
    counts = {split: list(found.values()).count(split) / len(found) for split in ("train", "val", "test")}
    assert abs(counts["val"] - 0.1) < 0.03 and abs(counts["test"] - 0.1) < 0.03
    assert len(found) > 0.85 * len(cells)


def test_places_too_few_or_too_far_apart() -> None:
    with pytest.raises(DataError, match="2 places are too few for train, val, test that don't touch: use a smaller"):
        assign({(0, 0): 5, (0, 1): 5}, {"train": 0.8, "val": 0.1, "test": 0.1}, block=None, gap=1, seed=0)
    with pytest.raises(DataError, match="too far apart"):
        assign({(0, 0): 1, (10**6, 10**6): 1}, {"train": 1, "val": 0, "test": 0}, block=None, gap=1, seed=0)
