"""What goes wrong in days: a full disk, numbers that are not finite, memory that runs out, data that is damaged."""

import shutil
from pathlib import Path

import pytest
import torch

from tests.trainings import Experiments, same
from utils.checkpoint import checkpoints, file_name

LIMIT = 200_000  # bytes: more than every log needs, less than a checkpoint


def test_a_full_disk_from_the_start(experiments: Experiments) -> None:
    done = experiments.train("full", largest_file=LIMIT)
    assert done.returncode == 5
    assert f"{file_name(5)} of step 5 could not be saved: " in done.stderr
    assert done.stderr.count("training goes on") == 3, "once for each kind: the first, and two that were the best"
    assert "checkpoint could not be saved" in done.error
    assert "Traceback" not in done.stderr
    folder = experiments.folder("full")
    assert not [*folder.glob("*.ckpt"), *folder.glob(".*.tmp")]
    assert experiments.column("full", "step") == [4, 8, 12]


def test_a_full_disk_keeps_what_was_saved(experiments: Experiments) -> None:
    """And a later start goes on from it, to the same end."""
    experiments.train("whole", max_updates=9).succeeded()
    experiments.train("full", max_updates=5).succeeded()
    folder = experiments.folder("full")
    before = {path.name: path.read_bytes() for path in folder.glob("*.ckpt")}
    assert experiments.train("full", max_updates=9, largest_file=LIMIT).returncode == 5
    assert {path.name: path.read_bytes() for path in folder.glob("*.ckpt")} == before
    experiments.train("full", max_updates=9).succeeded()
    for part in ("state_dict", "optimizer_states"):
        assert same(experiments.checkpoint("full", 9)[part], experiments.checkpoint("whole", 9)[part])


def test_a_full_disk_that_was_emptied(experiments: Experiments) -> None:
    """What could not be saved is tried again with the next row of the log, and the training ends well."""
    folder = experiments.folder("emptied")
    obstacle = folder / file_name(5)
    (obstacle / "in the way").mkdir(parents=True)
    done = experiments.train("emptied", val_check_interval=100).succeeded()
    assert f"{file_name(5)} of step 5 could not be saved: " in done.stderr
    assert "the checkpoint of step 8 could be saved" in done.stderr
    assert list(checkpoints(folder)) == [8, 10, 12]


def damaged_copy(experiments: Experiments, tmp_path: Path) -> tuple[Path, Path]:
    """A copy of the prepared data, and a shard of its training split."""
    shutil.copytree(experiments.data / "preprocessed", tmp_path / "damaged")
    (path,) = (tmp_path / "damaged").glob("train-*.pt")
    return tmp_path / "damaged", path


@pytest.mark.parametrize("workers", [0, 1])
def test_a_sample_that_is_not_finite(experiments: Experiments, tmp_path: Path, workers: int) -> None:
    """Its name is in the message."""
    damaged, path = damaged_copy(experiments, tmp_path)
    shard = torch.load(path, weights_only=True)
    shard["matching"][3, 1] = torch.nan
    with path.open("r+b") as file:  # of the same size, as the manifest says
        torch.save(shard, file)
    done = experiments.train("sample", data_root=damaged, num_workers=workers, save_ckpt_interval=1)
    assert done.returncode == 5
    names = done.error.split("samples ")[1].split(";")[0].split(", ")
    assert str(shard["key"][3]) in names and len(names) == 2
    step = int(done.error.split("loss or gradient is not finite in step ")[1].split()[0])
    found = checkpoints(experiments.folder("sample"))
    assert max(found, default=0) == step - 1
    for at in found:
        state = experiments.checkpoint("sample", at)["state_dict"]["model"]
        assert all(value.isfinite().all() for value in state.values())


@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_data(experiments: Experiments, tmp_path: Path, workers: int) -> None:
    """One line from whichever process met it."""
    damaged, path = damaged_copy(experiments, tmp_path)
    path.write_bytes(b"\0" * path.stat().st_size)
    done = experiments.train("damaged", data_root=damaged, num_workers=workers)
    assert done.returncode == 3, done.stderr
    assert str(path) in done.error


def test_out_of_memory(experiments: Experiments) -> None:
    """A batch of one fits into the memory that there is; for others the key to change is named."""
    wide: dict[str, object] = {"hidden_size": 64, "num_block": 12, "max_updates": 1, "more_memory": 700 << 20}
    done = experiments.train("wide", **wide, batch_size=48, eval_batch_size=1)
    assert done.returncode == 5
    assert "batch_size (now 48)" in done.error
    experiments.train("wide", **wide, batch_size=1, eval_batch_size=1).succeeded()


@pytest.mark.parametrize(
    ("hparams", "message"),
    [
        ({"valid_monitor_key": "pnsr"}, "valid_monitor_key must be one of val_loss, psnr, ssim, mae, mse, shift_mae"),
        ({"ema_decay": 1}, "ema_decay must be at most 0.999999"),
        ({"train_crop": 99}, "train_crop is 99"),
        ({"init_from": "nowhere"}, "nowhere doesn't exist"),
    ],
)
def test_what_is_known_is_said_at_once(experiments: Experiments, hparams: dict[str, object], message: str) -> None:
    done = experiments.train("wrong", **hparams)
    assert done.returncode in (2, 4)
    assert message in done.error
    assert not list(experiments.folder("wrong").glob("*.ckpt"))
