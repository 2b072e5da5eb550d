"""Each further metric against a direct computation from its definition."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.errors import DataError
from utils.metrics.pixel import extended, shift_tolerant_psnrs


def direct(sr: np.ndarray, hr: np.ndarray, lr: np.ndarray, sensor: np.ndarray) -> dict[str, float]:
    """The definitions by plain loops, for uint8 (C, H, W) images."""
    a, b, small, raw = (x.astype(np.float64) for x in (sr, hr, lr, sensor))
    bands, height, width = a.shape
    scale = height // lr.shape[1]
    inner = a[:, 3:-3, 3:-3]
    plain, corrected = [], []
    for i in range(7):
        for j in range(7):
            difference = b[:, i : i + height - 6, j : j + width - 6] - inner
            plain.append((difference**2).mean())
            bias = np.array([difference[band].mean() for band in range(bands)])
            corrected.append(((difference - bias[:, None, None]) ** 2).mean())

    def psnr(mse: float) -> float:
        return 10 * math.log10(255**2 / mse)

    angles = []
    for y in range(height):
        for x in range(width):
            p, q = a[:, y, x], b[:, y, x]
            lengths = np.linalg.norm(p) * np.linalg.norm(q)
            angles.append(math.degrees(math.acos(min(1.0, float(p @ q / lengths)))))
    relative = [((a[band] - b[band]) ** 2).mean() / b[band].mean() ** 2 for band in range(bands)]
    averaged = a.reshape(bands, height // scale, scale, width // scale, scale).mean(axis=(2, 4))
    return {
        "cpsnr": psnr(min(corrected)),
        "shift_psnr": psnr(min(plain)),
        "sensor_psnr": psnr(((a - raw) ** 2).mean()),
        "sam": float(np.mean(angles)),
        "ergas": 100 / scale * math.sqrt(np.mean(relative)),
        "consistency": float(np.abs(averaged - small).mean()),
        "sharpness_error": 100 * abs(gradient(a) - gradient(b)) / gradient(b),
    }


def gradient(image: np.ndarray) -> float:
    """Mean gradient magnitude of (C, H, W) inside the border."""
    down, across = np.gradient(image, axis=(1, 2))
    return float(np.sqrt(down**2 + across**2)[:, 1:-1, 1:-1].mean())


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    height=st.integers(2, 6),
    width=st.integers(2, 6),
    scale=st.sampled_from([4, 8]),
    gain=st.sampled_from([0.4, 1.0]),
)
def test_equals_the_definitions(seed: int, height: int, width: int, scale: int, gain: float) -> None:
    rng = np.random.default_rng(seed)
    hr = rng.integers(1, 256, (2, 3, height * scale, width * scale), dtype=np.uint8)
    noisy = np.roll(hr, (1, 2), axis=(2, 3)) * gain + rng.normal(20, 9, hr.shape)
    sr = np.clip(noisy, 1, 255).astype(np.uint8)
    lr = rng.integers(0, 256, (2, 3, height, width), dtype=np.uint8)
    sensor = rng.integers(0, 256, hr.shape, dtype=np.uint8)
    measured = extended(torch.tensor(sr), torch.tensor(hr), lr_nearest=torch.tensor(lr), hr_sensor=torch.tensor(sensor))
    for i in range(2):
        for name, expected in direct(sr[i], hr[i], lr[i], sensor[i]).items():
            assert measured[name][i].item() == pytest.approx(expected, rel=1e-7, abs=1e-6), name


def constant(level: int, side: int = 16) -> torch.Tensor:
    return torch.full((1, 3, side, side), level, dtype=torch.uint8)


def test_identical_images() -> None:
    hr = torch.randint(0, 256, (2, 3, 64, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    lr = torch.zeros(2, 3, 16, 10, dtype=torch.uint8)
    same = extended(hr, hr, lr_nearest=lr, hr_sensor=hr)
    for name in ("cpsnr", "shift_psnr", "sensor_psnr"):
        assert same[name].tolist() == [math.inf] * 2
    assert same["sam"].tolist() == same["ergas"].tolist() == [0.0] * 2


@pytest.mark.parametrize(("level", "other"), [(0, 0), (0, 255), (255, 0), (90, 60)])
def test_constant_images_are_defined(level: int, other: int) -> None:
    values = extended(constant(level), constant(other), lr_nearest=constant(level, 4), hr_sensor=constant(other))
    assert not any(value.isnan().any() for value in values.values())
    assert values["cpsnr"].item() == math.inf  # only the brightness differs
    assert values["consistency"].item() == 0
    error = abs(level - other)
    assert values["shift_psnr"].item() == (pytest.approx(20 * math.log10(255 / error)) if error else math.inf)
    assert values["sam"].item() == (90 if error == 255 else 0)
    expected_ergas = 0 if error == 0 else math.inf if other == 0 else 25 * error / other
    assert values["ergas"].item() == pytest.approx(expected_ergas)


def test_cpsnr_forgives_brightness_and_a_shift() -> None:
    hr = torch.randint(0, 200, (1, 3, 300, 310), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    moved = hr.roll((2, -3), dims=(2, 3)) + torch.tensor([7, 20, 55], dtype=torch.uint8).view(1, 3, 1, 1)
    cpsnr, shift_psnr = shift_tolerant_psnrs(moved, hr)
    assert cpsnr.item() == math.inf  # exact, with no rounding left over
    assert shift_psnr.item() == pytest.approx(10 * math.log10(255**2 / np.mean([7**2, 20**2, 55**2])))
    assert shift_tolerant_psnrs(hr.roll(4, dims=2), hr)[0].item() < 20


def test_the_input_averages_to_itself() -> None:
    lr = torch.rand(2, 3, 8, 8) * 2 - 1
    sr = lr.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    assert extended(sr, sr, lr_nearest=lr, hr_sensor=sr)["consistency"].tolist() == [0.0, 0.0]


def test_shapes_must_fit() -> None:
    images = torch.zeros(1, 3, 16, 16)
    for lr, sensor in ((torch.zeros(1, 3, 5, 4), images), (torch.zeros(1, 3, 4, 4), images[..., 1:])):
        with pytest.raises(DataError, match="one size"):
            extended(images, images, lr_nearest=lr, hr_sensor=sensor)
