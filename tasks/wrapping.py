"""A task as it is called in training: in its memory format, compiled, joined with the other processes'."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tasks.task import Address, Task, blank_batch
from utils.distributed import World
from utils.settings import Settings

_TRIAL_SIZE = 16  # low-resolution pixels; a multiple of what every network here halves


def wrap(task: Task, settings: Settings, *, world: World, report: Callable[[str], object]) -> nn.Module:
    """What a training step calls instead of the task. Weights keep their names, and stay the task's own."""
    task.train()
    if settings.training.channels_last:
        task.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if settings.training.compile:
        compile_parts(task, world=world, report=report)
    if world.size == 1:
        return task
    if world.device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(task)
    elif running_statistics(task):
        report("BatchNorm: each process normalises by its own share of a batch (only on CUDA by the whole batch)")
    return nn.parallel.DistributedDataParallel(
        task,
        device_ids=[world.device] if world.device.type == "cuda" else None,
        find_unused_parameters=bool(unused_parameters(task, settings, device=world.device)),
        gradient_as_bucket_view=True,
        forward_sync_buffers=False,  # they are the same everywhere: synchronised, averaged, or constant
    )


def compile_parts(task: Task, *, world: World, report: Callable[[str], object]) -> None:
    """torch.compile in place, so that no name changes; where compiling doesn't work it stays off, with one line."""
    try:
        torch.compile(lambda x: (x + 1).relu() * 2)(torch.ones(64, device=world.device))
    except Exception as error:  # no compiler, no headers, no Triton: each with an error of its own
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        report(f"compile stays off: it needs a working C++ compiler ({reason})")
        return
    for part in task.compiled_parts():
        part.compile(dynamic=False)  # one kernel a shape: results don't depend on the shapes seen before


def unused_parameters(task: Task, settings: Settings, *, device: torch.device) -> list[str]:
    """Parameters that training never uses (a series of one view skips the fusion, a loss may skip the head)."""
    data = settings.data
    batch = blank_batch(size=_TRIAL_SIZE, length=data.sen2_amount, scale=data.sr_scale, device=device)
    task.eval()  # no statistics change
    try:
        terms = task(batch, Address(0, 0, torch.arange(1, device=device)))
        torch.stack(list(terms.values())).sum().backward()
        return [name for name, p in task.model.named_parameters() if p.requires_grad and p.grad is None]
    finally:
        task.zero_grad(set_to_none=True)
        task.train()


def running_statistics(task: Task) -> list[Tensor]:
    """The running means and variances that training changes."""
    norms = [m for m in task.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    return [x for norm in norms for x in (norm.running_mean, norm.running_var) if x is not None]
