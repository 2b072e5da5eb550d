"""Whether a stated uncertainty is the error that is made: ranks, coverage, spread against error, CRPS.

After Gneiting and Raftery, *Strictly proper scoring rules, prediction, and estimation*, JASA 2007, and Fortin et al.,
*Why should ensemble spread match the RMSE of the ensemble mean?*, Journal of Hydrometeorology 2014.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

COVERED = (0.5, 0.68, 0.9)  # the probabilities of the intervals that are reported
_HALF_RANGE = 127.5  # digital numbers in 1 of [-1, 1]
FITTED = 0.9  # the one whose coverage a factor makes right


class CalibrationSums(NamedTuple):
    """Sums over pixels; sums of several patches are those of all of them."""

    pixels: Tensor  # () float64, like all here
    covered: Tensor  # (levels,)
    variance: Tensor  # (), digital numbers squared
    squares: Tensor  # (), of the errors
    crps: Tensor  # (), digital numbers
    ranks: Tensor  # (k + 1,) shares times pixels; (0,) without samples

    def plus(self, other: "CalibrationSums") -> "CalibrationSums":
        return CalibrationSums(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))

    def figures(self) -> dict[str, float]:
        """coverage_50, coverage_68, coverage_90 (shares), spread_to_error, crps and rmse (digital numbers)."""
        shares = (self.covered / self.pixels).tolist()
        return {
            **{f"coverage_{level:.0%}".rstrip("%"): share for level, share in zip(COVERED, shares, strict=True)},
            "spread_to_error": float((self.variance / self.squares).sqrt()),
            "crps": float(self.crps / self.pixels),
            "rmse": float((self.squares / self.pixels).sqrt()),
        }


def calibration_sums(
    sr: Tensor,
    hr: Tensor,
    deviation: Tensor,
    *,
    samples: Tensor | None = None,
    factors: Tensor | None = None,
    family: "Family | None" = None,
) -> CalibrationSums:
    """How errors compare with the standard deviations that are stated for them.

    Args:
        sr: results, (B, C, H, W) in [-1, 1].
        hr: truths, likewise.
        deviation: of the samples, or stated by a Laplace head, likewise.
        samples: (B, k, C, H, W), where there are any. Then intervals are those of normal distributions, CRPS is the
            ensemble's, and the spread has the unbiased variance and the share by which a mean of k errs. Without
            samples, intervals and CRPS are those of Laplace distributions.
        factors: (C,), of a calibration: with them the deviations times these count, and the samples' values no more.
        family: of the distributions, where a calibration has chosen it.
    """
    family = family or (LAPLACE if samples is None else NORMAL)
    error, stated = (sr - hr) * _HALF_RANGE, deviation * _HALF_RANGE
    ranks = error.new_zeros(0, dtype=torch.float64)
    if samples is not None:
        ensemble, truth = samples.transpose(0, 1) * _HALF_RANGE, hr * _HALF_RANGE  # (k, B, C, H, W)
        ranks = rank_histogram(ensemble, truth) * truth.numel()
    if factors is not None:
        stated = stated * factors.to(stated).view(-1, 1, 1)
        crps, variance = family.crps(error, stated.clamp(min=1e-6)), stated.square()
    elif samples is not None:
        k = samples.shape[1]
        crps, variance = crps_of_samples(ensemble, truth), stated.square() * ((k + 1) / (k - 1))
    else:
        crps, variance = family.crps(error, stated), stated.square()
    return CalibrationSums(
        pixels=torch.tensor(float(error.numel()), dtype=torch.float64),
        covered=(coverage(error, stated, family=family) * error.numel()).cpu(),
        variance=variance.sum(dtype=torch.float64).cpu(),
        squares=error.square().sum(dtype=torch.float64).cpu(),
        crps=crps.sum(dtype=torch.float64).cpu(),
        ranks=ranks.cpu(),
    )


def rank_histogram(samples: Tensor, truth: Tensor) -> Tensor:
    """How often the truth takes each rank among the samples: flat where the samples are distributed as the truth.

    Args:
        samples: (k, ...).
        truth: (...). Equal samples share its ranks evenly.

    Returns:
        (k + 1,) float64, shares that add up to 1.
    """
    below = (samples < truth).sum(dim=0).flatten()  # (N,): the lowest rank that the truth can take
    ties = (samples == truth).sum(dim=0).flatten()
    weight = 1 / (ties + 1).double()
    steps = weight.new_zeros(len(samples) + 2)  # differences of the histogram
    steps.index_add_(0, below, weight).index_add_(0, below + ties + 1, -weight)
    return steps.cumsum(dim=0)[:-1] / max(1, truth.numel())


def coverage(
    error: Tensor, deviation: Tensor, *, levels: Sequence[float] = COVERED, family: "Family | None" = None
) -> Tensor:
    """The shares of errors that lie within the central intervals of their distributions.

    Args:
        error: result minus truth, any shape.
        deviation: the standard deviations that are stated for them, likewise.
        levels: the probabilities of the intervals.
        family: of the distributions; None: normal.

    Returns:
        (levels,) float64: the levels themselves where the deviations and the family are right.
    """
    quantiles = [(family or NORMAL).quantile(level) for level in levels]
    distance = error.abs()
    return torch.stack([(distance <= quantile * deviation).double().mean() for quantile in quantiles])


def normal_quantile(level: float) -> float:
    """Half the width, in standard deviations, of a normal distribution's central interval of a probability."""
    return math.sqrt(2) * float(torch.special.erfinv(torch.tensor(level, dtype=torch.float64)))


def laplace_quantile(level: float) -> float:
    """The same of a Laplace distribution."""
    return -math.log(1 - level) / math.sqrt(2)


def spread_to_error(samples: Tensor, truth: Tensor) -> Tensor:
    """Root mean variance of k samples over the root mean square error of their mean, () float64; 1 is right.

    Args:
        samples: (k, ...), k at least 2.
        truth: (...).
    """
    k = len(samples)
    error = (samples.mean(dim=0) - truth).square().mean(dtype=torch.float64)
    variance = samples.var(dim=0).mean(dtype=torch.float64)
    return ((k + 1) / k * variance / error).sqrt()  # a mean of k errs by 1 / k of the variance, too


def crps_of_samples(samples: Tensor, truth: Tensor) -> Tensor:
    """Continuous ranked probability score of an ensemble, without bias in its size: (k, ...), (...) -> (...).

    E|X - y| - E|X - X'| / 2 (Gneiting and Raftery, equation 21), over pairs of different samples.
    """
    k = len(samples)
    ordered = samples.sort(dim=0).values
    weights = torch.arange(1 - k, k, 2, device=samples.device, dtype=samples.dtype)  # Σ_i<j (x_j - x_i) = Σ_i w_i x_i
    pairs = torch.tensordot(weights, ordered, dims=1)
    return (samples - truth).abs().mean(dim=0) - pairs / (k * (k - 1))


def crps_of_normal(error: Tensor, deviation: Tensor) -> Tensor:
    """CRPS of normal distributions with these errors of the mean and standard deviations, elementwise."""
    z = error / deviation
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    return deviation * (z * (2 * torch.special.ndtr(z) - 1) + 2 * density - 1 / math.sqrt(math.pi))


def crps_of_laplace(error: Tensor, scale: Tensor) -> Tensor:
    """CRPS of Laplace distributions with these errors of the median and scales, elementwise."""
    z = (error / scale).abs()
    return scale * (z + torch.exp(-z) - 0.75)


def fitted_factor(error: Tensor, deviation: Tensor, *, level: float = FITTED, family: "Family | None" = None) -> float:
    """The factor on the deviations with which a distribution's interval covers its share of the errors.

    Args:
        error: result minus truth, (N,).
        deviation: the standard deviations that are stated for them, (N,).
        level: the probability of the interval.
        family: of the distribution; None: normal.
    """
    ratio = (error.abs() / deviation.clamp(min=torch.finfo(deviation.dtype).eps)).flatten()
    rank = min(max(1, math.ceil(level * ratio.numel())), ratio.numel())
    return float(ratio.kthvalue(rank).values) / (family or NORMAL).quantile(level)


class Family(NamedTuple):
    """Distributions that a mean and a standard deviation name."""

    quantile: Callable[[float], float]  # half the width, in standard deviations, of an interval with a probability
    crps: Callable[[Tensor, Tensor], Tensor]  # of an error and a standard deviation


NORMAL = Family(normal_quantile, crps_of_normal)
LAPLACE = Family(laplace_quantile, lambda error, deviation: crps_of_laplace(error, deviation / math.sqrt(2)))
FAMILIES = {"normal": NORMAL, "laplace": LAPLACE}


def best_family(errors: Tensor, deviations: Tensor) -> tuple[str, list[float]]:
    """The family whose intervals hold their shares of the errors best, and the factors with which they do.

    Args:
        errors: result minus truth, (C, N).
        deviations: the standard deviations that are stated for them, likewise.

    Returns:
        A name of FAMILIES, and a factor a band.
    """
    found = {}
    for name, family in FAMILIES.items():
        factors = [fitted_factor(*band, family=family) for band in zip(errors, deviations, strict=True)]
        shares = coverage(errors, deviations * deviations.new_tensor(factors)[:, None], family=family)
        found[name] = float((shares - shares.new_tensor(COVERED)).abs().sum()), factors
    best = min(found, key=lambda name: found[name][0])
    return best, found[best][1]
