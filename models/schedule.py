"""The noise schedule of a diffusion process, and the arithmetic on it.

x_t = α_t x_0 + σ_t ε with α_t = √ā_t and σ_t = √(1 − ā_t) (Ho et al., DDPM, 2020).
"""

import math
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Schedule:
    """Twelve float32 tables of ``timesteps`` numbers, in the order in which checkpoints hold them."""

    betas: Tensor
    alphas_cumprod: Tensor
    alphas_cumprod_prev: Tensor
    sqrt_alphas_cumprod: Tensor
    sqrt_one_minus_alphas_cumprod: Tensor
    log_one_minus_alphas_cumprod: Tensor
    sqrt_recip_alphas_cumprod: Tensor
    sqrt_recipm1_alphas_cumprod: Tensor
    posterior_variance: Tensor
    posterior_log_variance_clipped: Tensor
    posterior_mean_coef1: Tensor
    posterior_mean_coef2: Tensor

    @classmethod
    def from_betas(cls, betas: Tensor) -> Self:
        """All tables from float64 betas (timesteps,); computed in float64, cast last."""
        alphas = 1 - betas
        cumprod = alphas.cumprod(0)
        previous = torch.cat([cumprod.new_ones(1), cumprod[:-1]])
        variance = betas * (1 - previous) / (1 - cumprod)
        tables = (
            betas,
            cumprod,
            previous,
            cumprod.sqrt(),
            (1 - cumprod).sqrt(),
            (1 - cumprod).log(),
            (1 / cumprod).sqrt(),
            (1 / cumprod - 1).sqrt(),
            variance,
            variance.clamp(min=1e-20).log(),
            betas * previous.sqrt() / (1 - cumprod),
            (1 - previous) * alphas.sqrt() / (1 - cumprod),
        )
        return cls(*(table.to(torch.float32) for table in tables))

    @classmethod
    def cosine(cls, timesteps: int, *, s: float = 0.008) -> Self:
        """Nichol and Dhariwal (2021), with betas clipped to [0, 0.999]."""
        n = timesteps + 1
        x = torch.linspace(0, n, n, dtype=torch.float64)
        cumprod = torch.cos((x / n + s) / (1 + s) * math.pi / 2) ** 2
        cumprod = cumprod / cumprod[0]
        return cls.from_betas((1 - cumprod[1:] / cumprod[:-1]).clamp(0, 0.999))

    @classmethod
    def linear(cls, timesteps: int, *, beta_end: float, last_beta: float | None = None) -> Self:
        """Betas from 1e-4 to ``beta_end``; ``last_beta`` replaces the last one (0.999: all signal goes)."""
        betas = torch.linspace(1e-4, beta_end, timesteps, dtype=torch.float64)
        if last_beta is not None:
            betas[-1] = last_beta
        return cls.from_betas(betas)

    def tables(self) -> dict[str, Tensor]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def timesteps(self) -> int:
        return len(self.betas)

    @cached_property
    def log_alphas_cumprod(self) -> list[float]:
        """log ā_t in double precision, with the clean image (0) before t = 0: differences of it don't cancel."""
        return [0.0, *torch.log1p(-self.betas.double()).cumsum(0).tolist()]

    def alpha_sigma(self, t: int) -> tuple[float, float]:
        """(α_t, σ_t); t = -1 is the clean image: (1, 0)."""
        log_cumprod = self.log_alphas_cumprod[t + 1]
        return math.exp(log_cumprod / 2), math.sqrt(-math.expm1(log_cumprod))

    def q_sample(self, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_t for times t (B,); t = -1 is x0 itself."""
        alpha = _at(self.sqrt_alphas_cumprod, t.clamp(min=0))
        sigma = _at(self.sqrt_one_minus_alphas_cumprod, t.clamp(min=0))
        return torch.where(t.view(-1, 1, 1, 1) < 0, x0, alpha * x0 + sigma * noise)

    def predict_start(self, x_t: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """x_0 from x_t and the noise in it, at times t (B,)."""
        return _at(self.sqrt_recip_alphas_cumprod, t) * x_t - _at(self.sqrt_recipm1_alphas_cumprod, t) * noise

    def posterior(self, t: int, s: int) -> tuple[float, float, float]:
        """q(x_s | x_t, x_0) for s < t as (a, b, v): mean a x_0 + b x_t and variance v; s = -1 is the clean image.

        DDPM's equation 7 between any two times; the tables hold the case s = t - 1.
        """
        log_ratio = self.log_alphas_cumprod[t + 1] - self.log_alphas_cumprod[s + 1]  # of ā_t/ā_s
        beta = -math.expm1(log_ratio)
        (_, sigma_t), (alpha_s, sigma_s) = self.alpha_sigma(t), self.alpha_sigma(s)
        shrink = (sigma_s / sigma_t) ** 2
        return alpha_s * beta / sigma_t**2, math.exp(log_ratio / 2) * shrink, beta * shrink


def _at(table: Tensor, t: Tensor) -> Tensor:
    return table[t].view(-1, 1, 1, 1)
