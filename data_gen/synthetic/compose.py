"""Landscapes of Brittany: hedged fields, lanes, hamlets, woods, water and coast, drawn from a generator's numbers.

One pixel is 2.5 m. Everything is placed in pixels around the centre of the patch.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_gen.synthetic.landscape import TREE_HEIGHT, Canvas, Indices, Landscape
from data_gen.synthetic.reflectance import Floats

_DEPTH = 8  # at most 2**8 parcels
_LINES = 2**_DEPTH - 1
_NEVER = 1e6  # the offset of a cut that is not made: everything lies on its near side
_CROPS = {"wheat": 0.24, "rape": 0.07, "maize": 0.24, "vegetables": 0.05, "ley": 0.17, "meadow": 0.12, "heath": 0.02}
_CROPS |= {"oak": 0.07, "conifer": 0.02}  # share of the parcels
_WOODED = ("oak", "conifer")
_WOOD_LEVEL = 4  # of the cuts: woods are about as large as what lies between the first four
_HEADLAND = 6  # pixels
_LANE, _ROAD = 1, 2
_NO_HEDGE = -9.0  # a half width that no gap or bump brings above 0
_REACH = 8  # pixels: nothing that runs along a cut lies further from it
_HAMLET_REACH = 14  # pixels: half the window in which a building and its yard are drawn


class ParcelPlan(NamedTuple):
    """Cuts in the order of a binary heap: cut k lies inside one side of cut (k - 1) // 2."""

    normal: Floats  # (2, _LINES) unit normal (x, y)
    offset: Floats  # (_LINES,) normal · point = offset on the cut
    angle: Floats  # (2**_DEPTH,) direction of a parcel's rows, radians


class Cells(NamedTuple):
    """Where each pixel lies."""

    parcel: NDArray[np.intp]  # (H, W) in [0, 2**_DEPTH)
    line: NDArray[np.intp]  # (H, W) the nearest cut
    distance: Floats  # (H, W) signed distance to it, pixels


def draw_landscape(generator: np.random.Generator, size: int) -> Landscape:
    """A landscape of ``size`` × ``size`` pixels."""
    canvas = Canvas(size, generator)
    x = canvas.x + 7 * canvas.noise(70) + 1.2 * canvas.noise(16)  # straight lines of the plan bend by this
    y = canvas.y + 7 * canvas.noise(70) + 1.2 * canvas.noise(16)
    plan = _plan_parcels(generator, radius=0.78 * size + 20, area=generator.uniform(1300, 4200))
    boundaries = _draw_boundaries(generator)
    cells = _locate(plan, x, y, width=np.where(boundaries.way > 0, np.float32(4), np.float32(0)))
    _sow(canvas, plan, cells, x, y)
    nowhere = np.full_like(x, 1e3)
    fresh = _paint_fresh_water(canvas, x, y) if generator.random() < 0.4 else nowhere
    _paint_boundaries(canvas, cells, boundaries, fresh)
    shore = _paint_coast(canvas) if generator.random() < 0.2 else -nowhere
    _build_hamlets(canvas, cells, plan, roads=boundaries.way > 0, dry=(shore < -12) & (fresh > 4))
    return canvas.finish(shade=np.exp(np.clip(shore - 4, 0, 200) * np.float32(-1 / 120)))


def _sow(canvas: Canvas, plan: ParcelPlan, cells: Cells, x: Floats, y: Floats) -> None:
    """Give each parcel a crop of its own season and colour, and rows."""
    g = canvas.generator
    chances = np.array(list(_CROPS.values())) * g.gamma(2.0, 0.5, len(_CROPS))
    crops = g.choice(list(_CROPS), size=2**_DEPTH, p=chances / chances.sum())
    late = g.normal(0, 6)
    woods = g.random(2**_WOOD_LEVEL) < g.choice([0.02, 0.15])
    crops[np.repeat(woods, 2 ** (_DEPTH - _WOOD_LEVEL))] = g.choice(["oak", "oak", "conifer"])
    wooded = np.isin(crops, _WOODED)
    labels = canvas.surfaces(crops, delay=g.normal(late, 14, len(crops)), vary=np.where(wooded, 0.02, 0.09))
    np.take(labels, cells.parcel, out=canvas.label, mode="clip")
    np.take(np.where(wooded, TREE_HEIGHT, 0).astype(np.float32), cells.parcel, out=canvas.height, mode="clip")
    across = np.take(np.sin(plan.angle), cells.parcel) * x
    across -= np.take(np.cos(plan.angle), cells.parcel) * y
    inner = np.abs(cells.distance)
    np.copyto(across, inner, where=inner < _HEADLAND)  # headlands are worked along the edge
    period = np.take(g.uniform(6, 13, 2**_DEPTH).astype(np.float32), cells.parcel)
    turn = across / period
    strip = np.floor(turn)
    stripes = g.uniform(-1, 1, 1024).astype(np.float32)
    tramlines = (turn - strip) * period < 1
    strip += 37 * cells.parcel.astype(np.float32)
    canvas.rows[...] = 0.9 * (np.take(stripes, strip.astype(np.intp) & 1023) - tramlines)


def _plan_parcels(generator: np.random.Generator, *, radius: float, area: float) -> ParcelPlan:
    """Cut a disc about the origin until its parts are about ``area`` square pixels, always across their long axis.

    The disc has no direction of its own, so the first cut chooses the direction that the fields of the place follow.
    """
    step = 7.0
    axis = np.arange(-radius, radius + step, step)
    x, y = (grid.ravel() for grid in np.meshgrid(axis, axis))
    inside = x**2 + y**2 < radius**2
    x, y = x[inside], y[inside]
    node = np.zeros(x.size, dtype=np.intp)
    normal = np.zeros((2, _LINES))
    offset = np.full(_LINES, _NEVER)
    main = generator.uniform(0, np.pi)
    own = np.zeros(1)  # direction of the last cut about each part
    for level in range(_DEPTH):
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
    rows = own + np.pi / 2 * (generator.random(2**_DEPTH) < 0.3)
    return ParcelPlan(normal.astype(np.float32), offset.astype(np.float32), rows.astype(np.float32))


def _locate(plan: ParcelPlan, x: Floats, y: Floats, *, width: Floats) -> Cells:
    """The parcel and the nearest cut of each point (x, y); where cuts meet, one of some ``width`` (pixels) wins."""
    node, line = np.zeros((2, *x.shape), dtype=np.intp)
    nearest = np.full(x.shape, 2 * _NEVER, dtype=np.float32)

    def signed_distance(cut: NDArray[np.intp]) -> Floats:
        signed = np.take(plan.normal[0], cut) * x
        signed += np.take(plan.normal[1], cut) * y
        signed -= np.take(plan.offset, cut)
        return signed

    for _ in range(_DEPTH):
        signed = signed_distance(node)
        key = np.abs(signed)
        key -= np.take(width, node)
        np.copyto(line, node, where=key < nearest)
        np.minimum(nearest, key, out=nearest)
        node = 2 * node + 1 + (signed > 0)
    return Cells(node - _LINES, line, signed_distance(line))


class Boundaries(NamedTuple):
    """Per cut, in pixels across it."""

    way: Indices  # (_LINES,) 0 none, _LANE, _ROAD
    half: Floats  # (_LINES,) half width of the way
    verge: Floats  # (_LINES,) half width of the grass about it
    hedge: Floats  # (_LINES,) how far from the cut the hedges stand
    left: Floats  # (_LINES,) half width of the hedge on one side
    right: Floats  # (_LINES,) and on the other
    gaps: Floats  # (_LINES,) the higher, the more of the hedge is missing


def _draw_boundaries(generator: np.random.Generator) -> Boundaries:
    """The first cuts, which run across the whole place, tend to be roads and lanes; later ones hedges and margins."""
    g = generator
    level = np.floor(np.log2(np.arange(_LINES) + 1))
    chance = g.random(_LINES)
    road = (level == 0) & (chance < 0.7)
    lane = ~road & (chance < np.select([level < 2, level == 2, level == 3], [0.75, 0.3, 0.15], 0.0))
    hedged = g.random(_LINES) < g.uniform(0.45, 0.95)
    way = road | lane
    half = np.select([road, lane], [g.uniform(1.1, 1.6), 0.75], 0.0)
    verge = np.where(way, half + g.uniform(0.6, 1.6, _LINES), g.uniform(0.3, 0.9, _LINES))
    thick = np.where(hedged, g.uniform(0.8, 2.2, _LINES), _NO_HEDGE)
    left, right = (np.where(way & (g.random(_LINES) < 0.4), _NO_HEDGE, thick) for _ in range(2))
    widths = (half, verge, np.where(way, verge + 1.2, 0.0), left, right, g.normal(-1.0, 0.7, _LINES))
    return Boundaries(_ROAD * road + _LANE * lane, *(width.astype(np.float32) for width in widths))


def _paint_boundaries(canvas: Canvas, cells: Cells, boundaries: Boundaries, fresh: Floats) -> None:
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


def _build_hamlets(canvas: Canvas, cells: Cells, plan: ParcelPlan, *, roads: np.ndarray, dry: np.ndarray) -> None:
    """Place up to five groups of buildings beside ``roads`` (_LINES,), where the ground is ``dry`` (H, W)."""
    g = canvas.generator
    spots = 4 * np.argwhere((roads[cells.line] & (np.abs(cells.distance) < 9) & dry)[::4, ::4])
    if len(spots) == 0:
        return
    houses = []
    for _ in range(min(int(g.poisson(2.6 * (canvas.size / 324) ** 2)), 5)):
        row, column = spots[g.integers(len(spots))]
        line = cells.line[row, column]
        angle = np.arctan2(plan.normal[1, line], plan.normal[0, line]) + np.pi / 2
        count = int(g.integers(3, 12)) if g.random() < 0.8 else int(g.integers(15, 40))
        houses.append(_group(g, row=row, column=column, angle=float(angle), count=count))
    if houses:
        _build(canvas, np.concatenate(houses, axis=1), dry)


def _group(g: np.random.Generator, *, row: int, column: int, angle: float, count: int) -> Floats:
    """(6, count): row, column, direction, half length, half width, roof (0 slate, 1 tile, 2 sheet metal)."""
    spread = 4.5 * np.sqrt(count) + 4
    along, across = g.normal(0, spread, count), g.normal(0, 0.6 * spread, count)
    shed = g.random(count) < 0.22
    direction = angle + g.normal(0, 0.12, count) + np.pi / 2 * (g.random(count) < 0.35)
    length = np.where(shed, g.uniform(4, 10, count), g.uniform(1.9, 3.4, count))
    width = np.where(shed, g.uniform(2.2, 4.0, count), g.uniform(1.3, 1.8, count))
    roof = np.where(shed, np.where(g.random(count) < 0.7, 2, 0), np.where(g.random(count) < 0.12, 1, 0))
    y = row + along * np.sin(angle) + across * np.cos(angle)
    x = column + along * np.cos(angle) - across * np.sin(angle)
    return np.stack([y, x, direction, length, width, roof]).astype(np.float32)


def _build(canvas: Canvas, houses: Floats, dry: np.ndarray) -> None:
    """Paint yards, gardens and roofs of houses that stand on dry ground, off the roads, and apart from each other."""
    y, x, _, length, *_ = houses
    inside = (np.minimum(y, x) > _HAMLET_REACH) & (np.maximum(y, x) < canvas.size - 1 - _HAMLET_REACH)
    gap = np.hypot(y[:, None] - y, x[:, None] - x) - length[:, None] - length
    houses = houses[:, inside & ~np.tril(gap < 1.5, k=-1).any(axis=1)]
    rows, columns = houses[:2].round().astype(np.intp)
    houses = houses[:, dry[rows, columns]]
    if houses.shape[1] == 0:
        return
    y, x, direction, length, width, roof = (part[:, None, None] for part in houses)
    window = np.arange(-_HAMLET_REACH, _HAMLET_REACH + 1)
    row = y.round().astype(np.intp) + window[:, None]  # (B, 29, 1)
    column = x.round().astype(np.intp) + window  # (B, 1, 29)
    at = row * canvas.size + column  # (B, 29, 29)
    dy, dx = row - y, column - x
    u = dx * np.cos(direction) + dy * np.sin(direction)
    v = -dx * np.sin(direction) + dy * np.cos(direction)
    wall = np.maximum(np.abs(u) - length, np.abs(v) - width)
    ragged = 1.3 * canvas.noise(5).reshape(-1)[at]
    is_shed = roof == 2
    garden = np.where(is_shed, 0, np.clip(6.5 - np.maximum(wall, 0) + 1.5 * ragged, 0, 1))
    yard = np.where(is_shed, np.clip(3.5 - wall + ragged, 0, 1), np.clip(1.8 - wall + ragged + 0.8 * np.sign(v), 0, 1))
    bush = np.clip(garden * (ragged - 1.1) * 2, 0, 1)
    road = np.isin(canvas.label, canvas.labels_of("asphalt"))
    for part, kind, height in ((garden, "garden", 0.0), (yard, "yard", 0.0), (bush, "oak", 2.5)):
        whole = np.zeros_like(canvas.height)
        np.maximum.at(whole.reshape(-1), at.reshape(-1), part.reshape(-1).astype(np.float32))  # windows overlap
        whole[road] = 0
        canvas.paint(whole, canvas.surface(kind, vary=0.08), height=height)
        canvas.rows[whole > 0.3] = 0
    slopes = [f"{kind}_{side}" for kind in ("slate", "tile", "sheet") for side in ("dark", "lit")]
    roofs = canvas.surfaces(slopes, delay=np.zeros(6), vary=np.full(6, 0.08)).reshape(3, 2)
    sunny = v * np.where(np.cos(direction) > 0, 1, -1) > 0  # the slope that looks south
    label = roofs[roof.astype(np.intp), sunny.astype(np.intp)]
    cover = np.clip(0.5 - wall, 0, 1)
    canvas.paint(cover.reshape(-1), label.reshape(-1), at=at.reshape(-1), height=2.4)


def _paint_fresh_water(canvas: Canvas, x: Floats, y: Floats) -> Floats:
    """A stream with its wooded valley, or a pond; returns the distance to the water, pixels."""
    g = canvas.generator
    half = canvas.size / 2
    turn = g.uniform(0, np.pi)
    along, across = x * np.cos(turn) + y * np.sin(turn), -x * np.sin(turn) + y * np.cos(turn)
    if g.random() < 0.6:
        width = g.uniform(0.8, 5.0)
        wave = g.uniform(25, 60)
        middle = g.uniform(-0.5, 0.5) * half + g.uniform(5, 14) * np.sin(along / wave + g.uniform(0, 6))
        middle = middle + 2 * np.sin(along / g.uniform(7, 12) + g.uniform(0, 6))
        distance = np.abs(across - middle) - width
        water, valley = canvas.surface("river", vary=0.1), g.uniform(2, 16)
    else:
        radius = g.uniform(7, 26)
        cx, cy = g.uniform(-0.6, 0.6, 2) * half
        distance = np.hypot(along - cx, 1.5 * (across - cy)) - radius + 0.1 * radius * canvas.noise(9)
        water, valley = canvas.surface("pond", vary=0.1), g.uniform(1, 5)
    edge = distance.astype(np.float32)
    meadow = canvas.surface("meadow", delay=g.normal(0, 8), vary=0.06)
    trees = canvas.surface("willow", delay=g.normal(0, 8), vary=0.08)
    canvas.paint(np.clip(2.2 * valley + 6 + 4 * canvas.noise(20) - edge, 0, 1), meadow)
    canvas.rows[edge < 2.2 * valley + 10] = 0
    grown = valley * (0.6 + 0.6 * canvas.noise(15)) + 0.8 * canvas.noise(2.5)
    canvas.paint(np.clip(grown - edge + 0.5, 0, 1), trees, height=TREE_HEIGHT * 0.8)
    canvas.paint(np.clip(0.5 - edge, 0, 1), water)
    return edge


def _paint_coast(canvas: Canvas) -> Floats:
    """Sea, beach, rocks and dunes on one side; returns the distance seaward of the water line, pixels."""
    g = canvas.generator
    turn = g.uniform(0, 2 * np.pi)
    seaward = canvas.x * np.cos(turn) + canvas.y * np.sin(turn) - g.uniform(-0.1, 0.55) * canvas.size / 2
    shore = seaward + 14 * canvas.noise(50) + 4 * canvas.noise(18) + 1.2 * canvas.noise(5)
    width = np.clip(6 + 5 * canvas.noise(40), 1, 20)
    rocky = np.clip(3 * canvas.noise(30) + 1.5 * canvas.noise(6), 0, 1)

    def landward(limit: Floats | float) -> Floats:
        return np.clip(shore + limit + 0.5, 0, 1)

    heath = canvas.surface("heath", vary=0.05)
    labels = {kind: canvas.surface(kind, vary=0.05) for kind in ("dune", "sand", "wet_sand", "rock", "shallows", "sea")}
    canvas.paint(landward(2 * width + 14), heath)
    canvas.rows[shore > -2 * width - 15] = 0
    canvas.paint(landward(width + 5 + 2 * canvas.noise(8)), labels["dune"])
    canvas.paint(landward(width), labels["sand"])
    canvas.paint(landward(0.35 * width), labels["wet_sand"])
    canvas.paint(landward(width + 3) * rocky, labels["rock"])
    canvas.paint(landward(-4 * rocky + 2 * canvas.noise(4) * rocky), labels["shallows"])
    canvas.paint(np.clip((shore - 12) / 40 + 0.3 * canvas.noise(14), 0, 1), labels["sea"])
    canvas.paint(np.clip(1 - np.abs(shore - 0.8), 0, 1) * (rocky < 0.5) * 0.7, canvas.surface("foam"))
    canvas.height[shore > -width - 5] = 0
    return shore
