"""The training loop of every task."""

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from tasks.evaluate import Validation
from tasks.experiment import Experiment, Report
from tasks.optimiser import AveragedWeights, Guard, adam, clip, gradient_norm, learning_rate
from tasks.task import DROPOUT, Address, Task
from utils import checkpoint
from utils.augment import augment
from utils.dataloader import Batch, BreizhSRDataset, permutation, training_loader
from utils.distributed import World
from utils.errors import CheckpointError, Stopped, TrainingError
from utils.logs import StepTable
from utils.randomness import seed as seed_of
from utils.settings import Training
from utils.tables import Key


class StopSignals:
    """SIGTERM and SIGINT ask to stop after the step; a second one leaves at once."""

    def __init__(self) -> None:
        self.received: int | None = None

    @contextlib.contextmanager
    def caught(self) -> Iterator["StopSignals"]:
        before = {number: signal.signal(number, self._handle) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, _frame: object) -> None:
        if self.received is not None:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.received = number


class Trainer:
    """Everything that changes while a task trains: weights, optimiser, averages, logs, and the step."""

    def __init__(
        self,
        task: Task,
        experiment: Experiment,
        *,
        world: World,
        train: BreizhSRDataset,
        validation: Validation | None,
        report: Report,
    ) -> None:
        self.task = task.to(world.device)
        self.experiment = experiment
        self.training = experiment.settings.training
        self.world = world
        self.train_data = train
        self.validation = validation
        self.report = report
        self.step = 0
        self.parameters = task.trainable()
        self.optimizer = adam(self.parameters, lr=self.training.lr)
        self.averaged = AveragedWeights(task.model, decay=self.training.ema_decay) if self.training.ema_decay else None
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=self.training.amp == "fp16")
        self.guard = Guard(world.device)
        self.summed = torch.zeros(0, device=world.device)  # loss terms and gradient norm since the last row of the log
        self.term_names: list[str] = []
        self.best: float | None = None
        self.failed_save: OSError | None = None
        self.seen_since_log, self.logged_at = 0, time.monotonic()

    # What is saved and restored

    def content(self) -> dict[str, Any]:
        """A checkpoint."""
        content: dict[str, Any] = {
            "format_version": checkpoint.FORMAT_VERSION,
            "global_step": self.step,
            "state_dict": {"model": self.task.model.state_dict()},
            "optimizer_states": [self.optimizer.state_dict()],
            "maxima": list(self.train_data.maxima),
            "log": {"names": self.term_names, "summed": self.summed, "best": self.best},
        }
        if self.averaged:
            content["ema"] = self.averaged.state
        if self.scaler.is_enabled():
            content["scaler"] = self.scaler.state_dict()
        return content

    def restore(self, content: dict[str, Any], *, source: Any) -> None:
        """Go on where a checkpoint was saved."""
        self.report(
            "resuming: " + checkpoint.load_weights(self.task.model, content["state_dict"]["model"], source=source)
        )
        checkpoint.load_optimizer(self.optimizer, content, source=source)
        self.step = content["global_step"]
        if self.averaged:
            if "ema" in content:
                self.averaged.load(content["ema"])
            else:
                self.averaged = AveragedWeights(self.task.model, decay=self.training.ema_decay)
        if self.scaler.is_enabled() and "scaler" in content:
            self.scaler.load_state_dict(content["scaler"])
        log = content.get("log", {})
        self.term_names, self.best = list(log.get("names", [])), log.get("best")
        self.summed = log.get("summed", self.summed).to(self.world.device)

    def save(self) -> None:
        """Save this step; on a full disk the old checkpoints and the run go on."""
        if self.world.is_main:
            folder = self.experiment.folder
            try:
                checkpoint.write(folder / checkpoint.file_name(self.step), self.content())
                checkpoint.prune(folder, keep=self.training.num_ckpt_keep)
                self.failed_save = None
            except OSError as error:
                self.failed_save = error
                self.report(f"checkpoint of step {self.step} could not be saved ({error}); training goes on")
        self.world.barrier()

    def save_if_best(self, figures: dict[str, float]) -> None:
        key, mode = self.training.valid_monitor_key, self.training.valid_monitor_mode
        if key not in figures:
            raise TrainingError(f"valid_monitor_key {key!r} is no column of val_res.csv: {', '.join(figures)}")
        value = figures[key]
        better = self.best is None or (value < self.best if mode == "min" else value > self.best)
        if better:
            self.best = value
            if self.world.is_main:
                try:
                    checkpoint.write(self.experiment.folder / checkpoint.BEST, self.content())
                except OSError as error:
                    self.report(f"the best checkpoint could not be saved ({error}); training goes on")

    # One step

    def train_step(self, module: nn.Module, batches: Iterator[dict[str, Any]]) -> None:
        """``accumulate_grad_batches`` batches, one update of the weights."""
        training, parts = self.training, self.training.accumulate_grad_batches
        torch.manual_seed(seed_of(training.seed, DROPOUT, self.step, self.world.rank))  # dropout draws from it
        rate = learning_rate(self.step, base=training.lr, recipe=self.task.recipe, warmup_steps=training.warmup_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        values: list[Tensor] = []
        for part in range(parts):
            address = self._address(part)
            batch = self._to_device(next(batches), address)
            last = part == parts - 1
            with contextlib.nullcontext() if last or self.world.size == 1 else module.no_sync():  # type: ignore[operator]
                with self.world.autocast(training.amp):
                    terms = module(batch, address)
                self.scaler.scale(torch.stack(list(terms.values())).sum() / parts).backward()
            values.append(torch.stack([term.detach().float() for term in terms.values()]))
            self.term_names = list(terms)
        self._update(torch.stack(values).mean(dim=0))
        self.step += 1

    def _to_device(self, raw: dict[str, Any], address: Address) -> Batch:
        batch = self.train_data.to_batch(raw, self.world.device)
        names = self.experiment.settings.data.augment
        batch = augment(batch, names, seed=address.seed, step=address.step, positions=address.positions)
        if self.training.channels_last:
            batch = batch._replace(
                base=batch.base.contiguous(memory_format=torch.channels_last),
                hr=batch.hr.contiguous(memory_format=torch.channels_last),
            )
        return batch

    def _address(self, part: int) -> Address:
        """Where the random numbers of this process's share of a batch belong."""
        share = self.training.batch_size // self.world.size
        positions = torch.arange(share, device=self.world.device) + self.world.rank * share
        return Address(self.training.seed, self.step * self.training.accumulate_grad_batches + part, positions)

    def _update(self, terms: Tensor) -> None:
        """Check, clip, step, average. terms: (n,) mean loss terms of the step."""
        scaled = self.scaler.is_enabled()
        if scaled:
            self.scaler.unscale_(self.optimizer)
        norm = gradient_norm(self.parameters)
        self.guard.watch(self.step, terms, None if scaled else norm)  # the scaler skips overflows of its own
        if self.training.clip_grad_norm:
            clip(self.parameters, norm=norm, largest=self.training.clip_grad_norm)
        if scaled:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            self.guard.apply(self.optimizer)
            self.optimizer.step()
        if self.averaged:
            self.averaged.update(self.task.model)
        row = torch.cat([terms, norm.detach().float().view(1), torch.ones(1, device=terms.device)])
        self.summed = self.summed + row if len(self.summed) else row
        self.seen_since_log += 1

    def check_finite(self) -> None:
        """Raise TrainingError where a step's loss or gradient was not finite; weights are as before that step."""
        if not self.world.any(bool(self.guard.tripped)):
            return
        step = int(self.guard.step)
        terms = ", ".join(
            f"{name} {value:.4g}"
            for name, value in zip(
                self.term_names, (self.guard.terms if self.guard.terms is not None else []), strict=False
            )
        )
        keys = keys_of_step(self.train_data, max(step, 0), training=self.training)
        raise TrainingError(
            f"loss or gradient is not finite at step {step + 1} ({terms}); samples {', '.join(map(str, keys))}; "
            f"the weights of the steps before are in {self.experiment.folder}"
        )

    def log_row(self) -> dict[str, float]:
        """The means since the last row; the one place where the host waits for the device."""
        *sums, count = self.world.mean(self.summed.clone()).tolist()
        self.summed = torch.zeros(0, device=self.world.device)
        means = [value / count for value in sums]
        figures = {
            "loss": sum(means[:-1]),
            **dict(zip(self.term_names, means[:-1], strict=True)),
            "grad_norm": means[-1],
        }
        figures["lr"] = self.optimizer.param_groups[0]["lr"]
        return figures

    def speed(self) -> float:
        """Steps a second since it was last asked."""
        now = time.monotonic()
        steps, seconds = self.seen_since_log, now - self.logged_at
        self.seen_since_log, self.logged_at = 0, now
        return steps / max(seconds, 1e-9)

    def validate(self) -> tuple[dict[str, float], Any]:
        """Figures over the validation split and pictures of its first patches; by averaged weights if there are."""
        assert self.validation is not None
        own = self.task.model.state_dict()
        if self.averaged:
            own = {name: value.clone() for name, value in own.items()}
            self.task.model.load_state_dict(self.averaged.state)
        try:
            return self.validation.run(self.task)
        finally:
            if self.averaged:
                self.task.model.load_state_dict(own)


def keys_of_step(dataset: BreizhSRDataset, step: int, *, training: Training) -> list[Key]:
    """The samples of all batches of an optimiser step."""
    size = training.batch_size * training.accumulate_grad_batches
    keys = []
    for sample in range(step * size, (step + 1) * size):
        epoch, place = divmod(sample, len(dataset))
        keys.append(dataset.key(int(permutation(len(dataset), seed=training.seed, epoch=epoch)[place])))
    return keys


def fit(trainer: Trainer) -> None:
    """Train to ``max_updates``: status, validate, checkpoint, done?, step.

    Raises Stopped after a signal (saved by then), TrainingError where training can't go on.
    """
    training, world, folder = trainer.training, trainer.world, trainer.experiment.folder
    start, final = trainer.step, training.max_updates
    losses_csv = StepTable(folder / "train_loss.csv", step=start) if world.is_main else None
    figures_csv = StepTable(folder / "val_res.csv", step=start) if world.is_main else None
    board = SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1) if world.is_main else None
    batches = iter(
        training_loader(
            trainer.train_data,
            batch_size=training.batch_size,
            seed=training.seed,
            start_step=start * training.accumulate_grad_batches,
            stop_step=final * training.accumulate_grad_batches,
            train_crop=trainer.experiment.settings.data.train_crop,
            rank=world.rank,
            world_size=world.size,
            workers=trainer.experiment.settings.data.num_workers,
            pin_memory=world.pins_memory,
        )
    )
    module = _prepared(trainer)
    waits = world.device.type == "cuda"  # there the host asks only when it logs
    progress = tqdm(
        total=final,
        initial=start,
        desc=trainer.experiment.name,
        unit="step",
        disable=not world.is_main,
        dynamic_ncols=True,
    )
    try:
        with StopSignals().caught() as stop, progress:
            while True:
                fresh, done = trainer.step > start, trainer.step >= final

                # Status
                if fresh and (not waits or trainer.step % training.tb_log_interval == 0 or done):
                    trainer.check_finite()
                if fresh and (trainer.step % training.tb_log_interval == 0 or done) and len(trainer.summed):
                    figures = trainer.log_row()
                    speed = trainer.speed()
                    progress.set_postfix(
                        loss=f"{figures['loss']:.4g}", lr=f"{figures['lr']:.2g}", mem=world.memory(), refresh=False
                    )
                    if losses_csv and board:
                        losses_csv.append(trainer.step, figures)
                        for name, value in {**figures, "steps_per_second": speed}.items():
                            board.add_scalar(f"train/{name}", value, trainer.step)

                # Validate
                if fresh and trainer.validation and (trainer.step % training.val_check_interval == 0 or done):
                    results, pictures = trainer.validate()
                    if figures_csv and board:
                        figures_csv.append(trainer.step, results)
                        for name, value in results.items():
                            board.add_scalar(f"val/{name}", value, trainer.step)
                        if pictures is not None:
                            board.add_image("val/bicubic_prediction_truth", pictures, trainer.step, dataformats="HWC")
                    trainer.save_if_best(results)
                    module.train()

                # Checkpoint
                stopping = world.any(stop.received is not None)
                if fresh and (trainer.step % training.save_ckpt_interval == 0 or done or stopping):
                    if board:
                        board.flush()
                    trainer.check_finite()
                    trainer.save()

                # Done?
                if stopping:
                    raise Stopped(
                        f"stopped after step {trainer.step}; the same command goes on from there",
                        signal_number=stop.received or signal.SIGTERM,
                    )
                if done:
                    break

                # Step
                trainer.train_step(module, batches)
                progress.update()
    except torch.OutOfMemoryError:
        raise TrainingError(
            f"out of memory on {world.device}: a smaller batch_size (now {training.batch_size}) or train_crop helps"
        ) from None
    finally:
        if board:
            board.close()
    if trainer.failed_save:
        raise TrainingError(f"the last checkpoint could not be saved: {trainer.failed_save}")


def _prepared(trainer: Trainer) -> nn.Module:
    """The task as it is called in training: compiled, in its memory format, synchronised over processes."""
    task, training, world = trainer.task, trainer.training, trainer.world
    task.train()
    if training.channels_last:
        task.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if training.compile:
        compile_parts(task, report=trainer.report)
    if world.size == 1:
        return task
    if world.device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(task)
    return nn.parallel.DistributedDataParallel(
        task,
        device_ids=[world.device] if world.device.type == "cuda" else None,
        find_unused_parameters=True,  # a short series skips the fusion, a loss may skip the head
        gradient_as_bucket_view=True,
    )


def compile_parts(task: Task, *, report: Callable[[str], object]) -> None:
    """torch.compile in place, so that no name changes; without a C++ compiler for the CPU it stays off."""
    import shutil

    if not shutil.which("g++") and not shutil.which("clang++") and not torch.cuda.is_available():
        report("compile: no C++ compiler here, so it stays off")
        return
    for part in task.compiled_parts():
        part.compile()


def resume(trainer: Trainer) -> None:
    """Go on from the experiment's newest readable checkpoint, if there is one."""
    checkpoint.remove_leftovers(trainer.experiment.folder)
    found = checkpoint.newest(trainer.experiment.folder, report=trainer.report)
    if found is None:
        return
    path, content = found
    maxima = content.get("maxima")
    if maxima is not None and list(maxima) != list(trainer.train_data.maxima):
        raise CheckpointError(
            f"{path} was trained with normalisation {maxima}, the data has {list(trainer.train_data.maxima)}"
        )
    trainer.restore(content, source=path)
    if trainer.step >= trainer.training.max_updates:
        sys.stderr.write(
            f"{trainer.experiment.name}: already at step {trainer.step} of {trainer.training.max_updates}\n"
        )
