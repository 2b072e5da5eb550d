"""CSV logs by step."""

from pathlib import Path

import pytest

from tasks.training import logger
from tasks.training.logger import StepTable


def test_rows_are_written_as_they_come(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    table = StepTable(path, step=0)
    assert not path.exists()
    table.append(5, {"loss": 0.1, "lr": 2e-4})
    table.append(10, {"loss": float("nan"), "lr": 2e-4})
    assert path.read_text() == "step;loss;lr\n5;0.1;0.0002\n10;nan;0.0002\n"
    table.append(15, {"loss": 0.3, "lr": 1e-4, "new": 1.0})
    assert path.read_text() == "step;loss;lr;new\n5;0.1;0.0002;\n10;nan;0.0002;\n15;0.3;0.0001;1.0\n"
    assert table.has(10)
    assert not table.has(11)
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
    assert [int(row["step"]) for row in resumed.rows] == [row for row in (5, 10, 15) if row <= step]
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
        resumed = StepTable(path, step=9)
        resumed.append(10, {"loss": 0.25, "lr": 1.0})
        assert path.read_bytes() == whole


@pytest.mark.parametrize("damage", [b"", b"\n", b"\xff\xfe\x00;;\n;1", b"step\nx\n-3\n", b"a;b\n1;2;3;4\n"])
def test_a_damaged_log_starts_anew(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes(damage)
    table = StepTable(path, step=100)
    assert table.rows == []
    table.append(5, {"loss": 0.5})
    assert path.read_text() == "step;loss\n5;0.5\n"


def test_a_full_disk_loses_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log.csv"
    table = StepTable(path, step=0)
    table.append(1, {"loss": 0.1})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(logger.os, "fsync", full)
        for step in (2, 3):
            with pytest.raises(OSError, match="No space"):
                table.append(step, {"loss": step / 10})
    table.append(4, {"loss": 0.4})
    assert path.read_text() == "step;loss\n1;0.1\n2;0.2\n3;0.3\n4;0.4\n"
