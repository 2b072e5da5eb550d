"""Finished tiles on disk, so that a stopped run goes on and several processes share the work."""

import json
import shutil
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils.errors import DataError


class TileStore:
    """Records of one NumPy type in one file, and a journal of those that are whole, with their checksums.

    A process that is killed while it writes leaves a record without an entry, or an entry that doesn't fit its
    record: neither counts. Processes may write different records at the same time.

    Args:
        folder: made, or used again if its fingerprint is the same; another one's records are deleted.
        record: the type of a tile's record.
        fingerprint: everything that the records depend on, as JSON.
        first: this process makes the folder; the others wait for it.
    """

    def __init__(self, folder: Path, *, record: np.dtype, fingerprint: dict[str, Any], first: bool = True) -> None:
        self.folder = folder
        self._record = record
        self._data = folder / "records.bin"
        self._journal = folder / "journal.txt"
        described = json.dumps({**fingerprint, "record": str(record)}, indent=1, sort_keys=True)
        about = folder / "fingerprint.json"
        if first and (not about.exists() or about.read_text() != described):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            self._data.touch()
            self._journal.touch()
            about.write_text(described)  # last: a folder without it is begun anew

    def write(self, index: int, record: NDArray) -> None:
        """Keep record ``index`` (0-dimensional, of the type). Raises DataError where there is no room."""
        content = record.tobytes()
        try:
            with self._data.open("rb+") as file:
                file.seek(index * self._record.itemsize)
                file.write(content)
            with self._journal.open("ab") as journal:  # one write of one line: whole or recognisable
                journal.write(f"{index} {zlib.crc32(content)}.\n".encode())
        except OSError as error:
            raise DataError(f"{self.folder}: {error.strerror}; what is finished stays: run again to go on") from None

    def read(self, index: int, field: str) -> NDArray:
        """One field of a finished record."""
        assert self._record.fields is not None
        kind, offset = self._record.fields[field][:2]
        with self._data.open("rb") as file:
            file.seek(index * self._record.itemsize + offset)
            return np.frombuffer(file.read(kind.itemsize), kind)[0]

    def finished(self) -> set[int]:
        """The records that are whole, each checked."""
        checksums: dict[int, int] = {}
        for line in self._journal.read_text(errors="replace").splitlines():
            parts = line.removesuffix(".").split()
            if line.endswith(".") and len(parts) == 2 and all(part.isdigit() for part in parts):
                checksums[int(parts[0])] = int(parts[1])
        return {index for index, checksum in self._sums(checksums) if checksum == checksums[index]}

    def _sums(self, indexes: Iterable[int]) -> Iterable[tuple[int, int]]:
        with self._data.open("rb") as file:
            for index in sorted(indexes):
                file.seek(index * self._record.itemsize)
                content = file.read(self._record.itemsize)
                if len(content) == self._record.itemsize:
                    yield index, zlib.crc32(content)

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
