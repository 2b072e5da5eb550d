"""Finished tiles -> files: the blended image, its flags, the spread of samples, a preview."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.scenes.explanation import BANDS, NOT_KNOWN, save_picture
from tasks.scenes.tile_store import TileStore
from tasks.scenes.tiles import NODATA, REFLECTANCE, UNSEEN
from tasks.scenes.tiling import Layout
from utils.geo.raster import CogWriter, Grid, Raster
from utils.geo.windows import Box, Span
from utils.images import save_png

SPREAD_NODATA = -1.0
PREVIEW = 1600  # pixels on a side at most
NAMES = ("red", "green", "blue")


class Outputs(NamedTuple):
    """The files of a result."""

    image: Path
    flags: Path
    preview: Path
    spread: Path | None
    explanation: Path | None
    uint8: bool

    @classmethod
    def beside(cls, image: Path, *, uncertainty: Path | None, explain: Path | None, uint8: bool) -> "Outputs":
        flags, preview = (image.with_name(image.stem + end) for end in ("_flags.tif", "_preview.png"))
        return cls(image, flags, preview, uncertainty, explain, uint8)

    @property
    def picture(self) -> Path | None:
        """Of the explanation, beside it."""
        return self.explanation.with_suffix(".png") if self.explanation else None

    def paths(self) -> list[Path]:
        paths = (self.image, self.flags, self.preview, self.spread, self.explanation, self.picture)
        return [path for path in paths if path is not None]

    def bytes_a_pixel(self, channels: int) -> int:
        """Of the image and its spread."""
        return channels * ((1 if self.uint8 else 2) + (4 if self.spread else 0))


class Mosaic:
    """Any part of a scene from the tiles that cover it."""

    def __init__(self, scratch: TileStore, layout: Layout, *, scale: int, channels: int) -> None:
        self.layout = layout
        self.scale = scale
        self.channels = channels
        self._scratch = scratch
        self._numbers = {cell: number for number, cell in enumerate(layout.order())}
        self._weights = layout.weights(scale)

    def used(self) -> list[int]:
        """The acquisitions that any tile was made from."""
        return np.flatnonzero(
            np.bitwise_or.reduce([self._scratch.read(n, "used") for n in self._numbers.values()])
        ).tolist()

    def blended(self, field: str, box: Box) -> NDArray[np.float32]:
        """A field of the fine resolution in a box of fine pixels, (C, h, w)."""
        result = np.zeros((self.channels, *box.shape), np.float32)
        for cell, here, there in self._pieces(box, self.scale):
            tile = self._scratch.read(self._numbers[cell], field)
            result[:, *here] += tile[:, *there] * self._weights[there]
        return result

    def pasted(self, field: str, box: Box) -> NDArray:
        """A field of the input's resolution in a box, (..., h, w): where tiles overlap, they agree."""
        result: NDArray | None = None
        for cell, here, there in self._pieces(box, 1):
            tile = self._scratch.read(self._numbers[cell], field)
            if result is None:
                result = np.zeros((*tile.shape[:-2], *box.shape), tile.dtype)
            result[..., *here] = tile[..., *there]
        assert result is not None  # tiles cover the region
        return result

    def seen(self, box: Box) -> NDArray[np.bool_]:
        """Where a box of fine pixels has data, (h, w)."""
        s = self.scale
        coarse = Box(*(Span(span.start // s, -(-span.stop // s)) for span in box))
        fine = (self.pasted("flags", coarse) != UNSEEN).repeat(s, 0).repeat(s, 1)
        return fine[box.slices(coarse.times(s))]

    def _pieces(self, box: Box, scale: int) -> list[tuple[tuple[int, int], tuple[slice, slice], tuple[slice, slice]]]:
        """Tiles that meet a box of pixels at ``scale``, and where what they share lies in the box and in the tile."""
        coarse = Box(*(Span(span.start // scale, -(-span.stop // scale)) for span in box))
        pieces = []
        for cell in self.layout.covering(coarse):
            support = self.layout.support(*cell).times(scale)
            shared = box.within(support)
            pieces.append((cell, shared.slices(box), shared.slices(support)))
        return pieces


def write_map(mosaic: Mosaic, files: Outputs, grid: Grid, *, tags: Mapping[str, str], maxima: Sequence[float]) -> None:
    """Write all files; the image last, so that where it is, the others are."""
    scale, region = mosaic.scale, mosaic.layout.region
    fine = region.times(scale)
    names = NAMES if mosaic.channels == len(NAMES) else tuple(f"band {i + 1}" for i in range(mosaic.channels))
    small = Thumbnail(region, channels=mosaic.channels, step=_step(region))
    flags = Raster(grid.part(region), "uint8", UNSEEN, ("0 no data, 1 seen, 2 filled from another date",), tags)
    with CogWriter(files.flags, flags) as writer:
        for box in writer.blocks():
            place = _moved(box, region)
            writer.write(mosaic.pasted("flags", place)[None], box)
            small.add(box, mosaic.pasted("input", place))
    if files.spread is not None:
        described = tuple(f"standard deviation of {name}" for name in names)
        spread = Raster(grid.part(region, scale=scale), "float32", SPREAD_NODATA, described, tags)
        with CogWriter(files.spread, spread) as writer:
            for box in writer.blocks():
                place = _moved(box, fine)
                writer.write(np.where(mosaic.seen(place), mosaic.blended("spread", place), SPREAD_NODATA), box)
    if files.explanation is not None and files.picture is not None:
        step = _step(region)
        picture = np.full((len(BANDS), *(-(-side // step) for side in region.shape)), NOT_KNOWN, np.float32)
        explanation = Raster(grid.part(region), "float32", NOT_KNOWN, BANDS, tags)
        with CogWriter(files.explanation, explanation) as writer:
            for box in writer.blocks():
                maps = mosaic.pasted("explanation", _moved(box, region))
                writer.write(maps, box)
                some = maps[:, ::step, ::step]
                rows, columns = (
                    slice(span.start // step, span.start // step + n)
                    for span, n in zip(box, some.shape[1:], strict=True)
                )
                picture[:, rows, columns] = some
            save_picture(picture, files.picture)
    large = Thumbnail(fine, channels=mosaic.channels, step=_step(fine))
    kind = "uint8" if files.uint8 else "uint16"
    unit = (
        {"UNIT": "display, 255 = " + ", ".join(f"{top:g}" for top in maxima)}
        if files.uint8
        else {"UNIT": "reflectance × 10000"}
    )
    image = Raster(grid.part(region, scale=scale), kind, NODATA, names, {**tags, **unit})
    with CogWriter(files.image, image) as writer:
        for box in writer.blocks():
            pixels = np.rint(mosaic.blended("image", _moved(box, fine)))
            large.add(box, pixels)
            writer.write(_display(pixels, maxima) if files.uint8 else pixels.astype(np.uint16), box)
        _save_preview(files.preview, small.pixels, large.pixels)


def _moved(box: Box, origin: Box) -> Box:
    """A box counted from the top left of ``origin``, in absolute pixels."""
    return Box(*(Span(span.start + o.start, span.stop + o.start) for span, o in zip(box, origin, strict=True)))


def _display(numbers: NDArray[np.float32], maxima: Sequence[float]) -> NDArray[np.uint8]:
    """Reflectance × 10000 (C, h, w) as the networks' 0..255; 0 stays "no data" and nothing else becomes it."""
    top = np.array(maxima, np.float32).reshape(-1, 1, 1) * REFLECTANCE
    levels = np.clip(np.rint(numbers / top * 255), NODATA + 1, 255)
    return np.where(numbers == NODATA, NODATA, levels).astype(np.uint8)


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


def _step(region: Box) -> int:
    """A power of two, so that blocks hold whole pixels of the small copy."""
    step = 1
    while max(region.shape) > PREVIEW * step:
        step *= 2
    return step


def _save_preview(path: Path, before: NDArray[np.float32], after: NDArray[np.float32]) -> None:
    """Input | output, in the same colours."""
    times = max(1, round(after.shape[1] / before.shape[1]))
    before = before.repeat(times, 1).repeat(times, 2)[:, : after.shape[1], : after.shape[2]]
    known = before.max(axis=0) > NODATA
    pictures = []
    for image in (before, after):
        bands = []
        for band in range(3) if len(image) >= 3 else (0, 0, 0):
            low, high = np.percentile(before[band][known], (1, 99)) if known.any() else (0, 1)
            bands.append(np.clip((image[band] - low) / max(high - low, 1) * 255, 0, 255))
        pictures.append(np.stack(bands, axis=-1).astype(np.uint8))
    gap = np.full((pictures[1].shape[0], 8, 3), 255, np.uint8)
    height = min(picture.shape[0] for picture in pictures)
    save_png(np.concatenate([pictures[0][:height], gap[:height], pictures[1][:height]], axis=1), path)
