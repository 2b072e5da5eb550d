"""Scenes that several tests share."""

from pathlib import Path

import numpy as np
import pytest

from tests.scenes import write_series, write_tif


@pytest.fixture
def clouded(tmp_path: Path) -> Path:
    """A series of odd size whose dates are each clouded elsewhere, by the files that say so."""
    days = write_series(tmp_path / "in", height=110, width=149, dates=5)
    for i, day in enumerate(days):
        coarse = np.random.default_rng(i).random((11, 15)) < 0.12
        classes = np.where(coarse.repeat(10, 0).repeat(10, 1)[:110, :149], 9, 4).astype(np.uint8)
        write_tif(tmp_path / "in" / f"{day}_SCL.tif", classes[None], names=())
    return tmp_path / "in"
