from typing import Any

import pytest
import torch
from torch import Tensor

from models.ltae import LTAE2d, LTAEOptions
from tests.golden.large import Golden
from tests.models.nets import State, load, ltae_options, plain, sharp


def ltae_from(state: State, config: dict[str, Any]) -> LTAE2d:
    given = {**config["defaults"], **config["kwargs"]}
    options = ltae_options(state)
    options["period"] = given["T"]
    options["positional_encoding"] = given.get("positional_encoding", True)
    return load(LTAE2d(channels=state["inconv.weight"].shape[1], **options), state)


def assert_close_to_rounding(actual: Tensor, expected: Tensor) -> None:
    """float32 only: the output norm magnifies rounding by up to ×300."""
    difference = (actual - expected).abs()
    assert difference.max() <= 3e-3
    assert difference.mean() <= 5e-6


@pytest.mark.parametrize("name", plain("05_ltae2d_*.pt"))
def test_golden(golden: Golden, name: str) -> None:
    entry = golden.load(name)
    network, inputs, outputs = ltae_from(entry["state_dict"], entry["config"]), entry["inputs"], entry["outputs"]
    with torch.no_grad():
        out, attention = network(inputs["x"], inputs["dates"])
        masked_out, masked_attention = network(inputs["x"], inputs["dates"], inputs["pad_mask"])
    assert_close_to_rounding(out, outputs["out"])
    assert_close_to_rounding(masked_out, outputs["out_padmask"])
    torch.testing.assert_close(attention, outputs["att"], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(masked_attention, outputs["att_padmask"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", sharp("05_ltae2d_*.pt"))
def test_golden_in_float64(golden: Golden, name: str) -> None:
    entry, expected = golden.load(name.replace("_f64", "")), golden.load(name)["outputs"]
    network = ltae_from(entry["state_dict"], entry["config"]).double()
    with torch.no_grad():
        out, attention = network(entry["inputs"]["x"].double(), entry["inputs"]["dates"].double())
    torch.testing.assert_close(out, expected["out"], rtol=1e-7, atol=1e-10)
    torch.testing.assert_close(attention, expected["att"], rtol=1e-7, atol=1e-10)


def small(**options: Any) -> LTAE2d:
    torch.manual_seed(0)
    return LTAE2d(channels=8, heads=4, d_k=2, d_model=16, mlp=(16, 12, 8), **options)


def test_layout_in_memory_does_not_matter() -> None:
    network, dates = small().double().eval(), torch.tensor([[0.0, 4.0, -3.0]] * 2, dtype=torch.float64)
    x = torch.randn(2, 3, 8, 5, 4, dtype=torch.float64)
    channels_last = x.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, (2, 3))
    torch.testing.assert_close(network(channels_last, dates), network(x, dates))


def test_attention_sums_to_one_and_ignores_padding() -> None:
    network, x, dates = small().eval(), torch.randn(2, 5, 8, 3, 4), torch.zeros(2, 5)
    pad_mask = torch.tensor([[False] * 3 + [True] * 2, [False] * 5])
    _, attention = network(x, dates, pad_mask)
    assert attention.shape == (4, 2, 5, 3, 4)
    torch.testing.assert_close(attention.sum(dim=2), torch.ones(4, 2, 3, 4))
    assert attention[:, 0, 3:].abs().max() == 0
    assert attention[:, 1].min() > 0


def test_padding_left_out_everywhere_equals_the_shorter_series() -> None:
    network = small().double().eval()
    x, dates = torch.randn(2, 5, 8, 3, 4, dtype=torch.float64), torch.randint(-90, 90, (2, 5)).double()
    pad_mask = torch.tensor([[False] * 3 + [True] * 2] * 2)
    whole = network(x, dates, pad_mask, norm_padding=False)[0]
    torch.testing.assert_close(whole, network(x[:, :3], dates[:, :3])[0])
    assert not torch.allclose(whole, network(x, dates, pad_mask)[0])  # the normalisation still saw the padding


@pytest.mark.parametrize("positional_encoding", [True, False])
def test_the_sign_of_a_date_matters_where_position_is_encoded(positional_encoding: bool) -> None:
    network, x = small(positional_encoding=positional_encoding).eval(), torch.randn(1, 2, 8, 3, 4)
    before, after = (network(x, torch.tensor([[sign * 40.0, 3.0]]))[0] for sign in (-1, 1))
    assert torch.allclose(before, after) != positional_encoding


@pytest.mark.parametrize(("sizes", "message"), [({"channels": 10}, "multiples"), ({"mlp": (32, 8)}, "d_model")])
def test_sizes_that_do_not_fit(sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LTAE2d(**{"channels": 8, "heads": 4, "d_model": 16, "mlp": (16, 8), **sizes})


@pytest.mark.parametrize(("given", "after_mlp", "in_attention"), [({}, 0.2, 0.1), ({"dropout": 0.0}, 0.0, 0.0)])
def test_dropout_of_the_perceptron_and_half_of_it_in_the_attention(
    given: LTAEOptions, after_mlp: float, in_attention: float
) -> None:
    network = LTAE2d(channels=16, **given)
    assert (network.dropout.p, network.attention_heads.dropout.p) == (after_mlp, in_attention)
