"""The two sensors: Sentinel-2 at 10 m with its blur, shift and haze, SPOT-6/7 at 2.5 m with its 8-bit radiometry."""

from math import erf, floor, log, pi, sin, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_gen.synthetic.parcels import Floats

SCALE = 4  # 10 m / 2.5 m
MARGIN = 12  # pixels of 2.5 m that the sensors need around a patch
REACH = 10  # pixels of 2.5 m to either side that a pixel of 10 m sees
_BLOCK = 15  # rows of 10 m that are resampled at a time
MAX_SHIFT = 0.25  # pixels of 10 m: how well acquisitions of several dates are registered to each other
NOISE = (0.001, 0.011)  # of Sentinel-2 and its atmospheric correction: reflectance, and per reflectance
MTF_NYQUIST = 0.22  # of Sentinel-2 as a whole: optics, detector, sampling area


class View(NamedTuple):
    """What differs from one Sentinel-2 acquisition to the next."""

    shift: tuple[float, float]  # (rows, columns), pixels of 10 m: where the image lies against the true grid
    gain: Floats  # (3,)
    haze: Floats  # (3,) reflectance added


def draw_view(generator: np.random.Generator) -> View:
    """A shift without bias; haze that is strongest in blue."""
    rows, columns = generator.uniform(-MAX_SHIFT, MAX_SHIFT, 2)
    thick = generator.gamma(1.5, 0.7)
    haze = thick * np.array([0.0008, 0.0013, 0.0022])
    gain = generator.normal(1.0, 0.012) * (1 - 0.005 * thick) * np.exp(generator.normal(0, 0.004, 3))
    return View((float(rows), float(columns)), gain.astype(np.float32), haze.astype(np.float32))


def _blur() -> float:
    """Standard deviation (10 m pixels) of the Gaussian that, with the area of a pixel, has MTF_NYQUIST at Nyquist."""
    area = sin(pi / 2) / (pi / 2)
    return sqrt(-2 * log(MTF_NYQUIST / area)) / pi  # a Gaussian's MTF at frequency 1/2 is exp(-(pi sigma)^2 / 2)


def resampling_matrix(count: int, shift: float) -> Floats:
    """The (count, 4 count + 2 MARGIN) matrix that blurs, shifts (pixels of 10 m) and samples the rows of an image."""
    sigma = _blur() * SCALE
    centre = MARGIN - 0.5 + SCALE * (0.5 + shift)  # of the first pixel, in the larger image
    first = floor(centre) - REACH + 1
    away = first + np.arange(2 * REACH) - centre
    edges = [[erf((d + side * SCALE / 2) / (sigma * sqrt(2))) for side in (-1, 1)] for d in away]
    kernel = np.diff(np.array(edges))[:, 0]
    rows = np.arange(count)[:, None]
    matrix = np.zeros((count, SCALE * count + 2 * MARGIN), dtype=np.float32)
    matrix[rows, SCALE * rows + first + np.arange(2 * REACH)] = kernel / kernel.sum()
    return matrix


def sentinel2(ground: Floats, view: View, generator: np.random.Generator) -> NDArray[np.uint16]:
    """Reflectance × 10000 (3, size / 4, size / 4) of the ground (3, size + 2 MARGIN, size + 2 MARGIN)."""
    count = (ground.shape[-1] - 2 * MARGIN) // SCALE
    rows = resampling_matrix(min(count, _BLOCK), view.shift[0])
    columns = resampling_matrix(count, view.shift[1])
    image = np.empty((3, count, ground.shape[-1]), dtype=np.float32)
    for start in range(0, count, _BLOCK):  # a row sees only a few others: most of the whole matrix would be zeros
        stop = min(start + _BLOCK, count)
        seen = SCALE * (stop - start) + 2 * MARGIN
        np.matmul(rows[: stop - start, :seen], ground[:, SCALE * start :][:, :seen], out=image[:, start:stop])
    image = np.matmul(image, columns.T)  # (3, size / 4, size / 4)
    image = image * view.gain[:, None, None] + view.haze[:, None, None]
    image += generator.standard_normal(image.shape, dtype=np.float32) * (NOISE[0] + NOISE[1] * image)
    return (np.clip(image, 0.0001, 1.0) * 10000).round().astype(np.uint16)


class Radiometry(NamedTuple):
    """How a SPOT image was stretched to 8 bits."""

    black: Floats  # (3,) reflectance that becomes 0
    white: Floats  # (3,) reflectance that becomes 255
    bend: float  # how much the middle is lifted


def draw_radiometry(generator: np.random.Generator) -> Radiometry:
    """A stretch of its own for each image: brighter and bluer than Sentinel-2, and a little bent."""
    white = np.array([0.265, 0.218, 0.190]) * generator.normal(1, 0.06) * np.exp(generator.normal(0, 0.03, 3))
    black = np.array([0.008, 0.012, 0.004]) * generator.uniform(0.3, 1.5)
    return Radiometry(black.astype(np.float32), white.astype(np.float32), float(generator.uniform(0.1, 0.4)))


_SPOT_BANDS = np.array([[0.93, 0.07, 0.0], [0.05, 0.90, 0.05], [0.0, 0.10, 0.90]], dtype=np.float32)
_SPOT_BLUR = 0.18  # what a pixel of SPOT takes from each of its neighbours in a row


def spot(ground: Floats, radiometry: Radiometry, generator: np.random.Generator) -> NDArray[np.uint8]:
    """The 8-bit image (3, size, size) of the ground (3, size + 2 MARGIN, size + 2 MARGIN)."""
    edge = MARGIN - 1
    image = ground[:, edge:-edge, edge:-edge]
    image = (1 - 2 * _SPOT_BLUR) * image[:, 1:-1] + _SPOT_BLUR * (image[:, :-2] + image[:, 2:])
    image = (1 - 2 * _SPOT_BLUR) * image[..., 1:-1] + _SPOT_BLUR * (image[..., :-2] + image[..., 2:])
    image = np.matmul(_SPOT_BANDS, image.reshape(3, -1)).reshape(image.shape)
    black, white = radiometry.black[:, None, None], radiometry.white[:, None, None]
    image -= black
    image /= white - black
    image += np.float32(radiometry.bend) * image * (1 - image)
    image *= 255
    image += 3 * generator.random(image.shape, dtype=np.float32) - 1  # noise of 0.9, and 0.5 to round by cutting off
    return np.clip(image, 0, 255).astype(np.uint8)
