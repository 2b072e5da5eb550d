"""Radial power spectra of images whose spectrum is known."""

import math

import pytest
import torch

from utils.metrics.pixel import radial_power


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
