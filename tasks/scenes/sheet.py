"""A picture that shows what a map adds: crops of the input, of its interpolation, and of the map, side by side."""

from pathlib import Path

import numpy as np
import rasterio
import torch
from numpy.typing import NDArray
from rasterio.windows import Window

from utils.errors import DataError
from utils.geo.bands import Acquisition, shown_positions
from utils.geo.raster import AlignedReader, Grid
from utils.geo.windows import Box, Span
from utils.images import save_png, sheet
from utils.radiometry import bicubic

CROP = 32  # input pixels along a side
CROPS = 4
_CELL = 512  # pixels of the picture along a side of a crop: four for each of a map four times as fine
_MARGIN = 3  # input pixels that interpolation reads around a crop
_REFLECTANCE = 10000


def save_sheet(path: Path, map_path: Path, acquisition: Acquisition, *, scale: int, bands: tuple[str, ...]) -> None:
    """Write the picture of the places that have the most detail.

    Args:
        path: the PNG.
        map_path: reflectance × 10000, as `predict_scene` writes it.
        acquisition: the input that is shown beside it.
        scale: how much finer the map is.
        bands: of the map, in order.

    Raises:
        DataError: the map is smaller than a crop.
    """
    shown = list(shown_positions(bands))
    with rasterio.open(map_path) as source:
        height, width = source.height // scale, source.width // scale
        grid = Grid(source.crs, source.transform @ source.transform.scale(scale), height, width)
        places = _detailed_places(source.read(out_shape=(source.count, height, width)))
        if not places:
            raise DataError(f"--sheet: {map_path} has no part of {CROP} x {CROP} input pixels with data")
        reader = AlignedReader(acquisition, grid)
        try:
            rows = []
            for row, column in places:
                box = Box(Span(row, row + CROP), Span(column, column + CROP))
                around = box.grown(_MARGIN).within(grid.box)
                values = torch.from_numpy(reader.read(around).reflectance * _REFLECTANCE)
                smooth = bicubic(values, scale=scale).numpy()
                top, left = row - around.rows.start, column - around.columns.start
                coarse = values.numpy()[:, top : top + CROP, left : left + CROP]
                smooth = smooth[:, top * scale :, left * scale :][:, : CROP * scale, : CROP * scale]
                window = Window(column * scale, row * scale, CROP * scale, CROP * scale)
                images = (coarse, smooth, source.read(window=window).astype(np.float32))
                low, high = np.percentile(coarse[shown], (0.5, 99.5), axis=(1, 2))
                rows.append([_picture(image[shown], low, high) for image in images])
        finally:
            reader.close()
    save_png(sheet(rows, ["input", "bicubic", "map"], cell=_CELL), path)


def _picture(image: NDArray[np.float32], low: NDArray, high: NDArray) -> NDArray[np.uint8]:
    levels = (image - low[:, None, None]) / np.maximum(high - low, 1)[:, None, None] * 255
    return np.clip(levels, 0, 255).astype(np.uint8).transpose(1, 2, 0)


def _detailed_places(coarse: NDArray) -> list[tuple[int, int]]:
    """Top left corners of squares of CROP pixels, all with data: from the most detail down to the middle of them."""
    found = []
    for row in range(0, coarse.shape[1] - CROP + 1, CROP):
        for column in range(0, coarse.shape[2] - CROP + 1, CROP):
            part = coarse[:, row : row + CROP, column : column + CROP].astype(np.float32)
            if (part > 0).any(axis=0).all():
                found.append((float(np.abs(np.diff(part, axis=2)).mean() / part.mean()), row, column))
    step = max(1, len(found) // (2 * CROPS))
    return [(row, column) for _, row, column in sorted(found, reverse=True)[::step][:CROPS]]
