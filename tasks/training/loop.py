"""The training loop of every task: status, validation, checkpoint, end, step; and the checkpoints that it saves."""

import contextlib
import logging
import math
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from tasks.base import Task
from tasks.training.logger import TrainingLogger
from tasks.training.state import TrainState, set_training
from utils import checkpoint
from utils.checkpoint import Saved
from utils.cli import StopSignals
from utils.config.settings import Training
from utils.dataloader import training_loader
from utils.distributed import World, explain_out_of_memory
from utils.errors import ConfigError, Stopped, TrainingError
from utils.images import Picture

logger = logging.getLogger(__name__)


class CheckpointManager:
    """The checkpoints in an experiment's folder. Only the main process saves."""

    def __init__(self, folder: Path, training: Training, *, world: World) -> None:
        self.folder, self.training, self.world = folder, training, world
        self.failure: OSError | None = None  # of the last attempt to save, on the main process
        if world.is_main:
            checkpoint.remove_leftovers(folder)

    def resume(self, state: TrainState, saved: Saved) -> None:
        """Restore the newest whole checkpoint, and rename the damaged ones after it.

        Raises:
            CheckpointError: it doesn't fit the configuration or the data.
        """
        if self.world.is_main:
            checkpoint.set_damaged_aside(self.folder, after=saved.global_step)
        state.restore(saved.content, source=saved.path)

    def should(self, *, row_due: bool, done: bool) -> bool:
        """Whether to save between the intervals: again after a failure, and at the end of a training of no steps."""
        return (self.failure is not None and row_due) or (done and checkpoint.is_empty(self.folder))

    def save(self, state: TrainState) -> None:
        """Save this step, then remove old checkpoints. On a full disk these stay, and training goes on."""
        if not self.world.is_main:
            return
        failed_before = self.failure is not None
        self.failure = self._write(state, checkpoint.file_name(state.step), silent=failed_before)
        if self.failure is None:
            checkpoint.prune(self.folder, keep=self.training.num_ckpt_keep)
            if failed_before:
                logger.info("the checkpoint of step %d could be saved", state.step)

    def save_best(self, state: TrainState, figures: dict[str, float], *, earlier: Sequence[float]) -> None:
        """Save this step as the best one too, if its ``valid_monitor_key`` is better than all ``earlier`` values."""
        value = figures[self.training.valid_monitor_key]
        if self.world.is_main and is_best(value, earlier, mode=self.training.valid_monitor_mode):
            self._write(state, checkpoint.BEST, silent=False)

    def _write(self, state: TrainState, name: str, *, silent: bool) -> OSError | None:
        """Why it could not be written, or None."""
        try:
            checkpoint.write(self.folder / name, state.content())
        except OSError as error:
            if not silent:
                logger.warning("%s of step %d could not be saved: %s; training goes on", name, state.step, error)
            return error
        return None


def is_best(value: float, earlier: Sequence[float], *, mode: str) -> bool:
    """Whether a figure is better than all earlier ones; NaN never is."""
    others = [other for other in earlier if not math.isnan(other)]
    return not math.isnan(value) and all(value < other if mode == "min" else value > other for other in others)


class Validate(Protocol):
    """Evaluates the validation split.

    Returns the figures of val_res.csv, the same on every process, and a picture on the main one; None where
    ``asked_to_stop`` cut it short.
    """

    def __call__(
        self, task: Task, *, asked_to_stop: Callable[[], bool]
    ) -> tuple[dict[str, float], Picture | None] | None: ...


def fit(state: TrainState, manager: CheckpointManager, *, name: str, validate: Validate | None) -> None:
    """Train to ``max_updates``, and save.

    Args:
        validate: None where there is nothing to validate with.

    Raises:
        Stopped: a signal asked for it; all is saved by then.
        TrainingError: training can't go on.
    """
    training, world = state.settings.training, state.world
    with StopSignals().caught() as stop, _training_logger(state, manager, name=name) as log:

        def asked_to_stop() -> bool:
            return stop.received is not None

        batches = iter(_batches(state))
        # A checkpoint is saved after everything else that its step leads to. So before this run's first step nothing
        # is due, but for a validation that a signal cut short.
        stepped = False
        validation_missing = world.from_main(log is not None and not log.validations.has(state.step))
        while True:
            step, done = state.step, state.step >= training.max_updates
            stopping = world.any(asked_to_stop())
            row_due = stepped and (step % training.tb_log_interval == 0 or done)
            at_validation = step > 0 and (step % training.val_check_interval == 0 or done)
            validation_due = at_validation and (stepped or validation_missing)
            save_due = stepped and step % training.save_ckpt_interval == 0

            # Status
            if stepped and (row_due or validation_due or save_due or stopping or not world.is_asynchronous):
                state.check_finite()
            if row_due:
                figures = state.means()
                if log:
                    log.training(step, figures, memory=world.memory())

            # Validation
            if validate and validation_due and not stopping:
                stopping = not _run_validation(state, manager, log, validate=validate, asked_to_stop=asked_to_stop)

            # Checkpoint
            if save_due or (stepped and (done or stopping)) or manager.should(row_due=row_due, done=done):
                manager.save(state)

            # End
            if stopping or done:
                world.barrier()  # no process ends before the main one has saved
                if manager.failure:
                    raise TrainingError(f"the last checkpoint could not be saved: {manager.failure}")
                if not stopping:
                    if not stepped:
                        logger.info("already at step %d: nothing to train (max_updates=%d)", step, training.max_updates)
                    return
                raise Stopped(
                    f"stopped after step {step} of {training.max_updates}; the same command without --reset goes on",
                    signal_number=stop.received or signal.SIGTERM,
                )

            # Step
            with explain_out_of_memory("batch_size", training.batch_size, device=world.device):
                state.train_step(batches)
            stepped = True
            if log:
                log.stepped()


def _batches(state: TrainState) -> Iterator[dict[str, Any]]:
    """This process's share of the batches that are left."""
    training, world = state.settings.training, state.world
    return iter(
        training_loader(
            state.data,
            batch_size=training.batch_size,
            seed=training.seed,
            start_step=state.step * training.accumulate_grad_batches,
            stop_step=training.max_updates * training.accumulate_grad_batches,
            train_crop=state.settings.data.train_crop,
            rank=world.rank,
            world_size=world.size,
            workers=state.settings.data.num_workers,
            pin_memory=world.pins_memory,
        )
    )


@contextlib.contextmanager
def _training_logger(state: TrainState, manager: CheckpointManager, *, name: str) -> Iterator[TrainingLogger | None]:
    """The logs, on the main process."""
    if not state.world.is_main:
        yield None
        return
    final = state.settings.training.max_updates
    try:
        log = TrainingLogger(manager.folder, name=name, start=state.step, final=final)
    except OSError as error:
        raise ConfigError(f"{manager.folder} can't be written: {error}") from None
    with contextlib.closing(log):
        yield log


def _run_validation(
    state: TrainState,
    manager: CheckpointManager,
    log: TrainingLogger | None,
    *,
    validate: Validate,
    asked_to_stop: Callable[[], bool],
) -> bool:
    """Log the figures of the validation split and save the best step; False where a signal cut it short."""
    evaluation = state.settings.evaluation
    with (
        log.validating() if log else contextlib.nullcontext(),
        state.averaged_weights() as task,
        explain_out_of_memory("eval_batch_size", evaluation.eval_batch_size, device=state.world.device),
    ):
        outcome = validate(task, asked_to_stop=asked_to_stop)
    set_training(state.task, state.settings)
    if outcome is None:
        return False
    figures, picture = outcome
    if log:
        log.validation(state.step, figures, picture)
        key = state.settings.training.valid_monitor_key
        manager.save_best(state, figures, earlier=log.validations.column(key, before=state.step))
    return True
