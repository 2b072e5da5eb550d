"""What differences mean, in words: shared by the report of one experiment and the comparison of several."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from utils.metrics.registry import METRICS
from utils.report.statistics import Difference, format_p

UNCLEAR = "no clear difference"
NOT_JUDGED = "not judged"  # of metrics that only describe
FEWEST = 6  # patches: with fewer, even when one side wins all, Wilcoxon's p is above 0.05


def judgement(metric: str, difference: Difference) -> str:
    """ "better", "worse" or "no clear difference" (see Difference.direction); "not judged" of what only describes."""
    if not METRICS[metric].judged:
        return NOT_JUDGED
    direction = difference.direction * (1 if METRICS[metric].higher_is_better else -1)
    return {1: "better", -1: "worse", 0: UNCLEAR}[direction]


def wins(metric: str, difference: Difference) -> int:
    """Patches on which the first of the two is better."""
    return difference.more if METRICS[metric].higher_is_better else difference.less


def interval(metric: str, low: float, high: float, *, sign: bool = False) -> str:
    """A 95% interval as text."""
    if not np.isfinite([low, high]).all():
        return "not known"
    how = METRICS[metric]
    return f"{how.format(low, sign=sign)} to {how.format(high, sign=sign)}"


def difference_sentence(metric: str, difference: Difference, *, name: str, reference: str) -> str:
    """By how much ``name`` differs from ``reference`` in one metric, and how sure that is."""
    how = METRICS[metric]
    words = judgement(metric, difference)
    amount = f"{how.label} {how.with_unit(how.format(difference.mean, sign=True))} on average"
    sure = f"95% interval {interval(metric, difference.low, difference.high, sign=True)}"
    counted = f"better on {wins(metric, difference)} of {difference.pairs} patches"
    test = f"Wilcoxon test {format_p(difference.wilcoxon_p)}"
    if words == NOT_JUDGED:
        said = f"{name} against {reference}"
    elif difference.pairs < FEWEST:
        said = f"{difference.pairs} patches are too few to tell {name} from {reference}"
    elif words == UNCLEAR:
        said = f"{name} shows {UNCLEAR} to {reference}"
    else:
        said = f"{name} is {words} than {reference}"
    return f"{said}: {amount} ({sure}; {counted}; {test})."


def tally_sentence(differences: Mapping[str, Difference], *, reference: str) -> str | None:
    """In how many metrics it is better, worse or neither; None where all of them only describe."""
    groups: dict[str, list[str]] = {}
    judged = {metric: difference for metric, difference in differences.items() if METRICS[metric].judged}
    for metric, difference in judged.items():
        groups.setdefault(judgement(metric, difference), []).append(METRICS[metric].label)
    if not judged:
        return None
    parts = [
        f"{words} in {len(groups[words])} ({', '.join(groups[words])})"
        for words in ("better", "worse", UNCLEAR)
        if words in groups
    ]
    return f"Of {len(judged)} metrics against {reference}: {'; '.join(parts)}."


def link_sentence(metric: str, values: ArrayLike, factor: ArrayLike, *, factor_name: str) -> str | None:
    """Whether a metric goes with a factor over patches (Spearman's rank correlation); None where that can't be said."""
    x, y = np.asarray(factor, dtype=float), np.asarray(values, dtype=float)
    both = np.isfinite(x) & np.isfinite(y)
    if both.sum() < 5 or len(np.unique(x[both])) < 2 or len(np.unique(y[both])) < 2:
        return None
    rho, p = stats.spearmanr(x[both], y[both])
    how = METRICS[metric]
    sure = f"Spearman ρ {rho:+.2f}, {format_p(p)}".replace("-", "\N{MINUS SIGN}")
    if p >= 0.05:
        return f"No clear link between {how.label} and {factor_name} ({sure})."
    change = "better" if (rho > 0) == how.higher_is_better else "worse"
    strength = "clearly" if abs(rho) >= 0.5 else "somewhat" if abs(rho) >= 0.2 else "slightly"
    return f"{how.label} is {strength} {change} where {factor_name} is larger ({sure})."


def worst(metric: str, values: ArrayLike, *, number: int) -> list[int]:
    """Positions of the worst values, the worst first; NaN is never among them."""
    numbers = np.asarray(values, dtype=float)
    badness = -numbers if METRICS[metric].higher_is_better else numbers
    order = np.argsort(np.where(np.isnan(badness), -np.inf, badness), kind="stable")[::-1]
    return [int(i) for i in order[:number] if not np.isnan(numbers[i])]


def join(names: Sequence[object]) -> str:
    """ "a, b and c"."""
    texts = [str(name) for name in names]
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"
