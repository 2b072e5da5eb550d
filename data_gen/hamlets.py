"""Hamlets and farms: houses and sheds in line with the lanes, their yards and gardens."""

import numpy as np

from data_gen.canvas import Canvas
from data_gen.noise import Floats
from data_gen.parcels import Cells, Plan

_REACH = 14  # pixels: half the window in which a building and its yard are drawn


def build_hamlets(canvas: Canvas, cells: Cells, plan: Plan, *, roads: np.ndarray, dry: np.ndarray) -> None:
    """Place up to five groups of buildings beside ``roads`` (LINES,), where the ground is ``dry`` (H, W)."""
    g = canvas.generator
    beside = roads[cells.line[::4, ::4]] & (np.abs(cells.distance[::4, ::4]) < 9) & dry[::4, ::4]
    spots = 4 * np.argwhere(beside)
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
    inside = (np.minimum(y, x) > _REACH) & (np.maximum(y, x) < canvas.size - 1 - _REACH)
    gap = np.hypot(y[:, None] - y, x[:, None] - x) - length[:, None] - length
    crowded = (np.tril(gap < 1.5, k=-1)).any(axis=1)
    houses = houses[:, inside & ~crowded]
    rows, columns = houses[:2].round().astype(np.intp)
    houses = houses[:, dry[rows, columns]]
    if houses.shape[1] == 0:
        return
    y, x, direction, length, width, roof = (part[:, None, None] for part in houses)
    window = np.arange(-_REACH, _REACH + 1)
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
