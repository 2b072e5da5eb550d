"""Tiny raw data sets in BreizhSR's format, seeded: for tests that need one on disk."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import rasterio
from numpy.typing import NDArray
from rasterio.transform import from_origin

from data_gen.dataset import PatchReader, RawPatch, find_geometry, read_rows, table_paths
from data_gen.prepare import prepare
from data_gen.shards import Options
from utils.errors import DataError
from utils.store import Manifest

NOON = pd.Timestamp("2018-06-15 11:00:00")


def write_raster(path: Path, pixels: NDArray, *, resolution: float = 10.0, nodata: float | None = None) -> Path:
    """A GeoTIFF of pixels (bands, height, width)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    bands, height, width = pixels.shape
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=bands,
        height=height,
        width=width,
        dtype=pixels.dtype,
        crs="EPSG:2154",
        transform=from_origin(250000, 6800000, resolution, resolution),
        nodata=nodata,
    ) as target:
        target.write(pixels)
    return path


def landscape(rng: np.random.Generator, size: int) -> NDArray[np.float64]:
    """Random fields with straight edges and smooth shading, (3, size, size) in [0, 1]."""
    y, x = np.mgrid[0:size, 0:size] / size
    image = np.full((3, size, size), 0.4)
    for _ in range(8):
        angle, offset = rng.uniform(0, np.pi), rng.uniform(-0.4, 0.9)
        side = x * np.cos(angle) + y * np.sin(angle) > offset
        image += side * rng.uniform(-0.12, 0.12, (3, 1, 1))
    image += 0.05 * np.sin(2 * np.pi * (x * rng.uniform(1, 12) + y * rng.uniform(1, 12)))
    return image.clip(0, 1)


def write_patch(
    root: Path, name: str, *, rng: np.random.Generator, hr_size: int, offsets: Sequence[int], scale: int = 4
) -> dict[str, object]:
    """The rasters of one patch and its row: a truth, and a view of it for each day offset."""
    ground = landscape(rng, hr_size)
    truth = (ground * 200 + 20).round().astype(np.uint8)
    write_raster(root / "spot6" / f"{name}.tif", truth, resolution=10 / scale)
    small = ground.reshape(3, hr_size // scale, scale, hr_size // scale, scale).mean((2, 4))
    acquisitions: dict[int, str] = {}
    for offset in offsets:
        season = 1 + 0.3 * np.sin(offset / 60)
        view = small * season * np.array([2000, 1500, 1100]).reshape(3, 1, 1) + rng.normal(0, 10, small.shape)
        relative = f"sen2/{name}/{offset:+04d}.tif"
        write_raster(root / relative, view.clip(0, 60000).round().astype(np.uint16))
        key = abs(offset)
        while key in acquisitions:  # one key an acquisition: 5 and -5 can't both be 5
            key += 1
        acquisitions[key] = relative
    return {
        "spot6_image": f"spot6/{name}.tif",
        "sen2_acquisitions": acquisitions,
        "dates_spot6": NOON,
        "dates_sen2": [NOON + pd.Timedelta(days=offset) for offset in offsets],
        "x": 250000.0,
        "y": 6800000.0,
    }


def write_raw(
    root: Path,
    *,
    train: int = 4,
    val: int = 2,
    test: int = 2,
    hr_size: int = 80,
    dates: int = 5,
    seed: int = 0,
    scale: int = 4,
    string_labels: bool = False,
) -> Path:
    """A raw data set with that many patches a split and ``dates`` acquisitions a patch, by time. Gives root back."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, object]] = []
    labels: list[int | str] = []
    for split, count in (("train", train), ("val", val), ("test", test)):
        for _ in range(count):
            label = 100 + 7 * len(rows)
            distances = rng.choice(np.arange(1, 120), dates, replace=False)
            offsets = sorted(int(d) for d in distances * rng.choice([-1, 1], dates))
            row = write_patch(root, f"{split}/{label}", rng=rng, hr_size=hr_size, offsets=offsets, scale=scale)
            rows.append({"split": split, **row})
            labels.append(f"patch_{label}" if string_labels else label)
    table = pd.DataFrame(rows, index=labels)
    table[table.split != "test"].to_pickle(root / "dataset_train.pkl")
    table[table.split == "test"].to_pickle(root / "dataset_test.pkl")
    return root


def prepare_with(root: Path, *, output: Path | None = None, workers: int = 1, **options: object) -> Manifest:
    """`data_gen.prepare.prepare` in this process."""
    return prepare(root, output=output, options=Options(**options), workers=workers)  # type: ignore[arg-type]


def write_prepared(root: Path, **raw: object) -> Path:
    """A raw data set and its store. Gives the raw root back."""
    write_raw(root, **raw)  # type: ignore[arg-type]
    prepare_with(root)
    return root


class RawBreizhSR:
    """One split of a raw data set: position -> RawPatch.

    Its patch size is that of the first usable row. Raises Unusable for rows that can't be used.
    """

    def __init__(self, root: Path | str, split: str, *, max_s2_images: int = 8, select: str = "nearest") -> None:
        self.root = Path(root)
        splits = read_rows(table_paths(self.root))
        if split not in splits:
            raise DataError(f"{self.root} has no split {split!r}; there are: {', '.join(splits)}")
        self.rows = splits[split]
        everything = [row for rows in splits.values() for row in rows]
        self.geometry = find_geometry(self.root, everything, length=max_s2_images)
        self._reader = PatchReader(self.root, geometry=self.geometry, select=select)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> RawPatch:
        return self._reader.read(self.rows[position])
