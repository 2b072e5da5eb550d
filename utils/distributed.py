"""Where the work runs: device, precision and the other processes. Every device decision stands here."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from utils.errors import ConfigError

_PRECISIONS = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class World:
    """This process among all: rank r of ``size``, on ``device``."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """The one process that writes."""
        return self.rank == 0

    @property
    def pins_memory(self) -> bool:
        """Pinned host memory makes copies to a CUDA device overlap with its work."""
        return self.device.type == "cuda"

    def mean(self, values: Tensor) -> Tensor:
        """The mean over all processes, in place on every one."""
        if self.size > 1:
            dist.all_reduce(values)
            values /= self.size
        return values

    def any(self, flag: bool) -> bool:
        """Whether any process raises the flag."""
        if self.size == 1:
            return flag
        flags = torch.tensor([int(flag)], device=self.device)
        dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        return bool(flags.item())

    def gather(self, items: list[Any]) -> list[Any]:
        """All processes' items in order of rank, on every process."""
        if self.size == 1:
            return items
        gathered: list[Any] = [None] * self.size
        dist.all_gather_object(gathered, items)
        return [item for part in gathered for item in part]

    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier()

    def autocast(self, precision: str) -> contextlib.AbstractContextManager:
        """Mixed precision for the network's forward pass: off, bf16 or fp16."""
        kind = _PRECISIONS[precision]
        return torch.autocast(self.device.type, dtype=kind, enabled=kind is not None)

    def memory(self) -> str:
        """Peak memory, for the status line."""
        if self.device.type == "cuda":
            return f"{torch.cuda.max_memory_allocated(self.device) / 2**30:.1f} GB"
        import resource  # not on Windows, where there is nothing to say

        return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GB"


def choose_device(name: str) -> torch.device:
    """``auto``: CUDA, else Apple's MPS, else the CPU. Raises ConfigError for one that isn't there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"--device {name}: must be auto, cpu, cuda, cuda:<number> or mps") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"--device {name}: there are {torch.cuda.device_count()} CUDA devices here")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("--device mps: not available here")
    if device.type not in ("cpu", "cuda", "mps"):
        raise ConfigError(f"--device {name}: must be auto, cpu, cuda, cuda:<number> or mps")
    return device


@contextlib.contextmanager
def world(device_name: str) -> Iterator[World]:
    """One process, or one of those that torchrun started (it sets RANK, LOCAL_RANK and WORLD_SIZE)."""
    device = choose_device(device_name)
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = False  # float32 means float32; bf16 is there for speed
        torch.backends.cudnn.benchmark = True  # patches have one size
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(device)
        return
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    # gloo beside nccl: objects are gathered and flags exchanged on the CPU too.
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=timedelta(minutes=30))
    try:
        yield World(device, rank=dist.get_rank(), size=size)
    finally:
        dist.destroy_process_group()
