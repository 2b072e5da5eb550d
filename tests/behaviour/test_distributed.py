"""Several processes train, validate and evaluate as one would; one that fails ends all."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.golden.large import ROOT
from tests.trainings import CONFIGS, Experiments, free_port, same
from utils.checkpoint import checkpoints

SHARED: dict[str, object] = {"batch_size": 4, "max_updates": 6, "tb_log_interval": 1, "val_check_interval": 3}


def table(path: Path) -> list[dict[str, float]]:
    with path.open(newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file, delimiter=";")]


def check_rows(path: Path, expected: Path, *, rel: float) -> None:
    """Gradients may differ more: float32 sums over all pixels come in another order."""
    one, other = table(path), table(expected)
    assert len(one) == len(other) > 0
    for row, wanted in zip(one, other, strict=True):
        assert row.pop("grad_norm", 0) == pytest.approx(wanted.pop("grad_norm", 0), rel=1e-3)
        assert row == pytest.approx(wanted, rel=rel), path.name


@pytest.fixture
def alone(unstopped: Experiments) -> Experiments:
    """The same trainings by one process; each is made once."""
    if not unstopped.folder("alone_rrdb").exists():
        unstopped.train("alone_rrdb", "rrdb", **SHARED).succeeded()
        unstopped.train("alone_srdiff", "srdiff", **SHARED, rrdb_ckpt="checkpoints/alone_rrdb").succeeded()
    return unstopped


@pytest.mark.parametrize("config", ["rrdb", "srdiff"])
def test_two_processes_train_as_one(experiments: Experiments, alone: Experiments, config: str) -> None:
    """Half the batch each: the same losses, gradients and validation; and it goes on with another number of them."""
    options = {**SHARED, **({"rrdb_ckpt": alone.folder("alone_rrdb")} if config == "srdiff" else {})}
    first, second = experiments.train_together(2, "two", config, **{**options, "max_updates": 3})
    first.succeeded()
    second.succeeded()
    assert second.stderr == "", "only the main process speaks"
    assert "find_unused_parameters" not in first.stderr
    experiments.train("two", config, **options).succeeded()
    here, there = experiments.folder("two"), alone.folder(f"alone_{config}")
    check_rows(here / "train_loss.csv", there / "train_loss.csv", rel=1e-5)
    check_rows(here / "val_res.csv", there / "val_res.csv", rel=1e-5)
    one, other = (torch.load(folder / "model_ckpt_steps_6.ckpt", weights_only=True) for folder in (here, there))
    for name, value in one["state_dict"]["model"].items():
        assert torch.allclose(value, other["state_dict"]["model"][name], atol=2e-4), name


def test_two_processes_evaluate_as_one(experiments: Experiments, alone: Experiments) -> None:
    """Each patch once, the same figures, files by the main process alone; three patches by two processes."""
    together = alone.start_together(
        2, "alone_srdiff", "srdiff", **SHARED, extra=("--infer",), lpips_weights=alone.data / "lpips.pt"
    )
    first, second = (run.wait().succeeded() for run in together)
    assert (second.stdout, second.stderr) == ("", "")
    folder = alone.folder("alone_srdiff")
    sharded = (folder / "test_results.csv").read_text()
    assert len(sharded.splitlines()) == 4
    alone.infer("alone_srdiff", "srdiff", **SHARED)
    check_rows(folder / "test_results.csv", _written(experiments.root / "sharded.csv", sharded), rel=1e-6)
    assert json.loads((folder / "summary.json").read_text())["n"] == 3
    assert "alone_srdiff" in first.stdout


def _written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_gradients_are_exchanged_once_a_step(experiments: Experiments) -> None:
    options = {**SHARED, "accumulate_grad_batches": 2, "max_updates": 3, "ema_decay": 0.5, "clip_grad_norm": 0.5}
    experiments.train("one", **options).succeeded()
    for done in experiments.train_together(2, "two", **options):
        done.succeeded()
    check_rows(experiments.folder("two") / "train_loss.csv", experiments.folder("one") / "train_loss.csv", rel=1e-5)
    one, other = (experiments.checkpoint(name, 3)["ema"] for name in ("one", "two"))
    for name, value in one.items():
        assert torch.allclose(value, other[name], atol=2e-4), name


def test_batch_statistics_are_those_of_all_processes(experiments: Experiments) -> None:
    """Each process normalises by its own share, and says so; the running statistics are their means."""
    options: dict[str, object] = {**SHARED, "max_updates": 1, "ema_decay": 0.5}
    first, second = experiments.train_together(2, "two", "hr_ltae", **options)
    assert "BatchNorm: each process normalises by its own share of a batch" in first.succeeded().stderr
    second.succeeded()
    experiments.train("one", "hr_ltae", **options).succeeded()
    # The first step's weights were the same; what is left is the dropout of the attention.
    name = "temporal_encoder.mlp.1.running_mean"
    for part in (lambda content: content["state_dict"]["model"], lambda content: content["ema"]):
        one, two = (part(experiments.checkpoint(which, 1))[name] for which in ("one", "two"))
        assert (one - two).norm() / one.norm() < 0.02


def test_parameters_without_use(experiments: Experiments) -> None:
    """A series of one view is not fused; the conditioner's head serves nothing without a loss of its own."""
    for done in experiments.train_together(2, "one_view", "hr_ltae", **SHARED, sen2_amount=1):
        done.succeeded()
    experiments.train("backbone", max_updates=1).succeeded()
    options = {**SHARED, "rrdb_ckpt": "checkpoints/backbone", "fix_rrdb": False, "aux_l1_loss": False}
    for done in experiments.train_together(2, "no_head", "srdiff", **options):
        assert "find_unused_parameters" not in done.succeeded().stderr
    state = experiments.checkpoint("no_head", 6)
    backbone = experiments.checkpoint("backbone", 1)["state_dict"]["model"]
    now = state["state_dict"]["model"]
    assert same(now["rrdb.conv_last.weight"], backbone["conv_last.weight"])
    assert not same(now["rrdb.conv_first.weight"], backbone["conv_first.weight"])


def test_all_stop_when_one_is_asked_to(experiments: Experiments) -> None:
    runs = experiments.start_together(2, "asked", **{**SHARED, "max_updates": 100_000, "val_check_interval": 100_000})
    runs[0].wait_for(experiments.folder("asked") / "train_loss.csv")
    runs[1].send(signal.SIGTERM)
    finished = [run.wait(60) for run in runs]
    assert [done.returncode for done in finished] == [143, 143]
    (step,) = checkpoints(experiments.folder("asked"))
    said = "".join(done.stderr for done in finished)
    assert said.count(f"stopped after step {step} of 100000") == 1
    assert "Traceback" not in said


@pytest.mark.parametrize("rank", [0, 1])
def test_one_that_fails_ends_all_with_its_error(experiments: Experiments, rank: int) -> None:
    """The others have nothing to say."""
    runs = experiments.start_together(2, "fails", **{**SHARED, "max_updates": 100_000}, of_rank={rank: {"lr": -1}})
    finished = [run.wait(60) for run in runs]
    assert [done.returncode for done in finished] == [2, 5] if rank == 0 else [5, 2]
    assert "lr must be at least 0" in finished[rank].stderr
    assert finished[1 - rank].stderr == ""


def test_an_error_of_all_is_said_once(experiments: Experiments) -> None:
    finished = experiments.train_together(2, "wrong", **{**SHARED, "batch_size": 3})
    assert [done.returncode for done in finished] == [2, 2]
    said = "".join(done.stderr for done in finished)
    assert said.count("\n") == 1
    assert "batch_size 3" in said


def test_one_that_is_killed_ends_all(experiments: Experiments) -> None:
    runs = experiments.start_together(2, "killed", **{**SHARED, "max_updates": 100_000})
    runs[0].wait_for(experiments.folder("killed") / "train_loss.csv")
    killed = time.monotonic()
    runs[1].send(signal.SIGKILL)
    done = runs[0].wait(60)
    assert time.monotonic() - killed < 30
    assert done.returncode == 5
    assert "another process has ended" in done.error


def torchrun(experiments: Experiments, name: str, **hparams: object) -> subprocess.Popen:
    """Two processes of torchrun's own, with processes that read data."""
    values = {"data_root": experiments.data, **CONFIGS["rrdb"][1], **SHARED, "num_workers": 1, **hparams}
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", 2, "--master_port", free_port()),
        *(ROOT / "tasks/trainer.py", "--config", ROOT / "configs/rrdb/rrdb.yaml", "--exp_name", name),
        *("--device", "cpu", "--hparams", ",".join(f"{key}={value}" for key, value in values.items())),
    ]
    return subprocess.Popen(
        list(map(str, command)),
        cwd=experiments.root,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_torchrun(experiments: Experiments) -> None:
    """The command as people give it, with processes that read data, stopped by a signal, which it passes on."""
    log = experiments.folder("stopped") / "train_loss.csv"
    endless: dict[str, object] = {"max_updates": 100_000, "val_check_interval": 100_000}
    with torchrun(experiments, "stopped", **endless) as run:
        deadline = time.monotonic() + 120
        while run.poll() is None and not log.exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        run.send_signal(signal.SIGTERM)
        said = run.communicate(timeout=90)[1]
    (step,) = checkpoints(experiments.folder("stopped"))
    assert said.count(f"stopped after step {step} of 100000") == 1, said
