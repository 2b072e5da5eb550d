"""Landscapes of Brittany: hedged fields, lanes, hamlets, woods, water and coast, drawn from a generator's numbers.

One pixel is 2.5 m. Everything is placed in pixels around the centre of the patch.
"""

import numpy as np

from data_gen.canvas import Canvas, Scene
from data_gen.hamlets import build_hamlets
from data_gen.noise import Floats
from data_gen.parcels import DEPTH, LINES, Cells, Plan, locate, plan_parcels

_CROPS = {
    "wheat": 0.24,
    "rape": 0.07,
    "maize": 0.24,
    "vegetables": 0.05,
    "ley": 0.17,
    "meadow": 0.12,
    "heath": 0.02,
    "oak": 0.07,
    "conifer": 0.02,
}
_WOODED = ("oak", "willow", "conifer")
_WOOD_LEVEL = 4  # of the cuts: woods are about this large
_TREE_HEIGHT = 4.0  # 10 m


def landscape(generator: np.random.Generator, size: int) -> Scene:
    """A scene of ``size`` × ``size`` pixels."""
    canvas = Canvas(size, generator)
    bend = max(size / 324, 0.5)
    x = canvas.x + 7 * bend * canvas.noise(70) + 1.2 * canvas.noise(16)
    y = canvas.y + 7 * bend * canvas.noise(70) + 1.2 * canvas.noise(16)
    plan = plan_parcels(generator, radius=0.78 * size + 20, area=generator.uniform(1300, 4200))
    lines = _draw_lines(canvas, plan)
    cells = locate(plan, x, y, width=lines["width"])
    _sow(canvas, plan, cells, x, y)
    wet = _water(canvas, x, y) if generator.random() < 0.4 else None
    _line_up(canvas, cells, lines, wet)
    shore = _coast(canvas) if generator.random() < 0.2 else np.full_like(x, -1e3)
    dry = shore < -12 if wet is None else (shore < -12) & (wet > 4)
    build_hamlets(canvas, cells, plan, roads=lines["road"] > 0, dry=dry)
    shade = np.exp(-np.clip(shore - 4, 0, 200) / 120) if shore.max() > 0 else np.ones_like(x)
    return canvas.finish(shade=shade.astype(np.float32))


def _sow(canvas: Canvas, plan: Plan, cells: Cells, x: Floats, y: Floats) -> None:
    """Give each parcel a crop of its own season and colour, and rows."""
    g = canvas.generator
    chances = np.array(list(_CROPS.values())) * g.gamma(2.0, 0.5, len(_CROPS))
    crops = g.choice(list(_CROPS), size=2**DEPTH, p=chances / chances.sum())
    late = g.normal(0, 6)
    woods = g.random(2**_WOOD_LEVEL) < g.choice([0.02, 0.15])
    crops[np.repeat(woods, 2 ** (DEPTH - _WOOD_LEVEL))] = g.choice(["oak", "oak", "conifer"])
    wooded = np.isin(crops, _WOODED)
    labels = canvas.surfaces(crops, delay=g.normal(late, 14, len(crops)), vary=np.where(wooded, 0.02, 0.09))
    np.take(labels, cells.parcel, out=canvas.label, mode="clip")
    np.take(np.where(wooded, _TREE_HEIGHT, 0).astype(np.float32), cells.parcel, out=canvas.height, mode="clip")
    across = np.take(np.sin(plan.angle), cells.parcel) * x
    across -= np.take(np.cos(plan.angle), cells.parcel) * y
    inner = np.abs(cells.distance)
    np.copyto(across, inner, where=inner < 6)  # headlands are worked along the edge
    period = np.take(g.uniform(6, 13, 2**DEPTH).astype(np.float32), cells.parcel)
    turn = across / period
    strip = np.floor(turn)
    stripes = g.uniform(-1, 1, 1024).astype(np.float32)
    tramlines = (turn - strip) * period < 1
    strip += 37 * cells.parcel.astype(np.float32)
    canvas.rows[...] = 0.9 * (np.take(stripes, strip.astype(np.intp) & 1023) - tramlines)


def _draw_lines(canvas: Canvas, plan: Plan) -> dict[str, Floats]:
    """What runs along each cut: per line a road (label, half width) and a hedge to the left and to the right."""
    g = canvas.generator
    level = np.floor(np.log2(np.arange(LINES) + 1))
    chance = g.random(LINES)
    road = (level == 0) & (chance < 0.7)
    lane = ~road & (chance < np.select([level < 2, level == 2, level == 3], [0.75, 0.3, 0.15], 0.0))
    hedged = g.random(LINES) < g.uniform(0.45, 0.95)
    way = road | lane
    half = np.select([road, lane], [g.uniform(1.1, 1.6), 0.75], 0.0)
    verge = np.where(way, half + g.uniform(0.6, 1.6, LINES), g.uniform(0.3, 0.9, LINES))
    centre = np.where(way, verge + 1.2, 0.0)
    thick = np.where(hedged, g.uniform(0.8, 2.2, LINES), -9.0)
    left = np.where(way & (g.random(LINES) < 0.4), -9.0, thick)
    right = np.where(way & (g.random(LINES) < 0.4), -9.0, thick)
    return {
        "road": np.where(road, 2, np.where(lane, 1, 0)),
        "half": half.astype(np.float32),
        "verge": verge.astype(np.float32),
        "centre": centre.astype(np.float32),
        "left": left.astype(np.float32),
        "right": right.astype(np.float32),
        "gaps": g.normal(-1.0, 0.7, LINES).astype(np.float32),
        "width": np.where(way, 4.0, 0.0).astype(np.float32),
    }


def _line_up(canvas: Canvas, cells: Cells, lines: dict[str, Floats], wet: Floats | None) -> None:
    """Paint margins, hedges, lanes and roads along the cuts."""
    g = canvas.generator
    gaps, bumps = canvas.noise(9), canvas.noise(2.2)
    near = np.abs(cells.distance) < 8
    at = np.flatnonzero(near)
    line = cells.line.reshape(-1)[at]
    signed = cells.distance.reshape(-1)[at]
    apart = np.abs(signed)
    verges = canvas.surfaces(["verge"] * 3, delay=g.normal(0, 10, 3), vary=np.full(3, 0.08))
    trees = canvas.surfaces(["oak", "oak", "oak", "willow"], delay=g.normal(0, 8, 4), vary=np.full(4, 0.1))
    canvas.paint(np.clip(lines["verge"][line] - apart + 0.5, 0, 1), verges[line % 3], at=at)
    thick = np.where(signed > 0, lines["right"][line], lines["left"][line])
    gap = 3.0 * np.clip(lines["gaps"][line] - gaps.reshape(-1)[at] + 0.4, 0, 4)
    grown = thick - gap + 0.55 * bumps.reshape(-1)[at]
    hedge = np.clip(grown - np.abs(apart - lines["centre"][line]) + 0.5, 0, 1)
    canvas.paint(hedge, trees[line % 4], at=at, height=np.clip(1.5 + grown, 0, _TREE_HEIGHT))
    ways = np.array([0, canvas.surface("lane", vary=0.1), canvas.surface("asphalt", vary=0.08)])
    kind = lines["road"][line]
    strip = np.where(kind > 0, np.clip(lines["half"][line] - apart + 0.5, 0, 1), 0)
    if wet is not None:
        strip[(kind < 2) & (wet.reshape(-1)[at] < 0.5)] = 0  # only roads have bridges
    canvas.paint(strip.astype(np.float32), ways[kind], at=at)


def _water(canvas: Canvas, x: Floats, y: Floats) -> Floats:
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
    canvas.paint(np.clip(grown - edge + 0.5, 0, 1), trees, height=_TREE_HEIGHT * 0.8)
    canvas.paint(np.clip(0.5 - edge, 0, 1), water)
    return edge


def _coast(canvas: Canvas) -> Floats:
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
