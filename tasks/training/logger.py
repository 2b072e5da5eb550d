"""What people watch while a model trains: a status line, train_loss.csv, val_res.csv, TensorBoard."""

import contextlib
import csv
import io
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from tqdm import tqdm

from utils.files import write_text
from utils.images import Picture

logger = logging.getLogger(__name__)

_SECONDS_IN_FILES = 30  # between status lines where nobody looks at a terminal


class TrainingLogger:
    """Opened at a step, it holds what was written up to it. A full disk doesn't stop it."""

    def __init__(self, folder: Path, *, name: str, start: int, final: int) -> None:
        self._folder = folder
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
                logger.warning("the logs in %s could not be written: %s; training goes on", self._folder, error)
            self._is_full = True


class StepTable:
    """A CSV file (separator ;) with a row a step and a column a figure.

    Opened at ``step``, it keeps the rows up to it: what a run wrote after its last checkpoint will be written again.
    """

    def __init__(self, path: Path, *, step: int) -> None:
        self.path = path
        self.rows: list[dict[str, str]] = []
        self._is_whole = False  # whether the file holds all rows
        if path.is_file():
            with path.open(newline="", encoding="utf-8", errors="replace") as file:
                self.rows = [row for row in csv.DictReader(file, delimiter=";") if _step(row) <= step]
            self._rewrite()

    def append(self, step: int, figures: Mapping[str, float]) -> None:
        """Add a row, flushed to the disk. Raises OSError where it is full; the next row brings this one along."""
        row = {"step": str(step), **{name: repr(value) for name, value in figures.items()}}
        same_columns = bool(self.rows) and list(row) == list(self.rows[0])
        self.rows.append(row)
        if not (self._is_whole and same_columns):
            self._rewrite()
            return
        self._is_whole = False
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, row, delimiter=";", lineterminator="\n").writerow(row)
            file.flush()
            os.fsync(file.fileno())
        self._is_whole = True

    def column(self, name: str, *, before: int) -> list[float]:
        """A figure at all steps before one; rows without it are passed over."""
        return [float(row[name]) for row in self.rows if row.get(name) and _step(row) < before]

    def has(self, step: int) -> bool:
        return any(_step(row) == step for row in self.rows)

    def _rewrite(self) -> None:
        columns = list(dict.fromkeys(name for row in self.rows for name in row)) or ["step"]
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, delimiter=";", lineterminator="\n", restval="")
        writer.writeheader()
        writer.writerows(self.rows)
        self._is_whole = False
        write_text(self.path, text.getvalue())
        self._is_whole = True


def _step(row: Mapping[str, str | None]) -> int:
    """The step of a row; a row that a kill cut short belongs to no step that is kept."""
    step = row.get("step") or ""
    whole = None not in row.values() and None not in row
    return int(step) if whole and step.isascii() and step.isdigit() else 2**63


class Board:
    """Scalars and pictures by step, in a new file of a folder.

    Opened at ``step``, it tells TensorBoard to forget what other files of the folder hold for later ones: what a run
    wrote after its last checkpoint will be written again.
    """

    def __init__(self, folder: Path, *, step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # The name begins as TensorBoard wants it, and sorts by time.
        path = folder / f"events.out.tfevents.{time.time():017.6f}.{os.getpid()}"
        self._file = path.open("wb", buffering=0)
        self._waiting = b""
        self._add(Event(file_version="brain.Event:2"))
        self._add(Event(session_log=SessionLog(status=SessionLog.START), step=step + 1))
        self._write()

    def scalars(self, step: int, figures: Mapping[str, float]) -> None:
        """Raises OSError where the disk is full; these come along with the next ones."""
        values = [Summary.Value(tag=name, simple_value=value) for name, value in figures.items()]
        self._add(Event(step=step, summary=Summary(value=values)))
        self._write()

    def picture(self, step: int, name: str, picture: Picture) -> None:
        """Likewise."""
        encoded = io.BytesIO()
        Image.fromarray(picture).save(encoded, format="png")
        height, width = picture.shape[:2]
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=encoded.getvalue())
        self._add(Event(step=step, summary=Summary(value=[Summary.Value(tag=name, image=image)])))
        self._write()

    def flush(self) -> None:
        """To the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    def _add(self, event: Event) -> None:
        event.wall_time = time.time()
        record = io.BytesIO()
        RecordWriter(record).write(event.SerializeToString())
        self._waiting += record.getvalue()

    def _write(self) -> None:
        end, left = self._file.tell(), memoryview(self._waiting)
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError:  # a part of a record would hide all that follow it
            self._file.truncate(end)
            self._file.seek(end)
            raise
        self._waiting = b""
