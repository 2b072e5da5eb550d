from benchmarks import timing
from benchmarks.timing import Patience, Timing, alternate


def test_turns() -> None:
    called: list[str] = []
    ticks = iter(range(1000))
    clock = timing.time
    timing.time = type("Clock", (), {"perf_counter": staticmethod(lambda: float(next(ticks)))})  # type: ignore[assignment]
    try:
        times = alternate(
            {"a": lambda: called.append("a"), "b": lambda: called.append("b")}, Patience(rounds=2, most=5, seconds=0)
        )
    finally:
        timing.time = clock
    assert "".join(called) == "ab" + "abab"  # once unmeasured, then in turns
    assert times["a"].seconds == (1.0, 1.0)


def test_short_calls_are_repeated() -> None:
    calls = 0

    def call() -> None:
        nonlocal calls
        calls += 1

    times = alternate({"a": call}, Patience(rounds=1, most=1, seconds=0))
    assert calls > 100
    assert 0 < times["a"].median < 1e-3


def test_summary() -> None:
    assert Timing((3.0, 1.0, 2.0)).scaled(2) == Timing((6.0, 2.0, 4.0))
    assert (Timing((3.0, 1.0, 2.0)).median, Timing((3.0, 1.0)).low, Timing((3.0, 1.0)).high) == (2.0, 1.0, 3.0)
