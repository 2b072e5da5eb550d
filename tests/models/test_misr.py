from typing import Any

import pytest
import torch

from models.misr import HighResLTAE, RRDBHighResNet
from tests.golden.large import Golden, names
from tests.models.nets import (
    acquired,
    double,
    highres_ltae_from,
    make_series,
    plain,
    random_series,
    rrdb_highresnet_from,
    rrdb_ltae_from,
    sharp,
    small_backbone,
)
from tests.models.test_ltae import assert_close_to_rounding


@pytest.mark.parametrize("name", plain("03_hrltae*.pt"))
def test_golden_highres_ltae(golden: Golden, name: str) -> None:
    entry = golden.load(name)
    inputs, outputs = entry["inputs"], entry["outputs"]
    cases = {case: ("closest", inputs[case], outputs[case]["corrected"]) for case in inputs}
    cases["median"] = ("median", inputs["b2"], outputs["median"])
    for reference, given, expected in cases.values():
        with torch.no_grad():
            prediction = highres_ltae_from(entry["state_dict"], reference)(make_series(given["lrs"], given["dates"]))
        assert_close_to_rounding(prediction.sr, expected["out"])
        assert_close_to_rounding(prediction.features, expected["fea"])


@pytest.mark.parametrize("name", sharp("03_hrltae*.pt"))
def test_golden_highres_ltae_in_float64(golden: Golden, name: str) -> None:
    entry, expected = golden.load(name.replace("_f64", "")), golden.load(name)["outputs"]
    network, inputs = highres_ltae_from(entry["state_dict"], "median").double(), entry["inputs"]["b2"]
    with torch.no_grad():
        prediction = network(double(make_series(inputs["lrs"], inputs["dates"])))
    torch.testing.assert_close(prediction.sr, expected["out"], rtol=1e-7, atol=1e-10)
    torch.testing.assert_close(prediction.features, expected["fea"], rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("name", plain("04_rrdb_ltae*.pt"))
def test_golden_rrdb_ltae(golden: Golden, name: str) -> None:
    entry = golden.load(name)
    with torch.no_grad():
        prediction = rrdb_ltae_from(entry["state_dict"])(make_series(entry["inputs"]["lrs"], entry["inputs"]["dates"]))
    assert_close_to_rounding(prediction.sr, entry["outputs"]["out"])
    assert_close_to_rounding(prediction.features, entry["outputs"]["fea"])


@pytest.mark.parametrize("name", sharp("04_rrdb_ltae*.pt"))
def test_golden_rrdb_ltae_in_float64(golden: Golden, name: str) -> None:
    entry, expected = golden.load(name.replace("_f64", "")), golden.load(name)["outputs"]
    network = rrdb_ltae_from(entry["state_dict"]).double()
    with torch.no_grad():
        prediction = network(double(make_series(entry["inputs"]["lrs"], entry["inputs"]["dates"])))
    torch.testing.assert_close(prediction.sr, expected["out"], rtol=1e-7, atol=1e-10)
    torch.testing.assert_close(prediction.features, expected["fea"], rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("name", names("04_rrdb_highres*.pt"))
def test_golden_rrdb_highresnet(golden: Golden, name: str) -> None:
    entry = golden.load(name)
    inputs, outputs = entry["inputs"], entry["outputs"]
    without_ranges = "*" in golden.deviates(name)  # made without (x+1)/2 on the way in and ·2−1 on the way out
    lrs = inputs["lrs"] * 2 - 1 if without_ranges else inputs["lrs"]
    with torch.no_grad():
        prediction = rrdb_highresnet_from(entry["state_dict"])(make_series(lrs, alphas=inputs["alphas"]))
    out = (prediction.sr + 1) / 2 if without_ranges else prediction.sr
    torch.testing.assert_close(out, outputs["out"], rtol=1e-4, atol=2e-5)
    torch.testing.assert_close(prediction.features, outputs["fused"], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("options", [{"reference": "median"}, {"reference": "closest"}])
def test_masked_padding_equals_the_shorter_series(options: dict[str, Any]) -> None:
    padded = acquired(double(random_series(views=5, seed=1)), 3)
    short = padded._replace(lr=padded.lr[:, :3], dates=padded.dates[:, :3], mask=padded.mask[:, :3])
    network = small_backbone("highres_ltae", mask_padding=True, **options).double().eval()
    torch.testing.assert_close(network(padded)[:2], network(short)[:2])  # image and features
    voting = small_backbone("highres_ltae", mask_padding=False, **options).double().eval()
    assert not torch.allclose(voting(padded).sr, voting(short).sr)


def test_masked_padding_of_rrdb_ltae_equals_the_shorter_series() -> None:
    padded = acquired(double(random_series(views=5, seed=1)), 3)
    short = padded._replace(lr=padded.lr[:, :3], dates=padded.dates[:, :3], mask=padded.mask[:, :3])
    network = small_backbone("rrdb_ltae", mask_padding=True).double().eval()
    torch.testing.assert_close(network(padded)[:2], network(short)[:2])  # image and features


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
    prediction = network(random_series())
    assert network.feature_channels == prediction.features.shape[1] == 12


def test_names_an_unknown_reference() -> None:
    with pytest.raises(ValueError, match="reference"):
        HighResLTAE(reference="mean")  # type: ignore[arg-type]
