"""Event files as TensorBoard reads them."""

import io
import resource
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tasks.training.logger import Board


def read(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_scalars_and_pictures(tmp_path: Path) -> None:
    board = Board(tmp_path, step=0)
    board.scalars(1, {"a": 0.5, "b": 2.0})
    board.scalars(2, {"a": float("nan"), "b": float("inf")})
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    board.picture(2, "shown", picture)
    found = read(tmp_path)  # while it is open: people watch a training
    assert found["a"][0] == (1, 0.5)
    assert np.isnan(found["a"][1][1])
    assert found["b"] == [(1, 2.0), (2, float("inf"))]
    events = EventAccumulator(str(tmp_path), size_guidance={"images": 0})
    events.Reload()
    (image,) = events.Images("shown")
    assert (image.step, image.width, image.height) == (2, 7, 5)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(image.encoded_image_string))), picture)
    board.close()


def test_resumed_runs_replace_what_came_after_their_checkpoint(tmp_path: Path) -> None:
    first = Board(tmp_path, step=0)
    for step in range(1, 8):
        first.scalars(step, {"a": step})
    for start, factor in ((5, 10), (4, 100)):  # the second one's checkpoint of step 5 was damaged
        board = Board(tmp_path, step=start)
        for step in range(start + 1, 10):
            board.scalars(step, {"a": step * factor})
    assert read(tmp_path)["a"] == [(step, step if step <= 4 else step * 100) for step in range(1, 10)]


def test_a_record_that_a_kill_cut_short(tmp_path: Path) -> None:
    board = Board(tmp_path, step=0)
    board.scalars(1, {"a": 1})
    board.scalars(2, {"a": 2})
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-5])
    Board(tmp_path, step=1).scalars(2, {"a": 20})
    assert read(tmp_path)["a"] == [(1, 1), (2, 20)]


def test_a_full_disk_loses_no_row(tmp_path: Path) -> None:
    board = Board(tmp_path, step=0)
    board.scalars(1, {"a": 1})
    (path,) = tmp_path.iterdir()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20, before[1]))
    try:
        for step in (2, 3):
            with pytest.raises(OSError, match="too large"):
                board.scalars(step, {"a": step})
        assert read(tmp_path)["a"] == [(1, 1)]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    board.scalars(4, {"a": 4})
    assert read(tmp_path)["a"] == [(step, step) for step in range(1, 5)]
