"""Being asked to stop: SIGTERM (a scheduler) and SIGINT (a terminal)."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import NoReturn

from utils.errors import Stopped

ASKS = (signal.SIGTERM, signal.SIGINT)
_SECONDS_OF_AN_ORPHAN = 1.0


class StopSignals:
    """Remembers that it was asked to stop; being asked a second time ends the process at once."""

    def __init__(self) -> None:
        self.received: int | None = None

    @contextlib.contextmanager
    def caught(self) -> Iterator["StopSignals"]:
        before = {number: signal.signal(number, self._handle) for number in ASKS}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, _frame: object) -> None:
        if self.received is not None:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.received = number


def worker_init(_worker: int = 0) -> None:
    """For a process that works for another one: signals to the whole group are the parent's to answer.

    It ends when the parent sends one to it (as multiprocessing does at its end), or has ended itself.
    """
    if hasattr(signal, "sigtimedwait"):
        signal.pthread_sigmask(signal.SIG_BLOCK, ASKS)  # in all threads, so the one that waits for them gets them
        threading.Thread(target=_obey_parent, daemon=True).start()
    else:  # macOS can't say who sent a signal
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _obey_parent() -> None:
    parent = os.getppid()
    while os.getppid() == parent:
        sent = signal.sigtimedwait(ASKS, _SECONDS_OF_AN_ORPHAN)
        if sent and sent.si_pid == parent:
            break
    os._exit(0)


def raise_at_sigterm(message: str) -> None:
    """From here on SIGTERM raises Stopped with this message, so that what is half done is cleared away."""

    def stop(number: int, _frame: object) -> NoReturn:
        raise Stopped(message, signal_number=number)

    signal.signal(signal.SIGTERM, stop)
