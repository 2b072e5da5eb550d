"""Pictures for people: images as 8-bit pictures, maps in colour, sheets of labelled pictures, PNG files."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from utils.files import atomic_write
from utils.metrics.pixel import to_uint8

Picture = NDArray[np.uint8]  # (H, W, 3)


class Attention(NamedTuple):
    """The dates that a patch was made from."""

    inputs: list[Picture]  # in order of their dates
    days: list[float]  # from the target date
    shares: list[float]  # of the network's attention, mean over heads and pixels; their sum is 1


# From black over violet and orange to light yellow: perceptually ordered, readable in grey and by the colour-blind.
_HEAT = ((0, 0, 4), (59, 15, 112), (140, 41, 129), (222, 73, 104), (254, 159, 109), (252, 253, 191))
ERROR_MAXIMUM, SPREAD_MAXIMUM = 64, 32  # digital numbers at which maps are brightest
_INK, _PAPER = (32, 33, 36), (255, 255, 255)


def picture(x: Tensor, shown: Sequence[int] = (0, 1, 2)) -> Picture:
    """One image (C, H, W), float in [-1, 1] or uint8, as a picture of the channels ``shown`` as red, green, blue."""
    return to_uint8(x.detach()[list(shown)]).permute(1, 2, 0).cpu().numpy()


def heat(values: Tensor, *, maximum: float) -> Picture:
    """A map (H, W) of numbers from 0 (black) to ``maximum`` and above (light yellow) in colour."""
    position = (values.detach().cpu().double() / maximum).nan_to_num(nan=0).clamp(0, 1).numpy()
    stops = np.linspace(0, 1, len(_HEAT))
    bands = [np.interp(position, stops, [colour[c] for colour in _HEAT]) for c in range(3)]
    return np.stack(bands, axis=-1).round().astype(np.uint8)


def error_map(sr: Tensor, hr: Tensor, *, maximum: float = ERROR_MAXIMUM) -> Picture:
    """The absolute error of two images (3, H, W), mean over channels, in colour; ``maximum`` in digital numbers."""
    return heat((to_uint8(sr).float() - to_uint8(hr).float()).abs().mean(dim=0), maximum=maximum)


def spread_map(samples: Tensor, *, maximum: float = SPREAD_MAXIMUM) -> Picture:
    """How far samples (K, 3, H, W) of one image lie apart: their standard deviation, mean over channels, in colour."""
    return heat(to_uint8(samples).float().std(dim=0, correction=0).mean(dim=0), maximum=maximum)


def save_png(image: Picture | Image.Image, path: str | Path) -> None:
    """Write a PNG aside and rename it, so that the file is whole or absent. Its folder is made."""
    with atomic_write(Path(path)) as aside:
        (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(aside, format="PNG")


def sheet(
    rows: Sequence[Sequence[Picture | None]],
    titles: Sequence[str],
    captions: Sequence[Sequence[str]] | None = None,
    *,
    cell: int = 222,
) -> Image.Image:
    """A grid of square cells of ``cell`` pixels with a title over each column and a caption under each picture.

    Pictures of any size are scaled to their cell, enlarged without smoothing, so that pixels stay visible; None leaves
    the cell empty.
    """
    gap, line = cell // 24, max(16, cell // 11)
    font = ImageFont.load_default(size=line * 0.7)
    caption_line = line if captions else 0
    width = gap + len(titles) * (cell + gap)
    height = gap + line + len(rows) * (cell + caption_line + gap)
    result = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(result)

    def write(text: str, column: int, top: int) -> None:
        middle = gap + column * (cell + gap) + cell // 2
        draw.text((middle, top + line // 2), text, fill=_INK, font=font, anchor="mm")

    for column, title in enumerate(titles):
        write(title, column, gap // 2)
    for row, pictures in enumerate(rows):
        top = gap + line + row * (cell + caption_line + gap)
        for column, values in enumerate(pictures):
            if values is not None:
                result.paste(_fit(values, cell), (gap + column * (cell + gap), top))
            if captions:
                write(captions[row][column], column, top + cell)
    return result


def _fit(values: Picture, cell: int) -> Image.Image:
    """A picture in the middle of a square cell."""
    image = Image.fromarray(values)
    scale = cell / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    image = image.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)
    square = Image.new("RGB", (cell, cell), _PAPER)
    square.paste(image, ((cell - size[0]) // 2, (cell - size[1]) // 2))
    return square
