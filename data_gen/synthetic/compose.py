"""Landscapes of Brittany: hedged fields, lanes, hamlets, woods, water and coast, drawn from a generator's numbers.

One pixel is 2.5 m. Everything is placed in pixels around the centre of the patch.
"""

import numpy as np

from data_gen.synthetic.features import (
    DEPTH,
    Cells,
    ParcelPlan,
    build_hamlets,
    draw_boundaries,
    locate,
    paint_boundaries,
    paint_coast,
    paint_fresh_water,
    plan_parcels,
)
from data_gen.synthetic.landscape import TREE_HEIGHT, Canvas, Landscape
from data_gen.synthetic.reflectance import Floats

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
_WOODED = ("oak", "conifer")
_WOOD_LEVEL = 4  # of the cuts: woods are about as large as what lies between the first four
_HEADLAND = 6  # pixels


def draw_landscape(generator: np.random.Generator, size: int) -> Landscape:
    """A landscape of ``size`` × ``size`` pixels."""
    canvas = Canvas(size, generator)
    x = canvas.x + 7 * canvas.noise(70) + 1.2 * canvas.noise(16)  # straight lines of the plan bend by this
    y = canvas.y + 7 * canvas.noise(70) + 1.2 * canvas.noise(16)
    plan = plan_parcels(generator, radius=0.78 * size + 20, area=generator.uniform(1300, 4200))
    boundaries = draw_boundaries(generator)
    cells = locate(plan, x, y, width=boundaries.width)
    _sow(canvas, plan, cells, x, y)
    nowhere = np.full_like(x, 1e3)
    fresh = paint_fresh_water(canvas, x, y) if generator.random() < 0.4 else nowhere
    paint_boundaries(canvas, cells, boundaries, fresh)
    shore = paint_coast(canvas) if generator.random() < 0.2 else -nowhere
    build_hamlets(canvas, cells, plan, roads=boundaries.way > 0, dry=(shore < -12) & (fresh > 4))
    depth = np.clip(shore - 4, 0, 200)
    return canvas.finish(shade=np.exp(depth * np.float32(-1 / 120)))


def _sow(canvas: Canvas, plan: ParcelPlan, cells: Cells, x: Floats, y: Floats) -> None:
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
    np.take(np.where(wooded, TREE_HEIGHT, 0).astype(np.float32), cells.parcel, out=canvas.height, mode="clip")
    across = np.take(np.sin(plan.angle), cells.parcel) * x
    across -= np.take(np.cos(plan.angle), cells.parcel) * y
    inner = np.abs(cells.distance)
    np.copyto(across, inner, where=inner < _HEADLAND)  # headlands are worked along the edge
    period = np.take(g.uniform(6, 13, 2**DEPTH).astype(np.float32), cells.parcel)
    turn = across / period
    strip = np.floor(turn)
    stripes = g.uniform(-1, 1, 1024).astype(np.float32)
    tramlines = (turn - strip) * period < 1
    strip += 37 * cells.parcel.astype(np.float32)
    canvas.rows[...] = 0.9 * (np.take(stripes, strip.astype(np.intp) & 1023) - tramlines)
