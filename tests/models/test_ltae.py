from typing import Any

import pytest
import torch

from models.ltae import LTAE2d


def small(**options: Any) -> LTAE2d:
    torch.manual_seed(0)
    return LTAE2d(**{"channels": 8, "heads": 4, "d_k": 2, "d_model": 16, "mlp": (16, 12, 8), **options})


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
        small(**sizes)


def test_dropout_of_the_perceptron_and_half_of_it_in_the_attention() -> None:
    for network, dropout in ((small(), 0.2), (small(dropout=0.0), 0.0)):
        assert (network.dropout.p, network.attention_heads.dropout.p) == (dropout, dropout / 2)
