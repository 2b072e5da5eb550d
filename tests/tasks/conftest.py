"""Trainings of small models, for the tests of everything around them."""

from pathlib import Path

import pytest
import torch

from tests.data import write_prepared
from tests.trainings import Experiments
from utils.metrics.lpips import LPIPS


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
