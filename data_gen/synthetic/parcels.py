"""Smooth random fields: coarse normal numbers through cubic B-splines."""

from functools import lru_cache
from typing import NamedTuple

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


DEPTH = 8  # at most 2**8 parcels
LINES = 2**DEPTH - 1
_NEVER = 1e6  # the offset of a cut that is not made: everything lies on its near side


class ParcelPlan(NamedTuple):
    """Cuts in the order of a binary heap: cut k lies inside one side of cut (k - 1) // 2."""

    normal: Floats  # (2, LINES) unit normal (x, y)
    offset: Floats  # (LINES,) normal · point = offset on the cut
    angle: Floats  # (2**DEPTH,) direction of a parcel's rows, radians


class Cells(NamedTuple):
    """Where each pixel lies."""

    parcel: NDArray[np.intp]  # (H, W) in [0, 2**DEPTH)
    line: NDArray[np.intp]  # (H, W) the nearest cut
    distance: Floats  # (H, W) signed distance to it, pixels


def plan_parcels(generator: np.random.Generator, *, radius: float, area: float) -> ParcelPlan:
    """Cut a disc about the origin until its parts are about ``area`` square pixels, always across their long axis.

    The disc has no direction of its own, so the first cut chooses the direction that the fields of the place follow.
    """
    step = 7.0
    axis = np.arange(-radius, radius + step, step)
    x, y = (grid.ravel() for grid in np.meshgrid(axis, axis))
    inside = x**2 + y**2 < radius**2
    x, y = x[inside], y[inside]
    node = np.zeros(x.size, dtype=np.intp)
    normal = np.zeros((2, LINES))
    offset = np.full(LINES, _NEVER)
    main = generator.uniform(0, np.pi)
    own = np.zeros(1)  # direction of the last cut about each part
    for level in range(DEPTH):
        first, count = 2**level - 1, 2**level
        here = node - first
        points = np.maximum(np.bincount(here, minlength=count), 1)
        mean_x, mean_y = (np.bincount(here, weights=v, minlength=count) / points for v in (x, y))
        dx, dy = x - mean_x[here], y - mean_y[here]
        xx, yy, xy = (np.bincount(here, weights=v, minlength=count) / points for v in (dx * dx, dy * dy, dx * dy))
        long_axis = 0.5 * np.arctan2(2 * xy, xx - yy)
        spread = np.sqrt((xx + yy) / 2 + np.hypot((xx - yy) / 2, xy))  # standard deviation along the long axis
        turned = np.round((long_axis - own) / (np.pi / 2)) * np.pi / 2  # square to the cut before, or along it
        across = own + turned + generator.normal(0, 0.1, count)
        if level < 2:
            across = np.full(count, main + level * np.pi / 2) + generator.normal(0, 0.12, count)
        place = generator.uniform(-0.55, 0.55, count) * spread
        split = points * step**2 > area * np.exp(generator.normal(0, 0.45, count))
        lines = slice(first, first + count)
        normal[:, lines] = np.cos(across), np.sin(across)
        through = normal[0, lines] * mean_x + normal[1, lines] * mean_y + place
        offset[lines] = np.where(split, through, _NEVER)
        side = normal[0, node] * x + normal[1, node] * y > offset[node]
        own = np.repeat(np.where(split, across + np.pi / 2, own), 2)
        node = 2 * node + 1 + side
    rows = own + np.pi / 2 * (generator.random(2**DEPTH) < 0.3)
    return ParcelPlan(normal.astype(np.float32), offset.astype(np.float32), rows.astype(np.float32))


def locate(plan: ParcelPlan, x: Floats, y: Floats, *, width: Floats) -> Cells:
    """The parcel and the nearest cut of each point (x, y); a cut of some ``width`` (pixels) wins that much earlier."""
    node = np.zeros(x.shape, dtype=np.intp)
    line = np.zeros(x.shape, dtype=np.intp)
    nearest = np.full(x.shape, 2 * _NEVER, dtype=np.float32)

    def signed_distance(cut: NDArray[np.intp]) -> Floats:
        signed = np.take(plan.normal[0], cut) * x
        signed += np.take(plan.normal[1], cut) * y
        signed -= np.take(plan.offset, cut)
        return signed

    for _ in range(DEPTH):
        signed = signed_distance(node)
        key = np.abs(signed)
        key -= np.take(width, node)
        np.copyto(line, node, where=key < nearest)
        np.minimum(nearest, key, out=nearest)
        node *= 2
        node += 1
        node += signed > 0
    return Cells(node - LINES, line, signed_distance(line))
