import math

import pytest
import torch

from models.schedule import Schedule


def test_posterior_holds_between_any_two_times() -> None:
    """q(x_s | x_t, x_0) q(x_t | x_0) must give back q(x_s | x_0): its mean α_s x_0 and its variance σ_s²."""
    schedule = Schedule.cosine(500)
    for t, s in ((499, 498), (499, 300), (400, 17), (9, 0), (3, -1)):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule.alpha_sigma(t), schedule.alpha_sigma(s)
        weight_start, weight_x, variance = schedule.posterior(t, s)
        assert weight_start + weight_x * alpha_t == pytest.approx(alpha_s, rel=1e-6)
        assert (weight_x * sigma_t) ** 2 + variance == pytest.approx(sigma_s**2, rel=1e-5, abs=1e-12)


def test_time_minus_one_is_the_clean_image() -> None:
    schedule, x0 = Schedule.cosine(10), torch.randn(2, 3, 4, 4)
    assert schedule.alpha_sigma(-1) == (1, 0)
    x_t = schedule.q_sample(x0, torch.tensor([-1, 9]), torch.randn_like(x0))
    assert torch.equal(x_t[0], x0[0])
    assert not torch.allclose(x_t[1], x0[1])


def test_alpha_and_sigma_go_together() -> None:
    schedule = Schedule.linear(100, beta_end=0.02, last_beta=0.999)
    assert schedule.timesteps == 100
    for t in (0, 50, 99):
        assert math.hypot(*schedule.alpha_sigma(t)) == pytest.approx(1, rel=1e-6)
    assert schedule.tables["betas"][-1] == torch.tensor(0.999)
    assert Schedule.linear(100, beta_end=0.02).tables["betas"][-1] == torch.tensor(0.02)


def test_arithmetic_stays_float32_under_autocast() -> None:
    schedule, x = Schedule.cosine(10), torch.randn(2, 3, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert schedule.q_sample(x, torch.tensor([1, 2]), x).dtype == torch.float32
        assert schedule.predict_start(x, torch.tensor([1, 2]), x.bfloat16()).dtype == torch.float32
