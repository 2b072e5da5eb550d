"""Smooth random fields: coarse normal numbers through cubic B-splines."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@lru_cache(maxsize=64)
def _spline_basis(length: int, step: float) -> Floats:
    """The (length, knots) matrix that takes coefficients ``step`` samples apart to every sample, at unit variance."""
    position = np.arange(length) / step
    knots = int(position[-1]) + 4
    t = np.abs(position[:, None] + 1 - np.arange(knots))
    basis = np.where(t < 1, 2 / 3 - t**2 + t**3 / 2, np.clip(2 - t, 0, None) ** 3 / 6)
    return np.asarray(basis / np.sqrt((basis**2).sum(axis=1).mean()), dtype=np.float32)


def smooth_noise(generator: np.random.Generator, size: int, step: float) -> Floats:
    """A (size, size) field of about unit variance whose features are about ``2 * step`` pixels wide."""
    basis = _spline_basis(size, step)
    coarse = generator.standard_normal((basis.shape[1], basis.shape[1]), dtype=np.float32)
    return np.matmul(np.matmul(basis, coarse), basis.T)
