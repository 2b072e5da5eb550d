"""Each metric against skimage, a direct computation from its definition, and the reference implementation's numbers."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from tests.golden.large import Golden
from utils.errors import DataError
from utils.metrics.pixel import (
    by_band,
    extended,
    measure,
    ndvi_error,
    radial_power,
    shift_mae,
    shift_tolerant_psnrs,
    to_uint8,
)


def pair(seed: int, height: int, width: int, *, noise: float, batch: int = 2) -> tuple[Tensor, Tensor]:
    """uint8 truths that are smooth in places, and results that are off by noise."""
    rng = np.random.default_rng(seed)
    smooth = np.linspace(0, 255, width)[None, None, None] * np.ones((batch, 3, height, 1))
    hr = np.where(rng.random((batch, 1, 1, 1)) < 0.5, smooth, rng.integers(0, 256, (batch, 3, height, width)))
    sr = np.clip(hr + rng.normal(0, noise, hr.shape), 0, 255)
    return torch.tensor(sr.astype(np.uint8)), torch.tensor(hr.astype(np.uint8))


def direct(sr: np.ndarray, hr: np.ndarray) -> dict[str, float]:
    """The same metrics of one uint8 (C, H, W) pair by skimage and by plain loops."""
    a, b = sr.astype(np.float64), hr.astype(np.float64)
    height, width = a.shape[1] - 6, a.shape[2] - 6
    inner = a[:, 3:-3, 3:-3]
    shifted = [np.abs(inner - b[:, i : i + height, j : j + width]).mean() for i in range(7) for j in range(7)]
    mse = float(((a - b) ** 2).mean())
    return {
        "psnr": peak_signal_noise_ratio(hr, sr, data_range=255) if mse else math.inf,
        "ssim": structural_similarity(sr, hr, channel_axis=0, data_range=255),
        "mae": float(np.abs(a - b).mean()),
        "mse": mse,
        "shift_mae": min(shifted),
    }


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    height=st.integers(7, 40),
    width=st.integers(7, 40),
    noise=st.sampled_from([0.0, 0.3, 3.0, 60.0]),
)
def test_equals_skimage_and_loops(seed: int, height: int, width: int, noise: float) -> None:
    sr, hr = pair(seed, height, width, noise=noise)
    measured = measure(sr, hr)
    for i in range(len(sr)):
        for name, expected in direct(sr[i].numpy(), hr[i].numpy()).items():
            assert measured[name][i].item() == pytest.approx(expected, rel=1e-9, abs=1e-9), name


def test_golden(golden: Golden) -> None:
    reference = golden.load("09_measure.pt")
    pairs: dict[str, Any] = reference["inputs"]["pairs"]
    for name, images in pairs.items():
        measured = measure(images["sr"][None], images["hr"][None])
        for metric, expected in reference["outputs"]["measure"][name].items():
            assert measured[metric].item() == pytest.approx(expected, rel=1e-6, abs=1e-9), (name, metric)


def test_batch_and_threads_do_not_matter() -> None:
    sr, hr = pair(1, 90, 70, noise=9.0, batch=3)
    whole = measure(sr, hr)
    for i in range(3):
        alone = measure(sr[i : i + 1], hr[i : i + 1])
        assert all(torch.equal(whole[name][i : i + 1], alone[name]) for name in whole)


@pytest.mark.parametrize("level", [0, 77, 255])
def test_identical_and_constant(level: int) -> None:
    flat = torch.full((1, 3, 20, 24), level, dtype=torch.uint8)
    same = measure(flat, flat)
    assert same["psnr"].item() == math.inf
    assert same["ssim"].item() == 1
    assert same["mae"].item() == same["mse"].item() == same["shift_mae"].item() == 0
    other = measure(flat, torch.full_like(flat, 100))
    assert all(math.isfinite(value.item()) for value in other.values())
    assert other["mae"].item() == other["shift_mae"].item() == abs(level - 100)
    assert other["ssim"].item() == pytest.approx(
        structural_similarity(flat[0].numpy(), torch.full_like(flat[0], 100).numpy(), channel_axis=0, data_range=255)
    )


@pytest.mark.parametrize("shift", [(0, 0), (3, -3), (-2, 1), (-3, -3)])
def test_shift_mae_finds_the_shift(shift: tuple[int, int]) -> None:
    hr = torch.rand(1, 3, 64, 50, generator=torch.Generator().manual_seed(0)) * 255
    assert shift_mae(hr.roll(shift, dims=(2, 3)), hr).item() == 0
    assert shift_mae(hr.roll(4, dims=2), hr).item() > 30


def test_large_images_are_exact() -> None:
    white = torch.full((1, 1, 700, 800), 255.0)
    assert shift_mae(white, torch.zeros_like(white)).item() == 255
    assert measure(torch.full((1, 1, 700, 800), 254, dtype=torch.uint8), white.byte())["mse"].item() == 1


def test_to_integers_rounds_and_clips() -> None:
    x = torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0, 1 / 127.5 - 1, 0.499 / 127.5 - 1])
    assert to_uint8(x).tolist() == [0, 0, 128, 255, 255, 1, 0]
    assert to_uint8(x).dtype == torch.uint8
    as_is = torch.tensor([3, 250], dtype=torch.uint8)
    assert to_uint8(as_is) is as_is


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_an_error(bad: float) -> None:
    with pytest.raises(DataError, match="not finite"):
        to_uint8(torch.tensor([0.0, bad]))


def test_sizes_must_agree() -> None:
    with pytest.raises(DataError, match="7x7"):
        measure(torch.zeros(1, 3, 9, 9), torch.zeros(1, 3, 9, 10))
    with pytest.raises(DataError, match="7x7"):
        measure(torch.zeros(1, 3, 6, 9), torch.zeros(1, 3, 6, 9))


# The extended metrics


def direct_extended(sr: np.ndarray, hr: np.ndarray, lr: np.ndarray, sensor: np.ndarray) -> dict[str, float]:
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
        "grid": max(border_ratio(a, scale), border_ratio(a.swapaxes(1, 2), scale)),
    }


def border_ratio(image: np.ndarray, scale: int) -> float:
    """Of (C, H, W), down its columns."""
    steps = [np.abs(image[:, row + 1] - image[:, row]).mean() for row in range(image.shape[1] - 1)]
    return float(np.mean(steps[scale - 1 :: scale]) / np.mean([x for n, x in enumerate(steps) if (n + 1) % scale]))


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
def test_extended_equals_the_definitions(seed: int, height: int, width: int, scale: int, gain: float) -> None:
    rng = np.random.default_rng(seed)
    hr = rng.integers(1, 256, (2, 3, height * scale, width * scale), dtype=np.uint8)
    noisy = np.roll(hr, (1, 2), axis=(2, 3)) * gain + rng.normal(20, 9, hr.shape)
    sr = np.clip(noisy, 1, 255).astype(np.uint8)
    lr = rng.integers(0, 256, (2, 3, height, width), dtype=np.uint8)
    sensor = rng.integers(0, 256, hr.shape, dtype=np.uint8)
    measured = extended(torch.tensor(sr), torch.tensor(hr), lr_nearest=torch.tensor(lr), hr_sensor=torch.tensor(sensor))
    for i in range(2):
        for name, expected in direct_extended(sr[i], hr[i], lr[i], sensor[i]).items():
            assert measured[name][i].item() == pytest.approx(expected, rel=1e-7, abs=1e-6), name


def constant(level: int, side: int = 16) -> torch.Tensor:
    return torch.full((1, 3, side, side), level, dtype=torch.uint8)


def test_identical_images_in_extended() -> None:
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


# Spectra


@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 80)])
def test_a_wave_lies_at_its_frequency(height: int, width: int) -> None:
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    along_x = torch.sin(2 * math.pi * x / 8).expand(1, 3, -1, -1)
    along_y = torch.sin(2 * math.pi * y / 4).expand(1, 3, -1, -1)
    frequencies, power = radial_power(torch.cat([along_x, along_y]))
    step = frequencies[1] - frequencies[0]
    assert (frequencies[power.argmax(dim=1)] - torch.tensor([1 / 8, 1 / 4])).abs().max() <= step
    assert frequencies[-1] == 0.5


def test_white_noise_is_flat_and_has_its_variance() -> None:
    noise = torch.randn(20, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 3 + 100
    _, power = radial_power(noise)
    assert power.shape == (20, 32)
    assert power.mean(dim=0)[1:].sub(9).abs().max() < 1.5
    assert power.mean() == pytest.approx(9, abs=0.3)


def test_a_batch_is_its_images_and_constants_have_no_power() -> None:
    images = torch.rand(3, 3, 16, 24)
    torch.testing.assert_close(radial_power(images)[1][1:2], radial_power(images[1:2])[1])
    assert (radial_power(torch.full((1, 3, 16, 16), 77, dtype=torch.uint8))[1] == 0).all()


def test_figures_of_a_band_are_those_of_an_image_that_has_it_alone() -> None:
    sr, hr = pair(3, 20, 24, noise=9)
    found = by_band(sr, hr, ["B04", "B03", "B02"])
    for i, band in enumerate(("B04", "B03", "B02")):
        alone = measure(sr[:, i : i + 1], hr[:, i : i + 1])
        assert all(torch.equal(found[f"{name}_{band}"], alone[name]) for name in ("psnr", "ssim", "mae"))


def test_ndvi_error_is_that_of_reflectance() -> None:
    sr, hr = pair(4, 20, 24, noise=9)
    hr[:, :, 0] = sr[:, :, 0] = 0  # black in both: no index
    maxima = (0.2, 0.15, 0.5)
    indices = []
    for images in (sr, hr):
        red, nir = images[:, 0].double() / 255 * maxima[0], images[:, 2].double() / 255 * maxima[2]
        indices.append(((nir - red) / (nir + red)).nan_to_num())
    expected = (indices[0] - indices[1]).abs().mean(dim=(1, 2))
    torch.testing.assert_close(ndvi_error(sr, hr, maxima=maxima, red=0, nir=2), expected, rtol=1e-12, atol=0)
    assert not ndvi_error(hr, hr, maxima=maxima, red=0, nir=2).any()
