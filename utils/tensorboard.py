"""TensorBoard's event files, written by the thread that calls: no queue to lose rows in, full disks are errors."""

import io
import os
import time
from collections.abc import Mapping
from pathlib import Path

from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from utils.images import Picture


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
