"""Displacement and likeness of images: against known shifts, on drawn and real images."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray

from data_gen.checks.alignment import LEAST_LIKENESS, displacement, edges, fingerprint, likeness, reduced
from data_gen.checks.measure import MeasuredTruth
from data_gen.checks.overlap import NEARLY, nearly_equal_pairs
from data_gen.checks.sources import Ref
from tests.data import landscape


@pytest.mark.parametrize(("down", "right"), [(0, 0), (3, -5), (-9, 2), (1, 1)])
def test_displacement_to_a_tenth_of_a_pixel(down: int, right: int) -> None:
    """Shifts in high-resolution pixels, read from images averaged by 4, in other and inverted colours."""
    ground = landscape(np.random.default_rng(0), 360)
    here = reduced(ground[:, 20:320, 20:320], 4)
    there = reduced(ground[:, 20 - down : 320 - down, 20 - right : 320 - right], 4)
    recoloured = np.stack([1 - there[1], there[2] ** 2, 0.3 * there[0]])
    found = displacement(edges(here), edges(recoloured))
    assert found is not None and found.likeness > 0.7
    assert abs(found.rows - down / 4) <= 0.1 and abs(found.columns - right / 4) <= 0.1


def test_displacement_on_real_images(real: Path) -> None:
    """Two seasons of one place: the shift that is put between them is read back on top of their own."""
    images = []
    for name in ("window_a.tif", "window_b.tif"):
        with rasterio.open(real / "scene" / name) as source:
            images.append(source.read().astype(float))
    first, second = images
    found = []
    for down, right in ((0, 0), (4, -6)):
        here = reduced(first[:, 40:340, 100:400], 4)
        there = reduced(second[:, 40 - down : 340 - down, 100 - right : 400 - right], 4)
        lies = displacement(edges(here), edges(there))
        assert lies is not None
        found.append((lies.rows - down / 4, lies.columns - right / 4))
    assert np.abs(found).max() < 0.25
    assert np.abs(np.subtract(found[0], found[1])).max() <= 0.1


def test_unlike_images_have_no_displacement() -> None:
    first, second = (edges(reduced(landscape(np.random.default_rng(seed), 300), 4)) for seed in (1, 2))
    assert likeness(first, second) < LEAST_LIKENESS
    assert displacement(first, second) is None
    assert displacement(first, np.zeros_like(first)) is None


def test_fingerprints() -> None:
    rng = np.random.default_rng(0)
    images = [landscape(rng, 120) * 255 for _ in range(30)]
    prints = np.stack([fingerprint(image) for image in images])  # type: ignore[misc]
    alike = prints @ prints.T
    assert np.abs(alike - np.eye(30)).max() < 0.95
    changed = fingerprint(1.1 * images[4] + rng.normal(10, 3, images[4].shape))
    assert changed is not None and prints[4] @ changed > 0.95
    assert fingerprint(np.full((3, 120, 120), 7.0)) is None
    assert fingerprint(np.ones((3, 5, 200))) is None


def test_the_fingerprint_alone_convicts_nobody() -> None:
    """Two places in the same haze are the same from afar, not from near."""
    rng = np.random.default_rng(0)
    haze = 60 * np.sin(np.arange(160) / 50) * np.ones((160, 1))
    pixels = [(haze + 80 * landscape(rng, 160)).astype(np.uint8) for _ in range(2)]
    truths = [_truth(image, number=number) for number, image in enumerate(pixels)]
    assert truths[0].fingerprint is not None and truths[1].fingerprint is not None
    assert truths[0].fingerprint @ truths[1].fingerprint > NEARLY
    assert nearly_equal_pairs(truths, lambda truth: pixels[truth.ref.position]) == []


def _truth(image: NDArray, *, number: int) -> MeasuredTruth:
    return MeasuredTruth(
        ref=Ref("train", number, number), shape=image.shape[1:], dtype="uint8", digest=bytes([number]),
        fingerprint=fingerprint(image), place=None, black=0, white=0, low=image.min((1, 2)), high=image.max((1, 2)),
    )  # fmt: skip
