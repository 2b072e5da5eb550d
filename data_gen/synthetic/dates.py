"""When the satellites come by: irregular days of Sentinel-2, a day of SPOT, and further days for the truth."""

import numpy as np
from numpy.typing import NDArray

from utils.errors import DataError

Days = NDArray[np.intp]  # days of the year, 0 = 1 January

FIRST, LAST = 32, 312  # the season: February to early November
LEAST_GAP = 30  # days between two truths of a place
NEAR = 6  # days: an acquisition this near shows about the same state of the fields
_SPELLS = 5  # of clear weather, each with an acquisition or more
_MOST = 14  # acquisitions


def acquisition_days(generator: np.random.Generator) -> Days:
    """5 to 14 cloud-free days of a satellite that comes every fifth day, in most places on two orbits.

    They come in clear spells: one in each fifth of the season, and one of them is much longer than the others.
    """
    days = np.arange(FIRST + int(generator.integers(5)), LAST, 5)
    if generator.random() < 0.75:
        days = np.concatenate([days, days + int(generator.integers(2, 4))])
    days = np.sort(days[days < LAST])
    count = _SPELLS + int(generator.binomial(_MOST - _SPELLS, generator.uniform(0.3, 1.0)))
    length = (LAST - FIRST) / _SPELLS
    middles = FIRST + length * (np.arange(_SPELLS) + generator.uniform(0.2, 0.8, _SPELLS))
    lasting = np.full(_SPELLS, 0.25 / (_SPELLS - 1))
    lasting[generator.integers(_SPELLS)] = 0.75  # most further acquisitions come in one long spell
    chosen: set[int] = set()
    for spell in (*range(_SPELLS), *generator.choice(_SPELLS, size=count - _SPELLS, p=lasting)):
        free = days[~np.isin(days, list(chosen))]
        chosen.add(int(free[np.abs(free - middles[spell]).argmin()]))
    return np.array(sorted(chosen))


def _nearest(days: Days, acquisitions: Days) -> NDArray[np.float64]:
    """Days to the nearest acquisition; infinite where two acquisitions are equally far, or one is on the day itself."""
    distances = np.sort(np.abs(days[:, None] - acquisitions), axis=1)
    usable = (np.diff(distances, axis=1) > 0).all(axis=1) & (distances[:, 0] > 0)
    return np.where(usable, distances[:, 0].astype(np.float64), np.inf)


def spot_day(generator: np.random.Generator, acquisitions: Days) -> int:
    """A day a few days from the nearest acquisition and at another distance from each; more likely in a long spell."""
    days = np.arange(FIRST + 15, LAST - 15)
    nearest = _nearest(days, acquisitions)
    days = days[nearest <= max(NEAR, nearest.min())]
    clear = (np.abs(days[:, None] - acquisitions) < 15).sum(axis=1) ** 3
    return int(generator.choice(days, p=clear / clear.sum()))


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
