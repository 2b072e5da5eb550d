"""What a configuration amounts to: parameters by part, arithmetic and memory of a step."""

from collections import Counter

import torch
from torch.utils.flop_counter import FlopCounterMode

from tasks.task import Address, Task, blank_batch
from utils.config import flatten, to_yaml
from utils.distributed import World
from utils.settings import Settings

DEFAULT_LR_SIZE = 74  # BreizhSR's patches after cropping


def describe(task: Task, settings: Settings, world: World, *, lr_size: int | None) -> str:
    """The resolved configuration, parameters by part, FLOPs a step and an estimate of its memory, as text."""
    size = settings.data.train_crop or lr_size or DEFAULT_LR_SIZE
    one = _step_cost(task, settings, size=size, batch=1)
    batch = settings.training.batch_size // world.size
    parameters = sum(parameter.numel() for parameter in task.model.parameters())
    trained = sum(parameter.numel() for parameter in task.trainable())
    fixed = 4 * (parameters + 3 * trained)  # weights, gradients, Adam's two moments: float32
    if settings.training.ema_decay:
        fixed += 4 * parameters
    lines = [
        to_yaml(flatten(settings)).rstrip(),
        "",
        f"parameters: {parameters:,} ({trained:,} trained)",
        *(f"  {name:<20} {count:>12,}" for name, count in _by_part(task).items()),
        f"step: batch {batch} of {size}x{size} pixels on this device, {one.flops * batch / 1e9:,.1f} GFLOP",
        f"memory: about {(fixed + one.activations * batch) / 2**30:.2f} GB "
        f"({fixed / 2**30:.2f} weights and optimiser, {one.activations * batch / 2**30:.2f} activations)",
    ]
    return "\n".join(lines) + "\n"


class _Cost:
    def __init__(self, flops: int, activations: int) -> None:
        self.flops, self.activations = flops, activations


def _step_cost(task: Task, settings: Settings, *, size: int, batch: int) -> _Cost:
    """FLOPs of forward and backward, and bytes that the forward pass keeps for the backward one."""
    kept = 0
    seen: set[int] = set()

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            kept += storage.nbytes()
        return tensor

    task.train()
    data = settings.data
    inputs = blank_batch(size=size, length=data.sen2_amount, scale=data.sr_scale, samples=batch)
    with FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            terms = task(inputs, Address(0, 0, torch.arange(batch)))
        loss = torch.stack(list(terms.values())).sum()
        if task.trainable():
            loss.backward()
    weights = sum(parameter.numel() * 4 for parameter in task.model.parameters())
    return _Cost(counter.get_total_flops(), max(0, kept - weights))


def _by_part(task: Task) -> Counter[str]:
    """Parameters by the first name of their module."""
    parts: Counter[str] = Counter()
    for name, parameter in task.model.named_parameters():
        parts[name.split(".")[0]] += parameter.numel()
    return parts
