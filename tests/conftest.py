"""Fixtures that all tests share."""

from pathlib import Path

import pytest
import torch
from hypothesis import settings

from tests.data import write_prepared
from tests.golden.large import FOLDER, SHARED, Golden
from tests.soak import SOAK
from tests.trainings import Experiments
from utils.metrics.lpips import LPIPS

# The same examples every time; a long run draws new ones.
settings.register_profile("tests", deadline=None, derandomize=not SOAK)
settings.load_profile("tests")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if {"experiments", "unstopped"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.training)


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


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven patches to train on (an epoch of batches of two ends within a batch), three to validate, three to test."""
    root = write_prepared(tmp_path_factory.mktemp("tiny"), train=7, val=3, test=3, hr_size=64, dates=4)
    torch.manual_seed(0)
    torch.save(LPIPS().state_dict(), root / "lpips.pt")  # any weights
    return root


@pytest.fixture
def experiments(tmp_path: Path, tiny_data: Path) -> Experiments:
    return Experiments(tmp_path, tiny_data)


@pytest.fixture(scope="session")
def unstopped(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path) -> Experiments:
    """Trainings that ran in one go, each a name of `tests.trainings.CONFIGS`: what others must end like."""
    return Experiments(tmp_path_factory.mktemp("unstopped"), tiny_data)
