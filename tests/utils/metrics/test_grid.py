"""Patterns of the input's pixels: seen where there are, not seen in truths and after interpolation."""

import numpy as np
import pytest
import torch
from torch import Tensor

from data_gen.synthetic.compose import draw_landscape
from utils.metrics.grid import border_gradient, sampling_peak
from utils.radiometry import bicubic


def landscape(side: int = 96) -> Tensor:
    """(2, 3, side, side)."""
    grounds = [draw_landscape(np.random.default_rng(seed), side).reflectance(180) for seed in (0, 1)]
    return torch.from_numpy(np.stack(grounds)) / 0.1 - 1


def coarse(images: Tensor, scale: int) -> Tensor:
    return torch.nn.functional.avg_pool2d(images, scale)


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_a_truth_and_an_interpolated_image_have_none(scale: int) -> None:
    truth = landscape()
    assert ((border_gradient(truth, scale=scale) - 1).abs() < 0.12).all()
    assert (sampling_peak(truth, scale=scale) < 1.5).all()
    interpolated = bicubic(coarse(truth, scale), scale=scale)
    assert (border_gradient(interpolated, scale=scale) < 1.15).all()
    assert (sampling_peak(interpolated, scale=scale) == 0).all()


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_blocks_and_faint_patterns_are_seen(scale: int) -> None:
    smooth = bicubic(coarse(landscape(), scale), scale=scale)
    blocks = coarse(landscape(), scale).repeat_interleave(scale, -1).repeat_interleave(scale, -2)
    assert (border_gradient(blocks, scale=scale) == torch.inf).all()
    cell = torch.randn(1, 3, scale, scale, generator=torch.Generator().manual_seed(0))
    faint = smooth + 0.05 * cell.repeat(1, 1, 96 // scale, 96 // scale)
    fainter = smooth + 0.02 * cell.repeat(1, 1, 96 // scale, 96 // scale)
    assert (sampling_peak(faint, scale=scale) > sampling_peak(fainter, scale=scale)).all()
    assert (sampling_peak(fainter, scale=scale) > 3).all()


def test_only_one_direction_is_enough() -> None:
    image = landscape()
    image[..., ::4] += 0.3
    for turned in (image, image.mT):
        assert (border_gradient(turned, scale=4) > 1.05).all()
        assert (sampling_peak(turned, scale=4) > 3).all()


def test_a_flat_image_has_no_peak() -> None:
    flat = torch.zeros(1, 3, 32, 32)
    assert sampling_peak(flat, scale=4).tolist() == [0.0]
    assert border_gradient(flat, scale=4).tolist() == [1.0]
