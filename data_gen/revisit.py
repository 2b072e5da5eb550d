"""When the satellites come by: irregular days of Sentinel-2, a day of SPOT, and further days for the truth."""

import numpy as np
from numpy.typing import NDArray

from utils.errors import DataError

Days = NDArray[np.intp]  # days of the year, 0 = 1 January

FIRST, LAST = 32, 312  # the season: February to early November
LEAST_GAP = 30  # days between two truths of a place
NEAR = 6  # days: an acquisition this near shows about the same state of the fields
_SERIES = (5, 14)  # fewest and most acquisitions


def acquisition_days(generator: np.random.Generator) -> Days:
    """5 to 14 cloud-free days: every fifth day, from two orbits in places, with one in each fifth of the season."""
    start = int(generator.integers(5))
    days = np.arange(FIRST + start, LAST, 5)
    if generator.random() < 0.5:
        days = np.concatenate([days, days + int(generator.integers(2, 4))])
    days = np.sort(days[days < LAST])
    count = int(generator.integers(_SERIES[0], _SERIES[1] + 1))
    fifth = (days - FIRST) * _SERIES[0] // (LAST - FIRST)
    chosen = np.array([generator.choice(days[fifth == part]) for part in range(_SERIES[0])])
    rest = np.setdiff1d(days, chosen)
    sunny = 1.2 + np.sin(2 * np.pi * (rest - 100) / 365)
    more = generator.choice(rest, size=count - len(chosen), replace=False, p=sunny / sunny.sum())
    return np.sort(np.concatenate([chosen, more]))


def _nearest(days: Days, acquisitions: Days) -> NDArray[np.float64]:
    """Days to the nearest acquisition; infinite where two acquisitions are equally far, or one is on the day itself."""
    distances = np.sort(np.abs(days[:, None] - acquisitions), axis=1)
    usable = (np.diff(distances, axis=1) > 0).all(axis=1) & (distances[:, 0] > 0)
    return np.where(usable, distances[:, 0].astype(np.float64), np.inf)


def spot_day(generator: np.random.Generator, acquisitions: Days) -> int:
    """A day between acquisitions, a few days from the nearest, and at another distance from each."""
    days = np.arange(FIRST + 15, LAST - 15)
    nearest = _nearest(days, acquisitions)
    return int(generator.choice(days[nearest <= max(NEAR, nearest.min())]))


def truth_days(acquisitions: Days, count: int) -> Days:
    """``count`` days at least LEAST_GAP apart, spread over the year, each as near to an acquisition as can be.

    The widest gap at which every day has an acquisition within NEAR days is taken, else the narrowest.
    """
    widest = (LAST - FIRST) // max(count - 1, 1)
    if widest < LEAST_GAP:
        raise DataError(f"{count} truth dates at least {LEAST_GAP} days apart don't fit in the season; ask for fewer")
    for gap in range(widest, LEAST_GAP - 1, -4):
        days = _days_apart(acquisitions, count, gap)
        if days is not None and _nearest(days, acquisitions).max() <= NEAR:
            return days
    days = _days_apart(acquisitions, count, LEAST_GAP)
    if days is None:
        raise DataError(f"no {count} truth dates {LEAST_GAP} days apart have distinct distances; ask for fewer")
    return days


def _days_apart(acquisitions: Days, count: int, gap: int) -> Days | None:
    """The days, at least ``gap`` apart, whose distances to their nearest acquisitions have the least sum of squares."""
    days = np.arange(FIRST, LAST)
    cost = (_nearest(days, acquisitions) - 2.0) ** 2  # two days away is as good as the day itself and less trivial
    total, back = cost, []
    for _ in range(count - 1):
        best = np.minimum.accumulate(total)
        at = np.maximum.accumulate(np.where(total == best, np.arange(len(days)), 0))
        back.append(np.concatenate([np.zeros(gap, dtype=np.intp), at[:-gap]]))
        total = cost + np.concatenate([np.full(gap, np.inf), best[:-gap]])
    if not np.isfinite(total.min()):
        return None
    last = int(total.argmin())
    chosen = [last]
    for earlier in reversed(back):
        chosen.append(int(earlier[chosen[-1]]))
    return days[np.array(chosen[::-1])]
