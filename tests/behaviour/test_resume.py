"""Trainings that were stopped, killed or damaged, and resumed by the same command, end as one that never was.

To the last bit: weights, optimiser, averaged weights, train_loss.csv, val_res.csv, TensorBoard, the best checkpoint.
"""

import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests import command
from tests.trainings import Experiments, read_rows, same
from utils.checkpoint import BEST, checkpoints, file_name

STEPS = 30
LONG: dict[str, object] = {
    **{"max_updates": STEPS, "save_ckpt_interval": 4, "tb_log_interval": 7, "val_check_interval": 6, "ema_decay": 0.9},
    **{"valid_monitor_key": "psnr", "valid_monitor_mode": "max", "augment": "[flips turns shuffle_dates]"},
}


def board_of(folder: Path) -> dict[str, list[tuple[int, object]]]:
    """What TensorBoard shows: steps and values by tag. Speed is the machine's business."""
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    scalars, images = set(events.Tags()["scalars"]) - {"train/steps_per_second"}, events.Tags()["images"]
    return {
        **{tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in sorted(scalars)},
        **{tag: [(event.step, event.encoded_image_string) for event in events.Images(tag)] for tag in images},
    }


def outcome(folder: Path) -> dict[str, Any]:
    """Everything that a training leaves."""
    weights = {name: torch.load(folder / name, weights_only=True) for name in (file_name(STEPS), BEST)}
    tables = {name: (folder / name).read_text() for name in ("train_loss.csv", "val_res.csv")}
    return {**weights, **tables, "tensorboard": board_of(folder)}


def check_outcome(folder: Path, expected: dict[str, Any]) -> None:
    found = outcome(folder)
    for name, value in expected.items():
        assert same(found[name], value), name
    assert not list(folder.glob(".*.tmp")), "nothing is left lying about"


def train_unstopped(unstopped: Experiments, config: str) -> Path:
    """The folder of the training that was never stopped; it trains once."""
    if config == "srdiff" and not unstopped.folder("backbone").exists():
        unstopped.train("backbone", "rrdb", max_updates=2).succeeded()
    folder = unstopped.folder(config)
    if not folder.exists():
        unstopped.train(config, config, **hparams_of(config, unstopped)).succeeded()
    return folder


def hparams_of(config: str, unstopped: Experiments) -> dict[str, object]:
    return {**LONG, "rrdb_ckpt": unstopped.folder("backbone")} if config == "srdiff" else LONG


@pytest.mark.parametrize("config", ["rrdb", "hr_ltae", "srdiff"])
def test_stopped_by_sigterm_again_and_again(experiments: Experiments, unstopped: Experiments, config: str) -> None:
    """At whatever step it happens to be; each time with another number of processes that read data."""
    expected = outcome(train_unstopped(unstopped, config))
    folder = experiments.folder("stopped")
    chance = random.Random(config)
    stops = 0
    for workers in (2, 0, 1, 3, 0, 2, 0):
        run = experiments.start("stopped", config, **hparams_of(config, unstopped), num_workers=workers)
        if stops < 4:
            run.wait_for("step/s]")
            time.sleep(chance.uniform(0.0, 0.3))
            if run.is_alive:
                run.send(signal.SIGTERM)
        done = run.wait()
        assert done.returncode in (0, 128 + signal.SIGTERM), done.stderr
        if done.returncode == 0:
            break
        stops += 1
        assert f"of {STEPS}; the same command without --reset goes on" in done.stderr
        assert "Traceback" not in done.stderr
    assert stops >= 2
    check_outcome(folder, expected)


def kill_and_resume(experiments: Experiments, folder: Path, *, kills: int, chance: random.Random) -> None:
    """Kill at random moments, every other time while a checkpoint is being written; start again, to the end."""
    moments = sorted(chance.sample(range(0, STEPS - 4, 4), kills))  # after these checkpoints
    killed = 0
    for number, step in enumerate(moments):
        run = experiments.start(folder.name, **LONG, num_workers=number % 3)
        run.wait_for(folder / file_name(step) if step else "step/s]")
        if number % 2:
            while run.is_alive and not list(folder.glob(".model_ckpt_*.tmp")):
                pass
        else:
            time.sleep(chance.uniform(0.0, 0.1))
        if run.is_alive:
            run.send(signal.SIGKILL)
        killed += run.wait().returncode == -signal.SIGKILL
    assert killed >= kills - 1
    experiments.train(folder.name, **LONG).succeeded()


@pytest.mark.parametrize(
    ("kills", "seed"), [(3, 3), *(pytest.param(4, seed, marks=pytest.mark.soak) for seed in range(5))]
)
def test_killed(experiments: Experiments, unstopped: Experiments, kills: int, seed: int) -> None:
    expected = outcome(train_unstopped(unstopped, "rrdb"))
    kill_and_resume(experiments, experiments.folder("killed"), kills=kills, chance=random.Random(seed))
    check_outcome(experiments.folder("killed"), expected)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_a_damaged_newest_checkpoint(experiments: Experiments, unstopped: Experiments, damage: str) -> None:
    """It is reported, and the one before is used; what comes of it is the same."""
    experiments.train("damaged", **LONG).succeeded()
    folder, chance = experiments.folder("damaged"), random.Random(damage)
    for step in (STEPS, 28):
        path = folder / file_name(step)
        content = bytearray(path.read_bytes())
        if damage == "truncated":
            content = content[: chance.randrange(1, len(content))]
        elif damage == "flipped":
            content[len(content) // 2 + chance.randrange(100)] ^= 1 << chance.randrange(8)
        else:
            content.clear()
        path.write_bytes(content)
    done = experiments.train("damaged", **LONG, num_ckpt_keep=1).succeeded()
    for step in (STEPS, 28):
        assert f"{file_name(step)} is " in done.stderr
        assert (folder / f"{file_name(step)}.damaged").exists()
    assert "resuming after step 24" in done.stderr
    check_outcome(folder, outcome(train_unstopped(unstopped, "rrdb")))


def test_all_checkpoints_damaged(experiments: Experiments) -> None:
    """Nothing starts over by itself, and nothing is overwritten."""
    experiments.train("damaged", max_updates=6).succeeded()
    for path in experiments.folder("damaged").glob("*.ckpt"):
        path.write_bytes(b"")
    done = experiments.train("damaged", max_updates=6)
    assert done.returncode == 4 and "checkpoints/damaged" in done.error
    assert {path.stat().st_size for path in experiments.folder("damaged").glob("*.ckpt")} == {0}


def test_the_best_checkpoint_is_kept_besides(unstopped: Experiments) -> None:
    folder = train_unstopped(unstopped, "rrdb")
    rows = read_rows(folder / "val_res.csv")
    best = max(rows, key=lambda row: float(row["psnr"]))
    assert torch.load(folder / BEST, weights_only=True)["global_step"] == int(best["step"])
    assert list(checkpoints(folder)) == [24, 28, STEPS]
    assert [row["step"] for row in rows] == ["6", "12", "18", "24", "30"]


def test_the_same_command_as_a_process_of_its_own(experiments: Experiments, unstopped: Experiments) -> None:
    """As users start it. It goes on from where another one stopped; and at the end says that there is nothing to do."""
    expected = outcome(train_unstopped(unstopped, "rrdb"))
    run = experiments.start("same", **LONG)
    run.wait_for(experiments.folder("same") / file_name(8))
    run.send(signal.SIGINT)
    run.wait()
    arguments = ("--config", "checkpoints/same/config.yaml", "--exp_name", "same")
    done = command.succeed_from_cold("tasks/trainer.py", *arguments, cwd=experiments.root, CUDA_VISIBLE_DEVICES="")
    assert "resuming after step" in done.stderr
    assert f"already at step {STEPS}" in experiments.train("same", **LONG).succeeded().stderr
    check_outcome(experiments.folder("same"), expected)
