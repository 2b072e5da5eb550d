"""The training loop of every task: status, validate, checkpoint, done?, step."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import Any

from tasks.evaluation.evaluate import Validation
from tasks.training.checkpoints import Keeper
from tasks.training.logger import Logbook
from tasks.training.state import Learner
from utils.dataloader import training_loader
from utils.distributed import blamed_on
from utils.errors import ConfigError, Stopped, TrainingError
from utils.signals import StopSignals


def fit(
    learner: Learner,
    keeper: Keeper,
    *,
    name: str,
    validation: Validation | None,
    report: Callable[[str], object],
) -> None:
    """Train to ``max_updates``, and save.

    Raises Stopped after a signal (all is saved by then), TrainingError where training can't go on.
    """
    training, world = learner.settings.training, learner.world
    with StopSignals().caught() as stop, _logbook(learner, keeper, name=name, report=report) as log:

        def asked_to_stop() -> bool:
            return stop.received is not None

        batches = iter(_batches(learner))
        fresh = False  # a step was made since the start; what an earlier one led to was done before it was saved
        overdue = world.from_main(log is not None and not log.validations.has(learner.step))  # cut short by a signal
        while True:
            step, done = learner.step, learner.step >= training.max_updates
            stopping = world.any(asked_to_stop())
            row_due = fresh and (step % training.tb_log_interval == 0 or done)
            validation_due = step > 0 and (fresh or overdue) and (step % training.val_check_interval == 0 or done)
            save_due = fresh and step % training.save_ckpt_interval == 0

            # Status
            if fresh and (row_due or validation_due or save_due or stopping or not world.is_asynchronous):
                learner.check_finite()
            if row_due:
                figures = learner.means()
                if log:
                    log.training(step, figures, memory=world.memory())

            # Validate
            if validation and validation_due and not stopping:
                stopping = not _validate(learner, validation, keeper, log, asked_to_stop)

            # Checkpoint
            if save_due or (fresh and (done or stopping)) or keeper.should(row_due=row_due, done=done):
                if log:
                    log.flush()
                keeper.save(learner)

            # Done?
            if stopping or done:
                world.barrier()  # nobody leaves before all is saved
                if keeper.failure:
                    raise TrainingError(f"the last checkpoint could not be saved: {keeper.failure}")
                if not stopping:
                    if not fresh:
                        report(f"already at step {step}: nothing to train (max_updates={training.max_updates})")
                    return
                raise Stopped(
                    f"stopped after step {step} of {training.max_updates}; the same command without --reset goes on",
                    signal_number=stop.received or signal.SIGTERM,
                )

            # Step
            with blamed_on("batch_size", training.batch_size, device=world.device):
                learner.train_step(batches)
            fresh = True
            if log:
                log.stepped()


def _batches(learner: Learner) -> Iterator[dict[str, Any]]:
    """This process's share of the batches that are left."""
    training, world = learner.settings.training, learner.world
    return iter(
        training_loader(
            learner.data,
            batch_size=training.batch_size,
            seed=training.seed,
            start_step=learner.step * training.accumulate_grad_batches,
            stop_step=training.max_updates * training.accumulate_grad_batches,
            train_crop=learner.settings.data.train_crop,
            rank=world.rank,
            world_size=world.size,
            workers=learner.settings.data.num_workers,
            pin_memory=world.pins_memory,
        )
    )


@contextlib.contextmanager
def _logbook(
    learner: Learner, keeper: Keeper, *, name: str, report: Callable[[str], object]
) -> Iterator[Logbook | None]:
    """The main process's."""
    if not learner.world.is_main:
        yield None
        return
    final = learner.settings.training.max_updates
    try:
        log = Logbook(keeper.folder, name=name, start=learner.step, final=final, report=report)
    except OSError as error:
        raise ConfigError(f"{keeper.folder} can't be written: {error}") from None
    with contextlib.closing(log):
        yield log


def _validate(
    learner: Learner,
    validation: Validation,
    keeper: Keeper,
    log: Logbook | None,
    asked_to_stop: Callable[[], bool],
) -> bool:
    """Log the figures of the validation split and keep the best; False where it was cut short by a signal."""
    evaluation = learner.settings.evaluation
    with (
        log.validating() if log else contextlib.nullcontext(),
        learner.averaged_weights() as task,
        blamed_on("eval_batch_size", evaluation.eval_batch_size, device=learner.world.device),
    ):
        outcome = validation.run(task, asked_to_stop=asked_to_stop)
    learner.task.train()
    if outcome is None:
        return False
    figures, pictures = outcome
    if log:
        log.validation(learner.step, figures, pictures)
        key = learner.settings.training.valid_monitor_key
        keeper.save_best(learner, figures, earlier=log.validations.column(key, before=learner.step))
    return True
