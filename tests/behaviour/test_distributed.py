"""Several processes train, validate and evaluate as one would; one that fails ends all."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.golden.large import ROOT
from tests.trainings import CONFIGS, Experiments, read_rows, same
from utils.checkpoint import checkpoints

SHARED: dict[str, object] = {"batch_size": 4, "max_updates": 6, "tb_log_interval": 1, "val_check_interval": 3}
ENDLESS: dict[str, object] = {**SHARED, "max_updates": 100_000, "val_check_interval": 100_000}


def numbers(path: Path) -> list[dict[str, float]]:
    return [{key: float(value) for key, value in row.items()} for row in read_rows(path)]


def check_rows(found: list[dict[str, float]], expected: list[dict[str, float]], *, rel: float) -> None:
    """Gradients may differ more: float32 sums over all pixels come in another order."""
    assert len(found) == len(expected) > 0
    for row, wanted in zip(found, expected, strict=True):
        assert row.pop("grad_norm", 0) == pytest.approx(wanted.pop("grad_norm", 0), rel=1e-3)
        assert row == pytest.approx(wanted, rel=rel)


def check_training(folder: Path, expected: Path, *, step: int, part: str = "state_dict") -> None:
    """The same logs to rounding, the same weights but for what Adam makes of it."""
    for table in ("train_loss.csv", "val_res.csv"):
        check_rows(numbers(folder / table), numbers(expected / table), rel=1e-5)
    one, other = (
        torch.load(at / f"model_ckpt_steps_{step}.ckpt", weights_only=True)[part] for at in (folder, expected)
    )
    torch.testing.assert_close(one, other, rtol=0, atol=2e-4)


@pytest.fixture
def alone(unstopped: Experiments) -> Experiments:
    """The same trainings by one process; each is made once."""
    if not unstopped.folder("alone_rrdb").exists():
        unstopped.train("alone_rrdb", "rrdb", **SHARED).succeeded()
        for config in ("srdiff", "flow"):
            unstopped.train(f"alone_{config}", config, **SHARED, rrdb_ckpt="checkpoints/alone_rrdb").succeeded()
    return unstopped


@pytest.mark.parametrize("config", ["rrdb", "srdiff", "flow"])
def test_two_processes_train_as_one(experiments: Experiments, alone: Experiments, config: str) -> None:
    """Half the batch each: the same losses, gradients and validation; and it goes on with another number of them."""
    options = {**SHARED, **({} if config == "rrdb" else {"rrdb_ckpt": alone.folder("alone_rrdb")})}
    first, second = experiments.train_together(2, "two", config, **{**options, "max_updates": 3})
    first.succeeded()
    assert second.succeeded().stderr == "", "only the main process speaks"
    assert "find_unused_parameters" not in first.stderr
    experiments.train("two", config, **options).succeeded()
    check_training(experiments.folder("two"), alone.folder(f"alone_{config}"), step=6)


def test_two_processes_evaluate_as_one(alone: Experiments) -> None:
    """Each patch once, the same figures, files by the main process alone; three patches by two processes."""
    together = alone.start_together(
        2, "alone_srdiff", "srdiff", **SHARED, extra=("--infer",), lpips_weights=alone.data / "lpips.pt"
    )
    first, second = (run.wait().succeeded() for run in together)
    assert (second.stdout, second.stderr) == ("", "")
    assert "alone_srdiff" in first.stdout
    results = alone.folder("alone_srdiff") / "test_results.csv"
    shared = numbers(results)
    assert len(shared) == 3
    alone.infer("alone_srdiff", "srdiff", **SHARED)
    check_rows(shared, numbers(results), rel=1e-6)


def test_gradients_are_exchanged_once_a_step(experiments: Experiments) -> None:
    options = {**SHARED, "accumulate_grad_batches": 2, "max_updates": 3, "ema_decay": 0.5, "clip_grad_norm": 0.5}
    experiments.train("one", **options).succeeded()
    for done in experiments.train_together(2, "two", **options):
        done.succeeded()
    check_training(experiments.folder("two"), experiments.folder("one"), step=3, part="ema")


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
    for done in experiments.train_together(2, "one_view", "hr_ltae", **{**SHARED, "max_updates": 2}, sen2_amount=1):
        done.succeeded()
    experiments.train("backbone", max_updates=1).succeeded()
    options = {**SHARED, "rrdb_ckpt": "checkpoints/backbone", "fix_rrdb": False, "aux_l1_loss": False}
    for done in experiments.train_together(2, "no_head", "srdiff", **options):
        assert "find_unused_parameters" not in done.succeeded().stderr
    backbone = experiments.checkpoint("backbone", 1)["state_dict"]["model"]
    now = experiments.checkpoint("no_head", 6)["state_dict"]["model"]
    assert same(now["rrdb.conv_last.weight"], backbone["conv_last.weight"])
    assert not same(now["rrdb.conv_first.weight"], backbone["conv_first.weight"])


def test_all_stop_when_one_is_asked_to(experiments: Experiments) -> None:
    runs = experiments.start_together(2, "asked", **ENDLESS)
    runs[0].wait_for(experiments.folder("asked") / "train_loss.csv")
    runs[1].send(signal.SIGTERM)
    finished = [run.wait(60) for run in runs]
    assert [done.returncode for done in finished] == [143, 143]
    (step,) = checkpoints(experiments.folder("asked"))
    said = "".join(done.stderr for done in finished)
    assert said.count(f"stopped after step {step} of 100000") == 1
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("wrong", "codes"), [({0: {"lr": -1}}, [2, 5]), ({1: {"lr": -1}}, [5, 2]), ({0: {}, 1: {}}, [2, 2])]
)
def test_an_error_is_said_once(experiments: Experiments, wrong: dict[int, dict], codes: list[int]) -> None:
    """One process fails and ends all, or all fail alike: the others have nothing to say."""
    options = {**ENDLESS, "batch_size": 3} if len(wrong) == 2 else ENDLESS
    finished = [run.wait(60) for run in experiments.start_together(2, "fails", **options, of_rank=wrong)]
    assert [done.returncode for done in finished] == codes
    said = "".join(done.stderr for done in finished)
    assert said.count("\n") == 1
    assert ("batch_size 3" if len(wrong) == 2 else "lr must be") in said


def test_one_that_is_killed_ends_all(experiments: Experiments) -> None:
    runs = experiments.start_together(2, "killed", **ENDLESS)
    runs[0].wait_for(experiments.folder("killed") / "train_loss.csv")
    killed = time.monotonic()
    runs[1].send(signal.SIGKILL)
    done = runs[0].wait(60)
    assert time.monotonic() - killed < 30
    assert done.returncode == 5
    assert "another process has ended" in done.error


@pytest.mark.slow
def test_torchrun(experiments: Experiments) -> None:
    """The command as people give it, with processes that read data, stopped by a signal, which it passes on."""
    values = {"data_root": experiments.data, **CONFIGS["rrdb"][1], **ENDLESS, "num_workers": 1}
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", 2),
        *(ROOT / "tasks/trainer.py", "--config", ROOT / "configs/rrdb/rrdb.yaml", "--exp_name", "stopped"),
        *("--device", "cpu", "--hparams", ",".join(f"{key}={value}" for key, value in values.items())),
    ]
    log = experiments.folder("stopped") / "train_loss.csv"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        list(map(str, command)), cwd=experiments.root, env=environment, stderr=subprocess.PIPE, text=True
    ) as run:
        deadline = time.monotonic() + 120
        while run.poll() is None and not log.exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        run.send_signal(signal.SIGTERM)
        said = run.communicate(timeout=90)[1]
    (step,) = checkpoints(experiments.folder("stopped"))
    assert said.count(f"stopped after step {step} of 100000") == 1, said
