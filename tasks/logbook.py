"""What people watch while a model trains: a status line, train_loss.csv, val_res.csv, TensorBoard."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tqdm import tqdm

from utils.images import Picture
from utils.logs import StepTable
from utils.tensorboard import Board

_SECONDS_IN_FILES = 30  # between status lines where nobody looks at a terminal


class Logbook:
    """Opened at a step, it holds what was written up to it. A full disk doesn't stop it."""

    def __init__(self, folder: Path, *, name: str, start: int, final: int, report: Callable[[str], object]) -> None:
        self._folder, self._report = folder, report
        self._losses = StepTable(folder / "train_loss.csv", step=start)
        self.validations = StepTable(folder / "val_res.csv", step=start)
        self._board = Board(folder / "tensorboard", step=start)
        self._progress = tqdm(
            total=final,
            initial=start,
            desc=name,
            unit="step",
            dynamic_ncols=True,
            mininterval=0.1 if sys.stderr.isatty() else _SECONDS_IN_FILES,
        )
        self._is_full = False
        self._steps, self._since = 0, time.monotonic()

    def close(self) -> None:
        self._progress.close()
        self._board.close()

    def stepped(self) -> None:
        self._steps += 1
        self._progress.update()

    def training(self, step: int, figures: Mapping[str, float], *, memory: str) -> None:
        """A row of the training log, and of the status line."""
        now = time.monotonic()
        speed = self._steps / max(now - self._since, 1e-9)
        self._steps, self._since = 0, now
        self._progress.set_postfix(loss=f"{figures['loss']:.4g}", lr=f"{figures['lr']:.2g}", mem=memory, refresh=False)
        shown = {**figures, "steps_per_second": speed}
        with self._unless_full():
            self._board.scalars(step, {f"train/{name}": value for name, value in shown.items()})
        with self._unless_full():
            self._losses.append(step, figures)

    @contextlib.contextmanager
    def validating(self) -> Iterator[None]:
        """Say so; the time it takes is not that of the steps."""
        name, started = self._progress.desc, time.monotonic()
        self._progress.set_description_str(f"{name}: validating")
        try:
            yield
        finally:
            self._progress.set_description_str(name, refresh=False)
            self._since += time.monotonic() - started

    def validation(self, step: int, figures: Mapping[str, float], pictures: Picture | None) -> None:
        """A row of the validation log, and its pictures: bicubic | prediction | truth."""
        with self._unless_full():
            self._board.scalars(step, {f"val/{name}": value for name, value in figures.items()})
            if pictures is not None:
                self._board.picture(step, "val/bicubic_prediction_truth", pictures)
        with self._unless_full():
            self.validations.append(step, figures)

    def flush(self) -> None:
        """Before a checkpoint: what it says has happened must be in the logs."""
        with self._unless_full():
            self._board.flush()

    @contextlib.contextmanager
    def _unless_full(self) -> Iterator[None]:
        """On a full disk rows wait for the next one."""
        try:
            yield
        except OSError as error:
            if not self._is_full:
                self._report(f"the logs in {self._folder} could not be written: {error}; training goes on")
            self._is_full = True
