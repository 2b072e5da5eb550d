"""The two sensors: Sentinel-2 at 10 m with its blur, shift and haze, SPOT-6/7 at 2.5 m with its 8-bit radiometry."""

from collections.abc import Iterator, Sequence
from math import floor, log, pi, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import erf

from data_gen.synthetic.reflectance import Floats

SCALE = 4  # 10 m / 2.5 m
MARGIN = 16  # pixels of the fine grid that the sensors need around a patch
_MTF_RANGE = (0.15, 0.45)  # of Sentinel-2 as a whole at its Nyquist frequency: optics, detector, sampling area
AREA_MTF = 2 / pi  # of the area of a pixel by itself: plain means
_MAX_SHIFT = 0.3  # pixels of 10 m: how well acquisitions of several dates are registered to each other
_MAX_BAND_SHIFT = 0.3  # pixels of 10 m between two bands
# What was measured in smooth fields and on water of real scenes: 4 to 8 digital numbers at a reflectance of 0.1.
_NOISE = ((0.0001, 0.0005), (0.001, 0.006))  # reflectance, and per reflectance: the least and the most
_REACH = 10  # pixels of the fine grid to either side that a pixel sees, for a scale of 4
_BLOCK = 15  # rows that are resampled at a time
_SHARP = 0.25  # share of acquisitions that are sharper than the sensor: averaged or sharpened products
_RESAMPLED = 0.3  # share of acquisitions that were interpolated to their grid, with their noise


class View(NamedTuple):
    """What differs from one Sentinel-2 acquisition to the next."""

    shift: tuple[float, float]  # (rows, columns), pixels of 10 m: where the image lies against the true grid
    gain: Floats  # (C,)
    haze: Floats  # (C,) reflectance added
    mtf: tuple[float, float] = (0.22, 0.22)  # at Nyquist, along rows and columns
    noise: tuple[float, float] = (0.0003, 0.004)  # standard deviation: reflectance, and per reflectance
    band_shifts: NDArray[np.float64] | None = None  # (C, 2) of each band against the image, pixels of 10 m
    resampling: tuple[float, float] | None = None  # pixels of 10 m by which the image was interpolated


def draw_view(generator: np.random.Generator, *, bands: int = 3) -> View:
    """A shift without bias and that of the bands around it; a blur of its own; haze that is strongest in blue.

    ``bands``: red, green, blue, and so many less three others, whose numbers don't change those of the first three.
    """
    [others] = generator.spawn(1)
    rows, columns = generator.uniform(-_MAX_SHIFT, _MAX_SHIFT, 2)
    thick = generator.gamma(1.5, 0.7)
    haze = thick * np.array([0.0008, 0.0013, 0.0022])
    gain = generator.normal(1.0, 0.012) * (1 - 0.005 * thick) * np.exp(generator.normal(0, 0.004, 3))
    low, high = _MTF_RANGE
    mtf = np.clip(generator.uniform(low, high) * np.exp(generator.normal(0, 0.08, 2)), low, high)
    if generator.random() < _SHARP:
        mtf[:] = min(generator.uniform(high, AREA_MTF + 0.1), AREA_MTF)
    noise = generator.uniform(*np.transpose(_NOISE))
    spread = generator.choice([0.03, 0.08])  # mostly a few hundredths of a pixel
    apart = generator.normal(0, spread, (3, 2))
    down, right = generator.uniform(-0.5, 0.5, 2)
    more = bands - 3
    haze = np.append(haze, np.full(more, thick * 0.0002))
    gain = np.append(gain, gain.mean() * np.exp(others.normal(0, 0.004, more)))
    apart = np.append(apart, others.normal(0, spread, (more, 2)), axis=0)
    return View(
        shift=(float(rows), float(columns)),
        gain=gain.astype(np.float32),
        haze=haze.astype(np.float32),
        mtf=(float(mtf[0]), float(mtf[1])),
        noise=(float(noise[0]), float(noise[1])),
        band_shifts=np.clip(apart, -_MAX_BAND_SHIFT / 2, _MAX_BAND_SHIFT / 2),
        resampling=(float(down), float(right)) if generator.random() < _RESAMPLED else None,
    )


def _blur(mtf: float) -> float:
    """Standard deviation (pixels) of the Gaussian that, with the area of a pixel, has this MTF at Nyquist."""
    return sqrt(max(-2 * log(mtf / AREA_MTF), 1e-4)) / pi  # a Gaussian's MTF at frequency 1/2 is exp(-(pi sigma)^2 / 2)


def _blocks(count: int, shift: float, mtf: float, *, scale: int) -> Iterator[tuple[slice, slice, Floats]]:
    """Which rows of an image come from which of a finer one, and the matrix that blurs, shifts and samples them."""
    sigma = _blur(mtf) * scale
    reach = _REACH * scale // SCALE
    centre = MARGIN - 0.5 + scale * (0.5 + shift)  # of the first pixel, in the larger image
    first = floor(centre) - reach + 1
    away = first + np.arange(2 * reach) - centre
    inside = away[:, None] + (np.arange(8) + 0.5) / 8 - 0.5  # a fine pixel counts for what of it the coarse one covers
    cover = erf((inside + scale / 2) / (sigma * sqrt(2))) - erf((inside - scale / 2) / (sigma * sqrt(2)))
    kernel = cover.mean(axis=1)
    rows = np.arange(_BLOCK)[:, None]
    matrix = np.zeros((_BLOCK, scale * _BLOCK + 2 * MARGIN), dtype=np.float32)
    matrix[rows, scale * rows + first + np.arange(2 * reach)] = kernel / kernel.sum()
    for start in range(0, count, _BLOCK):  # a row sees only a few others: most of the whole matrix would be zeros
        stop = min(start + _BLOCK, count)
        seen = slice(scale * start, scale * stop + 2 * MARGIN)
        yield slice(start, stop), seen, matrix[: stop - start, : seen.stop - seen.start]


def degrade(ground: Floats, shifts: NDArray[np.float64], mtf: tuple[float, float], *, scale: int = SCALE) -> Floats:
    """Blur, shift and sample an image.

    Args:
        ground: (C, scale * h + 2 MARGIN, scale * w + 2 MARGIN).
        shifts: (C, 2) of each band: rows and columns, coarse pixels.
        mtf: at the coarse grid's Nyquist frequency, along rows and columns.

    Returns:
        (C, h, w).
    """
    height, width = ((side - 2 * MARGIN) // scale for side in ground.shape[-2:])
    image = np.empty((len(ground), height, width), dtype=np.float32)
    for band, (down, right), out in zip(ground, shifts, image, strict=True):
        lines = np.empty((height, band.shape[-1]), dtype=np.float32)
        for rows, seen, matrix in _blocks(height, down, mtf[0], scale=scale):
            lines[rows] = matrix @ band[seen]
        for columns, seen, matrix in _blocks(width, right, mtf[1], scale=scale):
            out[:, columns] = lines[:, seen] @ matrix.T
    return image


def sentinel2(
    ground: Floats, view: View, generator: np.random.Generator, *, metres: Sequence[int] = ()
) -> NDArray[np.uint16]:
    """Reflectance × 10000 (C, h, w) of the ground (C, 4h + 2 MARGIN, 4w + 2 MARGIN).

    ``metres``: the size of each band's pixels (default 10); coarser ones are repeated on the grid of 10 m.
    """
    moved = np.array(view.resampling or (0.0, 0.0))
    apart = np.zeros((len(ground), 2)) if view.band_shifts is None else view.band_shifts
    image = degrade(ground, np.array(view.shift) + moved + apart, view.mtf)
    image = image * view.gain[:, None, None] + view.haze[:, None, None]
    image += generator.standard_normal(image.shape, dtype=np.float32) * (view.noise[0] + view.noise[1] * image)
    if view.resampling:
        image = np.stack([ndimage.shift(band, moved, order=3, mode="nearest") for band in image])
    for band, size in zip(image, metres, strict=False):
        if size > 10:
            band[...] = _repeated_means(band, size // 10)
    return (np.clip(image, 0.0001, 6.5) * 10000).round().astype(np.uint16)


def _repeated_means(band: Floats, factor: int) -> Floats:
    """An image (h, w) of pixels that are ``factor`` times as large; at the end of a side fewer are averaged."""
    for axis in (0, 1):
        starts = np.arange(0, band.shape[axis], factor)
        sizes = np.diff([*starts, band.shape[axis]])
        means = np.add.reduceat(band, starts, axis=axis) / np.expand_dims(sizes, 1 - axis)
        band = np.repeat(means, sizes, axis=axis)
    return band


class Radiometry(NamedTuple):
    """How a SPOT image was stretched to 8 bits."""

    black: Floats  # (C,) reflectance that becomes 0
    white: Floats  # (C,) reflectance that becomes 255
    bend: float  # how much the middle is lifted


_WHITE = {"B01": 0.15, "B05": 0.32, "B06": 0.46, "B07": 0.54, "B08": 0.56, "B8A": 0.57, "B09": 0.54, "B10": 0.01}
_WHITE |= {"B11": 0.42, "B12": 0.32}  # reflectance that becomes 255 in bands besides red, green, blue


def draw_radiometry(generator: np.random.Generator, *, others: Sequence[str] = ()) -> Radiometry:
    """A stretch of its own for each image: brighter and bluer than Sentinel-2, and a little bent.

    ``others``: bands besides red, green, blue, whose numbers don't change those of the first three.
    """
    [further] = generator.spawn(1)
    white = np.array([0.265, 0.218, 0.190]) * generator.normal(1, 0.06) * np.exp(generator.normal(0, 0.03, 3))
    black = np.array([0.008, 0.012, 0.004]) * generator.uniform(0.3, 1.5)
    white = np.append(white, [_WHITE[band] * further.normal(1, 0.05) for band in others])
    black = np.append(black, 0.02 * white[3:] * further.uniform(0.3, 1.5, len(others)))
    return Radiometry(black.astype(np.float32), white.astype(np.float32), float(generator.uniform(0.1, 0.4)))


_SPOT_BANDS = np.array([[0.93, 0.07, 0.0], [0.05, 0.90, 0.05], [0.0, 0.10, 0.90]], dtype=np.float32)
_SPOT_BLUR = 0.18  # what a pixel of SPOT takes from each of its neighbours in a row


def spot(ground: Floats, radiometry: Radiometry, generator: np.random.Generator) -> NDArray[np.uint8]:
    """The 8-bit image (C, size, size) of the ground (C, size + 2 MARGIN, size + 2 MARGIN): red, green, blue, others."""
    edge = MARGIN - 1
    image = ground[:, edge:-edge, edge:-edge]
    image = (1 - 2 * _SPOT_BLUR) * image[:, 1:-1] + _SPOT_BLUR * (image[:, :-2] + image[:, 2:])
    image = (1 - 2 * _SPOT_BLUR) * image[..., 1:-1] + _SPOT_BLUR * (image[..., :-2] + image[..., 2:])
    image[:3] = np.matmul(_SPOT_BANDS, image[:3].reshape(3, -1)).reshape(image[:3].shape)
    black, white = radiometry.black[:, None, None], radiometry.white[:, None, None]
    image -= black
    image /= white - black
    image += np.float32(radiometry.bend) * image * (1 - image)
    image *= 255
    image += 3 * generator.random(image.shape, dtype=np.float32) - 1  # noise of 0.9, and 0.5 to round by cutting off
    return np.clip(image, 0, 255).astype(np.uint8)
