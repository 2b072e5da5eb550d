"""The canvas on which a place is painted, and the finished landscape, which can be seen on any day."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_gen.synthetic.reflectance import KINDS, Floats, Surfaces
from utils.geo.bands import RGB

Indices = NDArray[np.intp]
Reals = NDArray[np.floating]
TREE_HEIGHT = 4.0  # pixels of 2.5 m
_UNEVEN = (0.015, 0.08)  # relative contrast: the least and the most of a field
_SHADOW = 0.55  # how much darker full shadow is


@functools.lru_cache(maxsize=64)
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


class Landscape(NamedTuple):
    """A finished landscape: which surfaces each pixel shows, and what light and texture do to them."""

    surfaces: Surfaces
    label: Indices  # (H, W) the surface that covers most of the pixel
    mixed: Indices  # (K,) flat positions of pixels that show a second surface
    second: Indices  # (K,) that surface
    share: Floats  # (K,) how much of the pixel it covers
    relief: Floats  # (H, W) factor that stays the year round
    rows: Floats  # (H, W) pattern of the rows, about -1..1
    near_shadow: Floats  # (H, W) 0..1, shaded whenever the sun shines
    far_shadow: Floats  # (H, W) 0..1, shaded when it stands low

    def reflectance(self, day: int, bands: tuple[str, ...] = RGB) -> Floats:
        """(C, H, W) reflectance on a day of the year (0 = 1 January), before noon."""
        colours = self.surfaces.reflectance(day, bands)
        light = np.take(self.surfaces.textures()[0], self.label) * self.rows
        light += 1
        light *= self.relief
        elevation = 42 + 23.4 * np.sin(2 * np.pi * (day - 80) / 365)  # of the sun at 48° N, degrees
        low = np.float32(np.clip((52 - elevation) / 25, 0, 1))
        light *= 1 - _SHADOW * np.maximum(self.near_shadow, low * self.far_shadow)
        ground = np.empty((len(bands), *self.label.shape), dtype=np.float32)
        for band, colour in zip(ground, colours, strict=True):
            np.take(colour, self.label, out=band, mode="clip")
            flat = band.reshape(-1)
            main = np.take(flat, self.mixed)
            flat[self.mixed] = main + self.share * (np.take(colour, self.second) - main)
        ground *= light
        return ground


class Canvas:
    """A square picture of labels onto which surfaces are painted, each pixel showing at most two of them."""

    def __init__(self, size: int, generator: np.random.Generator) -> None:
        self.size = size
        self.generator = generator
        line = np.arange(size, dtype=np.float32) - np.float32((size - 1) / 2)
        self.x, self.y = np.meshgrid(line, line)  # pixels from the centre
        self.label, self.second = np.zeros((2, size, size), dtype=np.intp)
        self.share, self.height, self.rows = np.zeros((3, size, size), dtype=np.float32)  # height: pixels above ground
        none = np.zeros(0, dtype=np.intp)
        self._known = Surfaces(kind=none, delay=none, tint=np.zeros((3, 0), dtype=np.float32))

    def noise(self, step: float) -> Floats:
        """(size, size) smooth noise of unit variance."""
        return smooth_noise(self.generator, self.size, step)

    def surface(self, kind: str, *, delay: float = 0.0, vary: float = 0.03) -> int:
        """A new surface: its label. ``delay`` days late; ``vary`` is the spread of its brightness."""
        return int(self.surfaces([kind], delay=np.array([delay]), vary=np.array([vary]))[0])

    def surfaces(self, kinds: Sequence[str], *, delay: Reals, vary: Reals) -> Indices:
        """New surfaces: their labels, which follow each other; one delay and one spread for each."""
        known = self._known
        brightness = vary * self.generator.standard_normal(len(kinds))
        colour = vary / 4 * self.generator.standard_normal((3, len(kinds)))
        self._known = Surfaces(
            kind=np.append(known.kind, [KINDS[kind] for kind in kinds]),
            delay=np.append(known.delay, np.round(delay).astype(np.intp)),
            tint=np.append(known.tint, np.exp(brightness + colour).astype(np.float32), axis=1),
        )
        return known.kind.size + np.arange(len(kinds))

    def paint(
        self, coverage: Floats, label: int | Indices, *, at: Indices | None = None, height: float | Floats = 0.0
    ) -> None:
        """Lay a surface over what is there.

        ``coverage`` (0..1) is a whole picture, or belongs to the distinct flat positions ``at``, as ``label`` may too.
        """
        seen = np.flatnonzero(coverage > 0.02)
        coverage = np.take(coverage, seen)
        at = seen if at is None else np.take(at, seen)
        label = label if isinstance(label, int) else np.take(label, seen)
        height = np.take(height, seen) if isinstance(height, np.ndarray) else height
        tops, seconds, shares = self.label.reshape(-1), self.second.reshape(-1), self.share.reshape(-1)
        covers = coverage >= 0.5
        below = np.take(tops, at)
        tops[at] = np.where(covers, label, below)
        seconds[at] = np.where(covers, below, label)
        shares[at] = np.where(covers, 1 - coverage, coverage)
        heights = self.height.reshape(-1)
        before = np.take(heights, at)
        heights[at] = before + coverage * (height - before)

    def labels_of(self, kind: str) -> Indices:
        """The labels of all surfaces of a kind."""
        return np.flatnonzero(self._known.kind == KINDS[kind])

    def finish(self, *, shade: Floats) -> Landscape:
        """The landscape, with its texture and shadows; ``shade`` (size, size) is a further factor."""
        _, broad, fine = self._known.textures()
        grain = self.noise(3.2)
        lit = grain.copy()
        lit[:-2] -= 0.8 * grain[2:]  # bright on the side that looks to the sun
        relief = 1 + np.take(broad, self.label) * (0.7 * self.noise(11.0) + 0.7 * self.noise(34.0))
        relief += np.take(fine, self.label) * lit
        # Real fields are never smooth: 20 to 100 digital numbers of texture without a direction.
        least, most = np.log(_UNEVEN)
        uneven = np.exp(self.generator.uniform(least, most, broad.shape)) * (broad > 0.02)
        relief += np.take(uneven.astype(np.float32), self.label) * (0.6 * self.noise(1.3) + 0.8 * self.noise(4.5))
        np.clip(relief, 0.35, 1.8, out=relief)
        relief *= shade
        mixed = np.flatnonzero(self.share > 0.02)
        return Landscape(
            surfaces=self._known,
            label=self.label,
            mixed=mixed,
            second=self.second.reshape(-1)[mixed],
            share=self.share.reshape(-1)[mixed],
            relief=relief,
            rows=self.rows,
            near_shadow=np.maximum(self._cast(1, 1.2), self._cast(2, 2.4)),
            far_shadow=np.maximum.reduce([self._cast(3, 2.0), self._cast(4, 2.6), self._cast(6, 3.6)]),
        )

    def _cast(self, pixels: int, height: float) -> Floats:
        """Shadow on what lies ``pixels`` north (and a little west) of something at least ``height`` higher."""
        aside = round(0.35 * pixels)
        drop = self.height[pixels:, aside:] - self.height[:-pixels, : self.size - aside]
        return np.pad(np.clip(drop - height + 1, 0, 1), ((0, pixels), (0, aside)))
