"""The sample data: each patch has its dates, its place, its pictures; all from its address (seed, split, number)."""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import rasterio
from numpy.typing import NDArray
from tqdm import tqdm

from data_gen.synthetic.compose import draw_landscape
from data_gen.synthetic.landscape import Landscape
from data_gen.synthetic.sensors import MARGIN, draw_radiometry, draw_view, sentinel2, spot
from utils.errors import ConfigError, DataError
from utils.geo.bands import METRES, RGB

COLUMNS = ("split", "spot6_image", "sen2_acquisitions", "dates_spot6", "dates_sen2", "x", "y")
LEAST_GAP = 30  # days between two truths of a place
NEAR = 6  # days: an acquisition this near shows about the same state of the fields
_SPLITS = ("train", "val", "test")
_YEAR = np.datetime64("2018-01-01T11:00")
_FIRST, _LAST = 32, 312  # the season: February to early November
_SPELLS = 5  # of clear weather, each with an acquisition or more
_MOST = 14  # acquisitions
_VERSION = 7  # of the generator: another one draws other pictures from the same numbers
_DONE, _STARTED = "sample.json", "sample.started.json"
_SMALLEST = 32  # pixels
_DATES, _LANDSCAPE, _SENTINEL2, _SPOT = range(4)  # what random numbers are for

Days = NDArray[np.intp]  # days of the year, 0 = 1 January


class SyntheticPatch(NamedTuple):
    """A patch before it is rendered."""

    seed: int
    split: str
    number: int
    size: int  # pixels of 2.5 m
    bands: tuple[str, ...] = RGB
    days: Days = np.zeros(0, dtype=np.intp)  # of the Sentinel-2 acquisitions, in order
    spot_day: int = 0

    @property
    def rendered(self) -> tuple[str, ...]:
        """The bands as the sensors see them: red, green, blue, then the others."""
        return (*RGB, *(band for band in self.bands if band not in RGB))

    @property
    def name(self) -> int:
        """The row index: not a range, distinct over the splits."""
        return 100_000 * (_SPLITS.index(self.split) + 1) + 7 * self.number

    @property
    def corner(self) -> tuple[float, float]:
        """Top left corner (x, y) in EPSG:2154, metres; patches don't overlap."""
        step = 10 * -(-self.size // 4)
        row, column = divmod(self.number, 200)
        return 170_000.0 + step * column, 6_850_000.0 - 40_000 * _SPLITS.index(self.split) - step * row

    @property
    def spot_path(self) -> str:
        return f"spot6/{self.split}/{self.name}.tif"

    def sentinel2_path(self, day: int) -> str:
        return f"sen2/{self.split}/{self.name}/{_timestamp(day):%Y%m%d}.tif"

    def stream(self, purpose: int, item: int = 0) -> np.random.Generator:
        """The generator of one purpose: nothing that is drawn elsewhere changes its numbers."""
        address = (self.seed, _SPLITS.index(self.split), self.number, purpose, item)
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence(address)))


def plan_patch(*, seed: int, split: str, number: int, size: int, bands: tuple[str, ...] = RGB) -> SyntheticPatch:
    """Choose the dates of a patch."""
    patch = SyntheticPatch(seed, split, number, size, bands)
    generator = patch.stream(_DATES)
    days = acquisition_days(generator)
    return patch._replace(days=days, spot_day=spot_day(generator, days))


def landscape_of(patch: SyntheticPatch) -> Landscape:
    """The landscape, with the margin that the sensors need."""
    return draw_landscape(patch.stream(_LANDSCAPE), patch.size + 2 * MARGIN)


def sentinel2_images(patch: SyntheticPatch, ground: Landscape) -> Iterator[NDArray[np.uint16]]:
    """The acquisitions (C, size / 4, size / 4), in the order of their dates."""
    metres = [METRES.get(band, 20) for band in patch.rendered]
    for item, day in enumerate(patch.days):
        generator = patch.stream(_SENTINEL2, item)
        view = draw_view(generator, bands=len(patch.rendered))
        image = sentinel2(ground.reflectance(int(day), patch.rendered), view, generator, metres=metres)
        yield image[[patch.rendered.index(band) for band in patch.bands]]


def spot_image(patch: SyntheticPatch, ground: Landscape, day: int) -> NDArray[np.uint8]:
    """The truth (C, size, size) on a day."""
    generator = patch.stream(_SPOT, day)
    radiometry = draw_radiometry(generator, others=patch.rendered[len(RGB) :])
    image = spot(ground.reflectance(day, patch.rendered), radiometry, generator)
    return image[[patch.rendered.index(band) for band in patch.bands]]


def acquisition_days(generator: np.random.Generator) -> Days:
    """5 to 14 cloud-free days of a satellite that comes every fifth day, in most places on two orbits.

    They come in clear spells: one in each fifth of the season, and one of them is much longer than the others.
    """
    days = np.arange(_FIRST + int(generator.integers(5)), _LAST, 5)
    if generator.random() < 0.75:
        days = np.concatenate([days, days + int(generator.integers(2, 4))])
    days = np.sort(days[days < _LAST])
    count = _SPELLS + int(generator.binomial(_MOST - _SPELLS, generator.uniform(0.3, 1.0)))
    length = (_LAST - _FIRST) / _SPELLS
    middles = _FIRST + length * (np.arange(_SPELLS) + generator.uniform(0.2, 0.8, _SPELLS))
    lasting = np.full(_SPELLS, 0.25 / (_SPELLS - 1))
    lasting[generator.integers(_SPELLS)] = 0.75  # most further acquisitions come in one long spell
    chosen: set[int] = set()
    for spell in (*range(_SPELLS), *generator.choice(_SPELLS, size=count - _SPELLS, p=lasting)):
        free = days[~np.isin(days, list(chosen))]
        chosen.add(int(free[np.abs(free - middles[spell]).argmin()]))
    return np.array(sorted(chosen))


def _nearest(days: Days, acquisitions: Days) -> NDArray[np.float64]:
    """Days to the nearest acquisition; infinite where two acquisitions are equally far, or one is on the day itself."""
    distances = np.sort(np.abs(days[:, None] - acquisitions), axis=1)
    usable = (np.diff(distances, axis=1) > 0).all(axis=1) & (distances[:, 0] > 0)
    return np.where(usable, distances[:, 0].astype(np.float64), np.inf)


def spot_day(generator: np.random.Generator, acquisitions: Days) -> int:
    """A day a few days from the nearest acquisition and at another distance from each; more likely in a long spell."""
    days = np.arange(_FIRST + 15, _LAST - 15)
    nearest = _nearest(days, acquisitions)
    days = days[nearest <= max(NEAR, nearest.min())]
    clear = (np.abs(days[:, None] - acquisitions) < 15).sum(axis=1) ** 3
    return int(generator.choice(days, p=clear / clear.sum()))


def truth_days(acquisitions: Days, count: int) -> Days:
    """``count`` days at least LEAST_GAP apart, spread over the year, each as near to an acquisition as can be.

    The widest gap at which every day has an acquisition within NEAR days is taken, else the narrowest.
    """
    widest = (_LAST - _FIRST) // max(count - 1, 1)
    for gap in (*range(widest, LEAST_GAP - 1, -4), LEAST_GAP):
        days = _days_apart(acquisitions, count, gap)
        if days is not None and _nearest(days, acquisitions).max() <= NEAR:
            return days
    if days is None:
        raise DataError(f"{count} truths {LEAST_GAP} days apart, at distinct distances, don't fit; ask for fewer")
    return days


def _days_apart(acquisitions: Days, count: int, gap: int) -> Days | None:
    """The days, at least ``gap`` apart, whose distances to their nearest acquisitions have the least sum of squares."""
    days = np.arange(_FIRST, _LAST)
    if (count - 1) * gap >= len(days):
        return None
    cost = (_nearest(days, acquisitions) - 2.0) ** 2  # two days away is as good as the day itself and less trivial
    total, back = cost, []
    for _ in range(count - 1):
        best = np.minimum.accumulate(total)
        at = np.maximum.accumulate(np.where(total == best, np.arange(len(days)), 0))
        back.append(np.concatenate([np.zeros(gap, dtype=np.intp), at[:-gap]]))
        total = cost + np.concatenate([np.full(gap, np.inf), best[:-gap]])
    if not np.isfinite(total.min()):
        return None
    chosen = [int(total.argmin())]
    for earlier in reversed(back):
        chosen.append(int(earlier[chosen[-1]]))
    return days[chosen[::-1]]


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


def write_sample_set(folder: Path, wanted: SampleSet) -> bool:
    """Write the data set, or finish one that was stopped.

    Returns:
        False where it is there already.

    Raises:
        ConfigError: the numbers make no data set.
        DataError: the folder holds anything else.
    """
    parameters = {"version": _VERSION, **dataclasses.asdict(wanted), "bands": list(wanted.bands)}
    if wanted.bands == RGB:
        del parameters["bands"]  # as earlier versions, which knew no others, wrote it
    if wanted.size % 4 or wanted.size < _SMALLEST:
        raise ConfigError(f"--size {wanted.size}: must be a multiple of 4, at least {_SMALLEST}")
    for name in ("train", "val", "test", "seed", "truth_dates"):
        if parameters[name] < 0:
            raise ConfigError(f"--{name} {parameters[name]}: must not be negative")
    if _recorded(folder / _DONE) == parameters:
        return False
    is_free = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    if not is_free and _recorded(folder / _STARTED) != parameters:
        raise DataError(f"{folder} holds something else already: remove it, or choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _STARTED).write_text(json.dumps(parameters, indent=2) + "\n")
    patches = [
        plan_patch(seed=wanted.seed, split=split, number=number, size=wanted.size, bands=wanted.bands)
        for split in _SPLITS
        for number in range(parameters[split])
    ]
    rows: dict[str, dict[object, tuple[object, ...]]] = {"train": {}, "test": {}}  # by table
    if wanted.truth_dates:
        rows["dates"] = {}
    # One environment for all files: setting it up costs as much as a file.
    with rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"):
        for patch in tqdm(patches, desc="sample data", unit="patch"):
            is_test = patch.split == "test"
            days = truth_days(patch.days, wanted.truth_dates) if is_test and wanted.truth_dates else ()
            truths = {f"{patch.name}_{_timestamp(day):%Y%m%d}": int(day) for day in days}
            _write_images(folder, patch, truths)
            own = rows["test" if is_test else "train"]
            own[patch.name] = _row(patch, patch.split, patch.spot_day, patch.spot_path)
            for name, day in truths.items():
                rows["dates"][name] = _row(patch, "dates", day, _truth_path(name))
    for name, table in rows.items():
        frame = pd.DataFrame(list(table.values()), index=list(table), columns=list(COLUMNS))
        frame.to_pickle(folder / f"dataset_{name}.pkl")
    (folder / _STARTED).rename(folder / _DONE)
    return True


def _recorded(path: Path) -> object:
    """What a record of parameters holds; None where there is none to read."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def _timestamp(day: int) -> pd.Timestamp:
    return pd.Timestamp(_YEAR + np.timedelta64(int(day), "D"))


def _truth_path(name: str) -> str:
    return f"spot6/dates/{name}.tif"


def _row(patch: SyntheticPatch, split: str, day: int, path: str) -> tuple[object, ...]:
    """COLUMNS of the patch, seen from the day of a SPOT image."""
    acquisitions = {abs(int(other) - day): patch.sentinel2_path(other) for other in patch.days}
    return (split, path, acquisitions, _timestamp(day), list(map(_timestamp, patch.days)), *patch.corner)


def _write_images(folder: Path, patch: SyntheticPatch, truths: dict[str, int]) -> None:
    """All images of a patch. The SPOT image comes last and appears whole, so it marks a finished patch."""
    last = folder / patch.spot_path
    if last.exists():
        return
    ground = landscape_of(patch)
    for day, image in zip(patch.days, sentinel2_images(patch, ground), strict=True):
        _write(folder / patch.sentinel2_path(day), image, patch)
    for name, day in truths.items():
        _write(folder / _truth_path(name), spot_image(patch, ground, day), patch)
    unfinished = last.with_name(f"{last.name}.part")
    _write(unfinished, spot_image(patch, ground, patch.spot_day), patch)
    unfinished.rename(last)


def _write(path: Path, image: NDArray[np.integer], patch: SyntheticPatch) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixel = 2.5 * patch.size / image.shape[-1]
    write_geotiff(path, image, corner=patch.corner, pixel=pixel, bands=patch.bands)


def write_geotiff(
    path: Path, image: NDArray[np.integer], *, corner: tuple[float, float], pixel: float, bands: Sequence[str] = RGB
) -> None:
    """A (C, H, W) image in EPSG:2154, ``pixel`` metres, top left ``corner``; BreizhSR's bands need no names."""
    count, height, width = image.shape
    transform = rasterio.Affine(pixel, 0, corner[0], 0, -pixel, corner[1])
    shape = {"count": count, "height": height, "width": width, "dtype": image.dtype}
    with rasterio.open(path, "w", driver="GTiff", crs="EPSG:2154", transform=transform, **shape) as file:
        if tuple(bands) != RGB:
            file.descriptions = tuple(bands)
        file.write(image)
