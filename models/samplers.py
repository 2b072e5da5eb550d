"""Samplers: ways from noise to an image. Each is a function of a denoiser and times; none knows what conditions it.

A grid of times runs down, as a rule from timesteps - 1; after its last time every sampler goes to the clean image. All
predict the clean image from the noise and clamp it to [-1, 1]. Noise is asked for by the time that the step leaves, so
it doesn't depend on the number of steps.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor

from models.schedule import Schedule

Denoiser = Callable[[Tensor, Tensor], Tensor]  # (x_t, t (B,)) -> predicted noise; the condition is closed over
Noise = Callable[[int, torch.Size], Tensor]  # (the time that a step leaves, shape) -> its standard normal noise
Callback = Callable[[int, int, Tensor, Tensor], None]  # (step, time it left, the new x, the x_0 predicted)
Spacing = Literal["linear", "superlinear", "quadratic"]
POWERS: dict[str, float] = {"linear": 1.0, "superlinear": 1.5, "quadratic": 2.0}  # of the step's share of the way


class Sampler(Protocol):
    """A sampler with its times (and eta) bound, as ``functools.partial(ddim, times=grid)``."""

    def __call__(
        self, denoise: Denoiser, x: Tensor, schedule: Schedule, *, noise: Noise, callback: Callback | None = None
    ) -> Tensor: ...


def time_grid(timesteps: int, steps: int, spacing: Spacing = "linear") -> list[int]:
    """``steps`` different times from timesteps - 1 down to 0; the higher the spacing's power, the closer towards 0.

    Raises ValueError unless 1 <= steps <= timesteps. One step starts, and ends, at timesteps - 1.
    """
    if not 1 <= steps <= timesteps:
        raise ValueError(f"sampling takes 1 to {timesteps} steps, not {steps}")
    if spacing not in POWERS:
        raise ValueError(f"spacing must be one of {', '.join(POWERS)}, not {spacing!r}")
    if steps == 1:
        return [timesteps - 1]
    times: list[int] = []
    for i in range(steps):
        exact = (timesteps - 1) * (i / (steps - 1)) ** POWERS[spacing]
        times.append(max(round(exact), times[-1] + 1 if times else 0))
    return times[::-1]


def _transitions(times: Sequence[int]) -> list[tuple[int, int, int]]:
    """(step, time t it leaves, time s it reaches); the last one reaches -1, the clean image."""
    return [(i, t, s) for i, (t, s) in enumerate(zip(times, [*times[1:], -1], strict=True))]


def _predict_start(denoise: Denoiser, x: Tensor, schedule: Schedule, t: int) -> Tensor:
    times = torch.full((len(x),), t, device=x.device, dtype=torch.int64)
    return schedule.predict_start(x, times, denoise(x, times).to(x.dtype)).clamp(-1, 1)


def ddpm(
    denoise: Denoiser,
    x: Tensor,
    schedule: Schedule,
    times: Sequence[int],
    *,
    noise: Noise,
    callback: Callback | None = None,
) -> Tensor:
    """Ancestral sampling (Ho et al., 2020): draws from the posterior between each two times of the grid."""
    for step, t, s in _transitions(times):
        x0 = _predict_start(denoise, x, schedule, t)
        weight_x0, weight_x, variance = schedule.posterior(t, s)
        x = weight_x0 * x0 + weight_x * x
        if s >= 0:
            x = x + math.sqrt(variance) * noise(t, x.shape)
        if callback:
            callback(step, t, x, x0)
    return x


def ddim(
    denoise: Denoiser,
    x: Tensor,
    schedule: Schedule,
    times: Sequence[int],
    *,
    noise: Noise,
    eta: float = 0.0,
    callback: Callback | None = None,
) -> Tensor:
    """Song et al. (2021), equation 12; eta 0 draws no noise, eta 1 is ``ddpm``. First order."""
    for step, t, s in _transitions(times):
        x0 = _predict_start(denoise, x, schedule, t)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule.alpha_sigma(t), schedule.alpha_sigma(s)
        deviation = eta * math.sqrt(schedule.posterior(t, s)[2])
        direction = (x - alpha_t * x0) / sigma_t  # the noise that belongs to the clamped x_0
        x = alpha_s * x0 + math.sqrt(max(sigma_s**2 - deviation**2, 0)) * direction
        if deviation > 0:
            x = x + deviation * noise(t, x.shape)
        if callback:
            callback(step, t, x, x0)
    return x


def dpmpp_2m(
    denoise: Denoiser,
    x: Tensor,
    schedule: Schedule,
    times: Sequence[int],
    *,
    noise: Noise,
    callback: Callback | None = None,
) -> Tensor:
    """DPM-Solver++(2M) (Lu et al., 2022, algorithm 2): multistep, data prediction, second order; draws no noise."""
    previous: tuple[Tensor, float] | None = None  # the last x_0 and the last step in λ = log(α/σ)
    for step, t, s in _transitions(times):
        x0 = _predict_start(denoise, x, schedule, t)
        if s < 0:
            x = x0
        else:
            (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule.alpha_sigma(t), schedule.alpha_sigma(s)
            h = math.log(alpha_s / sigma_s) - math.log(alpha_t / sigma_t)
            data = x0
            if previous is not None:
                last_x0, last_h = previous
                data = torch.lerp(last_x0, x0, 1 + h / (2 * last_h))  # extrapolated to the middle of the step
            x = sigma_s / sigma_t * x - alpha_s * math.expm1(-h) * data
            previous = x0, h
        if callback:
            callback(step, t, x, x0)
    return x
