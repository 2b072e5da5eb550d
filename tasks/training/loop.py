"""The training loop of every task: status, validation, checkpoint, end, step; and the checkpoints that it saves."""

import contextlib
import logging
import math
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

from tasks.training.logger import TrainingLogger
from tasks.training.state import TrainState
from utils import checkpoint
from utils.checkpoint import Saved
from utils.cli import StopSignals
from utils.dataloader import training_loader
from utils.distributed import explain_out_of_memory
from utils.errors import Stopped, TrainingError
from utils.images import Picture

logger = logging.getLogger(__name__)


Outcome = tuple[dict[str, float], Picture | None]  # figures of val_res.csv, and on the main process a picture
Validate = Callable[..., Outcome | None]  # (task, asked_to_stop=) -> the same figures everywhere; None if cut short


class CheckpointManager:
    """The checkpoints in an experiment's folder. Only the main process saves."""

    def __init__(self, folder: Path, state: TrainState) -> None:
        self.folder, self.state = folder, state
        self.failure: OSError | None = None  # of the last attempt to save

    def save(self) -> None:
        """Save this step, then remove old checkpoints. On a full disk these stay, and training goes on."""
        if not self.state.world.is_main:
            return
        failed_before = self.failure is not None
        self.failure = self._write(checkpoint.file_name(self.state.step), silent=failed_before)
        if self.failure is None:
            checkpoint.prune(self.folder, keep=self.state.settings.training.num_ckpt_keep)
            if failed_before:
                logger.info("the checkpoint of step %d could be saved", self.state.step)

    def save_best(self, value: float, *, earlier: Sequence[float]) -> None:
        """Save this step as the best one too, if its figure is better than all ``earlier`` ones; NaN never is."""
        sign = 1 if self.state.settings.training.valid_monitor_mode == "max" else -1
        if not math.isnan(value) and not any(sign * other >= sign * value for other in earlier):
            self._write(checkpoint.BEST, silent=False)

    def _write(self, name: str, *, silent: bool) -> OSError | None:
        """Why it could not be written, or None."""
        try:
            checkpoint.write(self.folder / name, self.state.content())
        except OSError as error:
            if not silent:
                logger.warning("%s of step %d could not be saved: %s; training goes on", name, self.state.step, error)
            return error
        return None


def fit(state: TrainState, folder: Path, *, name: str, saved: Saved | None, validate: Validate | None) -> None:
    """Train to ``max_updates``, and save.

    Args:
        folder: of the experiment called ``name``.
        saved: what the training goes on from.
        validate: None where there is nothing to validate with.

    Raises:
        CheckpointError: what was saved doesn't fit the configuration or the data.
        Stopped: a signal asked for it; all is saved by then.
        TrainingError: training can't go on.
    """
    training, world = state.settings.training, state.world
    manager = CheckpointManager(folder, state)
    if saved is not None:
        state.restore(saved.content, source=saved.path)
    if world.is_main:
        checkpoint.remove_leftovers(folder)
        if saved is not None:  # newer ones are damaged
            checkpoint.set_damaged_aside(folder, after=saved.global_step)
    log = TrainingLogger(folder, name=name, start=state.step, final=training.max_updates) if world.is_main else None
    with StopSignals().caught() as stop, contextlib.closing(log) if log else contextlib.nullcontext():
        loader = training_loader(
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
        batches = iter(loader)
        # A checkpoint is saved after everything else that its step leads to. So before this run's first step nothing
        # is due, but for a validation that a signal cut short.
        stepped = False
        validation_missing = world.from_main(log is not None and state.step not in log.validations.rows)
        while True:
            step, done = state.step, state.step >= training.max_updates
            stopping = world.any(stop.received is not None)
            row_due = stepped and (step % training.tb_log_interval == 0 or done)
            at_validation = step > 0 and (step % training.val_check_interval == 0 or done)
            validation_due = at_validation and (stepped or validation_missing)
            save_due = stepped and step % training.save_ckpt_interval == 0
            # Between the intervals: again after a failure, and at the end of a training of no steps.
            save_besides = (manager.failure and row_due) or (done and checkpoint.is_empty(folder))

            # Status
            if stepped and (row_due or validation_due or save_due or stopping or not world.is_asynchronous):
                state.check_finite()
            if row_due:
                figures = state.means()
                if log:
                    log.training(step, figures, memory=world.memory())

            # Validation
            if validate and validation_due and not stopping:
                with log.validating() if log else contextlib.nullcontext(), state.averaged_weights() as task:
                    outcome = validate(task, asked_to_stop=lambda: stop.received is not None)
                state.task.train()
                stopping = outcome is None
                if log and outcome:
                    log.validation(step, *outcome)
                    key = training.valid_monitor_key
                    manager.save_best(outcome[0][key], earlier=log.validations.column(key, before=step))

            # Checkpoint
            if save_due or save_besides or (stepped and (done or stopping)):
                manager.save()

            # End
            if stopping or done:
                world.barrier()  # no process ends before the main one has saved
                if manager.failure:
                    raise TrainingError(f"the last checkpoint could not be saved: {manager.failure}")
                if stopping:
                    said = f"stopped after step {step} of {training.max_updates}"
                    signal_number = stop.received or signal.SIGTERM
                    raise Stopped(f"{said}; the same command without --reset goes on", signal_number=signal_number)
                if not stepped:
                    logger.info("already at step %d: nothing to train (max_updates=%d)", step, training.max_updates)
                return

            # Step
            with explain_out_of_memory("batch_size", training.batch_size, device=world.device):
                state.train_step(batches)
            stepped = True
            if log:
                log.stepped()
