"""--dry_run: what would be trained, and nothing else."""

import re
from pathlib import Path

import pytest
import yaml

from tests.golden.large import ROOT
from tests.trainings import Experiments, run


def number(pattern: str, text: str) -> float:
    """The last number that the pattern finds."""
    return float(re.findall(pattern, text)[-1].replace(",", ""))


def test_what_it_says(experiments: Experiments) -> None:
    """Every key, all parameters, the arithmetic of convolutions, which is known; it writes nothing."""
    done = experiments.train("there", extra=("--dry_run",), ema_decay=0.9, batch_size=4).succeeded()
    assert not experiments.folder("there").exists()
    config, _, facts = done.stdout.partition("\n\n")
    resolved = yaml.safe_load(config)
    assert (resolved["hidden_size"], resolved["max_updates"], resolved["ema_decay"]) == (8, 12, 0.9)
    parts = {name: int(count.replace(",", "")) for name, count in re.findall(r"^  (\w+) +([\d,]+)$", facts, re.M)}
    assert sum(parts.values()) == number(r"parameters: ([\d,]+) \(", facts)
    assert set(parts) >= {"conv_first", "RRDB_trunk", "upconv1", "conv_last"}
    assert "step: batch 4 of 16x16 pixels on this device" in facts
    experiments.train("there", max_updates=1).succeeded()
    state = experiments.checkpoint("there", 1)["state_dict"]["model"]
    pixels = {"upconv1": 32**2, "upconv2": 64**2, "HRconv": 64**2, "conv_last": 64**2}
    weights = {name: value.numel() for name, value in state.items() if name.endswith("weight")}
    forward = sum(2 * count * pixels.get(name.split(".")[0], 16**2) for name, count in weights.items())
    first = 2 * weights["conv_first.weight"] * 16**2  # its input needs no gradient
    assert number(r"([\d.,]+) GFLOP", facts) == pytest.approx(4 * (3 * forward - first) / 1e9, abs=0.06)
    # Also with --reset: it would start over, and doesn't yet.
    before = {path.name: path.stat().st_mtime_ns for path in experiments.folder("there").iterdir()}
    experiments.train("there", max_updates=4, extra=("--dry_run", "--reset")).succeeded()
    assert {path.name: path.stat().st_mtime_ns for path in experiments.folder("there").iterdir()} == before


@pytest.mark.slow
@pytest.mark.parametrize("config", ["rrdb/rrdb.yaml", "misr/misr_pretrain.yaml", "diffsr_no_encoder.yaml"])
def test_published_sizes_without_data(tmp_path: Path, config: str) -> None:
    arguments = ("--config", ROOT / "configs" / config, "--exp_name", "dry", "--dry_run", "--device", "cpu")
    done = run("tasks/trainer.py", *arguments, cwd=tmp_path).succeeded()
    assert "of 74x74 pixels" in done.stdout
    assert "no data is configured (data_root)" in done.stderr


def test_data_that_is_not_there(experiments: Experiments) -> None:
    done = experiments.train("dry", extra=("--dry_run",), data_root=experiments.root / "nothing")
    assert done.returncode == 3
    assert str(experiments.root / "nothing") in done.stderr and done.stdout == ""


def test_its_memory_is_about_what_is_used(experiments: Experiments) -> None:
    """Within a factor of two, where activations are most of it."""
    wide: dict[str, object] = {"hidden_size": 32, "num_block": 8, "batch_size": 64}
    said = experiments.train("dry", extra=("--dry_run",), **wide).succeeded().stdout
    peaks = []
    for name, size in (("wide", wide), ("small", {})):
        done = experiments.train(name, **size, max_updates=1, val_check_interval=9, eval_batch_size=1).succeeded()
        peaks.append(number(r"mem=([\d.]+) GB", done.stderr))
    used = peaks[0] - peaks[1]
    assert used > 0.5
    assert 0.5 < number(r"memory: about ([\d.]+) GB", said) / used < 2
