"""Normalisation, bicubic interpolation and spectral matching: golden numbers, scikit-image, properties."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from skimage.exposure import match_histograms
from torch import Tensor

from tests.golden.large import Golden
from utils.radiometry import (
    MATCHINGS,
    PUBLISHED_MAXIMA,
    apply_table,
    bicubic,
    count_levels,
    denormalise_lr,
    identity_table,
    match_low_frequencies,
    matching_table,
    normalise_hr,
    normalise_lr,
    reflectance,
)


def matched(image: NDArray, reference: NDArray, *, method: str) -> NDArray:
    """An image (C, H, W) of any number of levels, matched band by band."""
    bands = []
    for band, band_reference in zip(image, reference, strict=True):
        levels, where, counts = np.unique(band, return_inverse=True, return_counts=True)
        bands.append(MATCHINGS[method](levels, counts, band_reference)[where].reshape(band.shape))
    return np.stack(bands).astype(np.float32)


def test_golden_stretch(golden: Golden) -> None:
    content = golden.load("08_stretch.pt")
    inputs, outputs = content["inputs"], content["outputs"]
    torch.testing.assert_close(normalise_hr(inputs["spot6"] * 255), outputs["spot6"], rtol=0, atol=1e-6)
    for name in ("sen2", "misr"):
        before = inputs[name].clone()
        torch.testing.assert_close(normalise_lr(inputs[name], PUBLISHED_MAXIMA), outputs[name], rtol=0, atol=1e-6)
        assert torch.equal(inputs[name], before)


def test_golden_matching(golden: Golden) -> None:
    content = golden.load("08_matching.pt")
    for case, inputs in content["inputs"].items():
        spot, sentinel = inputs["spot6"].numpy(), inputs["sen2"].numpy()
        for method in MATCHINGS:
            expected = content["outputs"][case][method].numpy()
            found = matched(spot, sentinel, method=method)
            if method == "histogram":
                assert np.array_equal(found, expected), case
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6, err_msg=f"{case} {method}")


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """An 8-bit image and reflectance of other size, from full of ties to constant."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    low, width = draw(st.integers(0, 255)), draw(st.integers(1, 256))
    hr = rng.integers(low, min(256, low + width), (3, *draw(st.tuples(st.integers(1, 20), st.integers(1, 20)))))
    lr = rng.integers(0, draw(st.integers(1, 4000)), (3, *draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))))
    return torch.from_numpy(hr.astype(np.uint8)), torch.from_numpy(lr.astype(np.int16))


@settings(max_examples=200, deadline=None)
@given(pairs())
def test_histogram_table_is_scikit_images_matching(pair: tuple[Tensor, Tensor]) -> None:
    """To the bit, with the images normalised first as the loader does."""
    hr, lr = pair
    normalised = normalise_lr(reflectance(lr), PUBLISHED_MAXIMA)
    table = matching_table(count_levels(hr), normalised, method="histogram")
    expected = match_histograms(normalise_hr(hr).numpy(), normalised.numpy(), channel_axis=0)
    assert np.array_equal(apply_table(hr, table).numpy(), expected)
    assert (table.diff(dim=1) >= 0).all()  # it keeps the order of levels
    assert table.amin() >= normalised.amin() and table.amax() <= normalised.amax()


@settings(max_examples=100, deadline=None)
@given(pairs())
def test_moment_table_gives_the_moments(pair: tuple[Tensor, Tensor]) -> None:
    hr, lr = pair
    normalised = normalise_lr(reflectance(lr), PUBLISHED_MAXIMA)
    found = apply_table(hr, matching_table(count_levels(hr), normalised, method="moment")).double()
    for band in range(3):
        assert float(found[band].mean()) == pytest.approx(float(normalised[band].double().mean()), abs=1e-5)
        constant = hr[band].amin() == hr[band].amax()
        deviation = 0.0 if constant else float(normalised[band].double().std(correction=0))
        assert float(found[band].std(correction=0)) == pytest.approx(deviation, abs=1e-5)


def test_matching_an_image_to_itself_changes_nothing() -> None:
    hr = torch.arange(256, dtype=torch.uint8).view(1, 16, 16).repeat(3, 1, 1)
    for method in MATCHINGS:
        table = matching_table(count_levels(hr), normalise_hr(hr), method=method)
        torch.testing.assert_close(table, identity_table(3), rtol=0, atol=1e-6)


def test_tables_are_applied_by_sample_and_band() -> None:
    table = torch.arange(2 * 3 * 256).view(2, 3, 256).float()
    levels = torch.randint(0, 256, (2, 3, 5, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = apply_table(levels, table)
    assert found.shape == levels.shape
    for sample in range(2):
        for band in range(3):
            assert torch.equal(found[sample, band], levels[sample, band] + 256.0 * (3 * sample + band))


def test_reflectance_is_clamped_and_comes_back() -> None:
    maxima = (0.2, 0.1, 0.05)
    x = torch.tensor([-1.0, 0.0, 0.025, 0.05, 9.0]).view(1, 1, 5).repeat(2, 3, 1, 1)
    y = normalise_lr(x, maxima)
    assert y.amin() == -1 and y.amax() == 1
    assert y[0, 2, 0].tolist() == pytest.approx([-1, -1, 0, 1, 1])
    top = torch.tensor(maxima).view(3, 1, 1)
    torch.testing.assert_close(denormalise_lr(y, maxima), torch.minimum(x.clamp(min=0), top))


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_bicubic_by_its_definition(scale: int) -> None:
    """Keys' kernel with a = -0.75, half-pixel centres, edges replicated."""
    x = torch.rand(2, 3, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def weights(length: int) -> Tensor:
        matrix, a = torch.zeros(scale * length, length, dtype=torch.float64), -0.75
        for target in range(scale * length):
            place = (target + 0.5) / scale - 0.5
            first = int(np.floor(place)) - 1
            for source in range(first, first + 4):
                d = abs(place - source)
                near = (a + 2) * d**3 - (a + 3) * d**2 + 1
                far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
                matrix[target, min(max(source, 0), length - 1)] += near if d <= 1 else far
        return matrix

    expected = weights(6) @ x @ weights(5).T
    torch.testing.assert_close(bicubic(x, scale=scale), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(bicubic(x[:1], scale=scale), expected[:1], rtol=0, atol=1e-12)


def test_bicubic_has_a_gradient_after_inference() -> None:
    size = (1, 3, 9, 7)
    with torch.inference_mode():
        bicubic(torch.rand(size), scale=4)
    x = torch.rand(size, requires_grad=True)
    bicubic(x, scale=4).sum().backward()
    assert x.grad is not None
    assert float(x.grad.sum()) == pytest.approx(16 * x.numel(), rel=1e-5)  # each tap's weights sum to one


def test_matching_ends_exactly_and_changes_smoothly() -> None:
    generator = torch.Generator().manual_seed(0)
    image, lr = torch.rand(2, 3, 32, 32, generator=generator), torch.rand(2, 3, 8, 8, generator=generator)
    matched = match_low_frequencies(image, lr, scale=4)
    torch.testing.assert_close(torch.nn.functional.avg_pool2d(matched, 4), lr)
    flat = match_low_frequencies(torch.zeros(1, 1, 32, 32), torch.arange(8.0).expand(1, 1, 8, 8), scale=4)
    steps = flat.diff(dim=3)[..., 8:-8]
    assert steps.max() < 0.4  # a ramp of 0.25 a pixel, no stairs
    assert steps.min() > 0.1
