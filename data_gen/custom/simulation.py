"""A raw data set in BreizhSR's format from single high-resolution images: the series is simulated."""

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import rasterio
from tqdm import tqdm

from data_gen.custom.build import keyed_by_distance
from data_gen.custom.imagery import (
    Picture,
    as_reflectance,
    band_quantiles,
    coarser,
    farmland_quantiles,
    find_images,
    read_pictures,
    sentinel2_quantiles,
)
from data_gen.custom.seasons import SimulatedSeries, simulate_series
from data_gen.custom.splits import SPLITS
from data_gen.synthetic.dataset import COLUMNS, write_geotiff
from data_gen.synthetic.reflectance import Floats
from data_gen.synthetic.sensors import SCALE
from utils.errors import ConfigError, DataError
from utils.files import atomic_folder, write_text

RECORD = "simulate.json"
_SAMPLED = 2000  # pixels of an image that the colours are measured on
_LARGEST = 960  # pixels of the truth that are seen as one place
_DAY = date(2020, 7, 1)  # of every truth
_EMPTY = 0.01  # share of a patch that may be black in all bands: images have borders without data
_SPLITTING, _SAMPLING, _PLACE = range(3)  # what random numbers are for: the first part of their address


@dataclasses.dataclass(frozen=True)
class SimulationOptions:
    """What is asked for."""

    gsd: float  # ground sampling of the images, metres
    patch: int = 300  # pixels of the truth
    resolution: float = 2.5  # of the truth, metres
    dates: int = 8  # acquisitions of a patch
    rounds: int = 1  # how often each training image is seen, with another sensor, season and colours
    coarsest: float = 1.3  # images are taken for up to so many times coarser than they are
    white: float = 0.5  # reflectance that becomes level 255
    shares: Mapping[str, float] = dataclasses.field(default_factory=lambda: {"train": 0.8, "val": 0.1, "test": 0.1})
    seed: int = 0

    def check(self) -> None:
        """Raise ConfigError for what makes no data set."""
        if self.patch % SCALE or not 32 <= self.patch <= _LARGEST:
            raise ConfigError(f"--patch {self.patch}: must be a multiple of {SCALE} from 32 to {_LARGEST}")
        if not 0 < self.gsd <= self.resolution:
            raise ConfigError(f"--gsd {self.gsd:g}: must lie above 0 and not above --resolution {self.resolution:g}")
        if not 1 <= self.dates <= 100 or self.rounds < 1 or self.coarsest < 1 or not 0 < self.white <= 6.5:
            raise ConfigError("--dates from 1 to 100, --rounds and --coarsest from 1, --white above 0 and up to 6.5")
        if min(self.shares.values()) < 0 or self.shares["train"] <= 0:
            raise ConfigError("--train, --val, --test: shares from 0; --train above 0")


class SimulatedPatch(NamedTuple):
    """A part of a place."""

    row: int
    column: int
    series: SimulatedSeries


def simulate(images: Sequence[Path], like: Sequence[Path], output: Path, options: SimulationOptions) -> dict[str, int]:
    """Write the data set, whole or not at all.

    Args:
        images: files and folders of them.
        like: Sentinel-2 images whose colours the data set gets; none: those of farmland in summer.
        output: the raw root to make; it must not hold anything.

    Returns:
        How many patches each split has.

    Raises:
        ConfigError: options that make no data set.
        DataError: images that can't be read or give no patch; an output that is there already.
    """
    options.check()
    output = output.resolve()
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise DataError(f"{output} holds something already: remove it, or choose another --output")
    files = find_images(images)
    targets = sentinel2_quantiles(like) if like else farmland_quantiles()
    names, source = _survey(files, options)
    splits = _split(len(names), options)
    rows: dict[str, dict[str, Any]] = {}
    with (
        atomic_folder(output) as folder,
        rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"),
        tqdm(total=options.rounds * len(names), desc="simulated", unit="image") as progress,
    ):
        for turn in range(options.rounds):
            for number, picture in enumerate(_all_pictures(files)):
                progress.update()
                if turn == 0 or splits[number] == "train":  # what is measured on is seen once
                    patches = _patches(picture, (number, turn), source, targets, options)
                    label = f"{number:05d}_{turn}_{re.sub(r'[^A-Za-z0-9_.-]', '_', picture.name)[-40:]}"
                    place = number + turn * len(names)
                    rows |= _write_patches(folder, label, splits[number], place, patches, options)
        if not rows:
            raise DataError(f"no image covers half a patch of {options.patch * options.resolution:g} m with data")
        counts = dict(Counter(row["split"] for row in rows.values()))
        for table, held in (("train", ("train", "val")), ("test", ("test",))):
            chosen = {label: row for label, row in rows.items() if row["split"] in held}
            if chosen:
                pd.DataFrame(list(chosen.values()), index=list(chosen)).to_pickle(folder / f"dataset_{table}.pkl")
        record = {"patches": counts, **dataclasses.asdict(options), "images": dict(zip(names, splits, strict=True))}
        write_text(folder / RECORD, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    return {split: counts[split] for split in SPLITS if split in counts}


def _all_pictures(files: Sequence[Path]) -> Iterator[Picture]:
    for file in files:
        yield from read_pictures(file)


def _stream(options: SimulationOptions, *address: int) -> np.random.Generator:
    """The generator of one purpose: nothing that is drawn elsewhere changes its numbers."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((options.seed, *address))))


def _survey(files: Sequence[Path], options: SimulationOptions) -> tuple[list[str], Floats]:
    """Names of all images, and the quantiles of their colours together, (3, quantiles)."""
    names, samples = [], []
    for number, picture in enumerate(_all_pictures(files)):
        values = picture.bands.reshape(3, -1)
        values = values[:, (values > 0).any(axis=0)]  # without borders
        names.append(f"{number:05d}_{picture.name}")
        if values.size:
            generator = _stream(options, _SAMPLING, number)
            samples.append(values[:, generator.integers(values.shape[1], size=_SAMPLED)])
    if not samples:
        raise DataError("the images are black: they show nothing")
    return names, band_quantiles(np.concatenate(samples, axis=1))


def _split(count: int, options: SimulationOptions) -> list[str]:
    """The split of each image, by chance; as many as the shares say."""
    total = sum(options.shares.values())
    held = {split: round(count * options.shares[split] / total) for split in ("val", "test")}
    parts = ["test"] * held["test"] + ["val"] * held["val"]
    parts = (parts + ["train"] * count)[:count]
    order = _stream(options, _SPLITTING).permutation(count)
    return [parts[place] for place in order.argsort()]


def _patches(
    picture: Picture, address: tuple[int, int], source: Floats, targets: Floats, options: SimulationOptions
) -> Iterator[SimulatedPatch]:
    """The patches of an image, seen once. What is a little smaller than a patch is continued by its mirror image."""
    generator = _stream(options, _PLACE, *address)
    ratio = options.resolution / (options.gsd * generator.uniform(1, options.coarsest))
    image = coarser(picture.bands, max(ratio, 1.0))
    side = options.patch
    if min(image.shape[1:]) < side / 2:
        return
    missing = [max(0, side - length) for length in image.shape[1:]]
    image = np.pad(image, [(0, 0), *((short // 2, short - short // 2) for short in missing)], mode="symmetric")
    spare = [length % side for length in image.shape[1:]]
    top, left = (int(generator.integers(length + 1)) for length in spare)
    height, width = (length - rest for length, rest in zip(image.shape[1:], spare, strict=True))
    step = _LARGEST // side * side
    for first_row in range(0, height, step):
        for first_column in range(0, width, step):
            rows, columns = min(step, height - first_row), min(step, width - first_column)
            part = image[:, top + first_row :, left + first_column :][:, :rows, :columns]
            ground = as_reflectance(part, source, targets, generator, white=options.white)
            whole = simulate_series(ground, options.dates, generator)
            for row in range(0, rows, side):
                for column in range(0, columns, side):
                    if (part[:, row : row + side, column : column + side] == 0).all(axis=0).mean() <= _EMPTY:
                        yield SimulatedPatch(
                            (first_row + row) // side, (first_column + column) // side, _cut(whole, row, column, side)
                        )


def _cut(series: SimulatedSeries, row: int, column: int, side: int) -> SimulatedSeries:
    fine = (slice(None), slice(row, row + side), slice(column, column + side))
    coarse = (slice(None), *(slice(part.start // SCALE, part.stop // SCALE) for part in fine[1:]))
    return SimulatedSeries(series.days, [image[coarse] for image in series.images], series.truth[fine])


def _write_patches(
    folder: Path, label: str, split: str, place: int, patches: Iterator[SimulatedPatch], options: SimulationOptions
) -> dict[str, dict[str, Any]]:
    """The files of one image's patches; their rows of the table. Places lie side by side on a grid that isn't real."""
    rows = {}
    extent = options.patch * options.resolution
    for row, column, series in patches:
        name = f"{label}_r{row}c{column}"
        corner = (extent * (100 * (place % 50) + column), extent * (100 * (place // 50) + 99 - row))
        levels = np.rint(np.clip(series.truth / options.white, 0, 1) * 255).astype(np.uint8)
        truth_path = f"spot6/{split}/{name}.tif"
        days = [_DAY + timedelta(days=int(day)) for day in series.days]
        views = {day: f"sen2/{split}/{name}/{day:%Y%m%d}.tif" for day in days}
        (folder / truth_path).parent.mkdir(parents=True, exist_ok=True)
        write_geotiff(folder / truth_path, levels, corner=corner, pixel=options.resolution)
        (folder / f"sen2/{split}/{name}").mkdir(parents=True)
        for day, image in zip(days, series.images, strict=True):
            write_geotiff(folder / views[day], image, corner=corner, pixel=options.resolution * SCALE)
        stamps = [pd.Timestamp(day) for day in days]
        entries = (split, truth_path, keyed_by_distance(views, _DAY), pd.Timestamp(_DAY), stamps, *corner)
        rows[name] = dict(zip(COLUMNS, entries, strict=True))
    return rows
