"""How far networks look."""

import functools
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from models.bicubic import Bicubic
from models.diffusion import SRDiff
from models.highresnet import HighResNet
from models.misr import HighResLTAE
from models.rrdb import RRDBNet
from models.samplers import Noise, Sampler, ddim, ddpm
from models.schedule import Path, Schedule, StraightFlow
from models.series import Backbone, Prediction, Series
from models.unet import UNet
from tasks.receptive_field import receptive_radius, sampling_radius
from utils.radiometry import bicubic


class Blur(Backbone):
    """Looks exactly ``radius`` pixels far in the nearest view, in one corner of its kernel with a given weight."""

    def __init__(self, *, radius: int, weight: float = 1.0) -> None:
        super().__init__()
        self.scale = 2
        self.feature_channels = 3
        self.conv = nn.Conv2d(3, 3, 2 * radius + 1, padding=radius, groups=3, bias=False)
        nn.init.zeros_(self.conv.weight)
        with torch.no_grad():
            self.conv.weight[:, :, radius, radius] = 0.5
            self.conv.weight[:, :, 0, 0] = weight

    def forward(self, series: Series) -> Prediction:
        features = self.conv(series.nearest())
        return Prediction(sr=features.repeat_interleave(2, 2).repeat_interleave(2, 3), features=features)


@pytest.mark.parametrize("radius", [0, 1, 4, 9])
def test_a_known_radius(radius: int) -> None:
    assert receptive_radius(Blur(radius=radius), num_dates=1, size=40) == radius


def test_what_changes_less_than_a_255th_of_a_grey_level_does_not_count() -> None:
    assert receptive_radius(Blur(radius=9, weight=1e-6), num_dates=1, size=40) == 0
    assert receptive_radius(Blur(radius=9, weight=1e-3), num_dates=1, size=40) == 9


def test_bicubic_looks_two_pixels_far() -> None:
    assert receptive_radius(Bicubic(), num_dates=1, size=40) == 2


@pytest.mark.parametrize("backbone", [HighResNet(width=8), HighResLTAE(width=16, heads=4, d_model=32)])
def test_the_series_networks_look_as_far_as_their_encoders(backbone: Backbone) -> None:
    """Six 3×3 convolutions before the fusion, in HighRes-net two more in it; the rest works pixel by pixel."""
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    assert 4 <= receptive_radius(backbone, num_dates=3, size=48) <= 9
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    assert next(backbone.parameters()).dtype == torch.float32


class Denoiser(nn.Module):
    """Looks at the features of a place up and left, ``reach`` high-resolution pixels away."""

    def __init__(self, *, reach: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 2 * reach + 1, padding=reach, groups=3, bias=False)
        nn.init.zeros_(self.conv.weight)
        with torch.no_grad():
            self.conv.weight[:, :, 0, 0] = 1

    def condition(self, features: Tensor, base: Tensor) -> Tensor:
        return features.repeat_interleave(2, 2).repeat_interleave(2, 3)

    def forward(self, x: Tensor, t: Tensor, condition: Tensor, step: Tensor | None) -> Tensor:
        return 0.1 * self.conv(condition)


@pytest.mark.parametrize(("reach", "expected"), [(0, 4), (6, 7), (20, 14)])
def test_sampling_looks_as_far_as_backbone_and_noise_predictor_together(reach: int, expected: int) -> None:
    denoise = cast(UNet, Denoiser(reach=reach))
    model = SRDiff(denoise_fn=denoise, backbone=Blur(radius=4), path=Schedule.cosine(10))
    sampler = functools.partial(ddim, times=[0])
    assert sampling_radius(model, sampler=sampler, num_dates=1, size=40) == expected


def _drawn(images: Tensor) -> Noise:
    return lambda step, shape: images[step]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "measured", "meant"),
    [
        (
            Schedule.cosine(50),
            functools.partial(ddpm, times=Schedule.cosine(50).times(4, "quadratic")),
            Schedule.cosine(50).times(15, "quadratic"),
        ),
        (StraightFlow(50), functools.partial(ddim, times=[50, 25]), [50, 37.5, 25, 12.5]),
    ],
)
def test_beyond_the_radius_a_sampled_image_does_not_see_the_border(
    path: Path, measured: Sampler, meant: list[float]
) -> None:
    """With another image, other noise, and more steps than it was measured with."""
    torch.manual_seed(0)
    backbone = RRDBNet(width=8, blocks=2, base_residual=True)
    unet = UNet(dim=8, dim_mults=(1, 2), cond_channels=backbone.feature_channels)
    model = SRDiff(denoise_fn=unet, backbone=backbone, path=path)
    radius = sampling_radius(model, sampler=measured, num_dates=1)
    assert 2 < radius < 40
    lr = torch.rand(1, 1, 3, 64, 72) * 2 - 1
    noise = torch.randn(51, 1, 3, 256, 288)
    results = []
    for cut in (0, 16):
        part = lr[..., cut:]
        series = Series(part, torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool), bicubic(part[:, 0], scale=4))
        images, _ = model.sample(
            series,
            sampler=functools.partial(measured.func, times=meant),  # type: ignore[attr-defined]
            noise=_drawn(noise[..., 4 * cut :]),
        )
        results.append(images.clamp(-1, 1)[..., 4 * (16 - cut) :])
    change = (results[0] - results[1]).abs()
    assert change[..., : 4 * 2].max() > 2 / 255
    assert change[..., 4 * (radius + 4) :].max() < 2 / 255 / 10
