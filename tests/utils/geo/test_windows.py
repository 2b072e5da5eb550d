"""Rectangles of pixels and their mirroring."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from utils.geo.windows import Box, Span, mirrored


def test_boxes() -> None:
    box = Box(Span(4, 10), Span(-2, 5))
    assert box.shape == (6, 7)
    assert box.grown(1).within(Box(Span(0, 8), Span(0, 9))) == Box(Span(3, 8), Span(0, 6))
    assert box.slices(Box(Span(4, 100), Span(-3, 9))) == (slice(0, 6), slice(1, 8))


@given(st.integers(1, 30), st.integers(0, 80))
def test_mirrored_is_numpys_symmetric_padding(size: int, margin: int) -> None:
    expected = np.pad(np.arange(size), margin, mode="symmetric")
    np.testing.assert_array_equal(mirrored(Span(-margin, size + margin), size), expected)
