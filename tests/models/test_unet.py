import copy
from typing import Any

import pytest
import torch

from models.unet import UNet, WeightNormConv2d
from tests.models.nets import channels_last


def small(**options: Any) -> UNet:
    torch.manual_seed(0)
    return UNet(**{"dim": 8, "dim_mults": (1, 2, 3), "cond_channels": 4, **options})


def run(network: UNet, height: int = 16, width: int = 24) -> torch.Tensor:
    torch.manual_seed(1)
    x, t = torch.randn(2, 3, height, width), torch.tensor([3, 77])
    condition = network.condition(torch.randn(2, 4, height // 4, width // 4), torch.randn(2, 3, height, width))
    return network(x, t, condition)


def test_weight_norm_learns_length_and_direction_apart_and_can_be_copied() -> None:
    network = small(use_wn=True)
    run(network).square().mean().backward()
    layer = network.downs[0][0].block1.block[1]  # type: ignore[index]
    assert isinstance(layer, WeightNormConv2d)
    along = (layer.weight_v.grad * layer.weight_v).sum(dim=(1, 2, 3))  # type: ignore[operator]
    torch.testing.assert_close(along, torch.zeros_like(along), atol=1e-6, rtol=0)
    assert layer.weight_g.grad.abs().min() > 0  # type: ignore[union-attr]
    torch.testing.assert_close(run(copy.deepcopy(network)), run(network))


def test_weight_init_starts_small() -> None:
    layer = small(weight_init=True, dim=32).mid_block1.block1.get_submodule("block.1")
    weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
    assert weight.std().item() == pytest.approx(0.1 * (2 / weight[0].numel()) ** 0.5, rel=0.05)
    assert torch.equal(bias, torch.zeros_like(bias))


def test_attention_starts_without_effect() -> None:
    network = small(use_attn=True)
    before = run(network)
    with torch.no_grad():
        network.mid_attn.fn.fn.to_out.weight.mul_(3)  # type: ignore[union-attr, operator]
    assert torch.equal(run(network), before)
    with torch.no_grad():
        network.mid_attn.fn.g.fill_(1)  # type: ignore[union-attr, operator]
    assert not torch.allclose(run(network), before)


def test_up_input_brings_the_base_in() -> None:
    features, base = torch.randn(1, 4, 4, 4), torch.randn(1, 3, 16, 16)
    network = small(up_input=True)
    assert not torch.allclose(network.condition(features, base), network.condition(features, -base))
    network = small()
    assert torch.equal(network.condition(features, base), network.condition(features, -base))


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_condition_has_the_size_of_the_image(scale: int) -> None:
    network = small(scale=scale)
    condition = network.condition(torch.randn(2, 4, 3, 5), torch.zeros(2, 3, 3 * scale, 5 * scale))
    assert condition.shape == (2, 8, 3 * scale, 5 * scale)


def test_channels_last_and_bfloat16_stay_close() -> None:
    network = small()
    with torch.no_grad():
        expected = run(network)
        torch.testing.assert_close(run(channels_last(network)), expected, rtol=0, atol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            assert (run(network).float() - expected).abs().mean() < 0.02


def test_sizes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="multiples of 4"):
        run(small(), height=16, width=26)
    with pytest.raises(ValueError, match="no features"):
        small(cond_channels=0)
