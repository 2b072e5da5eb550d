"""How far networks look."""

import pytest
import torch
from torch import nn

from models.bicubic import Bicubic
from models.highresnet import HighResNet
from models.misr import HighResLTAE
from models.series import Backbone, Prediction, Series
from tasks.receptive import receptive_radius


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
    assert receptive_radius(Blur(radius=radius), amount=1, size=40) == radius


def test_what_changes_less_than_a_255th_of_a_grey_level_does_not_count() -> None:
    assert receptive_radius(Blur(radius=9, weight=1e-6), amount=1, size=40) == 0
    assert receptive_radius(Blur(radius=9, weight=1e-3), amount=1, size=40) == 9


def test_bicubic_looks_two_pixels_far() -> None:
    assert receptive_radius(Bicubic(), amount=1, size=40) == 2


@pytest.mark.parametrize("backbone", [HighResNet(width=8), HighResLTAE(width=16, heads=4, d_model=32)])
def test_the_series_networks_look_as_far_as_their_encoders(backbone: Backbone) -> None:
    """Six 3×3 convolutions before the fusion, in HighRes-net two more in it; the rest works pixel by pixel."""
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    assert 4 <= receptive_radius(backbone, amount=3, size=48) <= 9
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    assert next(backbone.parameters()).dtype == torch.float32
