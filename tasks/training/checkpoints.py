"""Keeps an experiment's checkpoints: the newest ones, the best one, and what a full disk does to them."""

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
    """The checkpoints of one experiment's folder. Only the main process saves."""

    def __init__(self, folder: Path, training: Training, *, world: World) -> None:
        self.folder, self.training, self.world = folder, training, world
        self.failure: OSError | None = None  # of the last attempt to save, on the main process
        if world.is_main:
            checkpoint.remove_leftovers(folder)

    def resume(self, state: TrainState, saved: Saved) -> None:
        """Go on from a checkpoint; those of later steps are damaged. Raises CheckpointError where it doesn't fit."""
        if self.world.is_main:
            checkpoint.set_damaged_aside(self.folder, after=saved.global_step)
        state.restore(saved.content, source=saved.path)

    def should(self, *, row_due: bool, done: bool) -> bool:
        """Whether to save out of turn: again after a failure, and at the end of a training without steps."""
        return (self.failure is not None and row_due) or (done and checkpoint.is_empty(self.folder))

    def save(self, state: TrainState) -> None:
        """Save this step, then remove old ones. On a full disk these and the run stay."""
        if not self.world.is_main:
            return
        failed_before = self.failure is not None
        self.failure = self._written(state, checkpoint.file_name(state.step), silent=failed_before)
        if self.failure is None:
            checkpoint.prune(self.folder, keep=self.training.num_ckpt_keep)
            if failed_before:
                logger.info("the checkpoint of step %d could be saved", state.step)

    def save_best(self, state: TrainState, figures: dict[str, float], *, earlier: Sequence[float]) -> None:
        """Save this step besides if its ``valid_monitor_key`` is better than all ``earlier`` ones."""
        value = figures[self.training.valid_monitor_key]
        if self.world.is_main and is_best(value, earlier, mode=self.training.valid_monitor_mode):
            self._written(state, checkpoint.BEST, silent=False)

    def _written(self, state: TrainState, name: str, *, silent: bool) -> OSError | None:
        try:
            checkpoint.write(self.folder / name, state.content())
        except OSError as error:
            if not silent:
                logger.warning("%s of step %d could not be saved: %s; training goes on", name, state.step, error)
            return error
        return None


def is_best(value: float, earlier: Sequence[float], *, mode: str) -> bool:
    """Whether a figure beats all earlier ones; what is no number never does."""
    rivals = [x for x in earlier if not math.isnan(x)]
    return not math.isnan(value) and all(value < x if mode == "min" else value > x for x in rivals)
