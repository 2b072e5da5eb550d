"""What learns: a task's weights, Adam, the averages of the weights, and the step."""

import contextlib
import copy
import functools
import logging
import timeit
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tasks.base import RandomKey, Task, blank_batch, blank_loss
from utils import checkpoint
from utils.augment import augment
from utils.cli import VERSION
from utils.config.settings import Settings
from utils.dataloader import Batch, BreizhSRDataset
from utils.distributed import World
from utils.errors import CheckpointError, ConfigError, TrainingError
from utils.randomness import Stream, seed_of

logger = logging.getLogger(__name__)

_FP16_OVERFLOWS = 20  # in a row; by then the scaler has halved its scale from 65536 to below 1
_TRIAL_SIZE = 16  # low-resolution pixels; every network can halve it as often as it needs
_TRIAL_STEPS = 3  # the first one doesn't count
_WORTH = 0.97  # of the time; below it the other memory format is taken


class TrainState:
    """Everything that changes while a task trains; a checkpoint holds all of it."""

    def __init__(self, task: Task, settings: Settings, *, data: BreizhSRDataset, world: World) -> None:
        training = settings.training
        self.task = task.to(world.device)
        self.settings, self.data, self.world = settings, data, world
        self.module = prepare_for_ddp(task, settings, world=world)
        self.autocast = world.autocast(training.amp)
        self.step, self.parameters = 0, task.trainable()
        # Fused: one kernel for all tensors, which can skip an update without waiting for the device.
        self.optimizer = torch.optim.Adam(self.parameters, lr=training.lr, fused=True)
        self.averaged = AveragedWeights(task.model, decay=training.ema_decay) if training.ema_decay else None
        fp16 = training.amp == "fp16"
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=fp16)
        self.guard = NonFiniteGuard(world.device, overflows=_FP16_OVERFLOWS if fp16 else 0)
        self.statistics = [] if world.size == 1 or world.device.type == "cuda" else running_statistics(task)
        self.term_names: list[str] = []
        self.summed = torch.zeros(0, device=world.device)  # since the last row: loss terms, gradient norm, steps

    @property
    def rate(self) -> float:
        """The learning rate of the next step, a function of the step and the configuration alone."""
        training, decay = self.settings.training, self.task.decay
        rate = training.lr * decay.decay_factor ** (self.step // decay.decay_steps)
        return rate * min(1.0, (self.step + 1) / training.warmup_steps) if training.warmup_steps else rate

    def train_step(self, batches: Iterator[dict[str, Any]]) -> None:
        """Compute the gradients of ``accumulate_grad_batches`` batches, and update the weights once."""
        training, parts = self.settings.training, self.settings.training.accumulate_grad_batches
        torch.manual_seed(seed_of(Stream.DROPOUT, training.seed, self.step, self.world.rank))  # dropout draws from it
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate
        self.optimizer.zero_grad(set_to_none=True)
        share = training.batch_size // self.world.size
        positions = torch.arange(share, device=self.world.device) + self.world.rank * share  # in the whole batch
        values: list[Tensor] = []
        for part in range(parts):
            key = RandomKey(training.seed, self.step * parts + part, positions)
            batch = self._batch(next(batches), key)
            # Processes exchange gradients once a step, with its last batch.
            alone = part < parts - 1 and self.world.size > 1
            with self.module.no_sync() if alone else contextlib.nullcontext():  # type: ignore[operator]
                with self.autocast:
                    terms = self.module(batch, key)
                self.scaler.scale(torch.stack(list(terms.values())).sum() / parts).backward()
            values.append(torch.stack([term.detach().float() for term in terms.values()]))
            self.term_names = list(terms)
        self._update(torch.stack(values).mean(dim=0))
        self.step += 1

    def _batch(self, raw: dict[str, Any], key: RandomKey) -> Batch:
        batch = self.data.to_batch(raw, self.world.device)
        if names := self.settings.data.augment:
            batch = augment(batch, names, seed=key.seed, step=key.step, positions=key.positions)
        return channels_last(batch) if self.settings.training.channels_last is True else batch

    def _update(self, terms: Tensor) -> None:
        """Update the weights and their averages. terms: (n,) loss terms of the step on this process."""
        if self.world.size > 1:
            terms = self.world.mean(terms)
        self.scaler.unscale_(self.optimizer)
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients).detach().float()
        skip = self.guard.watch(self.step, terms, norm)
        if largest := self.settings.training.clip_grad_norm:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, largest, norm)
        self.optimizer.grad_scale = None  # type: ignore[attr-defined]
        self.optimizer.found_inf = skip  # type: ignore[attr-defined]  # where it is not 0, the step changes nothing
        self.optimizer.step()
        self.scaler.update()
        if self.statistics:
            flat = self.world.mean(torch.cat(self.statistics))
            torch._foreach_copy_(self.statistics, list(flat.split([len(x) for x in self.statistics])))
        if self.averaged:
            self.averaged.update(self.step + 1)
        row = torch.cat([terms, norm.view(1), norm.new_ones(1)])
        self.summed = self.summed + row if len(self.summed) else row

    def check_finite(self) -> None:
        """Raise TrainingError where a step's loss or gradient was not finite; the weights are those before it."""
        if not self.guard.tripped:
            return
        step, *values = self.guard.record.tolist()
        said = ", ".join(f"{name} {x:.4g}" for name, x in zip([*self.term_names, "gradient norm"], values, strict=True))
        training = self.settings.training
        size = training.batch_size * training.accumulate_grad_batches
        samples = range(int(step) * size, int(step + 1) * size)
        positions = self.data.store.training_positions(samples, batch_size=training.batch_size, seed=training.seed)
        raise TrainingError(
            f"loss or gradient is not finite in step {step + 1:.0f} ({said}), "
            f"samples {', '.join(str(self.data.key(position)) for position in positions)}; no weight was changed by it"
        )

    def means(self) -> dict[str, float]:
        """Loss, its terms, gradient norm and learning rate since this was last asked. Waits for the device."""
        *sums, steps = self.summed.tolist()
        self.summed = torch.zeros(0, device=self.world.device)
        *terms, norm = (value / steps for value in sums)
        named = dict(zip(self.term_names, terms, strict=True))
        return {"loss": sum(terms), **named, "grad_norm": norm, "lr": self.optimizer.param_groups[0]["lr"]}

    @contextlib.contextmanager
    def averaged_weights(self) -> Iterator[Task]:
        """The task with its averaged weights, where there are any, and then with its own again."""
        if self.averaged is None:
            yield self.task
            return
        own = {name: value.clone() for name, value in self.task.model.state_dict().items()}
        self.task.model.load_state_dict(self.averaged.state)
        try:
            yield self.task
        finally:
            self.task.model.load_state_dict(own)

    def content(self) -> dict[str, Any]:
        """A checkpoint."""
        return {
            "format_version": checkpoint.FORMAT_VERSION,
            "version": VERSION,
            "global_step": self.step,
            "state_dict": {"model": self.task.model.state_dict()},
            "optimizer_states": [self.optimizer.state_dict()],
            "maxima": list(self.data.maxima),
            "bands": list(self.data.bands),
            "log": {"names": self.term_names, "summed": self.summed},
            **({"ema": self.averaged.state} if self.averaged else {}),
            **({"scaler": self.scaler.state_dict()} if self.scaler.is_enabled() else {}),
        }

    def restore(self, content: dict[str, Any], *, source: Path) -> None:
        """Go on from a checkpoint. Raises CheckpointError where it doesn't fit the configuration or the data."""
        maxima, ours = content.get("maxima"), list(self.data.maxima)
        if maxima is not None and list(maxima) != ours:
            raise CheckpointError(f"{source} was trained with normalisation {list(maxima)}, the data has {ours}")
        line = checkpoint.load_weights(self.task.model, content["state_dict"]["model"], source=source)
        checkpoint.load_optimizer(self.optimizer, content, source=source)
        self.step = content["global_step"]
        if self.averaged:
            if "ema" not in content:
                line += "; averaged weights start from them"
            for name, value in content.get("ema", self.task.model.state_dict()).items():
                self.averaged.state[name].copy_(value)
        if "scaler" in content:
            self.scaler.load_state_dict(content["scaler"])
        log = content.get("log", {})
        self.term_names = list(log.get("names", []))
        self.summed = log.get("summed", self.summed).to(self.world.device)
        logger.info("resuming after step %d: %s", self.step, line)


class NonFiniteGuard:
    """Remembers, on the device, the first step whose loss or gradient was not finite; from then on no weight changes.

    ``overflows`` steps in a row may have a gradient that is not finite: a gradient scaler raises its scale until that
    happens, and skips the step.
    """

    def __init__(self, device: torch.device, *, overflows: int) -> None:
        self.tripped = torch.zeros((), device=device)
        self._overflows = overflows
        self._in_a_row = torch.zeros((), device=device)
        self.record = torch.zeros(0, device=device)  # of that step: its number, loss terms, gradient norm

    def watch(self, step: int, terms: Tensor, norm: Tensor) -> Tensor:
        """Whether to skip the update (0 or 1, float). terms (n,): the step's loss terms; norm: of its gradient."""
        overflow = ~torch.isfinite(norm)
        self._in_a_row = torch.where(overflow, self._in_a_row + 1, 0)
        bad = ~torch.isfinite(terms).all() | (self._in_a_row > self._overflows)
        record = torch.cat([terms.new_full((1,), step), terms, norm.view(1)])
        self.record = torch.where(self.tripped > 0, self.record, record) if len(self.record) else record
        self.tripped = torch.maximum(self.tripped, bad.float())
        return torch.maximum(self.tripped, overflow.float())


class AveragedWeights:
    """Exponential moving average of what training changes; the rest of the state is the model's own.

    After n steps the decay is min(decay, (1 + n) / (10 + n)), so that initial weights soon lose their influence.
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        self.decay = decay
        fixed = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
        own = model.state_dict()  # training changes these tensors in place, so references to them stay valid
        self.state = {name: value if name in fixed else value.clone() for name, value in own.items()}
        pairs = [(self.state[name], own[name]) for name in own if name not in fixed]
        self._averaged = [(average, source) for average, source in pairs if source.is_floating_point()]
        self._copied = [(target, source) for target, source in pairs if not source.is_floating_point()]

    @torch.no_grad()
    def update(self, steps: int) -> None:
        """Take in the weights after ``steps`` steps."""
        decay = min(self.decay, (1 + steps) / (10 + steps))
        averages, sources = zip(*self._averaged, strict=True)
        torch._foreach_lerp_(averages, sources, 1 - decay)
        for target, source in self._copied:
            target.copy_(source)


def prepare_for_ddp(task: Task, settings: Settings, *, world: World) -> nn.Module:
    """The module that a training step calls: the task, compiled and distributed; its weights keep their names."""
    task.train()
    if settings.training.channels_last is True:
        task.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if settings.training.compile:
        _compile_parts(task, world=world)
    if world.size == 1:
        return task
    if world.device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(task)
    elif running_statistics(task):
        logger.warning("BatchNorm: each process normalises by its own share of a batch (on CUDA by the whole batch)")
    return nn.parallel.DistributedDataParallel(
        task,
        device_ids=[world.device] if world.device.type == "cuda" else None,
        find_unused_parameters=_has_unused_parameters(task, settings, device=world.device),
        gradient_as_bucket_view=True,
        forward_sync_buffers=False,  # they are the same everywhere: synchronised, averaged, or constant
    )


def channels_last(batch: Batch) -> Batch:
    """The batch with its fine images in that memory format."""
    fine = {name: getattr(batch, name).contiguous(memory_format=torch.channels_last) for name in ("base", "hr")}
    return batch._replace(**fine)


def running_statistics(task: Task) -> list[Tensor]:
    """The running means and variances that training changes."""
    training = (module for module in task.modules() if module.training)
    buffers = (item for module in training for item in module.named_buffers(recurse=False))
    return [value for name, value in buffers if name in ("running_mean", "running_var")]


def _compile_parts(task: Task, *, world: World) -> None:
    """Compile in place, which changes no name. Where compiling doesn't work, a message says so and nothing changes."""
    try:
        torch.compile(lambda x: (x + 1).relu() * 2)(torch.ones(64, device=world.device))
    except Exception as error:  # no compiler, no headers, no Triton: each with an error of its own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        logger.warning("compile stays off: it needs a working C++ compiler (%s)", reason)
        return
    for part in task.compiled_parts():
        part.compile(dynamic=False)  # a kernel for each shape, so results don't depend on the shapes seen before


def _has_unused_parameters(task: Task, settings: Settings, *, device: torch.device) -> bool:
    """Whether training never uses some: one view needs no fusion, and some losses don't use the head."""
    task.eval()  # no statistics change
    blank_loss(task, blank_batch(settings.data, size=_TRIAL_SIZE, device=device)).backward()
    unused = any(p.requires_grad and p.grad is None for p in task.model.parameters())
    task.zero_grad(set_to_none=True)
    task.train()
    return unused


def decided(settings: Settings, task: Task, *, lr_size: int, world: World) -> Settings:
    """The settings with what ``auto`` leaves open: amp by the device, channels_last by a trial of a few steps.

    All processes get the same. Raises ConfigError where amp is bf16 and the device doesn't compute in it.
    ``lr_size`` is the side of the training patches in low-resolution pixels.
    """
    training = settings.training
    if training.amp == "bf16" and not world.has_bfloat16:
        advice = "use --hparams amp=off, or amp=auto, which takes bf16 where it pays"
        raise ConfigError(f"amp=bf16: this device doesn't compute in bfloat16, so it would be far slower; {advice}")
    if training.amp == "auto":
        training = replace(training, amp=world.from_main("bf16" if world.has_bfloat16 else "off"))
        logger.info("amp=auto: %s from now on", training.amp)
    if training.channels_last == "auto":
        chosen = replace(settings, training=training)
        is_faster = _is_faster_with_channels_last(task, chosen, lr_size=lr_size, world=world) if world.is_main else None
        training = replace(training, channels_last=world.from_main(is_faster))
    return replace(settings, training=training)


def _is_faster_with_channels_last(task: Task, settings: Settings, *, lr_size: int, world: World) -> bool:
    """Forward and backward passes of a copy of the task; the fastest of each counts."""
    share = settings.training.batch_size // world.size if world.is_asynchronous else 1
    size = settings.data.train_crop or lr_size
    batch = blank_batch(settings.data, size=size, samples=share, device=world.device)
    copied = copy.deepcopy(task).to(world.device).train()

    def step(images: Batch) -> None:
        with world.autocast(settings.training.amp):
            loss = blank_loss(copied, images)
        loss.backward()
        loss.item()  # waits for all of it

    seconds = []
    for memory_format, images in ((torch.contiguous_format, batch), (torch.channels_last, channels_last(batch))):
        copied.to(memory_format=memory_format)  # type: ignore[call-overload]
        times = timeit.repeat(functools.partial(step, images), number=1, repeat=_TRIAL_STEPS)
        seconds.append(min(times[1:]))
    is_faster = seconds[1] < _WORTH * seconds[0]
    logger.info(
        "channels_last=auto: a step of %d samples takes %.3g s without and %.3g s with it: %s from now on",
        len(batch.keys), *seconds, str(is_faster).lower(),
    )  # fmt: skip
    return is_faster
