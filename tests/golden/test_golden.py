"""Every network, loss, sampler and metric computes what the reference implementation computed, on every clone."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.golden import cases
from tests.golden.cases import CASES, Inputs, check, outputs_of

F = nn.functional
DTYPES = (torch.float32, torch.float64)
PRECISE = [(case, dtype) for case in CASES for dtype in DTYPES if outputs_of(case, dtype)]


@pytest.mark.parametrize(("case", "dtype"), PRECISE, ids=str)
def test_equals_the_reference(case: str, dtype: torch.dtype) -> None:
    check(case, dtype)


def test_all_cases_are_there() -> None:
    assert len(CASES) == 38
    assert {case for case, _ in PRECISE} == set(CASES)


# Wrong models must fail


def shifted_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    original = nn.Module.load_state_dict
    monkeypatch.setattr(
        nn.Module,
        "load_state_dict",
        lambda self, state, **kw: original(self, {name: value * (1 + 1e-6) for name, value in state.items()}, **kw),
    )


def replace(owner: object, name: str, make: Callable[[Callable], Callable]) -> Callable[[pytest.MonkeyPatch], None]:
    """Replace a function of torch by one made from it."""
    return lambda monkeypatch: monkeypatch.setattr(owner, name, make(getattr(owner, name)))


def bicubic_by_corners(x: Tensor, *, scale: int) -> Tensor:
    return F.interpolate(x[None], scale_factor=scale, mode="bicubic", align_corners=True)[0]


WRONG_PARTS: dict[str, tuple[str, Callable[[pytest.MonkeyPatch], None]]] = {
    "LeakyReLU 0.1": ("rrdb", replace(F, "leaky_relu", lambda leaky: lambda x, *_, **kw: leaky(x, 0.1))),
    "a millionth of every weight": ("highresnet", shifted_weights),
    "the upper median": ("highresnet", replace(Tensor, "median", lambda median: lambda x, **kw: median(-x, **kw))),
    "corners aligned": ("radiometry", replace(cases, "bicubic", lambda _: bicubic_by_corners)),
    "zeros around images": ("unet", replace(F, "pad", lambda pad: lambda x, size, *_, **kw: pad(x, size))),
}


@pytest.mark.parametrize("name", list(WRONG_PARTS))
def test_a_wrong_part_is_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case, spoil = WRONG_PARTS[name]
    spoil(monkeypatch)
    with pytest.raises(AssertionError, match=case):
        check(case, DTYPES[bool(outputs_of(case, torch.float64))])


def other(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[Inputs], Inputs]:
    return lambda inputs: {**inputs, name: change(inputs[name])}


WRONG_INPUTS: dict[str, tuple[str, Callable[[Inputs], Inputs]]] = {
    "the sign of the dates": ("highresnet_ltae_median", other("dates", torch.neg)),
    "the sign of the dates (RRDB)": ("rrdb_ltae", other("dates", torch.neg)),
    "the order of the views": ("highresnet_7", other("lr", lambda lr: lr.flip(1))),
    "padding that counts": ("highresnet", other("alphas", torch.ones_like)),
    "padding and views swapped": ("ltae", other("padding", torch.logical_not)),
    "another time": ("unet", other("t", lambda t: t + 1)),
    "another time (loss)": ("srdiff_trains_along", other("t", lambda t: t + 1)),
    "another base": ("srdiff_sampling_image", other("base", lambda base: base.roll(1, -1))),
    "the sign of the noise": ("srdiff_sampling", other("noise.1", torch.neg)),
    "bands swapped": ("rrdb", other("lr", lambda lr: lr.flip(1))),
    "another truth": ("rrdb_training", other("hr.2", lambda hr: hr * 0.999)),
}


@pytest.mark.parametrize("name", list(WRONG_INPUTS))
def test_a_wrong_input_is_seen(name: str) -> None:
    case, change = WRONG_INPUTS[name]
    with pytest.raises(AssertionError, match=case):
        check(case, torch.float64, change=change)
