"""What learns: a task's weights, its optimiser, their averages, and the step."""

import contextlib
import copy
import logging
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tasks.base import RandomKey, Task, blank_batch
from tasks.training.optim import AveragedWeights, NonFiniteGuard, adam, clip, gradient_norm, learning_rate, update
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


class TrainState:
    """Everything that changes while a task trains; a checkpoint holds all of it."""

    def __init__(self, task: Task, settings: Settings, *, data: BreizhSRDataset, world: World) -> None:
        training = settings.training
        self.task = task.to(world.device)
        self.settings, self.data, self.world = settings, data, world
        self.module = prepare_for_ddp(task, settings, world=world)
        self.step = 0
        self.parameters = task.trainable()
        self.optimizer = adam(self.parameters, lr=training.lr)
        self.averaged = AveragedWeights(task.model, decay=training.ema_decay) if training.ema_decay else None
        fp16 = training.amp == "fp16"
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=fp16)
        self.guard = NonFiniteGuard(world.device, overflows=_FP16_OVERFLOWS if fp16 else 0)
        self.statistics = [] if world.size == 1 or world.device.type == "cuda" else running_statistics(task)
        self.term_names: list[str] = []
        self.summed = torch.zeros(0, device=world.device)  # since the last row: loss terms, gradient norm, steps

    @property
    def rate(self) -> float:
        """The learning rate of the next step."""
        training = self.settings.training
        return learning_rate(self.step, base=training.lr, decay=self.task.decay, warmup_steps=training.warmup_steps)

    # One step

    def train_step(self, batches: Iterator[dict[str, Any]]) -> None:
        """Compute the gradients of ``accumulate_grad_batches`` batches, and update the weights once."""
        training, parts = self.settings.training, self.settings.training.accumulate_grad_batches
        torch.manual_seed(seed_of(Stream.DROPOUT, training.seed, self.step, self.world.rank))  # dropout draws from it
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate
        self.optimizer.zero_grad(set_to_none=True)
        values: list[Tensor] = []
        for part in range(parts):
            key = self._random_key(part)
            batch = self._batch(next(batches), key)
            with self._gradients_shared(part == parts - 1):
                with self.world.autocast(training.amp):
                    terms = self.module(batch, key)
                self.scaler.scale(torch.stack(list(terms.values())).sum() / parts).backward()
            values.append(torch.stack([term.detach().float() for term in terms.values()]))
            self.term_names = list(terms)
        self._update(self.world.mean(torch.stack(values).mean(dim=0)))
        self.step += 1

    def _random_key(self, part: int) -> RandomKey:
        """What addresses the random numbers of this process's share of a batch."""
        training = self.settings.training
        share = training.batch_size // self.world.size
        positions = torch.arange(share, device=self.world.device) + self.world.rank * share
        return RandomKey(training.seed, self.step * training.accumulate_grad_batches + part, positions)

    def _batch(self, raw: dict[str, Any], key: RandomKey) -> Batch:
        batch = self.data.to_batch(raw, self.world.device)
        names = self.settings.data.augment
        batch = augment(batch, names, seed=key.seed, step=key.step, positions=key.positions)
        if self.settings.training.channels_last is True:
            batch = batch._replace(
                base=batch.base.contiguous(memory_format=torch.channels_last),
                hr=batch.hr.contiguous(memory_format=torch.channels_last),
            )
        return batch

    def _gradients_shared(self, now: bool) -> contextlib.AbstractContextManager:
        """Let processes exchange gradients now, or not: they do so once a step, with its last batch."""
        if now or self.world.size == 1:
            return contextlib.nullcontext()
        return self.module.no_sync()  # type: ignore[operator]

    def _update(self, terms: Tensor) -> None:
        """Update the weights and their averages. terms: (n,) loss terms of the step, means over all processes."""
        self.scaler.unscale_(self.optimizer)
        norm = gradient_norm(self.parameters).detach().float()
        skip = self.guard.watch(self.step, terms, norm)
        if self.settings.training.clip_grad_norm:
            clip(self.parameters, norm=norm, largest=self.settings.training.clip_grad_norm)
        update(self.optimizer, skip=skip)
        self.scaler.update()
        if self.statistics:
            flat = self.world.mean(torch.cat(self.statistics))
            torch._foreach_copy_(self.statistics, list(flat.split([len(x) for x in self.statistics])))
        if self.averaged:
            self.averaged.update(self.step + 1)
        row = torch.cat([terms, norm.view(1), norm.new_ones(1)])
        self.summed = self.summed + row if len(self.summed) else row

    # What is asked of it between steps

    def check_finite(self) -> None:
        """Raise TrainingError where a step's loss or gradient was not finite; the weights are those before it."""
        failure = self.guard.failure()
        if failure is None:
            return
        step, values = failure
        said = ", ".join(f"{name} {x:.4g}" for name, x in zip([*self.term_names, "gradient norm"], values, strict=True))
        training = self.settings.training
        size = training.batch_size * training.accumulate_grad_batches
        samples = range(step * size, (step + 1) * size)
        positions = self.data.store.training_positions(samples, batch_size=training.batch_size, seed=training.seed)
        raise TrainingError(
            f"loss or gradient is not finite in step {step + 1} ({said}), "
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

    # Checkpoints

    def content(self) -> dict[str, Any]:
        """A checkpoint."""
        content: dict[str, Any] = {
            "format_version": checkpoint.FORMAT_VERSION,
            "version": VERSION,
            "global_step": self.step,
            "state_dict": {"model": self.task.model.state_dict()},
            "optimizer_states": [self.optimizer.state_dict()],
            "maxima": list(self.data.maxima),
            "bands": list(self.data.bands),
            "log": {"names": self.term_names, "summed": self.summed},
        }
        if self.averaged:
            content["ema"] = self.averaged.state
        if self.scaler.is_enabled():
            content["scaler"] = self.scaler.state_dict()
        return content

    def restore(self, content: dict[str, Any], *, source: Path) -> None:
        """Go on from a checkpoint. Raises CheckpointError where it doesn't fit the configuration or the data."""
        maxima = content.get("maxima")
        if maxima is not None and list(maxima) != list(self.data.maxima):
            raise CheckpointError(
                f"{source} was trained with normalisation {list(maxima)}, the data has {list(self.data.maxima)}"
            )
        line = checkpoint.load_weights(self.task.model, content["state_dict"]["model"], source=source)
        checkpoint.load_optimizer(self.optimizer, content, source=source)
        self.step = content["global_step"]
        if self.averaged:
            if "ema" not in content:
                line += "; averaged weights start from them"
            self.averaged.load(content.get("ema", self.task.model.state_dict()))
        if "scaler" in content:
            self.scaler.load_state_dict(content["scaler"])
        log = content.get("log", {})
        self.term_names = list(log.get("names", []))
        self.summed = log.get("summed", self.summed).to(self.world.device)
        logger.info("resuming after step %d: %s", self.step, line)


_TRIAL_SIZE = 16  # low-resolution pixels; every network can halve it as often as it needs
_TRIAL_SAMPLES = 1  # of a batch, on a CPU
_TRIAL_STEPS = 3  # the first one doesn't count
_TRIAL_SECONDS = 1  # of a step of both; where it takes longer one that counts is enough
_WORTH = 0.97  # of the time; below it the other memory format is taken


def decided(settings: Settings, task: Task, *, lr_size: int, world: World) -> Settings:
    """The settings with what ``auto`` leaves open: amp by the device, channels_last by a trial of a few steps.

    All processes get the same; the task stays as it is.

    Args:
        settings: of a new experiment, or of one that goes on: its file holds no ``auto`` any more.
        task: what will be trained.
        lr_size: side of the training patches in low-resolution pixels.
        world: this process among all, and its device.

    Raises:
        ConfigError: amp is bf16 and the device doesn't compute in it.
    """
    training = settings.training
    if training.amp == "bf16" and not world.has_bfloat16:
        raise ConfigError(
            "amp=bf16: this device doesn't compute in bfloat16 and would be many times slower with it than in "
            "float32; use --hparams amp=off, or amp=auto, which takes bf16 where it pays"
        )
    if training.amp == "auto":
        training = replace(training, amp=world.from_main("bf16" if world.has_bfloat16 else "off"))
        logger.info("amp=auto: %s from now on", training.amp)
    if training.channels_last == "auto":
        chosen = replace(settings, training=training)
        is_faster = _is_faster_with_channels_last(task, chosen, lr_size=lr_size, world=world) if world.is_main else None
        training = replace(training, channels_last=world.from_main(is_faster))
    return replace(settings, training=training)


def _is_faster_with_channels_last(task: Task, settings: Settings, *, lr_size: int, world: World) -> bool:
    """Forward and backward passes of copies of the task, in turns; the fastest of each counts."""
    data, training = settings.data, settings.training
    share = training.batch_size // world.size
    batch = blank_batch(
        size=data.train_crop or lr_size, num_dates=data.sen2_amount, scale=data.sr_scale, channels=task.channels,
        samples=share if world.is_asynchronous else min(share, _TRIAL_SAMPLES), device=world.device,
    )  # fmt: skip
    key = RandomKey(0, 0, torch.arange(len(batch.keys), device=world.device))
    seconds: dict[bool, float] = {}
    plain = copy.deepcopy(task).to(world.device)
    last = copy.deepcopy(plain).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    fine = {name: getattr(batch, name).contiguous(memory_format=torch.channels_last) for name in ("base", "hr")}
    ways = {False: (plain, batch), True: (last, batch._replace(**fine))}
    for copied in (plain, last):
        set_training(copied, settings)
    for step in range(_TRIAL_STEPS):
        for way, (copied, images) in ways.items():
            started = time.perf_counter()
            with world.autocast(training.amp):
                terms = copied(images, key)
            total = torch.stack(list(terms.values())).sum()
            total.backward()
            total.item()  # waits for all of it
            elapsed = time.perf_counter() - started
            if step:
                seconds[way] = min(seconds.get(way, elapsed), elapsed)
        if step and sum(seconds.values()) > _TRIAL_SECONDS:
            break
    is_faster = seconds[True] < _WORTH * seconds[False]
    logger.info(
        "channels_last=auto: a step of %d samples takes %.3g s without and %.3g s with it: %s from now on",
        len(batch.keys), seconds[False], seconds[True], str(is_faster).lower(),
    )  # fmt: skip
    return is_faster


def prepare_for_ddp(task: Task, settings: Settings, *, world: World) -> nn.Module:
    """The module that a training step calls: the task, compiled and distributed as the settings say.

    The weights stay those of the task, with the same names.
    """
    set_training(task, settings)
    if settings.training.channels_last is True:
        task.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if settings.training.compile:
        compile_parts(task, world=world)
    if world.size == 1:
        return task
    if world.device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(task)
    elif running_statistics(task):
        logger.warning(
            "BatchNorm: each process normalises by its own share of a batch (only on CUDA by the whole batch)"
        )
    return nn.parallel.DistributedDataParallel(
        task,
        device_ids=[world.device] if world.device.type == "cuda" else None,
        find_unused_parameters=bool(unused_parameters(task, settings, device=world.device)),
        gradient_as_bucket_view=True,
        forward_sync_buffers=False,  # they are the same everywhere: synchronised, averaged, or constant
    )


def set_training(task: Task, settings: Settings) -> None:
    """Training mode; with ``freeze_norm`` BatchNorm keeps the statistics that it has."""
    task.train()
    if settings.training.freeze_norm:
        for module in task.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.eval()


def compile_parts(task: Task, *, world: World) -> None:
    """Compile in place, which changes no name. Where compiling doesn't work, a message says so and nothing changes."""
    try:
        torch.compile(lambda x: (x + 1).relu() * 2)(torch.ones(64, device=world.device))
    except Exception as error:  # no compiler, no headers, no Triton: each with an error of its own
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        logger.warning("compile stays off: it needs a working C++ compiler (%s)", reason)
        return
    for part in task.compiled_parts():
        part.compile(dynamic=False)  # a kernel for each shape, so results don't depend on the shapes seen before


def unused_parameters(task: Task, settings: Settings, *, device: torch.device) -> list[str]:
    """Parameters that training never uses: one view needs no fusion, and some losses don't use the head."""
    data = settings.data
    batch = blank_batch(
        size=_TRIAL_SIZE, num_dates=data.sen2_amount, scale=data.sr_scale, channels=task.channels, device=device
    )
    task.eval()  # no statistics change
    try:
        terms = task(batch, RandomKey(0, 0, torch.arange(1, device=device)))
        torch.stack(list(terms.values())).sum().backward()
        return [name for name, p in task.model.named_parameters() if p.requires_grad and p.grad is None]
    finally:
        task.zero_grad(set_to_none=True)
        set_training(task, settings)


def running_statistics(task: Task) -> list[Tensor]:
    """The running means and variances that training changes."""
    training = (module for module in task.modules() if module.training)
    buffers = (item for module in training for item in module.named_buffers(recurse=False))
    return [value for name, value in buffers if name in ("running_mean", "running_var")]
