"""Small pictures of large maps: input and output side by side, and the dates of a place one after another."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from utils.files import atomic_write
from utils.geo.bands import shown_positions
from utils.geo.windows import Box
from utils.images import save_png

PREVIEW = 1600  # pixels on a side at most
FRAME = 800  # of a picture of the animation
MILLISECONDS = 800  # that a date is shown
NODATA = 0  # of maps


class Thumbnail:
    """A small copy of a large image that comes block by block."""

    def __init__(self, region: Box, *, channels: int, step: int) -> None:
        height, width = (-(-side // step) for side in region.shape)
        self.pixels = np.zeros((channels, height, width), np.float32)
        self._step = step

    def add(self, box: Box, pixels: NDArray) -> None:
        """Each of its pixels is the mean of step·step ones (fewer at the right and bottom edge)."""
        step = self._step
        rows, columns = (np.arange(0, side, step) for side in box.shape)
        sums = np.add.reduceat(np.add.reduceat(pixels.astype(np.float32), rows, axis=1), columns, axis=2)
        counts = np.outer(*(np.minimum(step, side - at) for side, at in zip(box.shape, (rows, columns), strict=True)))
        row, column = box.rows.start // step, box.columns.start // step
        self.pixels[:, row : row + len(rows), column : column + len(columns)] = sums / counts


def preview_step(region: Box) -> int:
    """A power of two, so that blocks hold whole pixels of the small copy."""
    step = 1
    while max(region.shape) > PREVIEW * step:
        step *= 2
    return step


def save_preview(path: Path, before: NDArray[np.float32], after: NDArray[np.float32], *, bands: Sequence[str]) -> None:
    """Input | output, in the same colours: red, green, blue where they are among the bands, else the first three."""
    times = max(1, round(after.shape[1] / before.shape[1]))
    before = before.repeat(times, 1).repeat(times, 2)[:, : after.shape[1], : after.shape[2]]
    known = before.max(axis=0) > NODATA
    pictures = []
    for image in (before, after):
        shown = []
        for band in shown_positions(bands):
            low, high = np.percentile(before[band][known], (1, 99)) if known.any() else (0, 1)
            shown.append(np.clip((image[band] - low) / max(high - low, 1) * 255, 0, 255))
        pictures.append(np.stack(shown, axis=-1).astype(np.uint8))
    gap = np.full((pictures[1].shape[0], 8, 3), 255, np.uint8)
    height = min(picture.shape[0] for picture in pictures)
    save_png(np.concatenate([pictures[0][:height], gap[:height], pictures[1][:height]], axis=1), path)


def save_animation(path: Path, maps: Sequence[Path], titles: Sequence[str], *, bands: Sequence[str]) -> None:
    """Maps of one place, each for a while, in the same colours; the picture of a date says which it is."""
    frames = []
    for file in maps:
        with rasterio.open(file) as source:
            times = max(1.0, max(source.shape) / FRAME)
            size = (round(source.height / times), round(source.width / times))
            frames.append(source.read([band + 1 for band in shown_positions(bands)], out_shape=(3, *size)))
    known = [frame[:, frame.max(axis=0) > NODATA] for frame in frames]  # (3, n) each
    together = np.concatenate(known, axis=1)
    low, high = np.percentile(together, (1, 99), axis=1) if together.size else (np.zeros(3), np.ones(3))
    pictures = []
    for frame, title in zip(frames, titles, strict=True):
        levels = (frame - low[:, None, None]) / np.maximum(high - low, 1)[:, None, None] * 255
        picture = Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8).transpose(1, 2, 0))
        font = ImageFont.load_default(size=max(12, picture.width // 24))
        ImageDraw.Draw(picture).text((6, 4), title, fill="white", font=font, stroke_width=2, stroke_fill="black")
        pictures.append(picture)
    with atomic_write(path) as aside:
        pictures[0].save(
            aside, format="WEBP", save_all=True, append_images=pictures[1:], duration=MILLISECONDS, loop=0, quality=90
        )
