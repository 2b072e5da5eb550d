"""Compiled networks have the gradients of uncompiled ones: right losses alone would not show it."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from models.unet import UNet
from tests.models.nets import BACKBONES, random_series, small_backbone

Loss = Callable[[nn.Module], Tensor]


@pytest.fixture(scope="module", autouse=True)
def _compiler() -> None:
    try:
        torch.compile(lambda x: (x + 1).relu() * 2)(torch.ones(64))
    except Exception as error:
        pytest.skip(f"torch.compile doesn't work here: {type(error).__name__}")


def gradients(network: nn.Module, loss: Loss) -> dict[str, Tensor]:
    value = loss(network)
    value.backward()
    found = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    return {"loss": value.detach(), **found}


def assert_same_gradients(network: nn.Module, loss: Loss) -> None:
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    compiled = copy.deepcopy(network)
    torch._dynamo.reset()
    compiled.compile(dynamic=False)
    expected, found = gradients(network, loss), gradients(compiled, loss)
    assert expected.keys() == found.keys()
    scale = max(float(grad.abs().max()) for grad in expected.values())
    for name, grad in expected.items():
        torch.testing.assert_close(found[name], grad, rtol=1e-3, atol=1e-5 * scale)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name == "rrdb" else pytest.mark.soak) for name in BACKBONES]
)
def test_backbones(name: str) -> None:
    series = random_series()

    def loss(network: nn.Module) -> Tensor:
        prediction = network(series)
        return prediction.sr.abs().mean() + prediction.features.square().mean()

    assert_same_gradients(small_backbone(name), loss)


@pytest.mark.soak
def test_unet() -> None:
    torch.manual_seed(0)
    network = UNet(dim=8, dim_mults=(1, 2), cond_channels=4)
    x, condition = torch.randn(2, 3, 16, 24), torch.randn(2, 8, 16, 24)
    assert_same_gradients(network, lambda unet: unet(x, torch.tensor([3, 77]), condition).square().mean())
