"""Which pixels of an acquisition can be used: data, clouds, shadows."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from utils.geo.bands import BLUE, RED

Mask = NDArray[np.bool_]
Quality = NDArray[np.uint8]  # NOTHING, DOUBTFUL, GOOD

# Classes of Sentinel-2's scene classification (level 2A product definition): shadow, clouds of medium and high
# probability, thin cirrus. Snow (11), dark and unclassified pixels stay.
CLOUD_CLASSES = (3, 8, 9, 10)
BAD_CLASSES = (0, 1)  # no data; saturated or defective
CLOUD_MARGIN = 3  # pixels around a classified cloud that are left out: its haze, and the 20 m of the classification
BRIGHT_MARGIN = 6  # around a cloud found by brightness, whose haze is less bright
BRIGHT = 0.2  # blue reflectance above which a pixel may be cloud
WHITE = 0.7  # a cloud's least blue / red: sand, bare soil and tiled roofs have less
SMALL = 2  # bright spots of up to 2·2 pixels across (roofs, ships) are no clouds
CLOUD_CONTEXT = BRIGHT_MARGIN + 2 * SMALL  # how far the tests for clouds look
BRIGHTNESS_BANDS = {RED, BLUE}  # tell clouds by how bright and white they are

NOTHING, DOUBTFUL, GOOD = 0, 1, 2  # what a pixel is worth; doubtful: bright, so a cloud unless the ground always is


def has_data(raw: NDArray, masks: NDArray[np.uint8]) -> Mask:
    """Where all bands of raw numbers (C, h, w) mean something, (h, w).

    Not where GDAL's masks (nodata, alpha, mask bands) say no, at NaN and infinity, where all bands are 0 (the swath's
    edge), or where one is saturated (65535, as products state it; 32767 in files of signed numbers).
    """
    saturated = min(65535, np.iinfo(raw.dtype).max) if raw.dtype.kind in "iu" and raw.dtype.itemsize > 1 else 65535
    usable = (masks > 0) & np.isfinite(raw) & (raw < saturated)
    return usable.all(axis=0) & (raw != 0).any(axis=0)


def grow(mask: Mask, radius: int) -> Mask:
    """A mask and all within ``radius`` pixels of it, rows and columns apart. A negative radius shrinks it."""
    if radius == 0:
        return mask
    values = torch.from_numpy(mask if radius > 0 else ~mask).float()[None, None]
    grown = F.max_pool2d(values, 2 * abs(radius) + 1, stride=1, padding=abs(radius))[0, 0].numpy() > 0
    return grown if radius > 0 else ~grown


def _cloudy_brightness(red: NDArray[np.float32], blue: NDArray[np.float32], data: Mask) -> Mask:
    """Clouds by how bright and white they are, from red and blue reflectance where there is data, all (h, w).

    A stopgap for images without a classification. It finds thick clouds; it misses haze, thin cirrus and all shadows,
    and takes snow, salt, surf and large white roofs for clouds.
    """
    bright = data & (blue > BRIGHT) & (blue > WHITE * red)
    large = grow(grow(bright | ~data, -SMALL), SMALL) & bright  # what the edge of the data cuts may be large
    return grow(large, BRIGHT_MARGIN)


def cloud_free(
    reflectance: NDArray[np.float32], data: Mask, classes: NDArray[np.uint8] | None, *, bands: Sequence[str]
) -> Quality:
    """What pixels (C, h, w) are worth, (h, w): clouds nothing; without classes, what is as bright is doubtful."""
    quality = np.where(data, GOOD, NOTHING).astype(np.uint8)
    if classes is not None:
        quality[grow(np.isin(classes, CLOUD_CLASSES), CLOUD_MARGIN) | np.isin(classes, BAD_CLASSES)] = NOTHING
    elif set(bands) >= BRIGHTNESS_BANDS:
        red, blue = (reflectance[bands.index(band)] for band in (RED, BLUE))
        quality[_cloudy_brightness(red, blue, data) & data] = DOUBTFUL
    return quality
