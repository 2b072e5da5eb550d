"""Times of several ways to do one thing, taken in turns: A B A B ...

What else the machine does, or how warm it is, then meets all of them alike, and their ratios hold where times don't.
"""

import math
import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

_SHORTEST = 0.05  # seconds that one measurement takes at least: short calls are repeated


class Timing(NamedTuple):
    """Seconds a call, measured several times."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def low(self) -> float:
        return min(self.seconds)

    @property
    def high(self) -> float:
        return max(self.seconds)

    def scaled(self, factor: float) -> "Timing":
        return Timing(tuple(value * factor for value in self.seconds))


class Patience(NamedTuple):
    """How often all modes are timed: at least ``rounds`` times, then more while less than ``seconds`` have gone by."""

    rounds: int = 3
    most: int = 9
    seconds: float = 20.0


def alternate(modes: Mapping[str, Callable[[], object]], patience: Patience) -> dict[str, Timing]:
    """Each mode is called once unmeasured, then all are measured in turns."""
    repeats = {name: max(1, math.ceil(_SHORTEST / _seconds(call, 1))) for name, call in modes.items()}
    measured: dict[str, list[float]] = {name: [] for name in modes}
    started = time.perf_counter()
    for done in range(patience.most):
        if done >= patience.rounds and time.perf_counter() - started > patience.seconds:
            break
        for name, call in modes.items():
            measured[name].append(_seconds(call, repeats[name]))
    return {name: Timing(tuple(values)) for name, values in measured.items()}


def _seconds(call: Callable[[], object], repeats: int) -> float:
    started = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - started) / repeats
