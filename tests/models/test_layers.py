"""Our own activations give what torch's give, and so do their gradients."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models import layers
from models.layers import Mish, PReLU, repeat_pixels


def laid_out(x: Tensor, layout: str) -> Tensor:
    if layout == "channels_last":
        return x.contiguous(memory_format=torch.channels_last)
    return x.transpose(2, 3) if layout == "gaps" else x


def tolerance(dtype: torch.dtype) -> dict[str, float]:
    return {"rtol": 0.02, "atol": 0.02} if dtype == torch.bfloat16 else {}


@pytest.mark.parametrize("piece", [7, 1 << 16])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "gaps"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_mish(piece: int, layout: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "_PIECE", piece)
    torch.manual_seed(0)
    values, upstream = torch.randn(2, 2, 3, 5, 7).mul(4).to(dtype)
    results = []
    for function in (Mish(), F.mish):
        x = laid_out(values, layout).clone().requires_grad_()
        out = function(x)
        out.backward(upstream.view(out.shape))  # its own layout, whatever that of x
        assert x.grad is not None
        results.append((out, x.grad, out.dtype))
    torch.testing.assert_close(results[0][:2], results[1][:2], **tolerance(dtype))  # type: ignore[arg-type]
    assert results[0][2] == results[1][2] == dtype


def test_mish_far_from_zero() -> None:
    x = torch.tensor([-1e4, -90.0, -20.0, -1e-30, 0.0, 1e-30, 20.0, 90.0, 1e4]).requires_grad_()
    out, truth = Mish()(x), F.mish(x.double())
    torch.testing.assert_close(out.double(), truth, rtol=1e-6, atol=1e-30)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    (expected,) = torch.autograd.grad(truth.sum(), x)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("slope", [0.3, 1e-4, 0.0, -0.2])
def test_prelu(memory_format: torch.memory_format, dtype: torch.dtype, slope: float) -> None:
    torch.manual_seed(0)
    values, gradient = torch.randn(2, 2, 3, 5, 7).to(dtype)
    values[0, 0, 0, :3] = 0
    results = []
    for module in (PReLU(init=slope), nn.PReLU(init=slope)):
        module = module.double() if dtype == torch.float64 else module
        x = values.contiguous(memory_format=memory_format).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            out = module(x.clone())  # its input may be overwritten
        out.backward(gradient)
        assert module.weight.grad is not None
        assert module.weight.grad.dtype == module.weight.dtype
        results.append((out, x.grad, module.weight.grad))
    torch.testing.assert_close(results[0], results[1], **tolerance(dtype))  # type: ignore[arg-type]
    assert list(PReLU().state_dict()) == list(nn.PReLU().state_dict())
    assert torch.equal(copy.deepcopy(PReLU())(torch.tensor([-4.0])), torch.tensor([-1.0]))


def test_repeated_pixels_are_nearest_neighbours() -> None:
    x = torch.arange(12.0).reshape(1, 2, 2, 3)
    expected = x.repeat_interleave(2, dim=-1).repeat_interleave(2, dim=-2)
    assert torch.equal(repeat_pixels(x), expected)
    assert torch.equal(torch.compile(repeat_pixels, backend="eager")(x), expected)
