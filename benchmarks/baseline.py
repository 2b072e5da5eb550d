"""Plain execution: each thing done in the straightforward way, to hold the quick ways against."""

import itertools

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.exposure import match_histograms
from skimage.metrics import structural_similarity
from torch import Tensor
from torch.nn import functional as F

from utils.dataloader import Raw
from utils.radiometry import PUBLISHED_MAXIMA

_BORDER = 3  # pixels of shift


def stored(raw: Raw) -> dict[str, NDArray[np.float32]]:
    """A patch as a store of floats holds it: hr (H, W, C) in [0, 1], reflectance lr (T, h, w, C), near (h, w, C)."""
    lr = raw["lr"].permute(0, 2, 3, 1).numpy().astype(np.float32) / 10000
    hr = raw["hr"].permute(1, 2, 0).numpy().astype(np.float32) / 255
    return {"hr": hr, "lr": lr, "near": lr[raw["near"]]}


def item(patch: dict[str, NDArray[np.float32]]) -> dict[str, Tensor]:
    """What a loader does with a patch of such a store: normalise, match, interpolate, make tensors."""
    maxima = np.asarray(PUBLISHED_MAXIMA, dtype=np.float32)

    def normalise(x: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.clip(x, 0, maxima) / maxima * 2 - 1

    hr = match_histograms(patch["hr"] * 2 - 1, normalise(patch["near"]), channel_axis=-1)
    near = torch.from_numpy(patch["near"]).permute(2, 0, 1)[None]
    base = F.interpolate(near, scale_factor=hr.shape[0] // near.shape[-1], mode="bicubic")[0].permute(1, 2, 0).numpy()
    images = {"base": normalise(base), "hr": hr, "lr": normalise(patch["lr"])}
    return {name: torch.from_numpy(image).movedim(-1, -3).float().contiguous() for name, image in images.items()}


def metrics(sr: Tensor, hr: Tensor) -> dict[str, float]:
    """The metrics of one image (C, H, W) uint8, by scikit-image and a loop over shifts."""
    x, y = (image.permute(1, 2, 0).numpy() for image in (sr, hr))
    error = x.astype(np.float64) - y
    mse = float((error**2).mean())
    height, width = (size - 2 * _BORDER for size in x.shape[:2])
    centre = x[_BORDER:-_BORDER, _BORDER:-_BORDER].astype(np.float64)
    shifts = itertools.product(range(2 * _BORDER + 1), repeat=2)
    return {
        "psnr": float(10 * np.log10(255**2 / mse)),
        "ssim": float(structural_similarity(x, y, channel_axis=-1, data_range=255)),
        "mae": float(np.abs(error).mean()),
        "mse": mse,
        "shift_mae": min(float(np.abs(centre - y[dy : dy + height, dx : dx + width]).mean()) for dy, dx in shifts),
    }
