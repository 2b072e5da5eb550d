"""Being asked to stop: SIGTERM (a scheduler) and SIGINT (a terminal)."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import NoReturn

from utils.errors import Stopped

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_PARENT_CHECK = 1.0  # seconds between looks whether the parent still runs


class StopSignals:
    """Remembers that it was asked to stop; being asked a second time ends the process at once."""

    def __init__(self) -> None:
        self.received: int | None = None

    @contextlib.contextmanager
    def caught(self) -> Iterator["StopSignals"]:
        """Remember signals instead of ending by them, until the block ends."""
        before = {number: signal.signal(number, self._handle) for number in _STOP_SIGNALS}
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
    """Let a worker process leave signals to its parent, which gets those to the whole process group too.

    The worker ends when the parent itself sends a signal (as multiprocessing does at its end), or has ended.
    """
    if hasattr(signal, "sigtimedwait"):
        signal.pthread_sigmask(
            signal.SIG_BLOCK, _STOP_SIGNALS
        )  # in all threads, so that the thread that waits gets them
        threading.Thread(target=_end_with_parent, daemon=True).start()
    else:  # macOS can't say who sent a signal
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _end_with_parent() -> None:
    parent = os.getppid()
    while os.getppid() == parent:
        sent = signal.sigtimedwait(_STOP_SIGNALS, _PARENT_CHECK)
        if sent and sent.si_pid == parent:
            break
    os._exit(0)


def raise_at_sigterm(message: str) -> None:
    """From here on SIGTERM raises Stopped with this message, so that what is half done is cleared away."""

    def stop(number: int, _frame: object) -> NoReturn:
        raise Stopped(message, signal_number=number)

    signal.signal(signal.SIGTERM, stop)
