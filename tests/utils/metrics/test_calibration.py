"""Calibration on distributions whose figures have a closed form."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from utils.metrics.calibration import (
    LAPLACE,
    best_family,
    calibration_sums,
    coverage,
    crps_of_laplace,
    crps_of_normal,
    crps_of_samples,
    fitted_factor,
    laplace_quantile,
    normal_quantile,
    rank_histogram,
    spread_to_error,
)

LEVELS = (0.5, 0.68, 0.9)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape))


def test_ranks_of_exchangeable_numbers_are_flat() -> None:
    shares = rank_histogram(drawn(4, 100_000), drawn(100_000, seed=1))
    assert shares.tolist() == pytest.approx([0.2] * 5, abs=0.005)


def test_ranks_of_too_narrow_samples_pile_up_outside() -> None:
    shares = rank_histogram(0.3 * drawn(4, 10_000), drawn(10_000, seed=1)).tolist()
    assert min(shares[0], shares[-1]) > 2 * max(shares[1:-1])


def test_equal_numbers_share_their_ranks() -> None:
    samples = torch.tensor([[1.0, 3.0], [1.0, 3.0], [2.0, 4.0]])
    shares = rank_histogram(samples, torch.tensor([1.0, 5.0]))
    assert shares.tolist() == pytest.approx([1 / 6, 1 / 6, 1 / 6, 1 / 2])


@pytest.mark.parametrize("stated", [0.5, 1.0, 1.7])
def test_coverage_of_normal_errors(stated: float) -> None:
    error = 2 * drawn(200_000)
    found = coverage(error, torch.full_like(error, 2 * stated), levels=LEVELS)
    expected = [2 * stats.norm.cdf(stated * stats.norm.ppf((1 + level) / 2)) - 1 for level in LEVELS]
    assert found.tolist() == pytest.approx(expected, abs=0.004)


def test_quantiles_in_standard_deviations() -> None:
    assert [normal_quantile(p) for p in LEVELS] == pytest.approx([stats.norm.ppf((1 + p) / 2) for p in LEVELS])
    laplace = stats.laplace(scale=1 / math.sqrt(2))  # of deviation 1
    assert [laplace_quantile(p) for p in LEVELS] == pytest.approx([laplace.ppf((1 + p) / 2) for p in LEVELS])


def test_coverage_of_laplace_errors() -> None:
    error = torch.from_numpy(np.random.RandomState(0).laplace(scale=3, size=200_000))
    found = coverage(error, torch.full_like(error, 3 * math.sqrt(2)), levels=LEVELS, family=LAPLACE)
    assert found.tolist() == pytest.approx(LEVELS, abs=0.004)
    assert fitted_factor(error, torch.full_like(error, math.sqrt(2)), family=LAPLACE) == pytest.approx(3, rel=0.01)


@pytest.mark.parametrize("k", [2, 5, 16])
def test_spread_to_error_of_exchangeable_numbers_is_one_for_any_number_of_samples(k: int) -> None:
    assert float(spread_to_error(drawn(k, 200_000), drawn(200_000, seed=1))) == pytest.approx(1, abs=0.01)
    assert float(spread_to_error(3 * drawn(k, 200_000), drawn(200_000, seed=1))) == pytest.approx(
        3 * math.sqrt((1 + 1 / k) / (1 + 9 / k)), rel=0.01
    )


@settings(max_examples=25, deadline=None)
@given(error=st.floats(-5, 5), scale=st.floats(0.1, 3))
def test_closed_forms_are_the_integral_of_their_distribution(error: float, scale: float) -> None:
    for closed, cdf in (
        (crps_of_normal, stats.norm(loc=error, scale=scale).cdf),
        (crps_of_laplace, stats.laplace(loc=error, scale=scale).cdf),
    ):
        below = integrate.quad(lambda y, cdf=cdf: cdf(y) ** 2, -np.inf, 0)[0]  # the truth lies at 0
        above = integrate.quad(lambda y, cdf=cdf: (1 - cdf(y)) ** 2, 0, np.inf)[0]
        ours = closed(torch.tensor(error, dtype=torch.float64), torch.tensor(scale, dtype=torch.float64))
        assert float(ours) == pytest.approx(below + above, abs=1e-6)


@pytest.mark.parametrize("k", [2, 8])
def test_crps_of_samples_is_that_of_their_distribution_for_any_number_of_samples(k: int) -> None:
    found = crps_of_samples(drawn(k, 400_000), torch.full((400_000,), 0.7, dtype=torch.float64)).mean()
    one = torch.tensor(1.0, dtype=torch.float64)
    assert float(found) == pytest.approx(float(crps_of_normal(0.7 * one, one)), abs=0.003)


def test_crps_of_samples_by_all_pairs() -> None:
    samples, truth = drawn(5, 7), drawn(7, seed=1)
    pairs = (samples[:, None] - samples[None]).abs().sum(dim=(0, 1)) / (5 * 4)
    assert torch.allclose(crps_of_samples(samples, truth), (samples - truth).abs().mean(dim=0) - pairs / 2)


def test_the_fitted_factor_covers_what_it_should() -> None:
    """Deviations that say a third of the truth, of errors that aren't normal."""
    deviation = drawn(50_000, seed=1).abs() + 0.1
    error = torch.from_numpy(np.random.RandomState(2).laplace(size=50_000)) * deviation * 3
    factor = fitted_factor(error[:25_000], deviation[:25_000], level=0.9)
    assert float(coverage(error[25_000:], factor * deviation[25_000:], levels=(0.9,))) == pytest.approx(0.9, abs=0.01)
    assert fitted_factor(drawn(100_000), torch.ones(100_000), level=0.9) == pytest.approx(1, abs=0.01)


def stated(*, times: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Results, truths and ``times`` the standard deviations of their normal errors, (2, 3, 200, 200)."""
    deviation = 0.01 + 0.05 * torch.from_numpy(np.random.RandomState(seed).rand(2, 3, 200, 200))
    return torch.zeros_like(deviation), deviation * drawn(2, 3, 200, 200, seed=seed + 1), times * deviation


def test_sums_of_right_deviations() -> None:
    sr, hr, deviation = stated(times=0.5)
    ensemble = sr[:, None].expand(-1, 2, -1, -1, -1)
    figures = calibration_sums(sr, hr, deviation, samples=ensemble, factors=torch.tensor([2.0, 2.0, 2.0])).figures()
    assert [figures[name] for name in ("coverage_50", "coverage_68", "coverage_90")] == pytest.approx(LEVELS, abs=0.005)
    assert figures["spread_to_error"] == pytest.approx(1, abs=0.01)
    assert figures["crps"] == pytest.approx(127.5 * 2 * float(deviation.mean()) / math.sqrt(math.pi), rel=0.01)
    assert figures["rmse"] == pytest.approx(127.5 * float(hr.square().mean().sqrt()))
    assert calibration_sums(sr, hr, deviation).figures()["spread_to_error"] == pytest.approx(0.5, abs=0.005)


def test_sums_of_an_ensemble_of_the_truth_s_own_distribution() -> None:
    _, hr, deviation = stated(times=1)
    ensemble = deviation[:, None] * drawn(2, 6, 3, 200, 200, seed=9)  # (B, k, C, H, W)
    sums = calibration_sums(ensemble.mean(dim=1), hr, ensemble.std(dim=1, correction=0), samples=ensemble)
    assert (sums.ranks / sums.pixels).tolist() == pytest.approx([1 / 7] * 7, abs=0.003)
    assert sums.figures()["spread_to_error"] == pytest.approx(1, abs=0.01)


def test_sums_add_up() -> None:
    parts = [calibration_sums(*stated(times=1, seed=seed)) for seed in (0, 5)]
    both = calibration_sums(*(torch.cat(pair) for pair in zip(stated(times=1), stated(times=1, seed=5), strict=True)))
    assert parts[0].plus(parts[1]).figures() == pytest.approx(both.figures())


@pytest.mark.parametrize("name", ["normal", "laplace"])
def test_the_family_is_found_and_its_factors(name: str) -> None:
    random = np.random.RandomState(0)
    unit = random.standard_normal((3, 40_000)) if name == "normal" else random.laplace(size=(3, 40_000)) / math.sqrt(2)
    deviation = random.rand(3, 40_000) + 0.1
    factors = np.array([0.5, 1.0, 3.0])
    error = torch.from_numpy(unit * deviation * factors[:, None])
    found, fitted = best_family(error, torch.from_numpy(deviation))
    assert found == name
    assert fitted == pytest.approx(factors, rel=0.02)
