"""What holds for every backbone alike."""

import pytest
import torch

from models.bicubic import Bicubic
from models.layers import repeat_pixels
from tests.models.nets import BACKBONES, channels_last, random_series, small_backbone

every_backbone = pytest.mark.parametrize("name", [*BACKBONES, "bicubic"])
every_network = pytest.mark.parametrize("name", list(BACKBONES))


@every_backbone
@pytest.mark.parametrize("scale", [2, 4, 8])
@pytest.mark.parametrize("views", [1, 2, 5])
def test_shapes(name: str, scale: int, views: int) -> None:
    series = random_series(views=views, height=5, width=7, scale=scale)
    backbone = small_backbone(name, scale=scale).eval()
    prediction = backbone(series)
    assert backbone.scale == scale
    assert prediction.sr.shape == (2, 3, 5 * scale, 7 * scale)
    assert prediction.features.shape == (2, backbone.feature_channels, 5, 7)
    assert prediction.sr.isfinite().all()


@every_network
def test_base_residual_predicts_the_difference(name: str) -> None:
    series = random_series()
    network = small_backbone(name, base_residual=True).eval()
    difference = network(series).sr - series.base
    other = series._replace(base=series.base + 0.25)
    torch.testing.assert_close(network(other).sr - other.base, difference)
    # Nothing clamps it: a large last bias comes out as it is.
    last = [parameter for key, parameter in network.named_parameters() if key.endswith(".bias") or key == "bias"][-1]
    with torch.no_grad():
        last.add_(3)
    torch.testing.assert_close(network(series).sr - series.base, difference + 3)


@every_network
@pytest.mark.parametrize("amp", [False, True])
def test_trains_every_parameter(name: str, amp: bool) -> None:
    network = channels_last(small_backbone(name)).train()
    with torch.autocast("cpu", torch.bfloat16, enabled=amp):
        prediction = network(random_series())
    (prediction.sr.float().square().mean() + prediction.features.float().square().mean()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@every_network
def test_bfloat16_and_channels_last_stay_close(name: str) -> None:
    series, network = random_series(height=8), small_backbone(name).eval()
    with torch.no_grad():
        expected = network(series).sr
        torch.testing.assert_close(channels_last(network)(series).sr, expected, rtol=0, atol=1e-4)
        with torch.autocast("cpu", torch.bfloat16):
            half = network(series).sr
    assert (half.float() - expected).abs().mean() < 0.02


@every_backbone
@pytest.mark.parametrize("scale", [0, 1, 3, 6])
def test_a_scale_that_is_no_power_of_two_is_refused(name: str, scale: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        small_backbone(name, scale=scale)


def test_bicubic_is_the_base_and_the_nearest_view() -> None:
    series = random_series()._replace(dates=torch.tensor([[3.0, 1.0, 2.0, 9.0], [0.0, 1.0, 2.0, 3.0]]))
    prediction = Bicubic()(series)
    assert torch.equal(prediction.sr, series.base)
    assert torch.equal(prediction.features, torch.stack([series.lr[0, 1], series.lr[1, 0]]))


def test_repeated_pixels_are_nearest_neighbours() -> None:
    x = torch.arange(12.0).reshape(1, 2, 2, 3)
    expected = x.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)
    assert torch.equal(repeat_pixels(x), expected)
    assert torch.equal(torch.compile(repeat_pixels, backend="eager")(x), expected)
