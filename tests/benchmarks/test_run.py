"""The benchmark command runs; nothing here looks at times."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import cases
from tests.command import run, succeed
from tests.data import write_prepared
from utils.dataloader import BreizhSRDataset, collate
from utils.metrics.pixel import measure


def test_one_item(tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    document.write_text("before\n<!-- bench:begin -->\nold\n<!-- bench:end -->\nafter\n")
    done = succeed(
        "benchmarks/run.py", "--quick", "--only", "metrics", "--json", "f.json", "--write", document, cwd=tmp_path
    )
    rows = json.loads((tmp_path / "f.json").read_text())["rows"]
    assert [(row["what"], row["mode"]) for row in rows] == [
        ("measure an image", "plain"),
        ("measure an image", "batches of 8"),
    ]
    for row in rows:
        assert 0 < row["timing"]["low"] <= row["timing"]["median"] <= row["timing"]["high"]
        assert f"| {row['what']} | {row['mode']} [" in done.stdout
    written = document.read_text()
    assert written.startswith("before\n<!-- bench:begin -->\n")
    assert written.endswith("\n<!-- bench:end -->\nafter\n")
    assert done.stdout.strip() in written
    assert "old" not in written


def test_what_it_does_not_know(tmp_path: Path) -> None:
    done = run("benchmarks/run.py", "--only", "sleep", cwd=tmp_path)
    assert done.returncode == 2
    assert "invalid choice: 'sleep'" in done.stderr
    done = run("benchmarks/run.py", "--quick", "--only", "metrics", "--write", tmp_path / "none.md", cwd=tmp_path)
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1].endswith("none.md can't be read: No such file or directory")


def test_plain_loading_gives_the_same(tmp_path: Path) -> None:
    data = BreizhSRDataset(write_prepared(tmp_path), "train", sen2_amount=3)
    raw = data.raw(1)
    batch = data.to_batch(collate([raw]))
    for name, image in cases.plain_item(cases.plain_patch(raw)).items():
        torch.testing.assert_close(image, getattr(batch, name)[0], rtol=0, atol=1e-5)


def test_plain_metrics_are_the_same() -> None:
    sr, hr = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 40, 33), dtype=np.uint8))
    quick = {name: float(value) for name, value in measure(sr[None], hr[None]).items()}
    assert cases.plain_metrics(sr, hr) == pytest.approx(quick, rel=1e-9)
