"""Being asked to stop, and processes that must not get in each other's way."""

import os
import signal
import time
from pathlib import Path

import pytest
import torch

from tests.trainings import Experiments, Process, read_rows, same
from utils.checkpoint import BEST, checkpoints, file_name

NEVER = 100_000
ENDLESS: dict[str, object] = {"max_updates": NEVER, "save_ckpt_interval": NEVER, "val_check_interval": NEVER}
ENDLESS |= {"tb_log_interval": 1}


def members(group: int) -> list[int]:
    """The living processes of a group."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(entry.name)) == group and "Z" not in (entry / "stat").read_text().rsplit(")")[-1][:3]:
                found.append(int(entry.name))
        except (OSError, ProcessLookupError):
            continue
    return found


def wait_until_empty(group: int, *, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while members(group):
        assert time.monotonic() < deadline, "processes are left behind"
        time.sleep(0.1)


def started(experiments: Experiments, name: str, **hparams: object) -> Process:
    """A training that has made a step."""
    run = experiments.start(name, **ENDLESS, **hparams)
    run.wait_for(experiments.folder(name) / "train_loss.csv")
    assert run.is_alive, run.stderr
    return run


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("workers", [0, 2])
def test_asked_to_stop(experiments: Experiments, number: int, workers: int) -> None:
    """Ctrl-C in a terminal, and schedulers: the processes that read data get the signal too, and leave it to us."""
    run = started(experiments, "asked", num_workers=workers)
    assert len(members(run.pid)) == 1 + workers
    run.send(number, group=True)
    done = run.wait(60)
    assert done.returncode == 128 + number, done.stderr
    (step,) = checkpoints(experiments.folder("asked"))
    assert f"stopped after step {step} of {NEVER}" in done.error
    wait_until_empty(run.pid, timeout=30)


def test_asked_twice(experiments: Experiments) -> None:
    """The step takes too long: a second signal leaves at once, and what was saved stays."""
    experiments.train("twice", max_updates=2).succeeded()
    before = (experiments.folder("twice") / file_name(2)).read_bytes()
    run = experiments.start("twice", max_updates=9, accumulate_grad_batches=2000, num_workers=1)
    run.wait_for("step/s]")
    time.sleep(1)
    run.send(signal.SIGTERM)
    time.sleep(0.5)
    assert run.is_alive, "it finishes the step first"
    run.send(signal.SIGTERM)
    done = run.wait(10)
    assert done.returncode == -signal.SIGTERM
    assert list(checkpoints(experiments.folder("twice"))) == [2]
    assert (experiments.folder("twice") / file_name(2)).read_bytes() == before
    wait_until_empty(run.pid, timeout=30)


def test_stopped_while_it_validates(experiments: Experiments) -> None:
    """The validation is left for later; the outcome is that of a training that was not stopped."""
    options: dict[str, object] = {"max_updates": 7, "save_ckpt_interval": 7, "eval_batch_size": 1}
    experiments.train("unstopped", **options).succeeded()
    for attempt in range(20):  # until the signal comes while it validates
        name = f"stopped{attempt}"
        run = experiments.start(name, **options)
        run.wait_for("validating")
        run.send(signal.SIGTERM)
        done = run.wait(60)
        if "stopped after step 6" in done.stderr and not rows(experiments, name):
            break
    assert done.returncode == 143
    assert rows(experiments, name) == []
    assert list(checkpoints(experiments.folder(name))) == [6]
    experiments.train(name, **options).succeeded()
    assert rows(experiments, name) == rows(experiments, "unstopped") != []
    assert same(experiments.checkpoint(name, 7), experiments.checkpoint("unstopped", 7))
    best = [torch.load(experiments.folder(which) / BEST, weights_only=True) for which in (name, "unstopped")]
    assert same(*best)


def rows(experiments: Experiments, name: str) -> list[dict[str, str]]:
    path = experiments.folder(name) / "val_res.csv"
    return read_rows(path) if path.exists() else []


def test_killed_with_processes_that_read_data(experiments: Experiments) -> None:
    """They end by themselves, and don't keep the experiment locked meanwhile."""
    run = experiments.start("killed", **{**ENDLESS, "save_ckpt_interval": 1}, num_workers=2)
    run.wait_for(experiments.folder("killed") / file_name(1))
    run.send(signal.SIGKILL)
    run.wait()
    done = experiments.train("killed", max_updates=3).succeeded()
    assert "resuming after step" in done.stderr
    wait_until_empty(run.pid, timeout=60)


def test_two_can_not_write_the_same_experiment(experiments: Experiments) -> None:
    run = started(experiments, "locked")
    for extra in ((), ("--reset",)):
        second = experiments.train("locked", **ENDLESS, extra=extra)
        assert second.returncode == 2
        assert "checkpoints/locked" in second.error
    assert run.is_alive
    run.send(signal.SIGTERM)
    assert run.wait(60).returncode == 143
    experiments.train("locked", max_updates=1).succeeded()


def test_started_over(experiments: Experiments) -> None:
    experiments.train("again", max_updates=3).succeeded()
    first = (experiments.folder("again") / file_name(3)).read_bytes()
    done = experiments.train("again", max_updates=2, extra=("--reset",)).succeeded()
    assert "--reset: what was in checkpoints/again is now in checkpoints/again.before-1" in done.stderr
    assert list(checkpoints(experiments.folder("again"))) == [2]
    assert (experiments.folder("again.before-1") / file_name(3)).read_bytes() == first
    assert len(rows(experiments, "again")) == 1
