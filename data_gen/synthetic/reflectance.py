"""What each kind of surface looks like over the year: reflectance in each band against the day.

The curves are drawn by hand after what Sentinel-2 sees of north-western France: bare soils are bright and
reddish, dense crops dark green, ripe cereals and stubble yellow, rape in flower yellow-green, oaks brown until
late April. In the near infrared green leaves are bright, water is black, bare soil between; the bands beside it follow
from it and red.
"""

import functools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from utils.geo.bands import NIR, RGB

DAYS = 365
Floats = NDArray[np.float32]

# fmt: off
# day of the year: (red, green, blue) in per cent of reflectance
_CURVES: dict[str, dict[int, tuple[float, float, float]]] = {
    "wheat": {20: (8.4, 8.0, 5.0), 60: (6.4, 7.6, 3.9), 90: (4.2, 6.8, 2.9), 135: (3.0, 5.8, 2.3),
        155: (4.6, 7.0, 3.0), 180: (11.0, 10.6, 5.6), 202: (18.6, 14.2, 8.3), 207: (21.0, 15.8, 9.8),
        240: (18.5, 14.2, 9.0), 252: (13.4, 10.4, 6.8), 300: (12.8, 9.8, 6.5), 330: (10.4, 9.0, 5.6)},
    "rape": {15: (4.9, 7.0, 3.2), 78: (4.3, 7.4, 2.9), 95: (8.2, 10.6, 3.6), 106: (14.5, 15.2, 4.4),
        124: (12.6, 13.8, 4.2), 142: (4.8, 8.2, 2.9), 172: (7.4, 9.0, 4.2), 188: (13.6, 11.8, 6.4),
        196: (16.0, 12.4, 7.4), 199: (19.5, 14.8, 9.0), 232: (13.6, 11.2, 7.0), 244: (14.5, 11.0, 7.2),
        280: (7.0, 8.4, 4.2), 330: (5.2, 7.2, 3.4)},
    "maize": {15: (5.6, 7.2, 3.6), 75: (6.6, 7.8, 4.2), 105: (13.2, 10.2, 6.7), 132: (18.2, 13.6, 8.8),
        152: (15.5, 12.2, 7.5), 176: (7.0, 8.8, 4.4), 198: (3.6, 6.4, 2.7), 232: (3.6, 6.2, 2.7),
        260: (6.6, 7.6, 4.0), 274: (8.6, 8.6, 5.0), 278: (12.4, 10.6, 6.7), 305: (10.6, 9.2, 5.8),
        335: (6.4, 7.4, 4.0)},
    "vegetables": {20: (4.8, 7.2, 3.5), 58: (5.8, 7.9, 4.1), 72: (11.8, 9.6, 6.2), 112: (17.8, 13.2, 8.6),
        150: (11.8, 10.2, 6.2), 180: (4.6, 7.8, 3.2), 218: (4.8, 7.6, 3.4), 232: (12.6, 10.2, 6.5),
        262: (13.2, 10.4, 6.8), 300: (5.4, 7.8, 3.8)},
    "ley": {15: (4.6, 7.0, 3.1), 80: (4.0, 7.6, 2.8), 125: (3.8, 8.0, 2.6), 129: (6.6, 8.8, 4.0),
        155: (4.6, 8.0, 3.1), 186: (5.6, 8.2, 3.6), 190: (8.2, 9.4, 4.8), 225: (7.4, 9.0, 4.5), 245: (6.4, 8.6, 4.0),
        290: (4.2, 7.6, 2.9)},
    "meadow": {15: (5.8, 6.7, 3.8), 90: (4.6, 6.8, 3.1), 130: (4.2, 7.0, 2.9), 180: (6.2, 7.8, 3.9),
        220: (8.6, 8.8, 5.2), 270: (5.6, 7.2, 3.6)},
    "heath": {20: (6.6, 6.2, 4.2), 100: (8.2, 8.2, 4.2), 140: (5.6, 6.6, 3.6), 220: (7.2, 6.6, 4.6),
        300: (6.8, 6.2, 4.2)},
    "verge": {15: (6.4, 6.9, 4.2), 120: (5.0, 7.2, 3.4), 190: (8.2, 8.8, 5.0), 230: (10.0, 9.6, 6.0),
        290: (6.4, 7.4, 4.1)},
    "garden": {15: (5.0, 6.0, 3.6), 120: (4.2, 6.6, 3.0), 220: (6.4, 7.2, 4.2), 290: (5.0, 6.2, 3.4)},
    "oak": {20: (5.8, 5.0, 3.2), 100: (5.1, 4.9, 3.0), 118: (4.0, 6.0, 2.7), 140: (2.6, 4.8, 2.0),
        205: (2.3, 4.1, 1.9), 268: (3.0, 4.3, 2.1), 297: (5.8, 5.3, 2.8), 322: (6.1, 5.2, 3.2)},
    "willow": {20: (6.2, 5.8, 4.2), 85: (5.4, 6.0, 3.7), 110: (4.0, 6.6, 2.9), 200: (3.1, 5.4, 2.4),
        280: (5.0, 6.0, 3.0)},
    "conifer": {20: (2.4, 3.1, 2.0), 170: (2.1, 3.5, 1.9)}, "asphalt": {1: (10.4, 8.8, 6.7), 200: (12.2, 10.2, 7.6)},
    "lane": {20: (12.5, 9.8, 6.8), 190: (18.5, 14.2, 9.6), 300: (13.5, 10.4, 7.2)},
    "yard": {20: (14.5, 12.2, 9.2), 190: (20.0, 16.2, 12.0), 300: (15.5, 13.0, 9.8)},
    "slate_lit": {1: (10.8, 9.8, 8.8)}, "slate_dark": {1: (5.6, 5.2, 5.0)}, "tile_lit": {1: (20.0, 11.5, 7.6)},
    "tile_dark": {1: (10.5, 6.6, 4.6)}, "sheet_lit": {1: (26.0, 23.0, 19.5)}, "sheet_dark": {1: (18.0, 16.0, 13.8)},
    "pond": {20: (3.4, 3.9, 3.2), 200: (2.2, 3.4, 2.6)}, "river": {20: (4.6, 4.8, 3.8), 200: (2.4, 3.6, 2.8)},
    "sea": {20: (2.6, 4.2, 4.8), 200: (1.7, 3.8, 5.0)}, "shallows": {20: (5.0, 6.6, 6.4), 200: (4.2, 7.8, 7.8)},
    "foam": {1: (16.0, 16.5, 16.0)}, "sand": {20: (25.0, 21.6, 16.4), 190: (30.0, 26.0, 19.6)},
    "wet_sand": {1: (15.0, 13.2, 10.4)}, "rock": {1: (11.4, 9.6, 7.0)},
    "dune": {20: (11.0, 10.0, 6.8), 130: (9.5, 10.0, 6.0), 220: (13.0, 12.0, 7.6)},
}

# day of the year: near infrared, in per cent of reflectance
_NIR: dict[str, dict[int, float]] = {
    "wheat": {20: 24, 60: 30, 90: 40, 135: 46, 155: 44, 180: 32, 202: 28, 207: 27, 240: 25, 252: 20, 300: 22, 330: 23},
    "rape": {15: 33, 78: 38, 106: 44, 142: 46, 172: 38, 188: 28, 199: 25, 232: 20, 244: 19, 280: 30, 330: 34},
    "maize": {15: 28, 75: 30, 105: 18, 132: 23, 152: 22, 176: 32, 198: 45, 232: 44, 260: 34, 274: 24, 278: 17,
        305: 19, 335: 26},
    "vegetables": {20: 32, 58: 30, 72: 18, 112: 23, 150: 24, 180: 42, 218: 43, 232: 20, 262: 19, 300: 34},
    "ley": {15: 33, 80: 40, 125: 48, 129: 34, 155: 44, 186: 42, 190: 31, 225: 34, 245: 36, 290: 39},
    "meadow": {15: 27, 90: 34, 130: 42, 180: 37, 220: 30, 270: 33}, "heath": {20: 20, 140: 26, 220: 25, 300: 22},
    "verge": {15: 25, 120: 38, 190: 33, 230: 28, 290: 29}, "garden": {15: 24, 120: 36, 220: 33, 290: 28},
    "oak": {20: 18, 100: 20, 118: 32, 140: 42, 205: 39, 268: 35, 297: 27, 322: 20},
    "willow": {20: 19, 85: 23, 110: 35, 200: 38, 280: 28}, "conifer": {20: 21, 170: 25},
    "asphalt": {1: 13, 200: 15}, "lane": {20: 17, 190: 24, 300: 18}, "yard": {20: 17.5, 190: 24, 300: 19},
    "slate_lit": {1: 12}, "slate_dark": {1: 6.2}, "tile_lit": {1: 29}, "tile_dark": {1: 15}, "sheet_lit": {1: 28},
    "sheet_dark": {1: 19.5}, "pond": {20: 1.4, 200: 1.2}, "river": {20: 1.8, 200: 1.3}, "sea": {20: 0.8, 200: 0.6},
    "shallows": {20: 2.0, 200: 1.8}, "foam": {1: 14}, "sand": {20: 29, 190: 35}, "wet_sand": {1: 16}, "rock": {1: 14},
    "dune": {20: 18, 130: 22, 220: 20},
}
# kind: (contrast of the rows, of broad patches, of fine grain), relative
_TEXTURES: dict[str, tuple[float, float, float]] = {
    "wheat": (0.03, 0.05, 0.008), "rape": (0.02, 0.045, 0.008), "maize": (0.035, 0.055, 0.008),
    "vegetables": (0.05, 0.045, 0.008), "ley": (0.022, 0.05, 0.008), "meadow": (0.0, 0.08, 0.012),
    "heath": (0.0, 0.13, 0.03), "verge": (0.0, 0.05, 0.02), "garden": (0.0, 0.12, 0.08), "oak": (0.0, 0.08, 0.075),
    "willow": (0.0, 0.08, 0.075), "conifer": (0.03, 0.06, 0.06), "rock": (0.0, 0.12, 0.12), "dune": (0.0, 0.12, 0.06),
    "sand": (0.0, 0.04, 0.01), "wet_sand": (0.0, 0.06, 0.01), "sea": (0.0, 0.05, 0.004),
    "shallows": (0.0, 0.12, 0.01), "yard": (0.0, 0.08, 0.05),
}
# fmt: on

KINDS = {kind: i for i, kind in enumerate(_CURVES)}


_SCALE = np.array([1.09, 1.07, 1.13])  # what brings the 98th percentiles of a data set to those of BreizhSR


def _yearly(points: dict[int, tuple[float, float, float]]) -> Floats:
    """(3, DAYS) reflectance, linear between the points, periodic."""
    days = np.array(list(points), dtype=np.float64)
    values = np.array(list(points.values())).T / 100 * _SCALE[:, None]
    return np.stack([np.interp(np.arange(DAYS), days, band, period=DAYS) for band in values]).astype(np.float32)


_TABLE = np.stack([_yearly(points) for points in _CURVES.values()], axis=1)  # (3, kinds, DAYS)
_TEXTURE_TABLE = np.array([_TEXTURES.get(kind, (0, 0.02, 0.01)) for kind in _CURVES], dtype=np.float32).T  # (3, kinds)


@functools.cache
def _table(bands: tuple[str, ...]) -> Floats:
    """(C, kinds, DAYS) reflectance of any of Sentinel-2's bands."""
    red, green, blue = _TABLE
    points = [_NIR[kind] for kind in _CURVES]
    nir = np.stack([np.interp(np.arange(DAYS), list(p), list(p.values()), period=DAYS) for p in points]) / 100
    leaves = np.clip(((nir - red) / (nir + red) - 0.15) / 0.7, 0, 1)  # how much of the ground they cover
    swir = nir * (1.3 - 0.85 * leaves)  # water in leaves absorbs it, dry soil is bright
    found = {
        "B01": 0.85 * blue,
        "B02": blue,
        "B03": green,
        "B04": red,
        "B05": red + 0.30 * (nir - red),  # the red edge: up from red to the near infrared
        "B06": red + 0.78 * (nir - red),
        "B07": red + 0.93 * (nir - red),
        "B08": nir,
        "B8A": 1.03 * nir,
        "B09": 0.95 * nir,
        "B10": np.full_like(nir, 0.001),
        "B11": swir,
        "B12": swir * (0.85 - 0.35 * leaves),
    }
    return np.stack([found[band] for band in bands]).astype(np.float32)


# By how much a surface that is brighter than its kind in red, green and blue is brighter in other bands: with sparse
# leaves it is darker there.
_FOLLOWS = np.where(_table((NIR,))[0].mean(axis=1) > 2 * _TABLE[0].mean(axis=1), -0.5, 1.0)  # (kinds,)


class Surfaces(NamedTuple):
    """Every surface of a landscape; a pixel's label is a position in these arrays."""

    kind: NDArray[np.intp]  # (P,) position in KINDS
    delay: NDArray[np.intp]  # (P,) days by which this one is later than its kind
    tint: Floats  # (3, P) factor on the reflectance in red, green, blue

    def reflectance(self, day: int, bands: tuple[str, ...] = RGB) -> Floats:
        """(C, P) reflectance on a day of the year (0 = 1 January)."""
        brightness = np.log(self.tint).mean(axis=0) * _FOLLOWS[self.kind]  # (P,)
        others = np.exp(brightness).astype(np.float32)
        tints = np.stack([self.tint[RGB.index(band)] if band in RGB else others for band in bands])
        return _table(bands)[:, self.kind, (day - self.delay) % DAYS] * tints

    def textures(self) -> Floats:
        """(3, P) relative contrast of rows, of broad patches, of fine grain."""
        return _TEXTURE_TABLE[:, self.kind]
