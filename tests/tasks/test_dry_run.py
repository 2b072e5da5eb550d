"""--dry_run: what would be trained, and nothing else."""

import re
from pathlib import Path

import pytest
import yaml

from tests.golden.large import ROOT
from tests.trainings import Experiments, run
from utils.checkpoint import file_name


def test_what_it_says(experiments: Experiments) -> None:
    done = experiments.train("dry", extra=("--dry_run",), ema_decay=0.9).succeeded()
    config, _, facts = done.stdout.partition("\n\n")
    resolved = yaml.safe_load(config)
    assert resolved["hidden_size"] == 8
    assert resolved["max_updates"] == 12
    assert resolved["ema_decay"] == 0.9
    parts = {name: int(count.replace(",", "")) for name, count in re.findall(r"^  (\w+) +([\d,]+)$", facts, re.M)}
    total = int(re.search(r"parameters: ([\d,]+) \(", facts)[1].replace(",", ""))  # type: ignore[index]
    assert sum(parts.values()) == total
    assert set(parts) >= {"conv_first", "RRDB_trunk", "upconv1", "conv_last"}
    assert re.search(r"step: batch 2 of 16x16 pixels on this device, [\d.,]+ GFLOP", facts)
    assert re.search(r"memory: about [\d.]+ GB", facts)
    assert not experiments.folder("dry").exists(), "nothing is written"


def test_what_is_counted(experiments: Experiments) -> None:
    """The arithmetic of a convolution is known."""
    done = experiments.train("dry", extra=("--dry_run",), batch_size=4).succeeded()
    flops = float(re.search(r"([\d.,]+) GFLOP", done.stdout)[1])  # type: ignore[index]
    experiments.train("known", max_updates=1).succeeded()
    state = experiments.checkpoint("known", 1)["state_dict"]["model"]
    pixels = {"upconv1": 32**2, "upconv2": 64**2, "HRconv": 64**2, "conv_last": 64**2}
    forward = sum(
        2 * value.numel() * pixels.get(name.split(".")[0], 16**2)
        for name, value in state.items()
        if name.endswith("weight")
    )
    first = 2 * state["conv_first.weight"].numel() * 16**2  # its input needs no gradient
    assert flops == pytest.approx(4 * (3 * forward - first) / 1e9, abs=0.06)


def test_a_run_is_left_alone(experiments: Experiments) -> None:
    """Also with --reset: it would start over, and doesn't yet."""
    experiments.train("there", max_updates=2).succeeded()
    before = {path.name: path.stat().st_mtime_ns for path in experiments.folder("there").iterdir()}
    for extra in (("--dry_run",), ("--dry_run", "--reset")):
        experiments.train("there", max_updates=4, extra=extra).succeeded()
    assert {path.name: path.stat().st_mtime_ns for path in experiments.folder("there").iterdir()} == before
    assert (experiments.folder("there") / file_name(2)).exists()


@pytest.mark.slow
@pytest.mark.parametrize("config", ["rrdb/rrdb.yaml", "misr/misr_pretrain.yaml", "diffsr_no_encoder.yaml"])
def test_published_sizes_without_data(tmp_path: Path, config: str) -> None:
    done = run(
        "tasks/trainer.py",
        *("--config", ROOT / "configs" / config, "--exp_name", "dry", "--dry_run", "--device", "cpu"),
        cwd=tmp_path,
    ).succeeded()
    assert "of 74x74 pixels" in done.stdout
    assert "no data is configured (data_root)" in done.stderr


def test_data_that_is_not_there(experiments: Experiments) -> None:
    done = experiments.train("dry", extra=("--dry_run",), data_root=experiments.root / "nothing")
    assert done.returncode == 3
    assert str(experiments.root / "nothing") in done.stderr and done.stdout == ""


def peak(experiments: Experiments, name: str, **hparams: object) -> float:
    """GB, as the status line says."""
    done = experiments.train(name, **hparams, max_updates=1, val_check_interval=9, eval_batch_size=1).succeeded()
    return float(re.findall(r"mem=([\d.]+) GB", done.stderr)[-1])


def test_its_memory_is_about_what_is_used(experiments: Experiments) -> None:
    """Within a factor of two, where activations are most of it."""
    wide: dict[str, object] = {"hidden_size": 32, "num_block": 8, "batch_size": 64}
    done = experiments.train("dry", extra=("--dry_run",), **wide).succeeded()
    said = float(re.search(r"memory: about ([\d.]+) GB", done.stdout)[1])  # type: ignore[index]
    used = peak(experiments, "wide", **wide) - peak(experiments, "small")
    assert used > 0.5
    assert 0.5 < said / used < 2
