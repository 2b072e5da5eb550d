"""A raw data set in BreizhSR's format from georeferenced images of one's own.

The high-resolution images are cut along one grid of patches, the Sentinel-2 images of the same ground are laid on it,
and places are given to splits. Everything is written aside and takes its name at the end.
"""

import contextlib
import json
import logging
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import rasterio
from numpy.typing import NDArray
from rasterio.crs import CRS
from tqdm import tqdm

from data_gen.custom.grid import Bounds, PatchGrid, bounds_in, choose_grid, overlap
from data_gen.custom.splits import SPLITS, Cell, assign
from data_gen.synthetic.sensors import MARGIN, degrade
from utils.errors import DataError
from utils.files import atomic_folder, write_text
from utils.geo.acquisitions import open_raster
from utils.geo.bands import RGB, Acquisition
from utils.geo.raster import AlignedReader, Grid, gdal_memory
from utils.geo.windows import Box

COMPLETE = 0.999  # share of a truth that must have data
RECORD = "build.json"
_SAMPLED = 24  # patches of an image that the stretch is measured on
_EVERY = 3  # pixel of them
_REFLECTANCE = 10000  # what stands for reflectance 1
_MOST = 65534  # of it: 65535 is saturation

logger = logging.getLogger(__name__)
Levels = NDArray[np.uint8]


@dataclass(frozen=True)
class BuildOptions:
    """What is asked for."""

    bands: tuple[str, ...] = RGB  # of both
    patch: int = 300  # high-resolution pixels
    resolution: float = 2.5  # of the truth, metres
    scale: int = 4
    crs: CRS | None = None  # default: that of the first Sentinel-2 image
    shares: Mapping[str, float] = field(default_factory=lambda: {"train": 0.8, "val": 0.1, "test": 0.1})
    block: int | None = None  # places on a side of what goes to one split; None: chosen
    gap: int = 1  # places left out between splits
    stretch: tuple[float, float] | None = None  # percentiles that become black and white; None: (0.5, 99.5) if needed
    white: float | None = None  # what becomes 255, and 0 black, in place of percentiles
    mtf: tuple[float, float] | None = None  # reduced scale: at Nyquist, the least and the most
    min_valid: float = 0.95  # share of a patch that an acquisition must show
    clouds: bool = True  # leave clouds out of that
    max_days: int | None = None  # between an acquisition and the truth
    seed: int = 0


class TruthImage(NamedTuple):
    """A high-resolution image and the patches it has."""

    acquisition: Acquisition
    cells: list[Cell]


@dataclass
class PatchRow:
    """A patch while the data set is built."""

    label: str
    cell: Cell
    day: date
    views: dict[date, str] = field(default_factory=dict)  # day -> path of what was written


def build(
    truths: Sequence[Acquisition],
    views: Sequence[Acquisition],
    output: Path,
    options: BuildOptions,
) -> dict[str, int]:
    """Write the data set and give back how many patches each split has.

    Args:
        truths: the high-resolution images: numbers as they are (gains 1), with dates. At reduced scale (``mtf``)
            those of the views that are truths in turn.
        views: the Sentinel-2 images, with dates. Several of one day are taken together.
        output: the raw root to make; it must not hold anything.

    Raises:
        DataError: there is no patch, or something is there already.
        ConfigError: sizes that can't be.
    """
    output = output.resolve()
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise DataError(f"{output} holds something already: remove it, or choose another --output")
    grid = choose_grid(
        truths, views, crs=options.crs, patch=options.patch, resolution=options.resolution, scale=options.scale
    )
    extents = {view: bounds_in(view, grid.crs) for view in views}
    images = [TruthImage(truth, _shared_cells(truth, grid, list(extents.values()))) for truth in truths]
    images = [image for image in images if image.cells]
    logger.info(
        f"{sum(len(image.cells) for image in images)} places in {len(images)} of {len(truths)} images, {_words(grid)}"
    )
    if not images:
        raise DataError(f"no patch of {grid.side:g} m fits into what the images share; choose a smaller --patch")
    with gdal_memory([*truths, *views]), atomic_folder(output) as folder:
        black, white = _stretch(images, grid, options)
        rows: list[PatchRow] = []
        for image in images:
            rows += _write_image(image, extents, grid, options, (black, white), folder)
        if not rows:
            raise DataError(
                f"no patch is left: none has a whole truth and an acquisition that shows {options.min_valid:.0%} of it "
                "(see --min_valid, --mask none)"
            )
        splits = assign(
            Counter(row.cell for row in rows), options.shares, block=options.block, gap=options.gap, seed=options.seed
        )
        _write_tables(folder, rows, splits, grid)
        found = Counter(splits[row.cell] for row in rows if row.cell in splits)
        counts = {split: found[split] for split in SPLITS if found[split]}
        lost = len(rows) - sum(counts.values())
        record = {
            "patches": counts, "left_out_between_splits": lost, **_described(grid, options), "black": black,
            "white": white, "truths": [truth.name for truth in truths], "acquisitions": [view.name for view in views],
        }  # fmt: skip
        write_text(folder / RECORD, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    logger.info(f"{lost} more patches lay between splits and were left out")
    return counts


def _shared_cells(truth: Acquisition, grid: PatchGrid, extents: Sequence[Bounds]) -> list[Cell]:
    """The squares inside a truth that some acquisition touches."""
    inside = grid.cells(bounds_in(truth, grid.crs))
    return [cell for cell in inside if any(overlap(_bounds(grid, cell), extent) for extent in extents)]


def _bounds(grid: PatchGrid, cell: Cell) -> Bounds:
    x, y = grid.corner(cell)
    return x, y - grid.side, x + grid.side, y


def _laid(acquisition: Acquisition, grid: Grid) -> contextlib.closing[AlignedReader]:
    return contextlib.closing(AlignedReader(acquisition, grid))


# ---------------------------------------------------------------------------------------------------------------------
# Truths


def _stretch(images: Sequence[TruthImage], grid: PatchGrid, options: BuildOptions) -> tuple[list[float], list[float]]:
    """The values that become black and white, a band, over a sample of all images; 0 and 255 where all are 8-bit."""
    if options.white is not None:
        bands = len(images[0].acquisition.bands)
        return [0.0] * bands, [options.white] * bands
    samples = []
    eight_bit = True
    for image in images:
        step = max(1, len(image.cells) // _SAMPLED)
        pixels, boxes = grid.over(image.cells, resolution=grid.resolution)
        with open_raster(image.acquisition.bands[0][0]) as source:
            eight_bit = eight_bit and source.dtypes[0] == "uint8"
        with _laid(image.acquisition, pixels) as reader:
            for cell in image.cells[::step]:
                values, data, _ = reader.read(boxes[cell])
                samples.append(values[:, data][:, ::_EVERY])
    if eight_bit and options.stretch is None:
        return [0.0] * len(options.bands), [255.0] * len(options.bands)
    values = np.concatenate(samples, axis=1)
    if not values.size:
        raise DataError("the high-resolution images have no data where Sentinel-2 images are")
    black, white = np.percentile(values, options.stretch or (0.5, 99.5), axis=1)
    return black.tolist(), np.maximum(white, black + 1e-6).tolist()


def _levels(
    values: NDArray[np.float32], data: NDArray[np.bool_], black: Sequence[float], white: Sequence[float]
) -> Levels:
    """8-bit levels; 0 in all bands where there is no data, and only there."""
    low, high = (np.array(x).reshape(-1, 1, 1) for x in (black, white))
    levels = np.rint((values - low) / (high - low) * 255).clip(0, 255)
    levels[:, (levels == 0).all(axis=0)] = 1
    return np.where(data, levels, 0).astype(np.uint8)


def _write_image(
    image: TruthImage, extents: Mapping[Acquisition, Bounds], grid: PatchGrid, options: BuildOptions,
    stretch: tuple[list[float], list[float]], folder: Path,
) -> list[PatchRow]:  # fmt: skip
    """The patches of one truth that have an acquisition, written."""
    day = image.acquisition.day
    assert day is not None
    rows: dict[Cell, PatchRow] = {}
    pixels, boxes = grid.over(image.cells, resolution=grid.resolution)
    with _laid(image.acquisition, pixels) as reader:
        for cell in tqdm(image.cells, desc=image.acquisition.name, leave=False):
            label = f"{day:%Y%m%d}_r{cell[0]:04d}_c{cell[1]:04d}"
            path = folder / "spot6" / f"{label}.tif"
            values, data, _ = reader.read(boxes[cell])
            if data.mean() < COMPLETE or path.exists():
                continue
            if options.mtf is not None:  # a truth is an acquisition itself, and may be clouded
                usable = reader.read_clear(boxes[cell], clouds=options.clouds)[1]
                if usable.mean() < options.min_valid:
                    continue
            _write(path, _levels(values, data, *stretch), pixels.part(boxes[cell]), bands=options.bands)
            rows[cell] = PatchRow(label, cell, day)
    if rows:
        _write_views(rows, extents, grid, options, folder)
    whole = len(rows)
    for cell, row in list(rows.items()):
        if not row.views:
            (folder / "spot6" / f"{row.label}.tif").unlink()
            del rows[cell]
    logger.info(
        f"{image.acquisition.name}: {len(rows)} of {len(image.cells)} patches have a whole truth and an acquisition"
    )
    if whole and not rows and options.clouds and any(view.classes is None for view in extents):
        logger.warning(
            "without a scene classification what is bright counts as cloud, bare soil and sand too: --mask none leaves "
            f"all in, --min_valid (now {options.min_valid:g}) asks for less"
        )
    return list(rows.values())


# ---------------------------------------------------------------------------------------------------------------------
# Acquisitions


def _write_views(
    rows: Mapping[Cell, PatchRow], extents: Mapping[Acquisition, Bounds], grid: PatchGrid, options: BuildOptions,
    folder: Path,
) -> None:  # fmt: skip
    """Lay the Sentinel-2 images on the patches of one truth, day by day, and note in ``rows`` what was written."""
    truth_day = next(iter(rows.values())).day
    days: dict[date, list[Acquisition]] = defaultdict(list)
    for view, extent in extents.items():
        assert view.day is not None
        near = options.max_days is None or abs((view.day - truth_day).days) <= options.max_days
        if near and any(overlap(_bounds(grid, cell), extent) for cell in rows):
            days[view.day].append(view)
    pixels, boxes = grid.over(list(rows), resolution=grid.resolution * grid.scale)
    read_pixels, read_boxes = pixels, boxes
    if options.mtf is not None:
        read_pixels, read_boxes = grid.over(list(rows), resolution=grid.resolution)
    for day in tqdm(sorted(days), desc="days of Sentinel-2", leave=False):
        with contextlib.ExitStack() as opened:
            readers = [(extents[view], opened.enter_context(_laid(view, read_pixels))) for view in days[day]]
            for cell, row in rows.items():
                here = [reader for extent, reader in readers if overlap(_bounds(grid, cell), extent)]
                if not here:
                    continue
                reflectance, usable = _together(here, read_boxes[cell], clouds=options.clouds)
                if options.mtf is not None:
                    usable = usable & (reflectance != 0).any(axis=0).all()  # a hole would spread
                    generator = np.random.default_rng((options.seed, day.toordinal(), truth_day.toordinal(), *cell))
                    reflectance = _reduced(reflectance, options.mtf, grid.scale, generator)
                if usable.mean() >= options.min_valid:
                    row.views[day] = f"sen2/{row.label}/{day:%Y%m%d}.tif"
                    here_grid = pixels.part(boxes[cell])
                    _write(folder / row.views[day], _numbers(reflectance), here_grid, bands=options.bands, nodata=0)


def _together(
    readers: Sequence[AlignedReader], box: Box, *, clouds: bool
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Images of one day as one: reflectance (C, h, w), 0 where none has data, and where it can be used (h, w)."""
    reflectance, usable = readers[0].read_clear(box, clouds=clouds)
    for reader in readers[1:]:
        other, clear = reader.read_clear(box, clouds=clouds)
        fill = ~usable & (clear | (reflectance == 0).all(axis=0))
        reflectance = np.where(fill, other, reflectance)
        usable = usable | clear
    return reflectance, usable


def _reduced(
    reflectance: NDArray[np.float32], mtf: tuple[float, float], scale: int, generator: np.random.Generator
) -> NDArray[np.float32]:
    """What a sensor of that much larger pixels would see: (C, H, W) -> (C, H / scale, W / scale)."""
    least, most = mtf
    drawn = generator.uniform(least, most) * np.exp(generator.normal(0, 0.08, 2))  # each direction has its own
    down, right = np.clip(drawn, least, most)
    wide = np.pad(reflectance, [(0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN)], mode="symmetric")
    return degrade(wide, np.zeros((len(wide), 2)), (float(down), float(right)), scale=scale)


def _numbers(reflectance: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Reflectance × 10000; 0 where there is no data, and only there."""
    numbers = np.rint(reflectance * _REFLECTANCE).clip(1, _MOST)
    return np.where((reflectance == 0).all(axis=0), 0, numbers).astype(np.uint16)


# ---------------------------------------------------------------------------------------------------------------------
# Files


def _write(
    path: Path, pixels: Levels | NDArray[np.uint16], grid: Grid, *, bands: Sequence[str], nodata: float | None = None
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path, "w", driver="GTiff", count=len(pixels), height=grid.height, width=grid.width, dtype=pixels.dtype,
        crs=grid.crs, transform=grid.transform, nodata=nodata, compress="deflate", zlevel=1,
    ) as target:  # fmt: skip
        if tuple(bands) != RGB:
            target.descriptions = tuple(bands)
        target.write(pixels)


def _write_tables(folder: Path, rows: Sequence[PatchRow], splits: Mapping[Cell, str], grid: PatchGrid) -> None:
    """The tables; what no split took goes."""
    tables: dict[str, dict[str, dict[str, Any]]] = {"train": {}, "test": {}}
    for row in rows:
        if row.cell not in splits:
            _remove(folder, row)
            continue
        x, y = grid.corner(row.cell)
        days = sorted(row.views)
        tables["test" if splits[row.cell] == "test" else "train"][row.label] = {
            "split": splits[row.cell],
            "spot6_image": f"spot6/{row.label}.tif",
            "sen2_acquisitions": keyed_by_distance(row.views, row.day),
            "dates_spot6": pd.Timestamp(row.day),
            "dates_sen2": [pd.Timestamp(day) for day in days],
            "x": x,
            "y": y,
            "crs": grid.crs.to_string(),
        }
    for name, content in tables.items():
        if content:
            pd.DataFrame(list(content.values()), index=list(content)).to_pickle(folder / f"dataset_{name}.pkl")


def keyed_by_distance(views: Mapping[date, str], day: date) -> dict[int, str]:
    """Paths by days from the truth, in order of their dates; of two as far, the later one's key is negative."""
    keyed: dict[int, str] = {}
    for other in sorted(views):
        distance = abs((other - day).days)
        keyed[distance if distance not in keyed else -distance] = views[other]
    return keyed


def _remove(folder: Path, row: PatchRow) -> None:
    (folder / "spot6" / f"{row.label}.tif").unlink()
    for path in row.views.values():
        (folder / path).unlink()
    (folder / "sen2" / row.label).rmdir()


def _words(grid: PatchGrid) -> str:
    return (
        f"{grid.side:g} m on a side, {grid.patch} pixels of {grid.resolution:g} m and "
        f"{grid.patch // grid.scale} of {grid.resolution * grid.scale:g} m, in {grid.crs.to_string()[:40]}"
    )


def _described(grid: PatchGrid, options: BuildOptions) -> dict[str, Any]:
    return {
        "crs": grid.crs.to_string(),
        "corner": [grid.west, grid.north],
        "bands": list(options.bands),
        "patch": grid.patch,
        "hr_resolution": grid.resolution,
        "scale": grid.scale,
        "shares": dict(options.shares),
        "block": options.block,
        "gap": options.gap,
        "seed": options.seed,
        "min_valid": options.min_valid,
        "clouds_left_out": options.clouds,
        "max_days": options.max_days,
        "mtf": options.mtf,
    }
