"""Noise processes: how a clean image x_0 becomes noise, x_t = α_t x_0 + σ_t ε, and what a network predicts in x_t."""

import math
from abc import ABC, abstractmethod
from functools import cached_property
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor

Spacing = Literal["linear", "superlinear", "quadratic"]
POWERS: dict[str, float] = {"linear": 1.0, "superlinear": 1.5, "quadratic": 2.0}  # of the step's share of the way


class Path(ABC):
    """A noise process. Time rises with the noise; samplers go down from timesteps + clean to ``clean``."""

    timesteps: int
    clean: float  # the time of the clean image
    tables: dict[str, Tensor]  # what checkpoints hold, by name
    is_straight = False  # time is real and x_t a straight line in it
    source_std: float = 1.0  # standard deviation of the noise that sampling starts from

    @abstractmethod
    def alpha_sigma(self, t: float) -> tuple[float, float]:
        """(α_t, σ_t); (1, 0) at the time ``clean``."""

    @abstractmethod
    def q_sample(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_t for images x0 (B, C, H, W), times t (B,) and noise like x0."""

    @abstractmethod
    def target(self, x0: Tensor, noise: Tensor) -> Tensor:
        """What the network is trained to predict in x_t (B, C, H, W)."""

    @abstractmethod
    def predict_start(self, x_t: Tensor, t: Tensor, output: Tensor) -> Tensor:
        """x_0 that follows from x_t (B, C, H, W), times t (B,) and the network's output."""

    @abstractmethod
    def _spaced(self, steps: int, start: float, power: float) -> list[float]:
        """Times from the cleanest up to ``start``, the closer towards the clean image the higher the power."""

    def times(self, steps: int, spacing: Spacing = "linear", *, start: float | None = None) -> list[float]:
        """``steps`` times that a sampler visits, from ``start`` (the noisiest) down, without that of the clean image.

        They lie at least 1 apart. Raises ValueError where there are not that many.
        """
        start = self.timesteps + self.clean if start is None else start
        most = int(start - self.clean)
        if not 1 <= steps <= most:
            raise ValueError(f"sampling takes 1 to {most} steps, not {steps}")
        spaced = self._spaced(steps, start, POWERS[spacing])
        apart = accumulate(spaced, lambda last, t: max(t, last + 1), initial=self.clean)
        return [*apart][:0:-1]

    def middle(self, t: float, s: float) -> float:
        """The time half-way from t to s."""
        return (t + s) / 2

    def noise_index(self, t: float) -> int:
        """A whole number for the noise that a step from time t draws: different steps, different numbers."""
        return math.ceil(t - self.clean - 1e-6) - 1  # times that are whole but for rounding stay apart

    def posterior(self, t: float, s: float) -> tuple[float, float, float]:
        """q(x_s | x_t, x_0) for s < t as (a, b, v): mean a x_0 + b x_t and variance v (DDPM, equation 7)."""
        (_, sigma_t), (alpha_s, sigma_s) = self.alpha_sigma(t), self.alpha_sigma(s)
        alpha, beta = self._transition(t, s)
        shrink = (sigma_s / sigma_t) ** 2
        return alpha_s * beta / sigma_t**2, alpha * shrink, beta * shrink

    def _transition(self, t: float, s: float) -> tuple[float, float]:
        """(α, β) of x_t = α x_s + noise of variance β."""
        (alpha_t, sigma_t), (alpha_s, sigma_s) = self.alpha_sigma(t), self.alpha_sigma(s)
        alpha = alpha_t / alpha_s
        return alpha, sigma_t**2 - (alpha * sigma_s) ** 2


class Schedule(Path):
    """Discrete diffusion: α_t = √ā_t, σ_t = √(1 − ā_t) for t = 0 … timesteps − 1 (Ho et al., DDPM, 2020).

    The network predicts the noise ε. The twelve float32 tables stand in the order in which checkpoints hold them.
    """

    clean = -1

    def __init__(self, tables: dict[str, Tensor]) -> None:
        self.tables = tables
        self.timesteps = len(tables["betas"])

    @classmethod
    def from_betas(cls, betas: Tensor) -> "Schedule":
        """All tables from float64 betas (timesteps,); computed in float64, cast last."""
        alphas = 1 - betas
        cumprod = alphas.cumprod(0)
        previous = torch.cat([cumprod.new_ones(1), cumprod[:-1]])
        variance = betas * (1 - previous) / (1 - cumprod)
        tables = {
            "betas": betas,
            "alphas_cumprod": cumprod,
            "alphas_cumprod_prev": previous,
            "sqrt_alphas_cumprod": cumprod.sqrt(),
            "sqrt_one_minus_alphas_cumprod": (1 - cumprod).sqrt(),
            "log_one_minus_alphas_cumprod": (1 - cumprod).log(),
            "sqrt_recip_alphas_cumprod": (1 / cumprod).sqrt(),
            "sqrt_recipm1_alphas_cumprod": (1 / cumprod - 1).sqrt(),
            "posterior_variance": variance,
            "posterior_log_variance_clipped": variance.clamp(min=1e-20).log(),
            "posterior_mean_coef1": betas * previous.sqrt() / (1 - cumprod),
            "posterior_mean_coef2": (1 - previous) * alphas.sqrt() / (1 - cumprod),
        }
        return cls({name: table.float() for name, table in tables.items()})

    @classmethod
    def cosine(cls, timesteps: int, *, s: float = 0.008) -> "Schedule":
        """Nichol and Dhariwal (2021), equation 17, with betas clipped to [0, 0.999]."""
        n = timesteps + 1
        x = torch.linspace(0, n, n, dtype=torch.float64)
        cumprod = torch.cos((x / n + s) / (1 + s) * math.pi / 2) ** 2
        cumprod = cumprod / cumprod[0]
        return cls.from_betas((1 - cumprod[1:] / cumprod[:-1]).clamp(0, 0.999))

    @classmethod
    def linear(cls, timesteps: int, *, beta_end: float, last_beta: float | None = None) -> "Schedule":
        """Betas from 1e-4 to ``beta_end``; ``last_beta`` replaces the last one (0.999: all signal goes)."""
        betas = torch.linspace(1e-4, beta_end, timesteps, dtype=torch.float64)
        if last_beta is not None:
            betas[-1] = last_beta
        return cls.from_betas(betas)

    def _spaced(self, steps: int, start: float, power: float) -> list[float]:
        return [round(start * (i / (steps - 1)) ** power) for i in range(steps)] if steps > 1 else [start]

    def middle(self, t: float, s: float) -> float:
        return math.floor((t + s) / 2)

    @cached_property
    def log_alphas_cumprod(self) -> list[float]:
        """log ā_t in double precision, with the clean image (0) before t = 0: differences of it don't cancel."""
        return [0.0, *torch.log1p(-self.tables["betas"].double()).cumsum(0).tolist()]

    def alpha_sigma(self, t: float) -> tuple[float, float]:
        log_cumprod = self.log_alphas_cumprod[int(t) + 1]
        return math.exp(log_cumprod / 2), math.sqrt(-math.expm1(log_cumprod))

    def _at(self, name: str, t: Tensor) -> Tensor:
        return self.tables[name][t].view(-1, 1, 1, 1)

    def q_sample(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """DDPM's equation 4; time −1 is the clean image."""
        alpha = self._at("sqrt_alphas_cumprod", t.clamp(min=0))
        sigma = self._at("sqrt_one_minus_alphas_cumprod", t.clamp(min=0))
        return torch.where(t.view(-1, 1, 1, 1) < 0, x0, alpha * x0 + sigma * noise)

    def target(self, x0: Tensor, noise: Tensor) -> Tensor:
        return noise

    def predict_start(self, x_t: Tensor, t: Tensor, output: Tensor) -> Tensor:
        return self._at("sqrt_recip_alphas_cumprod", t) * x_t - self._at("sqrt_recipm1_alphas_cumprod", t) * output

    def _transition(self, t: float, s: float) -> tuple[float, float]:
        """From logarithms: the general formula's differences of numbers close to 1 would lose digits."""
        log_ratio = self.log_alphas_cumprod[int(t) + 1] - self.log_alphas_cumprod[int(s) + 1]  # of ā_t/ā_s
        return math.exp(log_ratio / 2), -math.expm1(log_ratio)


class StraightFlow(Path):
    """The straight path x_τ = (1 − τ) x_0 + τ s ε for τ in (0, 1] (Lipman et al., 2023; Liu et al., 2023).

    Time is t = τ · timesteps, a real number. The network predicts the velocity v = s ε − x_0, so x_0 = x_τ − τ v.

    Args:
        timesteps: the unit of time, as the network's time embedding sees it.
        source_std: s, the standard deviation of the noise.
    """

    clean = 0.0
    is_straight = True

    def __init__(self, timesteps: int, *, source_std: float = 1.0) -> None:
        self.timesteps, self.source_std, self.tables = timesteps, source_std, {}

    def alpha_sigma(self, t: float) -> tuple[float, float]:
        tau = t / self.timesteps
        return 1 - tau, self.source_std * tau

    def _spaced(self, steps: int, start: float, power: float) -> list[float]:
        return [start * (i / steps) ** power for i in range(1, steps + 1)]

    def q_sample(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        return torch.lerp(x0, self.source_std * noise, self._tau(t))

    def target(self, x0: Tensor, noise: Tensor) -> Tensor:
        return self.source_std * noise - x0

    def predict_start(self, x_t: Tensor, t: Tensor, output: Tensor) -> Tensor:
        return x_t - self._tau(t) * output

    def _tau(self, t: Tensor) -> Tensor:
        return (t / self.timesteps).view(-1, 1, 1, 1)
