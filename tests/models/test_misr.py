from typing import Any

import pytest
import torch

from models.misr import HighResLTAE, RRDBHighResNet
from tests.models.nets import acquired, double, make_series, random_series, small_backbone


@pytest.mark.parametrize(
    ("name", "options"),
    [("highres_ltae", {"reference": "median"}), ("highres_ltae", {"reference": "closest"}), ("rrdb_ltae", {})],
)
def test_masked_padding_equals_the_shorter_series(name: str, options: dict[str, Any]) -> None:
    padded = acquired(double(random_series(views=5, seed=1)), 3)
    short = padded._replace(lr=padded.lr[:, :3], dates=padded.dates[:, :3], mask=padded.mask[:, :3])
    network = small_backbone(name, mask_padding=True, **options).double().eval()
    torch.testing.assert_close(network(padded)[:2], network(short)[:2])  # image and features
    voting = small_backbone(name, mask_padding=False, **options).double().eval()
    assert not torch.allclose(voting(padded).sr, voting(short).sr)


def test_the_closest_reference_is_of_the_same_sample() -> None:
    series = double(random_series(batch=3, views=4, seed=2))
    network = small_backbone("highres_ltae", reference="closest").double().eval()
    together = network(series).sr
    for i in range(3):
        alone = network(make_series(series.lr[i : i + 1], series.dates[i : i + 1], base=series.base[i : i + 1])).sr
        torch.testing.assert_close(together[i : i + 1], alone)


def test_the_fusions_use_both_ends_of_the_range() -> None:
    torch.manual_seed(0)
    network = RRDBHighResNet(width=8, blocks=1, growth=4)
    with torch.no_grad():
        network.decoder.conv_last.get_parameter("bias").copy_(torch.tensor([-5.0, 0.5, 5.0]))
    low, _, high = network(random_series()).sr.unbind(1)
    assert torch.equal(low, torch.full_like(low, -1))
    assert torch.equal(high, torch.full_like(high, 1))


def test_features_are_as_wide_as_the_mlp_ends() -> None:
    network = HighResLTAE(width=8, heads=4, d_model=16, mlp=(16, 12))
    assert network.feature_channels == network(random_series()).features.shape[1] == 12
