"""Memory that ran out: what says so, and one clear line about it."""

import contextlib
from collections.abc import Iterator

import torch

from utils.errors import TrainingError


def is_out_of_memory(error: BaseException) -> bool:
    """CUDA has a class for it; the CPU and MPS only say it."""
    said = str(error)
    return (
        isinstance(error, torch.OutOfMemoryError | MemoryError)
        or "out of memory" in said
        or "can't allocate memory" in said
    )


@contextlib.contextmanager
def blamed_on(key: str, value: int, *, device: torch.device) -> Iterator[None]:
    """Running out of memory becomes a TrainingError that names the configuration's ``key``."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(f"out of memory on {device}: choose a smaller {key} (now {value})") from None
