"""Saves an experiment's checkpoints: keeps the newest ones and the best one, and goes on where the disk is full."""

import logging
import math
from collections.abc import Sequence
from pathlib import Path

from tasks.training.state import TrainState
from utils import checkpoint
from utils.checkpoint import Saved
from utils.config.settings import Training
from utils.distributed import World

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
