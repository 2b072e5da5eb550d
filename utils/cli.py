"""What every command shares: errors end in one line on stderr and a documented exit code; being asked to stop."""

import argparse
import contextlib
import difflib
import importlib.metadata
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from tqdm import tqdm

from utils.errors import Stopped, UserError

VERSION = "0.2.0"
_LONGEST = 2000  # characters of an error's line
_PACKAGES = ("__main__", "benchmarks", "data_gen", "models", "tasks", "utils")
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)  # of a scheduler, of a terminal
_PARENT_CHECK = 1.0  # seconds between looks whether the parent still runs


class ProgressHandler(logging.Handler):
    """Writes messages to stderr, above a progress bar where one is shown."""

    def filter(self, record: logging.LogRecord) -> bool:
        """The project speaks from INFO up, libraries from WARNING up."""
        own = record.name.split(".")[0] in _PACKAGES
        return record.levelno >= (logging.INFO if own else logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


class Parser(argparse.ArgumentParser):
    """An argument parser that answers an unknown option with the nearest known one."""

    def __init__(self, *, description: str) -> None:
        super().__init__(description=description, allow_abbrev=False)
        self.add_argument("--version", action="version", version=VERSION)
        self.add_argument("--debug", action="store_true", help="show the traceback of an error")

    def error(self, message: str) -> NoReturn:
        unknown = [word for word in message.split() if word.startswith("--")]
        if "unrecognized arguments" in message and unknown:
            known = [option for action in self._actions for option in action.option_strings]
            near = difflib.get_close_matches(unknown[0].split("=")[0], known, n=1)
            message = f"unknown option {unknown[0]}" + (f"; did you mean {near[0]}?" if near else "; see --help")
        self.exit(2, f"{self.prog}: error: {message}\n")


def run(
    main: Callable[[argparse.Namespace], object], parser: Parser, arguments: Sequence[str] | None = None
) -> NoReturn:
    """Parse, call ``main``, exit: 0, or the error's code (2 usage, 3 data, 4 checkpoint, 5 training, 130/143 stop)."""
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[ProgressHandler()])
    try:
        main(options)
    except UserError as error:
        if options.debug:
            raise
        sys.stderr.write(f"{parser.prog}: error: {_one_line(str(error))}\n")
        sys.exit(error.exit_code)
    except BrokenPipeError:  # whoever read stdout has gone (`| head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing more to flush at the end
        sys.exit(141)
    except OSError as error:  # a path that can't be: too long, a loop of links, a folder where a file is meant
        if options.debug:
            raise
        sys.stderr.write(f"{parser.prog}: error: {error.strerror or error}: {error.filename or 'a file or device'}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write(f"{parser.prog}: interrupted\n")
        sys.exit(130)
    sys.exit(0)


def _one_line(text: str) -> str:
    """Without what files put in to steer a terminal or to fill it."""
    line = " ".join("".join(sign if sign.isprintable() or sign.isspace() else "?" for sign in text).split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]} ..."


def code_version() -> str:
    """The commit of the code, or "unknown" outside a git checkout."""
    root = Path(__file__).resolve().parents[1]
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty"], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() or "unknown"


def packages() -> dict[str, str]:
    """Versions of what results depend on."""
    names = ("torch", "numpy", "rasterio", "scikit-image", "pandas")
    return {name: importlib.metadata.version(name) for name in names}


# Being asked to stop


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
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)  # in all threads: the one that waits gets them
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
