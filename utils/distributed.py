"""Where the work runs: device, precision and the other processes. Every device decision stands here."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from utils.errors import ConfigError, TrainingError, UserError

logger = logging.getLogger(__name__)

_PRECISIONS = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}
_TIMEOUT = timedelta(minutes=30)  # of a process that runs but doesn't answer; one that has ended is noticed at once


@dataclass(frozen=True)
class World:
    """This process among all: rank r of ``size``, on ``device``."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and messages."""
        return self.rank == 0

    @property
    def is_asynchronous(self) -> bool:
        """Whether the device computes in the background, so that reading a result waits for all work before it."""
        return self.device.type != "cpu"

    @property
    def pins_memory(self) -> bool:
        """Whether pinned memory helps: copies from it to a CUDA device run while the device computes."""
        return self.device.type == "cuda"

    @property
    def has_bfloat16(self) -> bool:
        """Whether the device computes in bfloat16. Others emulate it, many times slower than float32."""
        if self.device.type == "cuda":
            return torch.cuda.is_bf16_supported(including_emulation=False)
        known = torch.cpu.get_capabilities()
        return self.device.type != "cpu" or any(known.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))

    def place(self, module: nn.Module, *, amp: str = "off") -> None:
        """Move a module to the device, to predict; on a CPU with channels last, where convolutions are faster.

        ``amp`` is the precision that `autocast` will be asked for; where it can't be had, a message says so.
        """
        if amp == "bf16" and not self.has_bfloat16:
            logger.warning("amp=bf16: this device doesn't compute in bfloat16, so it predicts in float32")
        module.to(self.device)
        if self.device.type == "cpu":
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def mean(self, values: Tensor) -> Tensor:
        """The mean of the values over all processes, in place and without waiting for a CUDA device."""
        if self.size > 1:
            dist.all_reduce(values)
            values /= self.size
        return values

    # What follows is exchanged through host memory, so it doesn't wait for a CUDA device either.

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any process."""
        if self.size == 1:
            return flag
        flags = torch.tensor(int(flag))
        dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        return bool(flags)

    def barrier(self) -> None:
        """Wait for all processes."""
        self.any(False)

    def from_main(self, item: Any) -> Any:
        """The item of the main process, on every process."""
        if self.size == 1:
            return item
        items = [item]
        dist.broadcast_object_list(items, src=0, device=torch.device("cpu"))
        return items[0]

    def gather(self, items: list[Any]) -> list[Any]:
        """All processes' items in order of rank, on every process."""
        if self.size == 1:
            return items
        gathered: list[Any] = [None] * self.size
        dist.all_gather_object(gathered, items)
        return [item for part in gathered for item in part]

    def autocast(self, precision: str) -> contextlib.AbstractContextManager:
        """Mixed precision for the forward pass: off, bf16, fp16 or auto; bf16 only where the device has it."""
        if precision in ("bf16", "auto"):
            precision = "bf16" if self.has_bfloat16 else "off"
        kind = _PRECISIONS[precision]
        return torch.autocast(self.device.type, dtype=kind, enabled=kind is not None)

    def memory(self) -> str:
        """Peak memory, for the status line."""
        if self.device.type == "cuda":
            return f"{torch.cuda.max_memory_allocated(self.device) / 2**30:.1f} GB"
        import resource  # not on Windows, where there is nothing to say

        unit = 1 if sys.platform == "darwin" else 2**10
        return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30:.1f} GB"


def choose_device(name: str) -> torch.device:
    """``auto`` chooses CUDA, else Apple's MPS, else the CPU. Raises ConfigError for a device that isn't there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda", "mps"):
        raise ConfigError(f"--device {name}: must be auto, cpu, cuda, cuda:<number> or mps")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"--device {name}: there are {torch.cuda.device_count()} CUDA devices here")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("--device mps: not available here")
    return device


@contextlib.contextmanager
def world(device_name: str) -> Iterator[World]:
    """One process, or one of those that torchrun started (it sets RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR, ...).

    If several processes fail, only the first one reports its error. The others fail because of it, or for the same
    reason; they end with an exit code and no message.

    Args:
        device_name: auto, cpu, cuda, cuda:<number> or mps.

    Raises:
        ConfigError: the device isn't there, or the other processes can't be reached.
        TrainingError: another process has ended.
    """
    device = choose_device(device_name)
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = False  # float32 means float32; bf16 is there for speed
        torch.backends.cudnn.benchmark = True  # patches have one size
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield World(device)
        return
    if device.type == "cuda":
        device = _own_cuda_device()
    # gloo beside nccl: flags and objects are exchanged through host memory.
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        store, rank, size = next(dist.rendezvous("env://", timeout=timedelta(minutes=5)))
        dist.init_process_group(
            backend, store=dist.PrefixStore("work", store), rank=rank, world_size=size, timeout=_TIMEOUT
        )
    except (ValueError, dist.DistError) as error:
        raise ConfigError(f"the other processes can't be reached (start all of them by torchrun): {error}") from None
    if rank:
        logging.disable(logging.CRITICAL)  # only the main process writes messages
    failures = dist.PrefixStore(f"failures/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    try:
        yield World(device, rank=rank, size=size)
    except UserError as error:
        if not _is_first(failures):
            raise SystemExit(error.exit_code) from None
        raise
    except RuntimeError as error:
        if not _is_first(failures):
            raise SystemExit(TrainingError.exit_code) from None
        if not _is_of_another_process(error):
            raise
        raise TrainingError("another process has ended without a word (killed? out of memory?)") from None
    else:
        dist.destroy_process_group()


def _own_cuda_device() -> torch.device:
    number, present = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if number >= present:
        raise ConfigError(f"torchrun started more processes on this machine than it has CUDA devices ({present})")
    device = torch.device("cuda", number)
    torch.cuda.set_device(device)
    return device


def _is_first(failures: dist.Store) -> bool:
    """Whether no process failed before this one; also where the store that counts failures can't be reached."""
    try:
        return failures.add("count", 1) == 1
    except RuntimeError:
        return True


def _is_of_another_process(error: RuntimeError) -> bool:
    """Whether this process failed because another one has ended in the middle of an exchange."""
    return isinstance(error, dist.DistError) or "gloo" in str(error) or "NCCL" in str(error)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: CUDA has a class for it, the CPU and MPS only a message."""
    is_known_class = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return is_known_class or any(text in str(error) for text in ("out of memory", "can't allocate memory"))


@contextlib.contextmanager
def explain_out_of_memory(key: str, value: int, *, device: torch.device) -> Iterator[None]:
    """Running out of memory becomes a TrainingError that names the configuration's ``key``."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(f"out of memory on {device}: choose a smaller {key} (now {value})") from None
