"""What a configuration amounts to: parameters by part, arithmetic and memory of a step."""

from collections import Counter

import torch
from torch.utils.flop_counter import FlopCounterMode

from tasks.base import Task, blank_batch, blank_loss
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
    flops, activations = _cost_of_a_sample(task, settings, size=size)
    batch, parts = training.batch_size // world.size, training.accumulate_grad_batches
    by_part: Counter[str] = Counter()
    for name, parameter in task.model.named_parameters():
        by_part[name.split(".")[0]] += parameter.numel()
    trained = sum(parameter.numel() for parameter in task.trainable())
    # float32: weights, the averaged ones, gradients, Adam's two moments
    fixed = 4 * (by_part.total() * (2 if training.ema_decay else 1) + 3 * trained)
    activations *= batch
    lines = [
        to_yaml(flatten(settings)).rstrip(),
        "",
        f"parameters: {by_part.total():,} ({trained:,} trained)",
        *(f"  {name:<20} {count:>12,}" for name, count in by_part.items()),
        f"step: batch {batch} of {size}x{size} pixels on this device{f', {parts} times' if parts > 1 else ''}, "
        f"{flops * batch * parts / 1e9:,.1f} GFLOP",
        f"memory: about {(fixed + activations) / 2**30:.2f} GB "
        f"({fixed / 2**30:.2f} weights and optimiser, {activations / 2**30:.2f} activations)",
    ]
    return "\n".join(lines) + "\n"


def _cost_of_a_sample(task: Task, settings: Settings, *, size: int) -> tuple[float, float]:
    """FLOPs, forward and backward, and the bytes that the forward pass keeps for the backward one.

    Counted on a small patch: the networks are convolutional, so both grow with the number of pixels.
    """
    data, small = settings.data, min(size, _TRIAL_SIZE)
    storages: dict[int, int] = {}  # bytes by address

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    task.train()
    batch = blank_batch(size=small, num_dates=data.sen2_amount, scale=data.sr_scale, channels=task.channels)
    with FlopCounterMode(display=False) as counter:
        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            World(torch.device("cpu")).autocast(settings.training.amp),
        ):
            loss = blank_loss(task, batch)
        if task.trainable():
            loss.backward()
    for parameter in task.parameters():
        storages.pop(parameter.untyped_storage().data_ptr(), None)
    area = (size / small) ** 2
    return counter.get_total_flops() * area, sum(storages.values()) * area
