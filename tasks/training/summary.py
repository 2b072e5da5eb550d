"""What a configuration amounts to: parameters by part, arithmetic and memory of a step."""

from collections import Counter
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from tasks.base import RandomKey, Task, blank_batch
from utils.config.parse import flatten, to_yaml
from utils.config.settings import Settings
from utils.distributed import World

DEFAULT_LR_SIZE = 74  # BreizhSR's patches after cropping
_TRIAL_SIZE = 16  # low-resolution pixels


def task_summary(task: Task, settings: Settings, world: World, *, lr_size: int | None) -> str:
    """The configuration, parameters by part, FLOPs of a step and an estimate of its memory, as text.

    Args:
        lr_size: side of the patches in low-resolution pixels; None where there is no data.
    """
    training = settings.training
    size = settings.data.train_crop or lr_size or DEFAULT_LR_SIZE
    one = _cost_of_a_sample(task, settings, size=size)
    batch, parts = training.batch_size // world.size, training.accumulate_grad_batches
    parameters = sum(parameter.numel() for parameter in task.model.parameters())
    trained = sum(parameter.numel() for parameter in task.trainable())
    fixed = 4 * (parameters + 3 * trained)  # weights, gradients, Adam's two moments: float32
    if training.ema_decay:
        fixed += 4 * parameters
    lines = [
        to_yaml(flatten(settings)).rstrip(),
        "",
        f"parameters: {parameters:,} ({trained:,} trained)",
        *(f"  {name:<20} {count:>12,}" for name, count in _by_part(task).items()),
        f"step: batch {batch} of {size}x{size} pixels on this device{f', {parts} times' if parts > 1 else ''}, "
        f"{one.flops * batch * parts / 1e9:,.1f} GFLOP",
        f"memory: about {(fixed + one.activations * batch) / 2**30:.2f} GB "
        f"({fixed / 2**30:.2f} weights and optimiser, {one.activations * batch / 2**30:.2f} activations)",
    ]
    return "\n".join(lines) + "\n"


class _Cost(NamedTuple):
    flops: float  # forward and backward
    activations: float  # bytes that the forward pass keeps for the backward one


def _cost_of_a_sample(task: Task, settings: Settings, *, size: int) -> _Cost:
    """Counted on a small patch: the networks are convolutional, so both grow with the number of pixels."""
    small = min(size, _TRIAL_SIZE)
    storages: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    task.train()
    inputs = blank_batch(
        size=small, num_dates=settings.data.sen2_amount, scale=settings.data.sr_scale, channels=task.channels
    )
    with FlopCounterMode(display=False) as counter:
        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            World(torch.device("cpu")).autocast(settings.training.amp),
        ):
            terms = task(inputs, RandomKey(0, 0, torch.arange(1)))
        if task.trainable():
            torch.stack(list(terms.values())).sum().backward()
    weights = {parameter.untyped_storage().data_ptr() for parameter in task.parameters()}
    kept = sum(size for pointer, size in storages.items() if pointer not in weights)
    area = (size / small) ** 2
    return _Cost(counter.get_total_flops() * area, kept * area)


def _by_part(task: Task) -> Counter[str]:
    """Parameters by the first name of their module."""
    parts: Counter[str] = Counter()
    for name, parameter in task.model.named_parameters():
        parts[name.split(".")[0]] += parameter.numel()
    return parts
