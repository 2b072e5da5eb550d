"""Logs that continue after a resume without doubled or missing rows."""

import csv
import io
import os
from collections.abc import Mapping
from pathlib import Path

from utils.files import write_text


class StepTable:
    """A CSV file (separator ;) with a row a step and a column a figure.

    Opened at ``step``, it keeps the rows up to it: what a run wrote after its last checkpoint will be written again.
    """

    def __init__(self, path: Path, *, step: int) -> None:
        self.path = path
        self.rows: list[dict[str, str]] = []
        self._is_whole = False  # whether the file holds all rows
        if path.is_file():
            with path.open(newline="", encoding="utf-8", errors="replace") as file:
                self.rows = [row for row in csv.DictReader(file, delimiter=";") if _step(row) <= step]
            self._rewrite()

    def append(self, step: int, figures: Mapping[str, float]) -> None:
        """Add a row, flushed to the disk. Raises OSError where it is full; the next row brings this one along."""
        row = {"step": str(step), **{name: repr(value) for name, value in figures.items()}}
        same_columns = bool(self.rows) and list(row) == list(self.rows[0])
        self.rows.append(row)
        if not (self._is_whole and same_columns):
            self._rewrite()
            return
        self._is_whole = False
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, row, delimiter=";", lineterminator="\n").writerow(row)
            file.flush()
            os.fsync(file.fileno())
        self._is_whole = True

    def column(self, name: str, *, before: int) -> list[float]:
        """A figure at all steps before one; rows without it are passed over."""
        return [float(row[name]) for row in self.rows if row.get(name) and _step(row) < before]

    def has(self, step: int) -> bool:
        return any(_step(row) == step for row in self.rows)

    def _rewrite(self) -> None:
        columns = list(dict.fromkeys(name for row in self.rows for name in row)) or ["step"]
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, delimiter=";", lineterminator="\n", restval="")
        writer.writeheader()
        writer.writerows(self.rows)
        self._is_whole = False
        write_text(self.path, text.getvalue())
        self._is_whole = True


def _step(row: Mapping[str, str | None]) -> int:
    """The step of a row; a row that a kill cut short belongs to no step that is kept."""
    step = row.get("step") or ""
    whole = None not in row.values() and None not in row
    return int(step) if whole and step.isascii() and step.isdigit() else 2**63
