"""Results as rows: of a JSON file, of a Markdown table, between the marks of a document."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.timing import Timing
from utils.errors import DataError
from utils.files import write_text


@dataclass(frozen=True)
class Row:
    """One thing done in one way."""

    what: str
    mode: str
    timing: Timing  # of one of ``what``
    rate: float | None = None  # a second
    unit: str = ""  # of the rate
    share: float | None = None  # of the machine's limit
    gain: float | None = None  # how many times as fast as the plain mode
    memory: int | None = None  # bytes at its peak
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        timing = self.timing
        values = {"median": timing.median, "low": timing.low, "high": timing.high, "runs": len(timing.seconds)}
        return {**vars(self), "timing": values}


def markdown(rows: Iterable[Row]) -> str:
    """A table: median and range of times, rates, their part of the limit, gains over the plain mode; notes below it."""
    lines = [
        "| what | how | median (range) | rate | of the limit | against plain | peak memory |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    notes: list[str] = []
    for row in rows:
        if row.note and row.note not in notes:
            notes.append(row.note)
        cells = [
            row.what,
            row.mode + (f" [{notes.index(row.note) + 1}]" if row.note else ""),
            _times(row.timing),
            f"{_digits(1 / row.timing.median)} /s" if row.rate is None else f"{_digits(row.rate)} {row.unit}",
            "" if row.share is None else f"{row.share:.2f}",
            "" if row.gain is None else f"{row.gain:.1f}×",
            "" if row.memory is None else f"{row.memory / 1e9:.2f} GB",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [text for number, note in enumerate(notes, 1) for text in ("", f"[{number}] {note}")]
    return "\n".join(lines) + "\n"


def _times(timing: Timing) -> str:
    unit, factor = ("s", 1.0) if timing.median >= 1 else ("ms", 1e3)
    median, low, high = (_digits(value * factor) for value in (timing.median, timing.low, timing.high))
    return f"{median} {unit} ({low}–{high})"


def _digits(value: float) -> str:
    """Three significant digits."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def write_between(path: Path, name: str, text: str) -> None:
    """Replace what stands between ``<!-- name:begin -->`` and ``<!-- name:end -->`` in a document."""
    before, after = surroundings(path, name)
    write_text(path, f"{before}\n{text.strip()}\n{after}")


def surroundings(path: Path, name: str) -> tuple[str, str]:
    """What stands before and after, with the marks. Raises DataError where there are none."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    try:
        document = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror}") from None
    before, found_begin, rest = document.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end:
        raise DataError(f"{path} has no lines {begin} and {end} to write between")
    return before + begin, end + after
