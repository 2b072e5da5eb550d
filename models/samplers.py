"""Samplers: ways from noise to a clean image. Each knows a predictor of clean images, a path, and times; nothing else.

The times run down; after the last one every sampler goes to the clean image. Noise is asked for by the time that the
step leaves, so it doesn't depend on the number of steps. A sampler is a generator of its states, one a step.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from models.schedule import Path

PredictClean = Callable[[Tensor, float], Tensor]  # (x_t, t) -> x_0; the condition and the clamp are closed over
Noise = Callable[[int, torch.Size], Tensor]  # (which noise, shape) -> standard normal numbers
States = Iterator[tuple[float, Tensor, Tensor]]  # after each step: the time it left, the new x, the x_0 predicted
Sampler = Callable[[PredictClean, Tensor, Path, Noise], States]  # times are bound: functools.partial(ddim, times=times)
Callback = Callable[[int, float, Tensor, Tensor], None]  # (step, time it left, the new image, the one predicted)


def ddpm(predict_clean: PredictClean, x: Tensor, path: Path, noise: Noise, *, times: Sequence[float]) -> States:
    """Ancestral sampling (Ho et al., 2020): draws from the posterior between each two times."""
    for t, s in pairwise([*times, path.clean]):
        x0 = predict_clean(x, t)
        weight_x0, weight_x, variance = path.posterior(t, s)
        x = weight_x0 * x0 + weight_x * x
        if s > path.clean:
            x = x + math.sqrt(variance) * noise(path.noise_index(t), x.shape)
        yield t, x, x0


def ddim(
    predict_clean: PredictClean, x: Tensor, path: Path, noise: Noise, *, times: Sequence[float], eta: float = 0.0
) -> States:
    """Song et al. (2021), equation 12; eta 0 draws no noise, eta 1 is ``ddpm``. First order.

    On a straight flow with eta 0 this is Euler's method.
    """
    for t, s in pairwise([*times, path.clean]):
        x0 = predict_clean(x, t)
        alpha_s, sigma_s = path.alpha_sigma(s)
        deviation = eta * math.sqrt(path.posterior(t, s)[2])
        x = alpha_s * x0 + math.sqrt(max(sigma_s**2 - deviation**2, 0)) * _noise_in(x, x0, path, t)
        if deviation > 0:
            x = x + deviation * noise(path.noise_index(t), x.shape)
        yield t, x, x0


def midpoint(predict_clean: PredictClean, x: Tensor, path: Path, noise: Noise, *, times: Sequence[float]) -> States:
    """The midpoint method on dx/dt = α′ x_0 + σ′ ε: second order, two predictions a step; draws no noise."""
    for t, s in pairwise([*times, path.clean]):
        x0 = predict_clean(x, t)
        direction = _noise_in(x, x0, path, t)
        middle = path.middle(t, s)
        if middle > s:  # there is a time between t and s
            alpha, sigma = path.alpha_sigma(middle)
            half = alpha * x0 + sigma * direction
            x0 = predict_clean(half, middle)
            direction = _noise_in(half, x0, path, middle)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = path.alpha_sigma(t), path.alpha_sigma(s)
        x = x + (alpha_s - alpha_t) * x0 + (sigma_s - sigma_t) * direction
        yield t, x, x0


def dpmpp_2m(predict_clean: PredictClean, x: Tensor, path: Path, noise: Noise, *, times: Sequence[float]) -> States:
    """DPM-Solver++(2M) (Lu et al., 2022, algorithm 2): multistep, data prediction, second order; draws no noise."""
    previous: tuple[Tensor, float] | None = None  # the last x_0 and the last step in λ = log(α/σ)
    for t, s in pairwise([*times, path.clean]):
        x0 = predict_clean(x, t)
        if s <= path.clean:
            x = x0
        else:
            (alpha_t, sigma_t), (alpha_s, sigma_s) = path.alpha_sigma(t), path.alpha_sigma(s)
            # From pure noise (α = 0) the step in λ is infinite: the formulas then are those of ``ddim``.
            h = math.log(alpha_s / sigma_s) - math.log(alpha_t / sigma_t) if alpha_t > 0 else math.inf
            data = x0
            if previous is not None:
                last_x0, last_h = previous
                data = torch.lerp(last_x0, x0, 1 + h / (2 * last_h))  # extrapolated to the middle of the step
            x = sigma_s / sigma_t * x - alpha_s * math.expm1(-h) * data
            previous = x0, h
        yield t, x, x0


def _noise_in(x: Tensor, x0: Tensor, path: Path, t: float) -> Tensor:
    """The noise that x holds at time t if its clean image is x0."""
    alpha, sigma = path.alpha_sigma(t)
    return (x - alpha * x0) / sigma
