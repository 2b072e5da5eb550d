"""High-resolution images of any kind, and their colours as reflectance."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rasterio
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from data_gen.synthetic.reflectance import Floats
from utils.errors import DataError

SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".npz")
QUANTILES = np.concatenate([[0.002], np.linspace(0.01, 0.99, 50), [0.998]])
_SATURATED = 65535  # what some products have where there is no data
_CLOUDED = 0.3  # median reflectance of an image that shows clouds and little else
_DARKEST = 0.002  # reflectance that nothing on the ground is below
# Every tenth quantile of farmland in summer: red, green, blue.
_FARMLAND = (
    (0.018, 0.028, 0.035, 0.043, 0.055, 0.072, 0.092, 0.112, 0.133, 0.160, 0.300),
    (0.032, 0.046, 0.055, 0.063, 0.071, 0.080, 0.090, 0.102, 0.116, 0.136, 0.270),
    (0.016, 0.025, 0.030, 0.035, 0.041, 0.049, 0.058, 0.068, 0.079, 0.096, 0.240),
)

logger = logging.getLogger(__name__)


class Picture(NamedTuple):
    """One image of a place."""

    name: str
    bands: NDArray[Any]  # (3, H, W) red, green, blue


def find_images(paths: Sequence[Path]) -> list[Path]:
    """The image files that paths and folders name, in order. Raises DataError where there are none."""
    found: list[Path] = []
    for path in paths:
        inside = sorted(path.iterdir()) if path.is_dir() else [path]
        found += [file for file in inside if file.suffix.lower() in SUFFIXES and file.is_file()]
    if not found:
        raise DataError(f"{', '.join(map(str, paths))}: no image there; known are {', '.join(SUFFIXES)}")
    return found


def read_pictures(path: Path) -> Iterator[Picture]:
    """The images of a file.

    Args:
        path: GeoTIFF, PNG or JPEG: one image. NPZ: every array (C, H, W), (H, W, C), (N, C, H, W) or (N, H, W, C).

    Raises:
        DataError: the file can't be read, or has fewer than three bands.
    """
    suffix = path.suffix.lower()
    try:
        if suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                arrays = [archive[name] for name in archive.files]
            stacks = [a if a.ndim == 4 else a[None] for a in arrays if a.ndim in (3, 4) and a.dtype.kind in "uif"]
            images = [image for stack in stacks for image in stack]
        elif suffix in (".tif", ".tiff"):
            with rasterio.open(path) as source:
                images = [source.read()]
        else:
            with Image.open(path) as source:
                images = [np.asarray(source.convert("RGB"))]
        if not images:
            raise ValueError("no array of an image")
        for number, image in enumerate(images):
            yield Picture(f"{path.stem}_{number:04d}" if len(images) > 1 else path.stem, _red_green_blue(image))
    except (OSError, ValueError, rasterio.errors.RasterioError, Image.DecompressionBombError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: can't be read as an image ({reason})") from None


def _red_green_blue(image: NDArray[Any]) -> NDArray[Any]:
    """(3, H, W) of an image whose bands come first or last."""
    if image.shape[-1] in (3, 4) and image.shape[0] > 4:
        image = image.transpose(2, 0, 1)
    if image.shape[0] < 3:
        raise ValueError(f"{image.shape[0]} bands; red, green and blue are needed")
    return image[:3]


def band_quantiles(values: NDArray[Any]) -> Floats:
    """Values (3, n) -> (3, quantiles)."""
    return np.quantile(values.astype(np.float32), QUANTILES, axis=1).T.astype(np.float32)


def farmland_quantiles() -> Floats:
    """Reflectance of farmland in summer, as one image: (1, 3, quantiles)."""
    tenths = np.linspace(0, 1, 11)
    return np.array([[np.interp(QUANTILES, tenths, band) for band in _FARMLAND]], dtype=np.float32)


def sentinel2_quantiles(paths: Sequence[Path]) -> Floats:
    """Reflectance of real Sentinel-2 images (× 10000 in their files; red, green, blue first): (images, 3, quantiles).

    Raises:
        DataError: an image can't be read, or none shows ground.
    """
    found = []
    for path in paths:
        for picture in read_pictures(path):
            numbers = picture.bands.reshape(3, -1)
            seen = ((numbers > 0) & (numbers < _SATURATED)).all(axis=0)
            reflectance = numbers[:, seen].astype(np.float32) / 10000
            if reflectance.size and np.median(reflectance) < _CLOUDED:
                found.append(band_quantiles(reflectance))
            else:
                logger.info(f"{path}: shows no ground, its colours are not used")
    if not found:
        raise DataError("--like: no image shows ground; give Sentinel-2 GeoTIFFs without clouds, reflectance × 10000")
    return np.stack(found)


def coarser(bands: NDArray[Any], ratio: float) -> Floats:
    """An image with pixels ``ratio`` times as large: (3, H, W) -> (3, H / ratio, W / ratio)."""
    size = (max(1, round(bands.shape[2] / ratio)), max(1, round(bands.shape[1] / ratio)))
    filtered = [Image.fromarray(band.astype(np.float32)).resize(size, Image.Resampling.HAMMING) for band in bands]
    return np.stack([np.asarray(band, dtype=np.float32) for band in filtered])


def as_reflectance(
    image: Floats, source: Floats, targets: Floats, generator: np.random.Generator, *, white: float
) -> Floats:
    """Colours stretched for display become reflectance, by matching distributions.

    Args:
        image: (3, H, W).
        source: (3, quantiles) of all images together, so that a dark image stays a dark one.
        targets: (images, 3, quantiles) of real ones. One is drawn; brightness, contrast and bend are changed a little.
        white: reflectance that nothing is above.

    Returns:
        (3, H, W) reflectance.
    """
    target = targets[generator.integers(len(targets))]
    brightness = np.exp(generator.normal(0, 0.15) + generator.normal(0, 0.05, 3))
    bend = np.exp(generator.normal(0, 0.12))
    contrast = generator.uniform(0.8, 1.4)  # real images have been through a blur already
    reflectance = np.empty_like(image)
    for band, values in enumerate(image):
        knots = np.maximum.accumulate(source[band]) + 1e-3 * np.arange(len(QUANTILES))
        # Beyond the last quantile the line goes on: roofs stay brighter than roads.
        slope = (target[band, -1] - target[band, -6]) / max(knots[-1] - knots[-6], 1e-3)
        matched = np.interp(values, knots, target[band]) + slope * np.clip(values - knots[-1], 0, None)
        middle = target[band, len(QUANTILES) // 2]
        matched = middle * brightness[band] * (np.clip(matched, 1e-4, None) / middle) ** bend
        smooth = ndimage.gaussian_filter(matched, 5, mode="nearest")
        reflectance[band] = smooth + contrast * (matched - smooth)
    return np.clip(reflectance, _DARKEST, white)
