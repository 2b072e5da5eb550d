import pytest

from benchmarks import timing
from benchmarks.timing import Timing, alternate


def test_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    ticks = iter(range(1000))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: float(next(ticks)))
    times = alternate({"a": lambda: called.append("a"), "b": lambda: called.append("b")}, seconds=0)
    assert "".join(called) == "ab" + "ababab"  # once unmeasured, then in turns
    assert times["a"].seconds == (1.0, 1.0, 1.0)


def test_short_calls_are_repeated() -> None:
    calls: list[int] = []
    times = alternate({"a": lambda: calls.append(1)}, seconds=0)
    assert len(calls) > 100
    assert 0 < times["a"].median < 1e-3


def test_summary() -> None:
    assert Timing((3.0, 1.0, 2.0)).scaled(2) == Timing((6.0, 2.0, 4.0))
    assert Timing((3.0, 1.0, 2.0)).median == 2.0
