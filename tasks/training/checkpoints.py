"""Keeps an experiment's checkpoints: the newest ones, the best one, and what a full disk does to them."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tasks.training.state import TrainState
from utils import checkpoint
from utils.config.settings import Training
from utils.distributed import World


class CheckpointManager:
    """The checkpoints of one experiment's folder. Only the main process saves."""

    def __init__(self, folder: Path, training: Training, *, world: World, report: Callable[[str], object]) -> None:
        self.folder, self.training, self.world, self.report = folder, training, world, report
        self.failure: OSError | None = None  # of the last attempt to save, on the main process
        if world.is_main:
            checkpoint.remove_leftovers(folder)

    def resume(self, state: TrainState) -> None:
        """Go on from the newest whole checkpoint. Raises CheckpointError where there is none, or it doesn't fit."""
        found: tuple[Path, dict[str, Any]] | None = None
        if self.world.is_main:
            found = checkpoint.newest(self.folder, report=self.report, set_aside=True)
        path = self.world.from_main(found and found[0])
        if path is not None:
            state.restore(found[1] if found else checkpoint.read_training(path), source=path)

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
                self.report(f"the checkpoint of step {state.step} could be saved")

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
                self.report(f"{name} of step {state.step} could not be saved: {error}; training goes on")
            return error
        return None


def is_best(value: float, earlier: Sequence[float], *, mode: str) -> bool:
    """Whether a figure beats all earlier ones; what is no number never does."""
    rivals = [x for x in earlier if not math.isnan(x)]
    return not math.isnan(value) and all(value < x if mode == "min" else value > x for x in rivals)
