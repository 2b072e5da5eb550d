"""PSNR, SSIM, MAE, MSE and shift-MAE against skimage, a direct loop, and the reference implementation's numbers."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from tests.golden import Golden
from utils.errors import DataError
from utils.metrics.pixel import measure, shift_mae, to_uint8


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
