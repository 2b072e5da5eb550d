"""What runs between the fields: margins, hedges with their gaps, lanes and roads."""

from typing import NamedTuple

import numpy as np

from data_gen.canvas import TREE_HEIGHT, Canvas, Indices
from data_gen.noise import Floats
from data_gen.parcels import LINES, Cells

_LANE, _ROAD = 1, 2
_NO_HEDGE = -9.0  # a half width that no gap or bump brings above 0
_REACH = 8  # pixels: nothing that runs along a cut lies further from it


class Boundaries(NamedTuple):
    """Per cut, in pixels across it."""

    way: Indices  # (LINES,) 0 none, _LANE, _ROAD
    half: Floats  # (LINES,) half width of the way
    verge: Floats  # (LINES,) half width of the grass about it
    hedge: Floats  # (LINES,) how far from the cut the hedges stand
    left: Floats  # (LINES,) half width of the hedge on one side
    right: Floats  # (LINES,) and on the other
    gaps: Floats  # (LINES,) the higher, the more of the hedge is missing

    @property
    def width(self) -> Floats:
        """What a cut's pixels are nearer to it than they look, so that ways run on where a hedge meets them."""
        return np.where(self.way > 0, np.float32(4), np.float32(0))


def draw_boundaries(generator: np.random.Generator) -> Boundaries:
    """The first cuts, which run across the whole place, tend to be roads and lanes; later ones hedges and margins."""
    g = generator
    level = np.floor(np.log2(np.arange(LINES) + 1))
    chance = g.random(LINES)
    road = (level == 0) & (chance < 0.7)
    lane = ~road & (chance < np.select([level < 2, level == 2, level == 3], [0.75, 0.3, 0.15], 0.0))
    hedged = g.random(LINES) < g.uniform(0.45, 0.95)
    way = road | lane
    half = np.select([road, lane], [g.uniform(1.1, 1.6), 0.75], 0.0)
    verge = np.where(way, half + g.uniform(0.6, 1.6, LINES), g.uniform(0.3, 0.9, LINES))
    thick = np.where(hedged, g.uniform(0.8, 2.2, LINES), _NO_HEDGE)
    left, right = (np.where(way & (g.random(LINES) < 0.4), _NO_HEDGE, thick) for _ in range(2))
    return Boundaries(
        way=_ROAD * road + _LANE * lane,
        half=half.astype(np.float32),
        verge=verge.astype(np.float32),
        hedge=np.where(way, verge + 1.2, 0.0).astype(np.float32),
        left=left.astype(np.float32),
        right=right.astype(np.float32),
        gaps=g.normal(-1.0, 0.7, LINES).astype(np.float32),
    )


def paint_boundaries(canvas: Canvas, cells: Cells, boundaries: Boundaries, fresh: Floats) -> None:
    """Paint everything along the cuts; only roads cross water, ``fresh`` (H, W) pixels away."""
    g = canvas.generator
    gaps, bumps = canvas.noise(9), canvas.noise(2.2)
    at = np.flatnonzero(np.abs(cells.distance) < _REACH)
    line, signed = np.take(cells.line, at), np.take(cells.distance, at)
    apart = np.abs(signed)
    dry = np.take(fresh, at) > 0.5
    verges = canvas.surfaces(["verge"] * 3, delay=g.normal(0, 10, 3), vary=np.full(3, 0.08))
    trees = canvas.surfaces(["oak", "oak", "oak", "willow"], delay=g.normal(0, 8, 4), vary=np.full(4, 0.1))
    ways = np.array([0, canvas.surface("lane", vary=0.1), canvas.surface("asphalt", vary=0.08)])

    canvas.paint(np.clip(np.take(boundaries.verge, line) - apart + 0.5, 0, 1) * dry, np.take(verges, line % 3), at=at)

    thick = np.where(signed > 0, np.take(boundaries.right, line), np.take(boundaries.left, line))
    missing = 3 * np.clip(np.take(boundaries.gaps, line) - np.take(gaps, at) + 0.4, 0, 4)
    grown = thick - missing + 0.55 * np.take(bumps, at)
    crowns = np.clip(grown - np.abs(apart - np.take(boundaries.hedge, line)) + 0.5, 0, 1)
    canvas.paint(crowns * dry, np.take(trees, line % 4), at=at, height=np.clip(1.5 + grown, 0, TREE_HEIGHT))

    way = np.take(boundaries.way, line)
    passable = (way == _ROAD) | ((way == _LANE) & dry)
    canvas.paint(np.clip(np.take(boundaries.half, line) - apart + 0.5, 0, 1) * passable, np.take(ways, way), at=at)
