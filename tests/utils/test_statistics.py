"""Intervals that cover, and tests that equal scipy's."""

import numpy as np
import pytest
from scipy import stats

from utils.report.statistics import bootstrap_interval, compare_pairs, format_p, holm, least_p, mean_interval, summarise


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for trial in range(200):
        low, high = bootstrap_interval(rng.gamma(2.0, 1.0, 60), resamples=500, seed=trial)
        covered += low <= 2.0 <= high
    assert 0.89 <= covered / 200 <= 0.98


@pytest.mark.parametrize("n", [3, 8])
def test_few_values_have_wider_intervals_that_cover(n: int) -> None:
    rng = np.random.default_rng(5)
    samples = rng.normal(7, 3, (1000, n))
    found = [mean_interval(values) for values in samples]
    assert np.mean([low <= 7 <= high for low, high in found]) == pytest.approx(0.95, abs=0.025)
    theirs = stats.ttest_1samp(samples[0], 0).confidence_interval(0.95)
    assert found[0] == pytest.approx((theirs.low, theirs.high))
    enough = rng.normal(size=20)
    assert mean_interval(enough) == bootstrap_interval(enough)
    assert mean_interval([2.0, 2.0]) == (2, 2)
    assert np.isnan(mean_interval([2.0])).all()


def test_the_least_p_is_wilcoxons() -> None:
    for pairs in (1, 2, 6, 8):
        assert compare_pairs(np.arange(1.0, pairs + 1), np.zeros(pairs)).wilcoxon_p == pytest.approx(least_p(pairs))


def test_the_interval_is_scipys() -> None:
    values = np.random.default_rng(2).normal(5, 2, 80)
    ours = bootstrap_interval(values, resamples=20_000)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=0).confidence_interval
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.02)
    assert bootstrap_interval(values) == bootstrap_interval(values)  # seeded


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
    assert nothing.pairs == 0
    assert nothing.direction == 0


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([]) == []


def test_p_values_as_text() -> None:
    assert format_p(0.0004) == "p < 0.001"
    assert format_p(0.0312) == "p = 0.031"
