"""Intervals that cover, tests that equal scipy's, and what differences are said to mean."""

import numpy as np
import pytest
from scipy import stats

from utils.metrics.registry import METRICS
from utils.report.statistics import (
    ENOUGH,
    Difference,
    compare_pairs,
    difference_sentence,
    format_p,
    holm,
    judgement,
    least_p,
    link_sentence,
    mean_interval,
    summarise,
    tally_sentence,
    wins,
    worst_positions,
)


@pytest.mark.parametrize("n", [3, 8, 60])
def test_the_interval_covers_the_mean_as_often_as_it_says(n: int) -> None:
    samples = np.random.default_rng(5).normal(7, 3, (300 if n >= ENOUGH else 1000, n))
    found = [mean_interval(values) for values in samples]
    assert np.mean([low <= 7 <= high for low, high in found]) == pytest.approx(0.95, abs=0.03)


def test_the_interval_is_scipys() -> None:
    rng = np.random.default_rng(2)
    few, many = rng.normal(5, 2, 8), rng.normal(5, 2, 80)
    theirs = stats.ttest_1samp(few, 0).confidence_interval(0.95)
    assert mean_interval(few) == pytest.approx((theirs.low, theirs.high))
    theirs = stats.bootstrap((many,), np.mean, n_resamples=20_000, method="percentile", rng=0).confidence_interval
    assert mean_interval(many) == pytest.approx((theirs.low, theirs.high), abs=0.03)
    assert mean_interval(many) == mean_interval(many)  # seeded
    assert mean_interval([2.0, 2.0]) == mean_interval([2.0] * ENOUGH) == (2, 2)
    assert np.isnan(mean_interval([2.0])).all()


def test_summary_leaves_out_what_is_not_finite() -> None:
    summary = summarise([1.0, 3.0, np.inf, np.nan])
    assert summary[:2] == (2.0, pytest.approx(np.sqrt(2)))
    assert (summary.number, summary.left_out) == (2, 2)
    assert summary.low < 2 < summary.high
    alone = summarise([4.0])
    assert alone.mean == 4
    assert np.isnan([alone.std, alone.low, alone.high]).all()
    assert np.isnan(summarise([])[:4]).all()


def test_pairs_are_scipys_tests() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(0.2, 1, 40), rng.normal(0, 1, 40)
    a[:3] = b[:3]
    difference = compare_pairs(a, b)
    assert difference.mean == pytest.approx((a - b).mean())
    assert (difference.more, difference.less) == ((a > b).sum(), (a < b).sum())
    assert (difference.equal, difference.pairs) == (3, 40)
    assert difference.sign_p == pytest.approx(stats.binomtest(difference.more, 37).pvalue)
    assert difference.wilcoxon_p == pytest.approx(stats.wilcoxon(a, b).pvalue)


def test_a_constant_gain_is_certain_and_a_swap_turns_it() -> None:
    values = np.random.default_rng(4).normal(size=50)
    better, worse = compare_pairs(values + 1, values), compare_pairs(values, values + 1)
    assert (better.direction, worse.direction) == (1, -1)
    assert better.low == pytest.approx(1)
    assert better.wilcoxon_p == worse.wilcoxon_p < 1e-6
    assert compare_pairs(values, values)[:3] == (0, 0, 0)
    assert compare_pairs(values, values)[-2:] == (1, 1)


def test_infinite_and_missing_pairs() -> None:
    inf, nan = np.inf, np.nan
    difference = compare_pairs([inf, inf, 2.0, nan, 1.0], [inf, 3.0, 1.0, 1.0, nan])
    assert (difference.more, difference.less, difference.equal) == (2, 0, 1)
    assert difference.mean == 0.5  # of the pairs 0 and 1
    assert np.isfinite([difference.sign_p, difference.wilcoxon_p]).all()
    nothing = compare_pairs([nan], [1.0])
    assert (nothing.pairs, nothing.direction) == (0, 0)


def test_p_values() -> None:
    for pairs in (1, 2, 6, 8):
        assert compare_pairs(np.arange(1.0, pairs + 1), np.zeros(pairs)).wilcoxon_p == pytest.approx(least_p(pairs))
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([]) == []
    assert (format_p(0.0004), format_p(0.0312)) == ("p < 0.001", "p = 0.031")


def test_better_depends_on_the_metric() -> None:
    up = Difference(1.0, 0.5, 1.5, more=9, less=1, equal=0, sign_p=0.02, wilcoxon_p=0.01)
    assert (judgement(METRICS["psnr"], up), judgement(METRICS["lpips"], up)) == ("better", "worse")
    assert judgement(METRICS["consistency"], up) == "not judged"  # it only describes
    assert (wins(METRICS["psnr"], up), wins(METRICS["lpips"], up)) == (9, 1)
    unclear = up._replace(low=-0.1)
    assert judgement(METRICS["psnr"], unclear) == judgement(METRICS["lpips"], unclear) == "no clear difference"
    assert worst_positions(METRICS["psnr"], [2.0, np.nan, 1.0, np.inf], number=9) == [2, 0, 3]
    assert worst_positions(METRICS["mae"], [2.0, np.nan, 1.0, np.inf], number=2) == [3, 0]


def test_sentences_say_by_how_much_and_how_sure() -> None:
    a = np.linspace(0.2, 0.3, 20)

    def said(metric: str, first: np.ndarray, second: np.ndarray) -> str:
        return difference_sentence(METRICS[metric], compare_pairs(first, second), name="A", reference="B")

    better = said("lpips", a, a + 0.05)
    assert better.startswith("A is better than B")
    for part in ("−0.0500 on average", "−0.0500 to −0.0500", "20 of 20 patches", "p < 0.001"):
        assert part in better
    assert "no clear difference" in said("lpips", a, a[::-1])
    assert said("mae", a[:5], a[:5] + 1).startswith("5 patches are too few")
    assert said("mae", a[:6], a[:6] + 1).startswith("A is better")
    assert said("consistency", a, a + 1).startswith("A against B")
    clear, unclear = compare_pairs(a, a - 1), compare_pairs(a, a[::-1])
    tally = str(
        tally_sentence(
            [(METRICS["psnr"], unclear), (METRICS["mae"], clear), (METRICS["consistency"], clear)], reference="B"
        )
    )
    assert tally.startswith("Of 2 metrics")
    assert "worse in 1 (MAE)" in tally and "no clear difference in 1 (PSNR)" in tally
    assert tally_sentence([(METRICS["consistency"], clear)], reference="B") is None


def test_links_to_a_factor() -> None:
    days = np.arange(30.0)
    noise = np.random.default_rng(0).normal(size=30)

    def said(metric: str, values: np.ndarray, factor: np.ndarray) -> str:
        return str(link_sentence(METRICS[metric], values, factor, factor_name="days"))

    assert "clearly worse" in said("psnr", -days, days) and "ρ −1.00" in said("psnr", -days, days)
    assert "clearly better" in said("mae", -days, days)
    assert "No clear link" in said("psnr", noise, days)
    assert link_sentence(METRICS["psnr"], noise, np.ones(30), factor_name="days") is None
    assert link_sentence(METRICS["psnr"], noise[:4], days[:4], factor_name="days") is None
