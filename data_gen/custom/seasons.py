"""A series of Sentinel-2 images of a place that one image shows: parcels change over the days, the sensor varies."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from skimage.segmentation import felzenszwalb

from data_gen.synthetic.landscape import smooth_noise
from data_gen.synthetic.reflectance import Floats
from data_gen.synthetic.sensors import MARGIN, draw_view, sentinel2

Days = NDArray[np.intp]
Labels = NDArray[np.intp]

_REVISIT = 5  # days
_OWN_DATE = 0.7  # share of truths that are of the day of an acquisition
_UNCHANGED = 0.8  # share of nearest acquisitions between which and the truth nothing has changed
_FIELD = 600  # pixels of the truth, a third of a hectare: what is smaller changes less
_RIPENING = np.array([1.75, 0.75, 1.4])  # log change of red, green, blue for one of red / green: crop to bare soil
_RATIOS = (-0.65, 0.30)  # log of red / green: dense crops, bare soil
_CLOUDED = 0.06  # share of acquisitions with a cloud that no mask has found
_NEAREST_SHIFT = 0.05  # pixels of 10 m, standard deviation: how well truth and nearest acquisition are registered


class Season(NamedTuple):
    """What the days do to each parcel, against the day of the truth."""

    colours: Floats  # (T, 3, parcels) factors
    contrasts: Floats  # (T, parcels) factors of the texture


class SimulatedSeries(NamedTuple):
    """The acquisitions of a place and its truth."""

    days: Days  # (T,) from the truth, in order
    images: list[NDArray[np.uint16]]  # T of (3, h, w), reflectance × 10000
    truth: Floats  # (3, 4h, 4w) reflectance


def simulate_series(ground: Floats, dates: int, generator: np.random.Generator) -> SimulatedSeries:
    """What Sentinel-2 would have seen of a place.

    The truth has the haze and the gain of the acquisition nearest to it, and lies on it but for a few hundredths of a
    pixel: no network could know them.

    Args:
        ground: (3, 4h, 4w) reflectance on the day of the truth.
        dates: acquisitions, T.
    """
    days = days_around_truth(dates, generator)
    nearest = int(np.abs(days).argmin())
    labels = segment(ground, generator)
    sizes = np.bincount(labels.ravel())
    means = np.stack([np.bincount(labels.ravel(), band.ravel()) / sizes for band in ground]).astype(np.float32)
    season = draw_season(days, means, sizes, generator)
    edge = [(MARGIN, MARGIN), (MARGIN, MARGIN)]
    wide, wide_labels = np.pad(ground, [(0, 0), *edge], mode="symmetric"), np.pad(labels, edge, mode="symmetric")
    images = []
    truth = ground
    for item in range(len(days)):
        view = draw_view(generator)
        if item == nearest:
            down, right = generator.normal(0, _NEAREST_SHIFT, 2)
            view = view._replace(shift=(float(down), float(right)))
            truth = ground * view.gain[:, None, None] + view.haze[:, None, None]
            if generator.random() < _UNCHANGED:
                season.colours[item], season.contrasts[item] = 1, 1
        image = sentinel2(on_day(wide, means, wide_labels, season, item), view, generator)
        clouded = item != nearest and generator.random() < _CLOUDED
        images.append(under_cloud(image, generator) if clouded else image)
    return SimulatedSeries(days, images, truth)


def days_around_truth(count: int, generator: np.random.Generator) -> Days:
    """Days of the acquisitions from that of the truth, in order: every fifth, less those under clouds."""
    offset = 0 if generator.random() < _OWN_DATE else int(generator.integers(-7, 8))
    clear = generator.uniform(0.15, 0.9)  # share of days without clouds
    reach = round(count / 2 / clear) + count
    others = np.setdiff1d(np.arange(-reach, reach + 1), [0])
    near = np.exp(-np.abs(others) / (count / clear))
    chosen = generator.choice(others, count - 1, replace=False, p=near / near.sum())
    return np.sort(np.append(chosen, 0)) * _REVISIT + offset


def segment(ground: Floats, generator: np.random.Generator) -> Labels:
    """Parcels, woods, roofs of an image (3, H, W) of even sides: (H, W) numbers from 0, in steps of two pixels."""
    halves = ground.reshape(3, ground.shape[1] // 2, 2, ground.shape[2] // 2, 2).mean(axis=(2, 4))  # a quarter the time
    shown = np.log(halves.transpose(1, 2, 0))
    scale = float(generator.uniform(8, 20))
    return felzenszwalb(shown, scale=scale, sigma=0.7, min_size=10, channel_axis=-1).repeat(2, axis=0).repeat(2, axis=1)


def draw_season(days: Days, means: Floats, sizes: NDArray[np.intp], generator: np.random.Generator) -> Season:
    """A colour path for each parcel: it grows and ripens, now and then it is harvested.

    Args:
        days: (T,) from the truth.
        means: (3, parcels) colours on the day of the truth.
        sizes: (parcels,) pixels of the truth.
    """
    count = len(sizes)
    strength = 0.5 * np.clip(generator.gamma(1.0, 0.4, count), 0, 1) * (generator.random(count) > 0.3)
    period = generator.uniform(150, 365, count)  # days
    phase = generator.uniform(0, 2 * np.pi, count)
    harvest = generator.uniform(-120, 120, count)  # day
    jump = generator.normal(0, 0.4, count) * (generator.random(count) < 0.2)
    day = days[:, None]
    change = strength * (np.sin(2 * np.pi * day / period + phase) - np.sin(phase))  # (T, parcels), of log red / green
    change = change + np.where((day > harvest) != (harvest < 0), jump, 0)
    now = np.log(means[0] / means[1])
    low, high = np.minimum(now, _RATIOS[0]), np.maximum(now, _RATIOS[1])
    change = np.clip(sizes / _FIELD, 0, 1) * (np.clip(now + change, low, high) - now)
    moisture = generator.normal(0, 0.05, (len(days), 1, 1)) * (days != 0)[:, None, None]
    colours = np.exp(change[:, None] * _RIPENING[:, None] + moisture)  # (T, 3, parcels)
    loose = np.minimum(np.abs(change) + np.abs(day) / 120, 1)
    contrasts = np.exp(0.25 * generator.standard_normal(change.shape) * loose)
    return Season(colours.astype(np.float32), contrasts.astype(np.float32))


def on_day(ground: Floats, means: Floats, labels: Labels, season: Season, item: int) -> Floats:
    """The ground (3, H, W) on one of the season's days. ``means``: (3, parcels) of the ground."""
    colour, contrast = season.colours[item], season.contrasts[item]
    image = np.empty_like(ground)
    for band, seen, factor, mean in zip(image, ground, colour, means, strict=True):
        np.take(factor * contrast, labels, out=band, mode="clip")
        band *= seen
        band += np.take(factor * mean * (1 - contrast), labels, mode="clip")
    return np.clip(image, 0.001, None, out=image)


def under_cloud(image: NDArray[np.uint16], generator: np.random.Generator) -> NDArray[np.uint16]:
    """An acquisition (3, h, w) with a thin cloud over a part of it."""
    height, width = image.shape[1:]
    thickness = smooth_noise(generator, max(height, width), float(generator.uniform(6, 20)))[:height, :width]
    cover = np.clip(thickness - generator.uniform(0.2, 1.2), 0, 1) * generator.uniform(0.05, 0.5)
    return (image * (1 - cover) + 5000 * cover).round().astype(np.uint16)
