import pytest
import torch
from torch.nn import functional as F

from models import layers
from models.layers import Mish


def laid_out(x: torch.Tensor, layout: str) -> torch.Tensor:
    if layout == "channels_last":
        return x.contiguous(memory_format=torch.channels_last)
    return x.transpose(2, 3) if layout == "gaps" else x


@pytest.mark.parametrize("piece", [7, 1 << 16])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "gaps"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_equals_torch(piece: int, layout: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
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
    tolerance = {"rtol": 0.02, "atol": 0.02} if dtype == torch.bfloat16 else {}
    torch.testing.assert_close(results[0][:2], results[1][:2], **tolerance)  # type: ignore[arg-type]
    assert results[0][2] == results[1][2] == dtype


def test_far_from_zero() -> None:
    x = torch.tensor([-1e4, -90.0, -20.0, -1e-30, 0.0, 1e-30, 20.0, 90.0, 1e4]).requires_grad_()
    out, truth = Mish()(x), F.mish(x.double())
    torch.testing.assert_close(out.double(), truth, rtol=1e-6, atol=1e-30)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    (expected,) = torch.autograd.grad(truth.sum(), x)
    torch.testing.assert_close(gradient, expected)


def test_gradient_against_differences() -> None:
    torch.manual_seed(0)
    assert torch.autograd.gradcheck(Mish(), torch.randn(2, 3, 4, 5, dtype=torch.float64).mul(3).requires_grad_())


def test_any_shape() -> None:
    for shape in ((), (0,), (5,), (2, 3), (2, 3, 4, 5, 6)):
        x = torch.randn(shape)
        torch.testing.assert_close(Mish()(x), F.mish(x))
