"""Every network, loss, sampler and metric computes what the reference implementation computed, on every clone."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.golden import cases
from tests.golden.cases import CASES, Tensors, check, outputs_of

F = nn.functional
PRECISE = [(case, dtype) for case in CASES for dtype in (torch.float32, torch.float64) if outputs_of(case, dtype)]


@pytest.mark.parametrize(("case", "dtype"), PRECISE, ids=str)
def test_equals_the_reference(case: str, dtype: torch.dtype) -> None:
    check(case, dtype)


def test_all_cases_are_there() -> None:
    assert len(CASES) == 38
    assert {case for case, _ in PRECISE} == set(CASES)


# Wrong models must fail


def other(owner: object, name: str, make: Callable[[Callable], Callable]) -> tuple[object, str, Callable]:
    """A function, and one made from it that takes its place."""
    return owner, name, make(getattr(owner, name))


WRONG_PARTS: dict[str, tuple[str, tuple[object, str, Callable]]] = {
    "LeakyReLU 0.1": ("rrdb", other(F, "leaky_relu", lambda leaky: lambda x, *_, **kw: leaky(x, 0.1))),
    "a millionth of every weight": (
        "highresnet",
        other(cases.recipe, "tensor", lambda tensor: lambda *of: tensor(*of) * (1 + 1e-6)),
    ),
    "the upper median": ("highresnet", other(Tensor, "median", lambda median: lambda x, **kw: median(-x, **kw))),
    "corners aligned": (
        "radiometry",
        other(
            cases,
            "bicubic",
            lambda _: lambda x, scale: F.interpolate(x[None], None, scale, mode="bicubic", align_corners=True)[0],
        ),
    ),
    "zeros around images": ("unet", other(F, "pad", lambda pad: lambda x, size, *_, **kw: pad(x, size))),
}


@pytest.mark.parametrize("name", list(WRONG_PARTS))
def test_a_wrong_part_is_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case, wrong = WRONG_PARTS[name]
    monkeypatch.setattr(*wrong)
    with pytest.raises(AssertionError, match=case):
        check(case, torch.float64 if outputs_of(case, torch.float64) else torch.float32)


WRONG_INPUTS: dict[str, tuple[str, str, Callable[[Tensor], Tensor]]] = {
    "the sign of the dates": ("highresnet_ltae_median", "dates", torch.neg),
    "the sign of the dates (RRDB)": ("rrdb_ltae", "dates", torch.neg),
    "the order of the views": ("highresnet_7", "lr", lambda lr: lr.flip(1)),
    "padding that counts": ("highresnet", "alphas", torch.ones_like),
    "padding and views swapped": ("ltae", "padding", torch.logical_not),
    "another time": ("unet", "t", lambda t: t + 1),
    "another time (loss)": ("srdiff_trains_along", "t", lambda t: t + 1),
    "another base": ("srdiff_sampling_image", "base", lambda base: base.roll(1, -1)),
    "the sign of the noise": ("srdiff_sampling", "noise.1", torch.neg),
    "bands swapped": ("rrdb", "lr", lambda lr: lr.flip(1)),
    "another truth": ("rrdb_training", "hr.2", lambda hr: hr * 0.999),
}


@pytest.mark.parametrize("name", list(WRONG_INPUTS))
def test_a_wrong_input_is_seen(name: str) -> None:
    case, key, spoil = WRONG_INPUTS[name]

    def change(inputs: Tensors) -> Tensors:
        return {**inputs, key: spoil(inputs[key])}

    with pytest.raises(AssertionError, match=case):
        check(case, torch.float64, change=change)
