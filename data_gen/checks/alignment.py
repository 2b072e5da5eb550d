"""How one image of a place lies on another: its displacement to a tenth of a pixel, its likeness, a fingerprint.

Sensors and seasons change the colours of fields, but not their borders. So images are compared by the strength of their
edges, summed over the bands.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.registration import phase_cross_correlation

from utils.geo.bands import BLUE, RED

_BLUR = 0.7  # pixels: keeps what a shift by parts of a pixel can be read from
_WHITENING = 0.5  # 0: plain correlation, 1: phase correlation
_STEPS = 20  # displacements are found in steps of 1/20 pixel
_STRONGEST = 98  # percentile that edges are cut off at, so that one bright roof does not count more than all fields
LEAST_LIKENESS = 0.3  # a displacement of images that are less alike means nothing
_LEAST_STRUCTURES = 12.0  # and in small images chance makes a likeness of this over their side
_GAP = 2  # pixels around missing ones whose edges are not the ground's
_CELLS = 9  # cells along a side

Channels = NDArray[np.floating]  # (C, h, w)
Edges = NDArray[np.float64]  # (h, w)


class Displacement(NamedTuple):
    """Where an image lies, seen from another: pixels down and to the right, and how alike both are there."""

    rows: float
    columns: float
    likeness: float  # correlation of the edges where they overlap: 1 equal, 0 unrelated

    @property
    def length(self) -> float:
        return math.hypot(self.rows, self.columns)


def reduced(image: Channels, factor: int) -> Channels:
    """The means of factor×factor pixels of an image (C, h, w); what is left over at the bottom and right is cut."""
    bands, height, width = image.shape
    h, w = height // factor, width // factor
    return image[:, : h * factor, : w * factor].reshape(bands, h, factor, w, factor).mean((2, 4))


def edges(image: Channels, data: NDArray[np.bool_] | None = None) -> Edges:
    """The strength of the edges (h, w) of an image, without their mean, fading out to the border.

    ``data``: where the image has data (default: everywhere).
    """
    data = np.ones(image.shape[1:], dtype=bool) if data is None else data
    squares = np.zeros(image.shape[1:])
    for band in image:
        low, middle, high = np.percentile(band[data], [2, 50, 98])
        levels = (np.where(data, band, middle) - low) / max(high - low, 1e-9)
        for order in ((0, 1), (1, 0)):
            squares += ndimage.gaussian_filter(levels.clip(-0.5, 1.5), _BLUR, order=order) ** 2
    strength = np.sqrt(squares)
    height, width = strength.shape
    window = np.sqrt(np.outer(np.hanning(height + 2)[1:-1], np.hanning(width + 2)[1:-1]))
    window *= ~ndimage.binary_dilation(~data, iterations=_GAP)
    if not window.any():
        return np.zeros_like(strength)
    strength = np.minimum(strength, np.percentile(strength[window > 0], _STRONGEST))
    return (strength - np.average(strength, weights=window)) * window


def displacement(reference: Edges, moved: Edges) -> Displacement | None:
    """How far an image lies from another of the same place; None where they aren't alike enough to tell.

    The sub-pixel search of Guizar-Sicairos, Thurman and Fienup (Optics Letters 2008) over the correlation of edges,
    half-way to phase correlation: parallel fields don't drown the rest, nor does noise.
    """
    if not reference.any() or not moved.any():
        return None
    spectra = []
    for image in (reference, moved):
        spectrum = np.fft.fft2(image)
        strength = np.abs(spectrum)
        spectra.append(spectrum / np.maximum(strength, 1e-9 * strength.max()) ** _WHITENING)
    back, _, _ = phase_cross_correlation(*spectra, space="fourier", upsample_factor=_STEPS, normalization=None)
    found = Displacement(-float(back[0]), -float(back[1]), likeness(reference, moved, back))
    side = min(reference.shape)
    if found.length > side / 4 or found.likeness < max(LEAST_LIKENESS, _LEAST_STRUCTURES / side):
        return None
    return found


def likeness(reference: Edges, moved: Edges, back: NDArray | tuple[float, float] = (0, 0)) -> float:
    """Correlation of edges where they overlap once the second image is moved ``back`` (rows, columns)."""
    laid = ndimage.shift(moved, back, order=1, cval=np.nan)
    both = np.isfinite(laid)
    return _correlation(reference[both], laid[both]) if both.sum() >= 9 else 0.0


def _correlation(a: NDArray, b: NDArray) -> float:
    """Pearson's; 0 where one is constant."""
    a, b = a - a.mean(), b - b.mean()
    size = math.sqrt(float((a * a).sum()) * float((b * b).sum()))
    return float((a * b).sum()) / size if size > 0 else 0.0


def band_order(reference: Channels, image: Channels, bands: Sequence[str]) -> float:
    """Whether red minus blue goes together in both images: 1 yes (or not known), −1 the bands stand the other way."""
    if not {RED, BLUE} <= set(bands):
        return 1.0
    differences = []
    for picture in (reference, image):
        red, blue = (picture[bands.index(band)] for band in (RED, BLUE))
        differences.append((red - red.mean()) / max(red.std(), 1e-9) - (blue - blue.mean()) / max(blue.std(), 1e-9))
    return _correlation(*differences)


def fingerprint(image: Channels) -> NDArray[np.float32] | None:
    """How bright each of _CELLS² cells is beside its neighbours, as a unit vector; None where all are alike.

    Nearly the same images have nearly the same vector (a difference hash, dHash, that keeps its numbers).
    """
    grey = image.mean(0, dtype=np.float64)
    if min(grey.shape) < _CELLS:
        return None
    for axis in (0, 1):
        edge = np.linspace(0, grey.shape[axis], _CELLS + 1).astype(int)
        grey = np.add.reduceat(grey, edge[:-1], axis=axis) / np.expand_dims(np.diff(edge), 1 - axis)
    steps = np.concatenate([np.diff(grey, axis=0).ravel(), np.diff(grey, axis=1).ravel()])
    size = float(np.linalg.norm(steps))
    return (steps / size).astype(np.float32) if size > 0.5 * math.sqrt(len(steps)) else None
