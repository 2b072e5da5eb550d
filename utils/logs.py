"""Logs that continue after a resume without doubled or missing rows."""

import csv
import io
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
        if path.is_file():
            with path.open(newline="", encoding="utf-8") as file:
                self.rows = [row for row in csv.DictReader(file, delimiter=";") if _step(row) <= step]
            self._rewrite()

    def append(self, step: int, figures: Mapping[str, float]) -> None:
        row = {"step": str(step), **{name: repr(value) for name, value in figures.items()}}
        self.rows.append(row)
        if len(self.rows) == 1 or list(row) != list(self.rows[0]):
            self._rewrite()
            return
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, row, delimiter=";", lineterminator="\n").writerow(row)

    def _rewrite(self) -> None:
        columns = list(dict.fromkeys(name for row in self.rows for name in row)) or ["step"]
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, delimiter=";", lineterminator="\n", restval="")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self.path, text.getvalue())


def _step(row: Mapping[str, str | None]) -> int:
    """The step of a row; a row that a kill cut short belongs to no step that is kept."""
    step = row.get("step") or ""
    return int(step) if step.isdigit() and None not in row.values() else 2**63
