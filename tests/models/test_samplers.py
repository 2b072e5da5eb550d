import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from models.samplers import Noise, PredictClean, States, ddim, ddpm, dpmpp_2m, midpoint
from models.schedule import Path, Schedule, Spacing, StraightFlow

SAMPLERS: dict[str, Callable[..., States]] = {
    "ddpm": ddpm,
    "ddim": ddim,
    "ddim_eta": partial(ddim, eta=0.5),
    "dpmpp_2m": dpmpp_2m,
}
spacings = st.sampled_from(["linear", "superlinear", "quadratic"])


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


def last(states: States) -> Tensor:
    return [x for _, x, _ in states][-1]


# Times


@given(st.integers(2, 600), st.data(), spacings)
def test_times_of_a_schedule(timesteps: int, data: st.DataObject, spacing: Spacing) -> None:
    steps = data.draw(st.integers(1, timesteps))
    times = Schedule.linear(timesteps, beta_end=0.02).times(steps, spacing)
    assert len(times) == steps
    assert times[0] == timesteps - 1
    assert times[-1] == (0 if steps > 1 else timesteps - 1)
    assert all(later < earlier for earlier, later in pairwise(times))


def test_spacings() -> None:
    path = Schedule.cosine(101)
    assert Schedule.cosine(5).times(5) == [4, 3, 2, 1, 0] == Schedule.cosine(5).times(5, "quadratic")
    assert path.times(5) == [100, 75, 50, 25, 0] == [*path.times(5, start=100)]
    assert path.times(5, "superlinear") == [100, 65, 35, 12, 0]
    assert path.times(5, "quadratic") == [100, 56, 25, 6, 0]
    assert path.times(3, start=40) == [40, 20, 0]


@pytest.mark.parametrize("path", [Schedule.cosine(10), StraightFlow(10)])
@pytest.mark.parametrize("steps", [0, 11])
def test_too_many_steps_or_none(path: Path, steps: int) -> None:
    with pytest.raises(ValueError, match="1 to 10 steps"):
        path.times(steps)


@given(st.integers(1, 200), st.data(), spacings)
def test_times_of_a_flow(timesteps: int, data: st.DataObject, spacing: Spacing) -> None:
    path = StraightFlow(timesteps)
    times = path.times(data.draw(st.integers(1, timesteps)), spacing)
    assert times[0] == timesteps
    assert all(later <= earlier - 1 + 1e-9 for earlier, later in pairwise(times))
    assert times[-1] >= 1
    indices = [path.noise_index(t) for t in times]
    assert len(set(indices)) == len(indices)  # no noise is used twice
    assert max(indices) < timesteps  # nor that of the start


# Accuracy


def order_of_convergence(sampler: Callable[..., States], steps: list[int], path: Path) -> float:
    """The slope of log error against log of the number of steps, between two times of a path, for Gaussian data.

    For x_0 ~ N(m, d²) the probability-flow ODE keeps (x - α m) / √(α² d² + σ²) constant.
    """
    mean, deviation = 0.2, 0.3
    first, final = 0.8 * path.timesteps, 0.1 * path.timesteps

    def scale(t: float) -> float:
        alpha, sigma = path.alpha_sigma(t)
        return math.hypot(alpha * deviation, sigma)

    start = torch.linspace(-1.5, 1.5, 7, dtype=torch.float64).view(1, 1, 1, 7)
    truth = (start - path.alpha_sigma(first)[0] * mean) / scale(first) * scale(final)
    truth = truth + path.alpha_sigma(final)[0] * mean
    errors = []
    for count in steps:
        times = torch.linspace(first, final, count + 1).round().int().tolist()
        *_, (_, reached, _), _ = sampler(gaussian(path, mean, deviation), start, path, no_noise, times=times)
        errors.append((reached - truth).abs().max().item())  # at the time ``final``, before the clean image
    return -(math.log(errors[-1]) - math.log(errors[0])) / (math.log(steps[-1]) - math.log(steps[0]))


@pytest.mark.parametrize("path", [Schedule.cosine(20000), StraightFlow(20000), StraightFlow(20000, source_std=0.4)])
@pytest.mark.parametrize(
    ("sampler", "steps", "order"),
    [
        (ddim, [20, 160], 1),
        (dpmpp_2m, [160, 640], 2),
        (midpoint, [10, 40], 3),  # for Gaussian data the error of second order vanishes
    ],
)
def test_order(sampler: Callable[..., States], steps: list[int], order: int, path: Path) -> None:
    assert order_of_convergence(sampler, steps, path) == pytest.approx(order, abs=0.15 if order == 3 else 0.1)


# Consistency


HUNDRED = Schedule.cosine(100)


def sample(sampler: Callable[..., States], times: Sequence[float], noise: Noise = seeded_noise) -> States:
    """Samples with a network whose noise is x * t / (t + 10)."""

    def predict_clean(x: Tensor, t: float) -> Tensor:
        times = torch.full((len(x),), int(t))
        return HUNDRED.predict_start(x, times, x * (t / (t + 10))).clamp(-1, 1)

    x = torch.linspace(-2, 2, 2 * 3 * 4 * 4, dtype=torch.float64).view(2, 3, 4, 4)
    return sampler(predict_clean, x, HUNDRED, noise, times=times)


@pytest.mark.parametrize(
    ("name", "linear", "quadratic"),
    [
        ("ddpm", 47.76545, 43.13111),
        ("ddim", 73.14003, 76.84159),
        ("ddim_eta", 60.36362, 60.32873),
        ("dpmpp_2m", 76.60838, 78.76195),
    ],
)
def test_golden_sums(name: str, linear: float, quadratic: float) -> None:
    for times, total in ((HUNDRED.times(10), linear), (HUNDRED.times(10, "quadratic"), quadratic)):
        assert last(sample(SAMPLERS[name], times)).abs().sum().item() == pytest.approx(total, rel=1e-6)


@pytest.mark.parametrize("times", [HUNDRED.times(100), HUNDRED.times(12, "quadratic")])
def test_ddim_with_eta_one_is_ddpm(times: list[float]) -> None:
    eta_one = last(sample(partial(ddim, eta=1.0), times))
    torch.testing.assert_close(eta_one, last(sample(ddpm, times)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", list(SAMPLERS))
@pytest.mark.parametrize("times", [[99], HUNDRED.times(5), HUNDRED.times(5, "quadratic")])
def test_ends_at_the_clean_image(name: str, times: list[float]) -> None:
    states = list(sample(SAMPLERS[name], times))
    assert [t for t, _, _ in states] == times
    torch.testing.assert_close(states[-1][1], states[-1][2])
    assert all(x0.abs().max() <= 1 for _, _, x0 in states)


def test_noise_is_asked_for_by_the_time_a_step_leaves() -> None:
    asked: list[int] = []

    def noise(t: int, shape: torch.Size) -> Tensor:
        asked.append(t)
        return seeded_noise(t, shape)

    for sampler in (ddpm, partial(ddim, eta=0.3)):
        asked.clear()
        last(sample(sampler, [99, 50, 20, 0], noise))
        assert asked == [99, 50, 20]  # the last step draws nothing
    for sampler in (ddim, dpmpp_2m, midpoint):
        last(sample(sampler, [99, 50, 20, 0], no_noise))


@pytest.mark.parametrize("spacing", ["linear", "quadratic"])
@pytest.mark.parametrize("name", list(SAMPLERS))
def test_the_clipped_last_beta_does_no_harm(name: str, spacing: Spacing) -> None:
    """The last ā of the cosine schedule is 1e-8: x_0 is magnified by 10⁴ there before the clamp."""
    schedule = Schedule.cosine(500)
    x = seeded_noise(500, torch.Size((1, 1, 40, 40))).float()
    predict = through_noise(schedule, gaussian(schedule, 0.1, 0.2))
    times = schedule.times(8, spacing)
    out = last(SAMPLERS[name](predict, x, schedule, lambda t, shape: seeded_noise(t, shape).float(), times=times))
    assert out.dtype == torch.float32
    assert abs(out.mean().item() - 0.1) < 0.05


# Straight flow


def test_one_step_of_a_flow_is_the_mean_and_all_steps_are_the_distribution() -> None:
    path, mean, deviation = StraightFlow(500, source_std=0.5), 0.1, 0.2
    x = 0.5 * seeded_noise(500, torch.Size((1, 1, 150, 200)))
    predict = gaussian(path, mean, deviation)
    one = last(ddim(predict, x, path, no_noise, times=path.times(1)))
    torch.testing.assert_close(one, torch.full_like(one, mean))
    for sampler, steps in ((ddim, 200), (midpoint, 10), (dpmpp_2m, 50), (ddpm, 200)):
        out = last(sampler(predict, x, path, seeded_noise, times=path.times(steps)))
        assert out.mean().item() == pytest.approx(mean, abs=0.01)
        assert out.std().item() == pytest.approx(deviation, rel=0.05)


@pytest.mark.parametrize("path", [StraightFlow(100), StraightFlow(100, source_std=0.4)])
@pytest.mark.parametrize("sampler", [ddim, midpoint, dpmpp_2m])
def test_steps_of_a_flow_follow_a_straight_line(sampler: Callable[..., States], path: Path) -> None:
    """Where the clean image doesn't depend on x, every sampler without noise hits it, in any number of steps."""
    truth, start = torch.full((1, 1, 2, 2), 0.3, dtype=torch.float64), torch.ones(1, 1, 2, 2, dtype=torch.float64)
    states = list(sampler(lambda x, t: truth, path.source_std * start, path, no_noise, times=path.times(4)))
    torch.testing.assert_close(states[-1][1], truth)
    torch.testing.assert_close(states[0][1], 0.25 * truth + 0.75 * path.source_std * start)
