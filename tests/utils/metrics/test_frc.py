"""Fourier ring correlation: its definition, a known cut-off, and planted cases."""

import numpy as np
import pytest
import torch

from tests.utils.metrics.planted import enlarged, place, with_houses
from utils.metrics.frc import resolution, ring_sums


def test_it_is_its_definition() -> None:
    random = np.random.RandomState(0)
    a, b = random.rand(2, 24, 30), random.rand(2, 24, 30)
    sums = ring_sums(torch.from_numpy(a)[None], torch.from_numpy(b)[None])
    hann = [0.5 - 0.5 * np.cos(2 * np.pi * np.arange(side) / side) for side in (24, 30)]
    x, y = (
        np.fft.fft2((image - image.mean(axis=(1, 2), keepdims=True)) * np.outer(*hann)) for image in (a, b)
    )  # (C, H, W)
    radius = np.hypot(np.fft.fftfreq(24)[:, None], np.fft.fftfreq(30))
    for ring in range(1, 13):
        of = np.round(radius * 24) == ring
        expected = (x * y.conj()).real[:, of].sum() / np.sqrt((abs(x) ** 2)[:, of].sum() * (abs(y) ** 2)[:, of].sum())
        assert float(sums.correlation[0, ring - 1]) == pytest.approx(expected, abs=1e-5)
        assert float(sums.frequencies[ring - 1]) == pytest.approx(ring / 24)


@pytest.mark.parametrize("cut", [0.1, 0.2, 0.4])
def test_detail_that_is_replaced_beyond_a_frequency(cut: float) -> None:
    """Below the cut the truth's spectrum, above it another one's: half of the cut's period is right."""
    truth, other = (np.random.RandomState(seed).standard_normal((1, 3, 264, 264)) for seed in (0, 1))
    beyond = np.hypot(np.fft.fftfreq(264)[:, None], np.fft.fftfreq(264)) > cut
    mixed = np.fft.ifft2(np.where(beyond, np.fft.fft2(other), np.fft.fft2(truth))).real
    sums = ring_sums(torch.from_numpy(mixed), torch.from_numpy(truth))
    for threshold in (1 / 7, 0.5):
        found = float(resolution(sums, threshold=threshold, pixel_size=2.5))
        assert 2.5 / (2 * found) == pytest.approx(cut, abs=1.5 / 264)  # one and a half rings


def test_planted_cases() -> None:
    village, other = place(1), place(2)

    def metres(result: torch.Tensor, threshold: float) -> float:
        return float(resolution(ring_sums(result, village.hr, crop=16), threshold=threshold, pixel_size=2.5))

    assert metres(village.hr, 0.5) == 2.5  # as small as its pixels
    assert 7 < metres(enlarged(village.lr), 0.5) < 12  # pixels of 10 m
    assert metres(other.hr, 1 / 7) > 50
    noise = torch.from_numpy(np.random.RandomState(3).standard_normal(village.hr.shape))
    sizes = [metres(village.hr + amplitude * noise, 0.5) for amplitude in (0, 5, 10, 20, 40, 80, 160)]
    assert sizes == sorted(sizes) and sizes[-1] > 4
    free = village.corners[12:]
    curves = [ring_sums(with_houses(village.hr, free[:n]), village.hr).correlation.mean() for n in (0, 2, 4, 8, 12)]
    assert curves == sorted(curves, reverse=True)


def test_a_known_shift_is_taken_off() -> None:
    village = place(1)
    moved = village.hr.roll((2, -1), dims=(2, 3))
    shifted = ring_sums(moved, village.hr, crop=16)
    aligned = ring_sums(moved, village.hr, crop=16, shift=torch.tensor([[-2.0, 1.0]]))
    assert float(resolution(shifted, threshold=0.5, pixel_size=2.5)) > 10
    assert float(resolution(aligned, threshold=0.5, pixel_size=2.5)) == 2.5


def test_patches_add_up() -> None:
    village, other = place(1), place(2)
    results = torch.cat([enlarged(village.lr), enlarged(other.lr)])
    both = ring_sums(results, torch.cat([village.hr, other.hr])).pooled()
    one, two = (ring_sums(results[i : i + 1], hr) for i, hr in enumerate((village.hr, other.hr)))
    assert torch.allclose(one.plus(two).correlation, both.correlation)


def test_an_image_without_detail_has_no_correlation() -> None:
    flat, truth = torch.zeros(1, 3, 32, 32), torch.rand(1, 3, 32, 32)
    sums = ring_sums(flat, truth)
    assert float(sums.correlation.abs().max()) == 0
    assert float(resolution(sums, threshold=1 / 7, pixel_size=2.5)) == 2.5 * 16
