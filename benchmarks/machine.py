"""The machine: what it is, and what it can do at best."""

import os
import platform
from pathlib import Path

import torch

from benchmarks.bench import Bench
from benchmarks.limits import BF16, FP32, MEMORY, probes
from benchmarks.table import Row
from benchmarks.timing import alternate


def limits(bench: Bench) -> list[Row]:
    """Matrix products and memory copies by themselves; each other row meets them again in its own rounds."""
    found = probes(FP32, BF16, MEMORY)
    timings = alternate({name: probe.call for name, probe in found.items()}, bench.patience)
    units = {FP32: "GFLOP/s", BF16: "GFLOP/s", MEMORY: "GB/s"}
    return [
        Row(probe.limit, name, timings[name], probe.work / timings[name].median / 1e9, units[probe.limit])
        for name, probe in found.items()
    ]


def description() -> str:
    """Processor, threads and versions, in one line."""
    return f"{_processor()}, {torch.get_num_threads()} threads of {os.cpu_count()} cores; torch {torch.__version__}"


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
