"""Logs of a training: tables by step, and event files as TensorBoard reads them."""

import contextlib
import io
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tasks.training.logger import StepTable, TrainingLogger


def test_rows_are_written_as_they_come(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    table = StepTable(path, step=0)
    assert not path.exists()
    table.append(5, {"loss": 0.1, "lr": 2e-4})
    table.append(10, {"loss": float("nan"), "lr": 2e-4})
    assert path.read_text() == "step;loss;lr\n5;0.1;0.0002\n10;nan;0.0002\n"
    table.append(15, {"loss": 0.3, "lr": 1e-4, "new": 1.0})
    assert path.read_text() == "step;loss;lr;new\n5;0.1;0.0002;\n10;nan;0.0002;\n15;0.3;0.0001;1.0\n"
    assert list(table.rows) == [5, 10, 15]
    assert table.column("loss", before=10) == [0.1]
    assert table.column("new", before=99) == [1.0]


@pytest.mark.parametrize("step", [0, 4, 5, 12, 15, 99])
def test_a_resumed_run_keeps_rows_up_to_its_step(tmp_path: Path, step: int) -> None:
    path = tmp_path / "log.csv"
    table = StepTable(path, step=0)
    for row in (5, 10, 15):
        table.append(row, {"loss": row / 10})
    whole = path.read_text()
    resumed = StepTable(path, step=step)
    assert list(resumed.rows) == [row for row in (5, 10, 15) if row <= step]
    for row in (5, 10, 15):
        if row > step:
            resumed.append(row, {"loss": row / 10})
    assert path.read_text() == whole


def test_a_row_that_a_kill_cut_short_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    table = StepTable(path, step=0)
    table.append(5, {"loss": 0.5, "lr": 1.0})
    table.append(10, {"loss": 0.25, "lr": 1.0})
    whole = path.read_bytes()
    for length in range(whole.index(b"10;") - 1, len(whole) - len(";1.0\n")):
        path.write_bytes(whole[:length])
        StepTable(path, step=9).append(10, {"loss": 0.25, "lr": 1.0})
        assert path.read_bytes() == whole


@pytest.mark.parametrize("damage", [b"", b"\n", b"\xff\xfe\x00;;\n;1", b"step\nx\n-3\n", b"a;b\n1;2;3;4\n"])
def test_a_damaged_log_starts_anew(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes(damage)
    table = StepTable(path, step=100)
    assert not table.rows
    table.append(5, {"loss": 0.5})
    assert path.read_text() == "step;loss\n5;0.5\n"


@contextlib.contextmanager
def training_log(folder: Path, *, start: int = 0) -> Iterator[TrainingLogger]:
    with contextlib.closing(TrainingLogger(folder, name="test", start=start, final=100)) as log:
        yield log


def log_losses(log: TrainingLogger, *steps: int, factor: float = 1) -> None:
    for step in steps:
        log.training(step, {"loss": step * factor, "lr": 0.5}, memory="1 GB")


def events(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0, "images": 0}).Reload()


def losses(folder: Path) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in events(folder).Scalars("train/loss")]


def test_what_tensorboard_shows(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    with training_log(tmp_path) as log:
        log_losses(log, 1)
        log.training(2, {"loss": float("inf"), "lr": 0.25}, memory="1 GB")
        log.validation(2, {"psnr": float("nan")}, picture)
        found = events(tmp_path)  # while it is open: people watch a training
    assert set(found.Tags()["scalars"]) == {"train/loss", "train/lr", "train/steps_per_second", "val/psnr"}
    assert losses(tmp_path) == [(1, 1), (2, float("inf"))]
    assert np.isnan(found.Scalars("val/psnr")[0].value)
    (image,) = found.Images("val/bicubic_prediction_truth")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(image.encoded_image_string))), picture)


def test_a_resumed_run_replaces_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    with training_log(tmp_path) as log:
        log_losses(log, *range(1, 8))
    for start, factor in ((5, 10), (4, 100)):  # the second one's checkpoint of step 5 was damaged
        with training_log(tmp_path, start=start) as log:
            log_losses(log, *range(start + 1, 10), factor=factor)
    assert losses(tmp_path) == [(step, step if step <= 4 else step * 100) for step in range(1, 10)]


def test_logs_go_on_after_a_full_disk(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Tables lose no row; TensorBoard shows those before and after. It is said once, without a traceback."""
    with training_log(tmp_path) as log:
        log_losses(log, 1)
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (40, before[1]))
        try:
            log_losses(log, 2, 3)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, ignored)
        log_losses(log, 4, 5)
    assert (tmp_path / "train_loss.csv").read_text().splitlines()[1:] == [f"{step};{step};0.5" for step in range(1, 6)]
    assert losses(tmp_path) == [(1, 1), (4, 4), (5, 5)]
    assert [record.message.endswith("training goes on") for record in caplog.records] == [True]
    assert "Traceback" not in capfd.readouterr().err
