"""Times of several ways to do one thing, taken in turns (A B A B ...), and what this machine can do at best.

What else the machine does, or how warm it is, then meets all of them alike, and their ratios hold where times don't.
"""

import math
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from utils.errors import DataError
from utils.files import write_text

FP32, BF16, MEMORY = "float32 product", "bfloat16 product", "memory copy"
_SIDE = 2048  # of the matrices
_COPIED = 1 << 28  # bytes, far more than caches hold
_SHORTEST = 0.05  # seconds that one measurement takes at least: short calls are repeated


class Timing(NamedTuple):
    """Seconds a call, measured several times."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def scaled(self, factor: float) -> "Timing":
        return Timing(tuple(value * factor for value in self.seconds))


def alternate(modes: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, Timing]:
    """Each mode is called once unmeasured, then all are measured in turns: 3 times, and again until time is up."""
    repeats = {name: max(1, math.ceil(_SHORTEST / _seconds(call, 1))) for name, call in modes.items()}
    rounds: list[list[float]] = []
    started = time.perf_counter()
    while len(rounds) < 3 or time.perf_counter() - started < seconds:
        rounds.append([_seconds(call, repeats[name]) for name, call in modes.items()])
    return {name: Timing(values) for name, values in zip(modes, zip(*rounds, strict=True), strict=True)}


def _seconds(call: Callable[[], object], repeats: int) -> float:
    started = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - started) / repeats


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
        median, times = self.timing.median, self.timing.seconds
        return {**vars(self), "timing": {"median": median, "low": min(times), "high": max(times), "runs": len(times)}}


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, texts: int) -> str:
    """A Markdown table; all columns but the first ``texts`` hold numbers."""
    aligned = "|---" * texts + "|---:" * (len(heads) - texts) + "|"
    header, *lines = (f"| {' | '.join(cells)} |" for cells in (heads, *rows))
    return "\n".join([header, aligned, *lines]) + "\n"


def markdown(rows: Sequence[Row]) -> str:
    """A table: median and range of times, rates, their part of the limit, gains over the plain mode; notes below it."""
    notes = list(dict.fromkeys(row.note for row in rows if row.note))

    def cells(row: Row) -> list[str]:
        return [
            row.what,
            row.mode + (f" [{notes.index(row.note) + 1}]" if row.note else ""),
            _times(row.timing),
            f"{_digits(1 / row.timing.median)} /s" if row.rate is None else f"{_digits(row.rate)} {row.unit}",
            "" if row.share is None else f"{row.share:.2f}",
            "" if row.gain is None else f"{row.gain:.1f}×",
            "" if row.memory is None else f"{row.memory / 1e9:.2f} GB",
        ]

    heads = ["what", "how", "median (range)", "rate", "of the limit", "against plain", "peak memory"]
    below = "".join(f"\n[{number}] {note}\n" for number, note in enumerate(notes, 1))
    return markdown_table(heads, map(cells, rows), texts=2) + below


def _times(timing: Timing) -> str:
    unit, factor = ("s", 1.0) if timing.median >= 1 else ("ms", 1e3)
    figures = timing.median, min(timing.seconds), max(timing.seconds)
    median, low, high = (_digits(value * factor) for value in figures)
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
        before, rest = path.read_text(encoding="utf-8").split(begin)
        _, after = rest.split(end)
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror}") from None
    except ValueError:
        raise DataError(f"{path} has no lines {begin} and {end} to write between") from None
    return before + begin, end + after


class Probe(NamedTuple):
    """One way to reach a limit."""

    limit: str
    call: Callable[[], object]
    work: float  # floating-point operations, or bytes read and written, a call


def probes(*limits: str) -> dict[str, Probe]:
    """Ways to reach the limits, to be timed beside what is held against them.

    Matrix products of float32 go through torch's BLAS and through oneDNN, which convolutions use: on CPUs of one maker
    the BLAS falls far behind. The faster one is the limit.
    """
    found: dict[str, Probe] = {}
    flops = 2.0 * _SIDE**3
    a, b = torch.randn(2, _SIDE, _SIDE)
    if FP32 in limits:
        found["torch.mm, float32"] = Probe(FP32, lambda: a @ b, flops)
        if torch.backends.mkldnn.is_available():
            onednn = torch.ops.mkldnn._linear_pointwise
            found["oneDNN, float32"] = Probe(FP32, lambda: onednn(a, b, None, "none", [], ""), flops)
    if BF16 in limits:
        c, d = a.bfloat16(), b.bfloat16()
        found["torch.mm, bfloat16"] = Probe(BF16, lambda: c @ d, flops)
    if MEMORY in limits:
        source = torch.ones(_COPIED // 4)
        target = torch.empty_like(source)
        found["copy"] = Probe(MEMORY, lambda: target.copy_(source), 2.0 * _COPIED)
    return found


def timed(
    modes: Mapping[str, Callable[[], object]], *, limits: Sequence[str], seconds: float
) -> tuple[dict[str, Timing], dict[str, float]]:
    """Times of all modes, and what the limits reached in the same rounds (work a second)."""
    found = probes(*limits)
    timings = alternate({name: probe.call for name, probe in found.items()} | dict(modes), seconds)
    rates = dict.fromkeys(limits, 0.0)  # at each limit that of the fastest way to it
    for name, probe in found.items():
        rates[probe.limit] = max(probe.work / timings[name].median, rates[probe.limit])
    return {name: timings[name] for name in modes}, rates


def machine_limits(seconds: float) -> list[Row]:
    """Matrix products and memory copies by themselves; each other row meets them again in its own rounds."""
    found = probes(FP32, BF16, MEMORY)
    timings = alternate({name: probe.call for name, probe in found.items()}, seconds)
    units = {FP32: "GFLOP/s", BF16: "GFLOP/s", MEMORY: "GB/s"}
    return [
        Row(probe.limit, name, timings[name], probe.work / timings[name].median / 1e9, units[probe.limit])
        for name, probe in found.items()
    ]


def description() -> str:
    """Processor, threads and versions, in one line."""
    about = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*: (.*)", about.read_text()) if about.exists() else None
    processor = named[1] if named else platform.processor() or platform.machine()
    return f"{processor}, {torch.get_num_threads()} threads of {os.cpu_count()} cores; torch {torch.__version__}"
