"""Verdicts on a data set.

An error is what training (or evaluation) would go wrong with, a warning what somebody should look at; docs/data.md
explains each.
"""

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from data_gen.inspection.sources import Fault, Ref

Level = Literal["ok", "warning", "error"]

FEW = 0.01  # share up to which patches or acquisitions that are left out don't matter
_LEVELS: tuple[Level, ...] = ("ok", "warning", "error")
_EXAMPLES = 5


class Finding(NamedTuple):
    """A verdict."""

    check: str
    level: Level
    message: str
    examples: tuple[str, ...] = ()


def level_of(wrong: int, of: int) -> Level:
    """The verdict on so many patches or acquisitions that are left out."""
    return "ok" if not wrong else "warning" if wrong <= FEW * of else "error"


def worst(levels: Iterable[Level]) -> Level:
    return max(levels, key=_LEVELS.index, default="ok")


def name_of(ref: Ref) -> str:
    return f"{ref.split} {ref.key}"


def some(items: Iterable[str]) -> tuple[str, ...]:
    """The first few, and how many more."""
    listed = list(items)
    more = len(listed) - _EXAMPLES
    return (*listed[:_EXAMPLES], f"and {more} more") if more > 0 else tuple(listed)


def described(faults: Sequence[Fault]) -> tuple[str, ...]:
    return some(f"{fault.split} {fault.key}: {fault.path}: {fault.what}" for fault in faults)
