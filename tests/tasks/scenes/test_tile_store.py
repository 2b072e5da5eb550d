"""Records on disk that survive a kill."""

from pathlib import Path

import numpy as np
import pytest

from tasks.scenes.tile_store import TileStore
from utils.errors import DataError

RECORD = np.dtype([("image", "<u2", (2, 3)), ("flag", "u1")])


def record(value: int) -> np.ndarray:
    made = np.zeros((), RECORD)
    made["image"], made["flag"] = value, value % 2
    return made


def opened(folder: Path, *, work: str = "a", first: bool = True) -> TileStore:
    return TileStore(folder, record=RECORD, fingerprint={"work": work}, first=first)


def test_records_come_back_and_count_once_written(tmp_path: Path) -> None:
    store = opened(tmp_path / "s")
    for index in (5, 0, 2):
        store.write(index, record(100 + index))
    again = opened(tmp_path / "s")
    assert again.finished() == {0, 2, 5}
    assert (again.read(5, "image") == 105).all()
    assert again.read(2, "flag") == 0
    again.remove()
    assert not (tmp_path / "s").exists()


def test_other_work_starts_anew(tmp_path: Path) -> None:
    opened(tmp_path / "s").write(0, record(1))
    assert opened(tmp_path / "s", work="b").finished() == set()
    assert opened(tmp_path / "s", work="a").finished() == set()


def test_what_was_cut_short_does_not_count(tmp_path: Path) -> None:
    store = opened(tmp_path / "s")
    for index in range(4):
        store.write(index, record(index + 1))
    journal, data = tmp_path / "s" / "journal.txt", tmp_path / "s" / "records.bin"
    lines = journal.read_bytes()
    data.write_bytes(data.read_bytes()[: 3 * RECORD.itemsize + 2])  # the last record is cut
    assert store.finished() == {0, 1, 2}
    for length in range(len(lines)):  # wherever the journal breaks off, nothing is taken for whole that isn't
        journal.write_bytes(lines[:length])
        whole = lines[:length].count(b"\n")
        assert store.finished() in (set(range(min(whole, 3))), set(range(min(whole + 1, 3))))
        store.write(1, record(2))  # goes on after the broken line
        assert store.finished() <= {0, 1, 2}


def test_a_changed_record_does_not_count(tmp_path: Path) -> None:
    store = opened(tmp_path / "s")
    store.write(0, record(1))
    store.write(1, record(2))
    data = tmp_path / "s" / "records.bin"
    content = bytearray(data.read_bytes())
    content[0] ^= 1
    data.write_bytes(content)
    assert store.finished() == {1}


def test_no_room(tmp_path: Path) -> None:
    store = opened(tmp_path / "s")
    (tmp_path / "s" / "records.bin").unlink()
    (tmp_path / "s" / "records.bin").symlink_to("/dev/full")
    with pytest.raises(DataError, match="No space left on device; what is finished stays"):
        store.write(0, record(1))


def test_another_process_takes_part(tmp_path: Path) -> None:
    store = opened(tmp_path / "s")
    other = opened(tmp_path / "s", first=False)
    store.write(0, record(1))
    other.write(1, record(2))
    assert store.finished() == other.finished() == {0, 1}
