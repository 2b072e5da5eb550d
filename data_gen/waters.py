"""Streams, ponds and the coast."""

import numpy as np

from data_gen.canvas import TREE_HEIGHT, Canvas
from data_gen.noise import Floats


def paint_fresh_water(canvas: Canvas, x: Floats, y: Floats) -> Floats:
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


def paint_coast(canvas: Canvas) -> Floats:
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
