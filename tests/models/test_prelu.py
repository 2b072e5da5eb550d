import copy

import pytest
import torch
from torch import nn

from models.layers import PReLU


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("slope", [0.3, 1e-4, 0.0, -0.2])
def test_equals_torch(memory_format: torch.memory_format, dtype: torch.dtype, slope: float) -> None:
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
    tolerance = {"rtol": 0.02, "atol": 0.02} if dtype == torch.bfloat16 else {}
    torch.testing.assert_close(results[0], results[1], **tolerance)  # type: ignore[arg-type]


def test_the_same_name_and_start_as_torch() -> None:
    module = PReLU()
    assert list(module.state_dict()) == ["weight"]
    assert torch.equal(module.weight, nn.PReLU().weight)
    assert torch.equal(copy.deepcopy(module)(torch.tensor([-4.0])), torch.tensor([-1.0]))


def test_takes_the_place_of_its_input_where_that_can_be_undone() -> None:
    x = torch.tensor([-4.0, 2.0])
    assert PReLU(init=0.5)(x).data_ptr() == x.data_ptr()
    assert x.tolist() == [-2, 2]
    assert PReLU(init=-0.5)(x).data_ptr() != x.data_ptr()
    assert x.tolist() == [-2, 2]
