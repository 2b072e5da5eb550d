"""One patch of the sample data: its dates, its place, its pictures; all from its address (seed, split, number)."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import rasterio
from numpy.typing import NDArray
from rasterio.crs import CRS
from tqdm import tqdm

from data_gen.synthetic.compose import draw_landscape
from data_gen.synthetic.dates import Days, acquisition_days, spot_day, truth_days
from data_gen.synthetic.landscape import Landscape
from data_gen.synthetic.sensors import MARGIN, draw_radiometry, draw_view, sentinel2, spot
from utils.errors import ConfigError, DataError
from utils.geo.bands import METRES, RGB

SPLITS = ("train", "val", "test")
COLUMNS = ("split", "spot6_image", "sen2_acquisitions", "dates_spot6", "dates_sen2", "x", "y")
_YEAR = np.datetime64("2018-01-01T11:00")
_LAMBERT93 = CRS.from_epsg(2154)


class SyntheticPatch(NamedTuple):
    """A patch before it is rendered."""

    seed: int
    split: str
    number: int
    size: int  # pixels of 2.5 m
    days: Days  # of the Sentinel-2 acquisitions, in order
    spot_day: int
    bands: tuple[str, ...] = RGB

    @property
    def rendered(self) -> tuple[str, ...]:
        """The bands as the sensors see them: red, green, blue, then the others."""
        return (*RGB, *(band for band in self.bands if band not in RGB))

    @property
    def name(self) -> int:
        """The row index: not a range, distinct over the splits."""
        return 100_000 * (SPLITS.index(self.split) + 1) + 7 * self.number

    @property
    def corner(self) -> tuple[float, float]:
        """Top left corner (x, y) in EPSG:2154, metres; patches don't overlap."""
        step = 10 * -(-self.size // 4)
        column, row = self.number % 200, self.number // 200
        return 170_000.0 + step * column, 6_850_000.0 - 40_000 * SPLITS.index(self.split) - step * row


def _stream(patch: SyntheticPatch, purpose: int, item: int = 0) -> np.random.Generator:
    """The generator of one purpose of a patch: nothing that is drawn elsewhere changes its numbers."""
    address = (patch.seed, SPLITS.index(patch.split), patch.number, purpose, item)
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(address)))


_DATES, _LANDSCAPE, _SENTINEL2, _SPOT = range(4)


def plan_patch(*, seed: int, split: str, number: int, size: int, bands: tuple[str, ...] = RGB) -> SyntheticPatch:
    """Choose the dates of a patch."""
    empty = SyntheticPatch(seed, split, number, size, np.zeros(0, dtype=np.intp), 0, bands)
    generator = _stream(empty, _DATES)
    days = acquisition_days(generator)
    return empty._replace(days=days, spot_day=spot_day(generator, days))


def landscape_of(patch: SyntheticPatch) -> Landscape:
    """The landscape, with the margin that the sensors need."""
    return draw_landscape(_stream(patch, _LANDSCAPE), patch.size + 2 * MARGIN)


def sentinel2_images(patch: SyntheticPatch, ground: Landscape) -> Iterator[NDArray[np.uint16]]:
    """The acquisitions (C, size / 4, size / 4), in the order of their dates."""
    metres = [METRES.get(band, 20) for band in patch.rendered]
    for item, day in enumerate(patch.days):
        generator = _stream(patch, _SENTINEL2, item)
        view = draw_view(generator, bands=len(patch.rendered))
        image = sentinel2(ground.reflectance(int(day), patch.rendered), view, generator, metres=metres)
        yield image[[patch.rendered.index(band) for band in patch.bands]]


def spot_image(patch: SyntheticPatch, ground: Landscape, day: int) -> NDArray[np.uint8]:
    """The truth (C, size, size) on a day."""
    generator = _stream(patch, _SPOT, day)
    radiometry = draw_radiometry(generator, others=patch.rendered[len(RGB) :])
    image = spot(ground.reflectance(day, patch.rendered), radiometry, generator)
    return image[[patch.rendered.index(band) for band in patch.bands]]


def row(patch: SyntheticPatch, day: int, spot_path: str) -> dict[str, object]:
    """The patch's row of the tables, seen from the day of a SPOT image."""
    x, y = patch.corner
    acquisitions = {abs(int(d) - day): sentinel2_path(patch, int(d)) for d in patch.days}
    dates = [timestamp(int(d)) for d in patch.days]
    return dict(zip(COLUMNS, (patch.split, spot_path, acquisitions, timestamp(day), dates, x, y), strict=True))


def timestamp(day: int) -> pd.Timestamp:
    return pd.Timestamp(_YEAR + np.timedelta64(day, "D"))


def sentinel2_path(patch: SyntheticPatch, day: int) -> str:
    return f"sen2/{patch.split}/{patch.name}/{timestamp(day):%Y%m%d}.tif"


def spot_path(patch: SyntheticPatch) -> str:
    return f"spot6/{patch.split}/{patch.name}.tif"


def truths(patch: SyntheticPatch, count: int) -> dict[str, int]:
    """Names and days of ``count`` further truths."""
    return {f"{patch.name}_{timestamp(int(d)):%Y%m%d}": int(d) for d in truth_days(patch.days, count)}


def write_geotiff(
    path: Path, image: NDArray[np.integer], *, corner: tuple[float, float], pixel: float, bands: Sequence[str] = RGB
) -> None:
    """A (C, H, W) image in EPSG:2154, ``pixel`` metres, top left ``corner``; BreizhSR's bands need no names."""
    count, height, width = image.shape
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=width,
        height=height,
        count=count,
        dtype=image.dtype,
        crs=_LAMBERT93,
        transform=rasterio.Affine(pixel, 0, corner[0], 0, -pixel, corner[1]),
    ) as file:
        if tuple(bands) != RGB:
            file.descriptions = tuple(bands)
        file.write(image)


VERSION = 7  # of the generator: another one draws other pictures from the same numbers
_DONE, _STARTED = "sample.json", "sample.started.json"
_SMALLEST = 32


@dataclasses.dataclass(frozen=True)
class SampleSet:
    """What a sample data set is made from."""

    train: int = 48  # patches
    val: int = 6
    test: int = 8
    seed: int = 0
    size: int = 300  # pixels of 2.5 m along a side
    truth_dates: int = 0  # further truths of each test patch
    bands: tuple[str, ...] = RGB

    def check(self) -> None:
        """Raise ConfigError for numbers that make no data set."""
        if self.size % 4 or self.size < _SMALLEST:
            raise ConfigError(f"--size {self.size}: must be a multiple of 4, at least {_SMALLEST}")
        for name in ("train", "val", "test", "seed", "truth_dates"):
            if getattr(self, name) < 0:
                raise ConfigError(f"--{name} {getattr(self, name)}: must not be negative")

    def plan(self, split: str) -> list[SyntheticPatch]:
        """The patches of a split, with their dates."""
        count = getattr(self, split)
        return [
            plan_patch(seed=self.seed, split=split, number=n, size=self.size, bands=self.bands) for n in range(count)
        ]


def write_sample_set(folder: Path, wanted: SampleSet) -> bool:
    """Write the data set, or finish one that was stopped; False where it is there already.

    Raises DataError where the folder holds anything else, ConfigError for impossible numbers.
    """
    wanted.check()
    parameters = {"version": VERSION, **dataclasses.asdict(wanted), "bands": list(wanted.bands)}
    if wanted.bands == RGB:
        del parameters["bands"]  # as earlier versions, which knew no others, wrote it
    if _recorded(folder / _DONE) == parameters:
        return False
    if (
        folder.exists()
        and (not folder.is_dir() or any(folder.iterdir()))
        and _recorded(folder / _STARTED) != parameters
    ):
        raise DataError(f"{folder} holds something else already: remove it, or choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _STARTED).write_text(json.dumps(parameters, indent=2) + "\n")
    splits = {split: wanted.plan(split) for split in SPLITS}
    everything = [patch for split in splits.values() for patch in split]
    with rasterio.Env(
        GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"
    ):  # one for all files: setting it up costs as much as one
        for patch in tqdm(everything, desc="sample data", unit="patch"):
            seasons = truths(patch, wanted.truth_dates) if patch.split == "test" and wanted.truth_dates else {}
            _write_images(folder, patch, seasons)
    _write_tables(folder, splits, wanted.truth_dates)
    (folder / _STARTED).rename(folder / _DONE)
    return True


def _recorded(path: Path) -> object:
    """What a record of parameters holds; None where there is none to read."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def _write_images(folder: Path, patch: SyntheticPatch, truths: dict[str, int]) -> None:
    """All images of a patch. The SPOT image comes last and appears whole, so it marks a finished patch."""
    last = folder / spot_path(patch)
    if last.exists():
        return
    ground = landscape_of(patch)
    for day, image in zip(patch.days, sentinel2_images(patch, ground), strict=True):
        _write(folder / sentinel2_path(patch, int(day)), image, patch)
    for name, day in truths.items():
        _write(folder / _truth_path(name), spot_image(patch, ground, day), patch)
    unfinished = last.with_name(f"{last.name}.part")
    _write(unfinished, spot_image(patch, ground, patch.spot_day), patch)
    unfinished.rename(last)


def _write(path: Path, image: NDArray[np.integer], patch: SyntheticPatch) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixel = 2.5 * patch.size / image.shape[-1]
    write_geotiff(path, image, corner=patch.corner, pixel=pixel, bands=patch.bands)


def _truth_path(name: str) -> str:
    return f"spot6/dates/{name}.tif"


def _write_tables(folder: Path, splits: dict[str, list[SyntheticPatch]], truth_dates: int) -> None:
    def table(name: str, rows: dict[int, dict[str, object]] | dict[str, dict[str, object]]) -> None:
        frame = pd.DataFrame(list(rows.values()), index=list(rows), columns=list(COLUMNS))
        frame.to_pickle(folder / f"dataset_{name}.pkl")

    def own(*names: str) -> dict[int, dict[str, object]]:
        return {p.name: row(p, p.spot_day, spot_path(p)) for name in names for p in splits[name]}

    table("train", own("train", "val"))
    table("test", own("test"))
    if truth_dates:
        dates = {}
        for patch in splits["test"]:
            for name, day in truths(patch, truth_dates).items():
                dates[name] = {**row(patch, day, _truth_path(name)), "split": "dates"}
        table("dates", dates)
