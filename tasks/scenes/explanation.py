"""From which dates a place was made: per pixel of the input, as a raster and as a picture."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from utils.files import atomic_write

NOT_KNOWN = -9999.0
BANDS = (
    "days from the target date to the nearest valid acquisition",
    "attention-weighted mean of the days from the target date, without sign",
    "entropy of the attention over the dates in nats",
    "number of valid dates",
)
DAYS, DISTANCE, ENTROPY, VALID = range(len(BANDS))
_TITLES = (
    "days to the nearest\nvalid acquisition",
    "mean distance of the\nattention (days)",
    "entropy of the\nattention (nats)",
    "number of\nvalid dates",
)


def attention_summary(attention: Tensor, dates: Tensor) -> Tensor:
    """How far away in time a network looks, and at how many dates.

    Args:
        attention: weights of the dates, (heads, B, T, h, w), whose sum over T is 1.
        dates: days relative to the target date, (B, T).

    Returns:
        (B, 2, h, w): the mean of |days| weighted by the attention, and the entropy of the attention in nats, both of
        the mean over the heads; 0 nats: one date alone, ln T: all alike.
    """
    weights = attention.mean(dim=0).float()  # (B, T, h, w)
    distance = (weights * dates.abs()[..., None, None]).sum(dim=1)
    entropy = torch.special.entr(weights).sum(dim=1)
    return torch.stack([distance, entropy], dim=1)


def nearest_days(observed: NDArray[np.bool_], offsets: NDArray[np.float32]) -> NDArray[np.float32]:
    """The offset of the acquisition nearest to the target date that saw a pixel, (T, h, w), (T,) -> (h, w)."""
    distance = np.where(observed, np.abs(offsets)[:, None, None], np.inf)
    return np.where(observed.any(axis=0), offsets[distance.argmin(axis=0)], NOT_KNOWN).astype(np.float32)


def save_picture(maps: NDArray[np.float32], path: Path) -> None:
    """The four maps (4, h, w) side by side, each with its own scale; grey where nothing is known."""
    import matplotlib  # only where --explain asks for the picture: it takes half a second to load
    from matplotlib.figure import Figure

    shown = np.ma.masked_equal(maps, NOT_KNOWN)
    figure = Figure(figsize=(16, 4.4), layout="constrained")
    limit = max(1.0, float(np.abs(shown[DAYS]).max() or 0))
    for band, (axes, title) in enumerate(zip(figure.subplots(1, len(BANDS)), _TITLES, strict=True)):
        axes.set_title(title)
        axes.set_axis_off()
        colours = matplotlib.colormaps["coolwarm" if band == DAYS else "viridis"].with_extremes(bad="lightgrey")
        lowest, highest = (-limit, limit) if band == DAYS else (0 if band == VALID else None, None)
        image = axes.imshow(shown[band], cmap=colours, vmin=lowest, vmax=highest, interpolation="nearest")
        figure.colorbar(image, ax=axes, orientation="horizontal", shrink=0.8)
    with atomic_write(path) as aside:
        figure.savefig(aside, format="png", dpi=100)
