"""What people watch while a model trains: a status line, train_loss.csv, val_res.csv, TensorBoard."""

import contextlib
import csv
import io
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from utils.files import write_text
from utils.images import Picture

logger = logging.getLogger(__name__)

_SECONDS_IN_FILES = 30  # between status lines where stderr is no terminal


class TrainingLogger:
    """The logs of an experiment, which a full disk doesn't stop.

    A run resumed after the step ``start`` keeps what was written up to it; ``final`` is where training ends.
    """

    def __init__(self, folder: Path, *, name: str, start: int, final: int) -> None:
        self._folder = folder
        self._losses = StepTable(folder / "train_loss.csv", step=start)
        self.validations = StepTable(folder / "val_res.csv", step=start)
        threading.excepthook = _ignore_full_disk
        self._board: SummaryWriter | None = SummaryWriter(folder / "tensorboard", purge_step=start + 1)
        shown_every = 0.1 if sys.stderr.isatty() else _SECONDS_IN_FILES
        self._progress = tqdm(
            total=final, initial=start, desc=name, unit="step", dynamic_ncols=True, mininterval=shown_every
        )
        self._is_full = False
        self._last, self._since = start, time.monotonic()  # the step of the last row, and when that was

    def close(self) -> None:
        self._progress.close()
        with self._unless_full():
            if self._board is not None:
                self._board.close()
        threading.excepthook = threading.__excepthook__

    def stepped(self) -> None:
        """Count a step in the status line."""
        self._progress.update()

    def training(self, step: int, figures: Mapping[str, float], *, memory: str) -> None:
        """A row of the training log, and of the status line."""
        now = time.monotonic()
        speed = (step - self._last) / max(now - self._since, 1e-9)
        self._last, self._since = step, now
        self._progress.set_postfix(loss=f"{figures['loss']:.4g}", lr=f"{figures['lr']:.2g}", mem=memory, refresh=False)
        with self._unless_full():
            self._losses.append(step, figures)
        self._show(step, "train", {**figures, "steps_per_second": speed})

    @contextlib.contextmanager
    def validating(self) -> Iterator[None]:
        """Show that validation runs; its time doesn't count as that of steps."""
        name, started = self._progress.desc, time.monotonic()
        self._progress.set_description_str(f"{name}: validating")
        try:
            yield
        finally:
            self._progress.set_description_str(name, refresh=False)
            self._since += time.monotonic() - started

    def validation(self, step: int, figures: Mapping[str, float], picture: Picture | None) -> None:
        """A row of the validation log, and a picture: bicubic, prediction, truth."""
        with self._unless_full():
            self.validations.append(step, figures)
        self._show(step, "val", figures, picture=picture)

    def _show(self, step: int, group: str, figures: Mapping[str, float], *, picture: Picture | None = None) -> None:
        """In TensorBoard. A writer that failed is replaced by a new one, with a file of its own."""
        with self._unless_full():
            board, self._board = self._board or SummaryWriter(self._folder / "tensorboard"), None
            for name, value in figures.items():
                board.add_scalar(f"{group}/{name}", value, step)
            if picture is not None:
                board.add_image(f"{group}/bicubic_prediction_truth", picture, step, dataformats="HWC")
            board.flush()  # a checkpoint of this step must not be on the disk before its row
            self._board = board

    @contextlib.contextmanager
    def _unless_full(self) -> Iterator[None]:
        """On a full disk training goes on; rows of tables wait for the next one."""
        try:
            yield
        except OSError as error:
            if not self._is_full:
                logger.warning("the logs in %s could not be written: %s; training goes on", self._folder, error)
            self._is_full = True


def _ignore_full_disk(failure: threading.ExceptHookArgs) -> None:
    """No traceback from SummaryWriter's thread: the next row meets the same error and reports it."""
    if not issubclass(failure.exc_type, OSError):
        threading.__excepthook__(failure)


class StepTable:
    """A CSV file (separator ;) with a row for each step; opened at a step, it keeps the rows up to it."""

    def __init__(self, path: Path, *, step: int) -> None:
        self.path = path
        self.rows: dict[int, dict[str, str]] = {}  # by step
        self._is_whole = False  # whether the file holds these rows and no others
        if path.is_file():
            with path.open(newline="", encoding="utf-8", errors="replace") as file:
                rows = csv.DictReader(file, delimiter=";")
                self.rows = {number: row for row in rows if (number := _step(row)) <= step}

    def append(self, step: int, figures: Mapping[str, float]) -> None:
        """Add a row, flushed to the disk. Raises OSError where it is full; the next row brings this one along."""
        row = {"step": str(step), **{name: repr(value) for name, value in figures.items()}}
        fits = self._is_whole and list(row) == list(next(iter(self.rows.values())))
        self.rows[step] = row
        columns = list(row) if fits else list(dict.fromkeys(name for kept in self.rows.values() for name in kept))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, delimiter=";", lineterminator="\n", restval="")
        self._is_whole = False
        if fits:
            writer.writerow(row)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(text.getvalue())
                file.flush()
                os.fsync(file.fileno())
        else:
            writer.writeheader()
            writer.writerows(self.rows.values())
            write_text(self.path, text.getvalue())
        self._is_whole = True

    def column(self, name: str, *, before: int) -> list[float]:
        """A figure at all steps before one; rows without it are passed over."""
        return [float(row[name]) for step, row in self.rows.items() if row.get(name) and step < before]


def _step(row: Mapping[str, str | None]) -> int:
    """The step of a row; a row that a kill cut short belongs to no step that is kept."""
    step = row.get("step") or ""
    whole = None not in row.values() and None not in row
    return int(step) if whole and step.isascii() and step.isdigit() else 2**63
