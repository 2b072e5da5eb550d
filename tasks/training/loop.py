"""The training loop of every task: status, validate, checkpoint, done?, step."""

import contextlib
import logging
import signal
from collections.abc import Callable, Iterator
from typing import Any

from tasks.evaluation.evaluate import Validation
from tasks.training.checkpoints import CheckpointManager
from tasks.training.logger import TrainingLogger
from tasks.training.state import TrainState
from utils.dataloader import training_loader
from utils.distributed import explain_out_of_memory
from utils.errors import ConfigError, Stopped, TrainingError
from utils.signals import StopSignals

logger = logging.getLogger(__name__)


def fit(
    state: TrainState,
    manager: CheckpointManager,
    *,
    name: str,
    validation: Validation | None,
) -> None:
    """Train to ``max_updates``, and save.

    Raises Stopped after a signal (all is saved by then), TrainingError where training can't go on.
    """
    training, world = state.settings.training, state.world
    with StopSignals().caught() as stop, _training_logger(state, manager, name=name) as log:

        def asked_to_stop() -> bool:
            return stop.received is not None

        batches = iter(_batches(state))
        fresh = False  # a step was made since the start; what an earlier one led to was done before it was saved
        overdue = world.from_main(log is not None and not log.validations.has(state.step))  # cut short by a signal
        while True:
            step, done = state.step, state.step >= training.max_updates
            stopping = world.any(asked_to_stop())
            row_due = fresh and (step % training.tb_log_interval == 0 or done)
            validation_due = step > 0 and (fresh or overdue) and (step % training.val_check_interval == 0 or done)
            save_due = fresh and step % training.save_ckpt_interval == 0

            # Status
            if fresh and (row_due or validation_due or save_due or stopping or not world.is_asynchronous):
                state.check_finite()
            if row_due:
                figures = state.means()
                if log:
                    log.training(step, figures, memory=world.memory())

            # Validate
            if validation and validation_due and not stopping:
                stopping = not _validate(state, validation, manager, log, asked_to_stop)

            # Checkpoint
            if save_due or (fresh and (done or stopping)) or manager.should(row_due=row_due, done=done):
                if log:
                    log.flush()
                manager.save(state)

            # Done?
            if stopping or done:
                world.barrier()  # nobody leaves before all is saved
                if manager.failure:
                    raise TrainingError(f"the last checkpoint could not be saved: {manager.failure}")
                if not stopping:
                    if not fresh:
                        logger.info("already at step %d: nothing to train (max_updates=%d)", step, training.max_updates)
                    return
                raise Stopped(
                    f"stopped after step {step} of {training.max_updates}; the same command without --reset goes on",
                    signal_number=stop.received or signal.SIGTERM,
                )

            # Step
            with explain_out_of_memory("batch_size", training.batch_size, device=world.device):
                state.train_step(batches)
            fresh = True
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
    """The main process's."""
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


def _validate(
    state: TrainState,
    validation: Validation,
    manager: CheckpointManager,
    log: TrainingLogger | None,
    asked_to_stop: Callable[[], bool],
) -> bool:
    """Log the figures of the validation split and keep the best; False where it was cut short by a signal."""
    evaluation = state.settings.evaluation
    with (
        log.validating() if log else contextlib.nullcontext(),
        state.averaged_weights() as task,
        explain_out_of_memory("eval_batch_size", evaluation.eval_batch_size, device=state.world.device),
    ):
        outcome = validation.run(task, asked_to_stop=asked_to_stop)
    state.task.train()
    if outcome is None:
        return False
    figures, pictures = outcome
    if log:
        log.validation(state.step, figures, pictures)
        key = state.settings.training.valid_monitor_key
        manager.save_best(state, figures, earlier=log.validations.column(key, before=state.step))
    return True
