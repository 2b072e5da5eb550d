import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from models.samplers import Noise, PredictClean, ddim, ddpm, dpmpp_2m, midpoint
from models.schedule import Path, Schedule, Spacing, StraightFlow, time_grid

SAMPLERS: dict[str, Callable[..., Tensor]] = {
    "ddpm": ddpm,
    "ddim": ddim,
    "ddim_eta": partial(ddim, eta=0.5),
    "dpmpp_2m": dpmpp_2m,
}


def gaussian(path: Path, mean: float, deviation: float) -> PredictClean:
    """The exact mean of the clean image where every pixel of it is N(mean, deviation²)."""

    def predict_clean(x: Tensor, t: float) -> Tensor:
        alpha, sigma = path.alpha_sigma(t)
        gain = alpha * deviation**2 / ((alpha * deviation) ** 2 + sigma**2)
        return mean + gain * (x - alpha * mean)

    return predict_clean


def through_noise(schedule: Schedule, predict: PredictClean) -> PredictClean:
    """The same as a network gives it that predicts noise: its clean image is that of the tables, clamped."""

    def predict_clean(x: Tensor, t: float) -> Tensor:
        alpha, sigma = schedule.alpha_sigma(t)
        times = torch.full((len(x),), int(t))
        return schedule.predict_start(x, times, (x - alpha * predict(x, t)) / sigma).clamp(-1, 1)

    return predict_clean


def no_noise(t: int, shape: torch.Size) -> Tensor:
    raise AssertionError("this sampler draws no noise")


def seeded_noise(t: int, shape: torch.Size) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(t), dtype=torch.float64)


# Times


@given(st.integers(2, 600), st.data(), st.sampled_from(["linear", "superlinear", "quadratic"]))
def test_time_grid(timesteps: int, data: st.DataObject, spacing: Spacing) -> None:
    steps = data.draw(st.integers(1, timesteps))
    times = time_grid(timesteps, steps, spacing)
    assert len(times) == steps
    assert times[0] == timesteps - 1
    assert times[-1] == (0 if steps > 1 else timesteps - 1)
    assert all(later < earlier for earlier, later in pairwise(times))


def test_time_grid_spacings() -> None:
    assert time_grid(5, 5) == [4, 3, 2, 1, 0] == time_grid(5, 5, "quadratic")
    assert time_grid(101, 5) == [100, 75, 50, 25, 0]
    assert time_grid(101, 5, "superlinear") == [100, 65, 35, 12, 0]
    assert time_grid(101, 5, "quadratic") == [100, 56, 25, 6, 0]


@pytest.mark.parametrize(("steps", "spacing"), [(0, "linear"), (11, "linear"), (5, "cubic")])
def test_time_grid_refuses(steps: int, spacing: Spacing) -> None:
    with pytest.raises(ValueError, match=r"steps|spacing"):
        time_grid(10, steps, spacing)


# Accuracy


def order_of_convergence(sampler: Callable[..., Tensor], steps: list[int], path: Path) -> float:
    """The slope of log error against log of the number of steps, between two times of a path, for Gaussian data.

    For x_0 ~ N(m, d²) the probability-flow ODE keeps (x - α m) / √(α² d² + σ²) constant.
    """
    mean, deviation = 0.2, 0.3
    first, last = 0.8 * path.timesteps, 0.1 * path.timesteps

    def scale(t: float) -> float:
        alpha, sigma = path.alpha_sigma(t)
        return math.hypot(alpha * deviation, sigma)

    start = torch.linspace(-1.5, 1.5, 7, dtype=torch.float64).view(1, 1, 1, 7)
    truth = (start - path.alpha_sigma(first)[0] * mean) / scale(first) * scale(last)
    truth = truth + path.alpha_sigma(last)[0] * mean
    errors = []
    for count in steps:
        times = torch.linspace(first, last, count + 1).round().int().tolist()
        reached: list[Tensor] = []
        sampler(
            gaussian(path, mean, deviation),
            start,
            path,
            times=times,
            noise=no_noise,
            callback=lambda step, t, x, x0, reached=reached: reached.append(x),
        )
        errors.append((reached[-2] - truth).abs().max().item())  # reached[-2] is x at ``last``
    return -(math.log(errors[-1]) - math.log(errors[0])) / (math.log(steps[-1]) - math.log(steps[0]))


@pytest.mark.parametrize("path", [Schedule.cosine(20000), StraightFlow(20000), StraightFlow(20000, source_std=0.4)])
@pytest.mark.parametrize(("sampler", "steps", "order"), [(ddim, [20, 160], 1), (dpmpp_2m, [160, 640], 2)])
def test_order(sampler: Callable[..., Tensor], steps: list[int], order: int, path: Path) -> None:
    assert order_of_convergence(sampler, steps, path) == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize("path", [Schedule.cosine(20000), StraightFlow(20000), StraightFlow(20000, source_std=0.4)])
def test_midpoint_is_of_second_order_at_least(path: Path) -> None:
    """For Gaussian data the error of second order vanishes: what is left is of the third."""
    assert order_of_convergence(midpoint, [10, 40], path) == pytest.approx(3, abs=0.15)


def spread(sampler: Callable[..., Tensor], times: list[int], deviation: float) -> float:
    """Standard deviation of the samples against the true one, on the original schedule, with an exact denoiser."""
    schedule = Schedule.cosine(500)
    x = seeded_noise(500, torch.Size((1, 1, 150, 200)))
    predict = through_noise(schedule, gaussian(schedule, 0.0, deviation))
    out = sampler(predict, x, schedule, times=times, noise=seeded_noise)
    return out.std().item() / deviation


@pytest.mark.parametrize("deviation", [0.13, 0.15])
def test_spread_of_samples(deviation: float) -> None:
    """Few linear DDIM steps come out too smooth; as few of DPM-Solver++ at quadratic times don't."""
    assert 0.94 < spread(ddpm, time_grid(500, 500), deviation) < 0.98
    assert 0.77 < spread(ddim, time_grid(500, 20), deviation) < 0.82
    assert 1.00 < spread(dpmpp_2m, time_grid(500, 20, "quadratic"), deviation) < 1.04


# Consistency


HUNDRED = Schedule.cosine(100)


def dummy(x: Tensor, t: float) -> Tensor:
    """The clean image that follows from a noise of x * t / (t + 10)."""
    times = torch.full((len(x),), int(t))
    return HUNDRED.predict_start(x, times, x * (t / (t + 10))).clamp(-1, 1)


def sample(sampler: Callable[..., Tensor], times: list[int], noise: Noise = seeded_noise) -> Tensor:
    x = torch.linspace(-2, 2, 2 * 3 * 4 * 4, dtype=torch.float64).view(2, 3, 4, 4)
    return sampler(dummy, x, HUNDRED, times=times, noise=noise)


@pytest.mark.parametrize(
    ("name", "spacing", "total"),
    [
        ("ddpm", "linear", 47.76545),
        ("ddpm", "quadratic", 43.13111),
        ("ddim", "linear", 73.14003),
        ("ddim", "quadratic", 76.84159),
        ("ddim_eta", "linear", 60.36362),
        ("ddim_eta", "quadratic", 60.32873),
        ("dpmpp_2m", "linear", 76.60838),
        ("dpmpp_2m", "quadratic", 78.76195),
    ],
)
def test_golden_sums(name: str, spacing: Spacing, total: float) -> None:
    assert sample(SAMPLERS[name], time_grid(100, 10, spacing)).abs().sum().item() == pytest.approx(total, rel=1e-6)


@pytest.mark.parametrize("times", [time_grid(100, 100), time_grid(100, 12), time_grid(100, 12, "quadratic")])
def test_ddim_with_eta_one_is_ddpm(times: list[int]) -> None:
    torch.testing.assert_close(sample(partial(ddim, eta=1.0), times), sample(ddpm, times), rtol=1e-5, atol=1e-5)


def test_dpmpp_starts_like_ddim() -> None:
    """Both are the same exponential integrator while there is one evaluation only."""
    times = [99, 40]
    states: dict[str, list[Tensor]] = {"ddim": [], "dpmpp_2m": []}
    for name, kept in states.items():
        sample(partial(SAMPLERS[name], callback=lambda step, t, x, x0, kept=kept: kept.append(x)), times)
    torch.testing.assert_close(states["ddim"][0], states["dpmpp_2m"][0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", list(SAMPLERS))
@pytest.mark.parametrize("times", [[99], time_grid(100, 5), time_grid(100, 5, "quadratic")])
def test_ends_at_the_clean_image(name: str, times: list[int]) -> None:
    steps: list[tuple[int, int]] = []
    images: list[tuple[Tensor, Tensor]] = []

    def keep(step: int, t: int, x: Tensor, x0: Tensor) -> None:
        steps.append((step, t))
        images.append((x, x0))

    out = sample(partial(SAMPLERS[name], callback=keep), times)
    assert steps == list(enumerate(times))
    assert torch.equal(out, images[-1][0])
    torch.testing.assert_close(images[-1][0], images[-1][1])
    assert all(x0.abs().max() <= 1 for _, x0 in images)


def test_noise_is_asked_for_by_the_time_a_step_leaves() -> None:
    asked: list[int] = []

    def noise(t: int, shape: torch.Size) -> Tensor:
        asked.append(t)
        return seeded_noise(t, shape)

    for sampler in (ddpm, partial(ddim, eta=0.3)):
        asked.clear()
        sample(sampler, [99, 50, 20, 0], noise)
        assert asked == [99, 50, 20]  # the last step draws nothing
    for sampler in (ddim, dpmpp_2m):
        sample(sampler, [99, 50, 20, 0], no_noise)


def test_the_clipped_last_beta_does_no_harm() -> None:
    """The last ā of the cosine schedule is 1e-8: x_0 is magnified by 10⁴ there before the clamp."""
    schedule = Schedule.cosine(500)
    x = seeded_noise(500, torch.Size((1, 1, 40, 40))).float()
    for sampler in SAMPLERS.values():
        for times in (time_grid(500, 8), time_grid(500, 8, "quadratic")):
            predict = through_noise(schedule, gaussian(schedule, 0.1, 0.2))
            out = sampler(predict, x, schedule, times=times, noise=lambda t, s: seeded_noise(t, s).float())
            assert out.dtype == torch.float32
            assert abs(out.mean().item() - 0.1) < 0.05


# Straight flow


def test_one_step_of_a_flow_is_the_mean_and_all_steps_are_the_distribution() -> None:
    path, mean, deviation = StraightFlow(500, source_std=0.5), 0.1, 0.2
    x = 0.5 * seeded_noise(500, torch.Size((1, 1, 150, 200)))
    predict = gaussian(path, mean, deviation)
    one = ddim(predict, x, path, path.times(1), noise=no_noise)
    torch.testing.assert_close(one, torch.full_like(one, mean))
    for sampler, steps in ((ddim, 200), (midpoint, 10), (dpmpp_2m, 50), (ddpm, 200)):
        out = sampler(predict, x, path, path.times(steps), noise=seeded_noise)
        assert out.mean().item() == pytest.approx(mean, abs=0.01)
        assert out.std().item() == pytest.approx(deviation, rel=0.05)


@pytest.mark.parametrize("path", [StraightFlow(100), StraightFlow(100, source_std=0.4)])
def test_steps_of_a_flow_follow_a_straight_line(path: Path) -> None:
    """Where the clean image doesn't depend on x, every sampler without noise hits it, in any number of steps."""
    truth, start = torch.full((1, 1, 2, 2), 0.3, dtype=torch.float64), torch.ones(1, 1, 2, 2, dtype=torch.float64)
    for sampler in (ddim, midpoint, dpmpp_2m):
        states: list[Tensor] = []
        out = sampler(
            lambda x, t: truth,
            path.source_std * start,
            path,
            path.times(4),
            noise=no_noise,
            callback=lambda step, t, x, x0, states=states: states.append(x),  # type: ignore[misc]
        )
        torch.testing.assert_close(out, truth)
        torch.testing.assert_close(states[0], 0.25 * truth + 0.75 * path.source_std * start)


@given(st.integers(1, 200), st.data(), st.sampled_from(["linear", "superlinear", "quadratic"]))
def test_times_of_a_flow(timesteps: int, data: st.DataObject, spacing: Spacing) -> None:
    path = StraightFlow(timesteps)
    times = path.times(data.draw(st.integers(1, timesteps)), spacing)
    assert times[0] == timesteps
    assert all(later <= earlier - 1 + 1e-9 for earlier, later in pairwise(times))
    assert times[-1] >= 1
    indices = [path.noise_index(t) for t in times]
    assert len(set(indices)) == len(indices)  # no noise is used twice
    assert max(indices) < timesteps  # nor that of the start
