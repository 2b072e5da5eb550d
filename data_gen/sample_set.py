"""Write a sample data set in BreizhSR's raw format: tables, and a GeoTIFF for each image."""

import dataclasses
import json
from pathlib import Path

import pandas as pd
import rasterio
from tqdm import tqdm

from data_gen import patches
from data_gen.patches import Patch
from utils.errors import ConfigError, DataError

VERSION = 6  # of the generator: another one draws other pictures from the same numbers
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

    def check(self) -> None:
        """Raise ConfigError for numbers that make no data set."""
        if self.size % 4 or self.size < _SMALLEST:
            raise ConfigError(f"--size {self.size}: must be a multiple of 4, at least {_SMALLEST}")
        for name in ("train", "val", "test", "seed", "truth_dates"):
            if getattr(self, name) < 0:
                raise ConfigError(f"--{name} {getattr(self, name)}: must not be negative")

    def plan(self, split: str) -> list[Patch]:
        """The patches of a split, with their dates."""
        count = getattr(self, split)
        return [patches.plan_patch(seed=self.seed, split=split, number=n, size=self.size) for n in range(count)]


def write_sample_set(folder: Path, wanted: SampleSet) -> bool:
    """Write the data set, or finish one that was stopped; False where it is there already.

    Raises DataError where the folder holds anything else, ConfigError for impossible numbers.
    """
    wanted.check()
    parameters = {"version": VERSION, **dataclasses.asdict(wanted)}
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
    splits = {split: wanted.plan(split) for split in patches.SPLITS}
    everything = [patch for split in splits.values() for patch in split]
    with rasterio.Env(
        GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"
    ):  # one for all files: setting it up costs as much as one
        for patch in tqdm(everything, desc="sample data", unit="patch"):
            truths = patches.truths(patch, wanted.truth_dates) if patch.split == "test" and wanted.truth_dates else {}
            _write_images(folder, patch, truths)
    _write_tables(folder, splits, wanted.truth_dates)
    (folder / _STARTED).rename(folder / _DONE)
    return True


def _recorded(path: Path) -> object:
    """What a record of parameters holds; None where there is none to read."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def _write_images(folder: Path, patch: Patch, truths: dict[str, int]) -> None:
    """All images of a patch. The SPOT image comes last and appears whole, so it marks a finished patch."""
    last = folder / patches.spot_path(patch)
    if last.exists():
        return
    scene = patches.scene_of(patch)
    for day, image in zip(patch.days, patches.sentinel2_images(patch, scene), strict=True):
        _write(folder / patches.sentinel2_path(patch, int(day)), image, patch)
    for name, day in truths.items():
        _write(folder / _truth_path(name), patches.spot_image(patch, scene, day), patch)
    unfinished = last.with_name(f"{last.name}.part")
    _write(unfinished, patches.spot_image(patch, scene, patch.spot_day), patch)
    unfinished.rename(last)


def _write(path: Path, image: patches.Image, patch: Patch) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixel = 2.5 * patch.size / image.shape[-1]
    patches.write_geotiff(path, image, corner=patch.corner, pixel=pixel)


def _truth_path(name: str) -> str:
    return f"spot6/dates/{name}.tif"


def _write_tables(folder: Path, splits: dict[str, list[Patch]], truth_dates: int) -> None:
    def table(name: str, rows: dict[int, dict[str, object]] | dict[str, dict[str, object]]) -> None:
        frame = pd.DataFrame(list(rows.values()), index=list(rows), columns=list(patches.COLUMNS))
        frame.to_pickle(folder / f"dataset_{name}.pkl")

    def own(*names: str) -> dict[int, dict[str, object]]:
        return {p.name: patches.row(p, p.spot_day, patches.spot_path(p)) for name in names for p in splits[name]}

    table("train", own("train", "val"))
    table("test", own("test"))
    if truth_dates:
        dates = {}
        for patch in splits["test"]:
            for name, day in patches.truths(patch, truth_dates).items():
                dates[name] = {**patches.row(patch, day, _truth_path(name)), "split": "dates"}
        table("dates", dates)
