"""Fixtures that all tests share."""

from pathlib import Path

import pytest
import torch

from tests.golden import FOLDER, SHARED, Golden


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Small tensors: threads cost more than they bring, and results don't depend on their number."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def golden() -> Golden:
    if not (FOLDER / "index.json").exists():
        pytest.skip(f"no golden numbers in {FOLDER} (set MISR_GOLDEN)")
    return Golden()


@pytest.fixture(scope="session")
def real() -> Path:
    """Real Sentinel-2 images beside the golden numbers."""
    if not (SHARED / "real").exists():
        pytest.skip(f"no real images in {SHARED / 'real'}")
    return SHARED / "real"


@pytest.fixture(scope="session")
def lpips_weights() -> Path:
    path = SHARED / "weights" / "lpips_alex.pt"
    if not path.exists():
        pytest.skip(f"no LPIPS weights at {path}")
    return path
