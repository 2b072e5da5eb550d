"""The plain ways compute what the quick ones do, else holding one against the other means nothing."""

import numpy as np
import pytest
import torch

from benchmarks import baseline
from tests.data import write_prepared
from utils.dataloader import BreizhSRDataset, collate
from utils.metrics.pixel import measure


def test_loader(tmp_path_factory: pytest.TempPathFactory) -> None:
    data = BreizhSRDataset(write_prepared(tmp_path_factory.mktemp("raw")), "train", sen2_amount=3)
    raw = data.raw(1)
    batch = data.to_batch(collate([raw]))
    item = baseline.item(baseline.stored(raw))
    torch.testing.assert_close(item["lr"], batch.lr[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(item["hr"], batch.hr[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(item["base"], batch.base[0], rtol=0, atol=1e-5)


def test_metrics() -> None:
    sr, hr = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 40, 33), dtype=np.uint8))
    quick = {name: float(value) for name, value in measure(sr[None], hr[None]).items()}
    assert baseline.metrics(sr, hr) == pytest.approx(quick, rel=1e-9)
