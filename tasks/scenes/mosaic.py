"""Finished tiles -> files: the blended image, its flags, the spread of samples, a preview."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tasks.scenes.explanation import BANDS, NOT_KNOWN, save_picture
from tasks.scenes.outputs import DateSummary, Outputs
from tasks.scenes.previews import Thumbnail, preview_step, save_preview
from tasks.scenes.tile_store import TileStore
from tasks.scenes.tiles import DAYS_UNKNOWN, FILLED, NODATA, REFLECTANCE, UNSEEN
from tasks.scenes.tiling import Layout
from utils.geo.bands import map_name
from utils.geo.raster import Grid, Raster, writing_cog
from utils.geo.windows import Box, Span

SPREAD_NODATA = -1.0
FLAG_BANDS = ("0 no data, 1 seen, 2 filled from another date", "days from the target date")


class Mosaic:
    """Any part of a scene from the tiles that cover it.

    Args:
        store: of finished tiles.
        first: the number of the first tile of the map's date.
        bands: Sentinel-2's names of the map's bands.
    """

    def __init__(self, store: TileStore, layout: Layout, *, first: int, scale: int, bands: Sequence[str]) -> None:
        self.layout = layout
        self.scale = scale
        self.bands = tuple(bands)
        self._store = store
        self._numbers = {cell: first + number for number, cell in enumerate(layout.order())}
        self._weights = layout.weights(scale)

    def used(self) -> list[int]:
        """The acquisitions that any tile was made from."""
        return np.flatnonzero(
            np.bitwise_or.reduce([self._store.read(n, "used") for n in self._numbers.values()])
        ).tolist()

    def blended(self, field: str, box: Box) -> NDArray[np.float32]:
        """A field of the fine resolution in a box of fine pixels, (C, h, w)."""
        result = np.zeros((len(self.bands), *box.shape), np.float32)
        for cell, here, there in self._pieces(box, self.scale):
            tile = self._store.read(self._numbers[cell], field)
            result[:, *here] += tile[:, *there] * self._weights[there]
        return result

    def pasted(self, field: str, box: Box) -> NDArray:
        """A field of the input's resolution in a box, (..., h, w): where tiles overlap, they agree."""
        result: NDArray | None = None
        for cell, here, there in self._pieces(box, 1):
            tile = self._store.read(self._numbers[cell], field)
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


def write_map(
    mosaic: Mosaic, files: Outputs, grid: Grid, *, tags: Mapping[str, str], maxima: Sequence[float]
) -> DateSummary:
    """Write all files of a map.

    Args:
        files: the image is written last, so that where it is, the others are.
        grid: of the whole scene, at the input's resolution.
        tags: of all rasters.
        maxima: reflectance of each band that is 255 in 8-bit maps.

    Returns:
        From which days the map's pixels are.
    """
    scale, region = mosaic.scale, mosaic.layout.region
    fine = region.times(scale)
    names = tuple(map_name(band) for band in mosaic.bands)
    unit = 1 / REFLECTANCE
    small = Thumbnail(region, channels=len(names), step=preview_step(region))
    days: Counter[int] = Counter()
    filled = 0
    flags = Raster(grid.part(region), "int16", DAYS_UNKNOWN, FLAG_BANDS, tags)
    with writing_cog(files.flags, flags) as writer:
        for box in writer.blocks():
            place = _moved(box, region)
            kinds, offsets = mosaic.pasted("flags", place), mosaic.pasted("days", place)
            writer.write(np.stack([kinds.astype(np.int16), offsets]), box)
            small.add(box, mosaic.pasted("input", place))
            values, counts = np.unique(offsets[kinds != UNSEEN], return_counts=True)
            days.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
            filled += int((kinds == FILLED).sum())
    if files.spread is not None:
        described = tuple(f"standard deviation of {name}" for name in names)
        spread = Raster(grid.part(region, scale=scale), "float32", SPREAD_NODATA, described, tags, unit=unit)
        with writing_cog(files.spread, spread) as writer:
            for box in writer.blocks():
                place = _moved(box, fine)
                writer.write(np.where(mosaic.seen(place), mosaic.blended("spread", place), SPREAD_NODATA), box)
    if files.explanation is not None and files.picture is not None:
        step = preview_step(region)
        picture = np.full((len(BANDS), *(-(-side // step) for side in region.shape)), NOT_KNOWN, np.float32)
        explanation = Raster(grid.part(region), "float32", NOT_KNOWN, BANDS, tags)
        with writing_cog(files.explanation, explanation) as writer:
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
    large = Thumbnail(fine, channels=len(names), step=preview_step(fine))
    image = Raster(
        grid.part(region, scale=scale),
        "uint8" if files.uint8 else "uint16",
        NODATA,
        names,
        {**tags, "UNIT": _unit(maxima) if files.uint8 else "reflectance × 10000"},
        unit=None if files.uint8 else unit,
    )
    with writing_cog(files.image, image) as writer:
        for box in writer.blocks():
            pixels = np.rint(mosaic.blended("image", _moved(box, fine)))
            large.add(box, pixels)
            writer.write(_display(pixels, maxima) if files.uint8 else pixels.astype(np.uint16), box)
        save_preview(files.preview, small.pixels, large.pixels, bands=mosaic.bands)
    return DateSummary(days, filled=filled, pixels=region.rows.size * region.columns.size)


def _unit(maxima: Sequence[float]) -> str:
    return "display, 255 = " + ", ".join(f"{top:g}" for top in maxima)


def _moved(box: Box, origin: Box) -> Box:
    """A box counted from the top left of ``origin``, in absolute pixels."""
    return Box(*(Span(span.start + o.start, span.stop + o.start) for span, o in zip(box, origin, strict=True)))


def _display(numbers: NDArray[np.float32], maxima: Sequence[float]) -> NDArray[np.uint8]:
    """Reflectance × 10000 (C, h, w) as the networks' 0..255; 0 stays "no data" and nothing else becomes it."""
    top = np.array(maxima, np.float32).reshape(-1, 1, 1) * REFLECTANCE
    levels = np.clip(np.rint(numbers / top * 255), NODATA + 1, 255)
    return np.where(numbers == NODATA, NODATA, levels).astype(np.uint8)
