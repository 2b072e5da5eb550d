"""What this machine is, and what it can do at best: matrix products in float32 and bfloat16, copying memory."""

import os
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.timing import BenchmarkRun, Patience, Row, Timing, alternate

FP32, BF16, MEMORY = "float32 product", "bfloat16 product", "memory copy"
_SIDE = 2048  # of the matrices
_COPIED = 1 << 28  # bytes, far more than caches hold


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
    if FP32 in limits:
        a, b = torch.randn(2, _SIDE, _SIDE)
        found["torch.mm, float32"] = Probe(FP32, lambda: a @ b, flops)
        if torch.backends.mkldnn.is_available():
            found["oneDNN, float32"] = Probe(FP32, lambda: _onednn(a, b), flops)
    if BF16 in limits:
        c, d = torch.randn(2, _SIDE, _SIDE, dtype=torch.bfloat16)
        found["torch.mm, bfloat16"] = Probe(BF16, lambda: c @ d, flops)
    if MEMORY in limits:
        source = torch.ones(_COPIED // 4)
        target = torch.empty_like(source)
        found["copy"] = Probe(MEMORY, lambda: target.copy_(source), 2.0 * _COPIED)
    return found


def _onednn(a: Tensor, b: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")


def rates(found: dict[str, Probe], timings: dict[str, Timing]) -> dict[str, float]:
    """Work a second at each limit: that of the fastest way to it."""
    reached: dict[str, float] = {}
    for name, probe in found.items():
        rate = probe.work / timings[name].median
        reached[probe.limit] = max(rate, reached.get(probe.limit, 0.0))
    return reached


def timed(
    modes: Mapping[str, Callable[[], object]], *, limits: Sequence[str], patience: Patience
) -> tuple[dict[str, Timing], dict[str, float]]:
    """Times of all modes, and what the limits reached in the same rounds (work a second)."""
    found = probes(*limits)
    timings = alternate({name: probe.call for name, probe in found.items()} | dict(modes), patience)
    return {name: timings[name] for name in modes}, rates(found, timings)


def limits(bench: BenchmarkRun) -> list[Row]:
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
