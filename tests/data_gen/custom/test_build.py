"""Data sets of one's own: any coordinate system, any extent, splits that don't touch, nothing half written."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.warp import transform

from data_gen.checks.rules import check_data_set
from data_gen.custom.build import BuildOptions, build
from data_gen.pickled_table import read_pickled_table
from data_gen.synthetic.sensors import AREA_MTF
from tests.command import run, succeed
from tests.data import prepare_with
from tests.golden.large import ROOT
from utils.dataloader import BreizhSRDataset
from utils.errors import ConfigError, DataError
from utils.geo.acquisitions import find_acquisitions
from utils.geo.raster import Grid

pytestmark = pytest.mark.slow

COMMAND = "data_gen/build_dataset.py"
LAMBERT, UTM = CRS.from_epsg(2154), CRS.from_epsg(32630)
EAST, NORTH = 250000.0, 6800000.0  # a place in Brittany, EPSG:2154
TRUTH_DAY, DAYS = date(2018, 6, 15), (date(2018, 6, 1), date(2018, 6, 12), date(2018, 7, 20))


def ground(x: NDArray, y: NDArray) -> NDArray[np.float64]:
    """Reflectance (3, ...) at places in EPSG:2154: fields, ways between them, some shading."""
    column, row = np.floor((x + 0.3 * y) / 61), np.floor((y - 0.2 * x) / 47)
    field = np.sin(column * 12.9898 + row * 78.233) * 43758.5453
    field = field - np.floor(field)
    shade = 0.01 * np.sin(x / 90) * np.cos(y / 130)
    return np.stack([0.03 + 0.12 * field, 0.05 + 0.08 * (1 - field) ** 2, 0.02 + 0.06 * field**2]) + shade


def written(
    path: Path, *, crs: CRS, corner: tuple[float, float], resolution: float, shape: tuple[int, int],
    gain: float = 10000, dtype: str = "uint16", cloud: Sequence[slice] | None = None, **tags: str,
) -> Path:  # fmt: skip
    """A GeoTIFF of the ground, each pixel the mean of 3×3 points in it."""
    grid = Grid(crs, Affine(resolution, 0, corner[0], 0, -resolution, corner[1]), *shape)
    total = np.zeros((3, *shape))
    for down, right in itertools.product((1 / 6, 1 / 2, 5 / 6), repeat=2):
        columns, rows = np.meshgrid(np.arange(shape[1]) + right, np.arange(shape[0]) + down)
        x, y = grid.transform.c + columns * resolution, grid.transform.f - rows * resolution
        if crs != LAMBERT:
            flat = transform(crs, LAMBERT, x.ravel(), y.ravel())
            x, y = (np.array(axis).reshape(shape) for axis in flat)
        total += ground(x, y) / 9
    pixels = (total * gain).round().astype(dtype)
    if cloud:
        pixels[:, *cloud] = 6000
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path, "w", driver="GTiff", count=3, height=shape[0], width=shape[1], dtype=dtype, crs=crs,
        transform=grid.transform,
    ) as target:  # fmt: skip
        target.write(pixels)
        target.update_tags(**tags)
    return path


def in_utm(x: float, y: float) -> tuple[float, float]:
    """A place on the 10 m grid of UTM."""
    (east,), (north,) = transform(LAMBERT, UTM, [x], [y])
    return round(east / 10) * 10, round(north / 10) * 10


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A truth of 1.9 m in Lambert 93, 12 bits; three dates of Sentinel-2 in UTM, one cloudy in a corner."""
    folder = tmp_path_factory.mktemp("images")
    written(
        folder / "hr" / "pleiades_20180615.tif", crs=LAMBERT, corner=(EAST + 3, NORTH + 7), resolution=1.9,
        shape=(700, 800), gain=8000,
    )  # fmt: skip
    corner = in_utm(EAST - 200, NORTH + 200)
    for day in DAYS:
        cloud = (slice(0, 90), slice(0, 80)) if day == DAYS[1] else None
        name = folder / "s2" / f"{day:%Y}" / f"T30UVU_{day:%Y%m%d}.tif"
        gain = 10000 * (1 + 0.1 * DAYS.index(day))
        written(name, crs=UTM, corner=corner, resolution=10, shape=(220, 230), cloud=cloud, gain=gain)
    return folder


def built(images: Path, output: Path, **wanted: Any) -> dict[str, int]:
    truths = find_acquisitions(sorted((images / "hr").iterdir()), scale=1)
    views = find_acquisitions(sorted((images / "s2").glob("*/*.tif")))
    options = BuildOptions(**{"patch": 96, "gap": 0, **wanted})
    return build(truths, views, output, options)


def pixels(path: Path) -> tuple[NDArray[Any], Any]:
    with rasterio.open(path) as source:
        return source.read(), source.profile


def rows(root: Path) -> pd.DataFrame:
    return pd.concat([pd.read_pickle(path) for path in sorted(root.glob("dataset_*.pkl"))])


def test_the_grid_is_that_of_the_acquisitions(images: Path, tmp_path: Path) -> None:
    """Their pixels are copied; truths, resampled onto it, show the ground that they should."""
    counts = built(images, tmp_path / "own")
    table = rows(tmp_path / "own")
    assert sum(counts.values()) == len(table) >= 15
    with rasterio.open(images / "s2" / "2018" / "T30UVU_20180601.tif") as source:
        whole = source.read()
        for label, row in table.iterrows():
            lr, profile = pixels(tmp_path / "own" / f"sen2/{label}/20180601.tif")
            assert profile["crs"] == UTM and profile["dtype"] == "uint16" and lr.shape == (3, 24, 24)
            top, left = source.index(row.x + 5, row.y - 5)
            assert (lr == whole[:, top : top + 24, left : left + 24]).all()
            hr, profile = pixels(tmp_path / "own" / row.spot6_image)
            assert profile["dtype"] == "uint8" and hr.shape == (3, 96, 96) and profile["transform"].a == 2.5
            assert profile["transform"].c == row.x and profile["transform"].f == row.y
    data, findings = check_data_set(tmp_path / "own", sample=0)
    assert [finding for finding in findings if finding.level == "error"] == []
    lies = [view.displacement for view in data.acquired if view.displacement is not None]
    assert len(lies) == len(data.acquired) and max(lie.length for lie in lies) <= 0.15


def test_rows_are_those_of_the_format(images: Path, tmp_path: Path) -> None:
    built(images, tmp_path / "own")
    cloudy = 0
    for _, row in rows(tmp_path / "own").iterrows():
        assert row.dates_spot6 == pd.Timestamp(TRUTH_DAY)
        offsets = [(stamp - row.dates_spot6).days for stamp in row.dates_sen2]
        assert offsets in ([-14, -3, 35], [-14, 35])
        assert list(row.sen2_acquisitions) == [abs(offset) for offset in offsets]
        cloudy += len(offsets) == 2
        for path, stamp in zip(row.sen2_acquisitions.values(), row.dates_sen2, strict=True):
            assert path.endswith(f"{stamp:%Y%m%d}.tif") and (tmp_path / "own" / path).is_file()
    assert cloudy > 0  # the patches below the cloud do without that date
    assert len(list((tmp_path / "own" / "spot6").iterdir())) == len(rows(tmp_path / "own"))


def test_clouds_and_distance_can_be_asked_for(images: Path, tmp_path: Path) -> None:
    built(images, tmp_path / "all", clouds=False)
    assert {len(row.dates_sen2) for _, row in rows(tmp_path / "all").iterrows()} == {3}
    built(images, tmp_path / "near", clouds=False, max_days=14)
    assert {tuple(row.sen2_acquisitions) for _, row in rows(tmp_path / "near").iterrows()} == {(14, 3)}


def test_another_coordinate_system_and_the_other_scales(images: Path, tmp_path: Path) -> None:
    built(images, tmp_path / "own", crs=LAMBERT, scale=8, resolution=1.25, patch=192)
    table = rows(tmp_path / "own")
    assert set(table.crs) == {"EPSG:2154"}
    manifest = prepare_with(tmp_path / "own", percentile=98)
    assert (manifest.geometry.hr_size, manifest.geometry.scale) == (192, 8)
    assert "98th percentiles" in manifest.normalisation
    sample = BreizhSRDataset(tmp_path / "own", "train")[0]
    assert sample["img_hr"].shape == (3, 192, 192) and sample["img_lr"].shape == (3, 24, 24)
    _, findings = check_data_set(tmp_path / "own", sample=0)
    assert [finding for finding in findings if finding.level == "error"] == []


def test_the_stretch(images: Path, tmp_path: Path) -> None:
    """16 bits become 8 by percentiles of the whole data set; 8 bits stay as they are."""
    built(images, tmp_path / "own", stretch=(2, 98))
    record = json.loads((tmp_path / "own" / "build.json").read_text())
    levels = np.concatenate([pixels(p)[0].reshape(3, -1) for p in (tmp_path / "own" / "spot6").iterdir()], axis=1)
    assert 0.005 < (levels == 255).mean() < 0.04 and 0.005 < (levels <= 1).mean() < 0.04
    assert all(b < w for b, w in zip(record["black"], record["white"], strict=True))
    one = written(
        tmp_path / "images" / "hr" / "20180615.tif", crs=UTM, corner=in_utm(EAST, NORTH), resolution=2.5,
        shape=(192, 192), gain=1000, dtype="uint8",
    )  # fmt: skip
    (tmp_path / "images" / "s2").symlink_to(images / "s2")
    built(tmp_path / "images", tmp_path / "eight")
    whole = pixels(one)[0]
    for path in (tmp_path / "eight" / "spot6").iterdir():
        hr, profile = pixels(path)
        with rasterio.open(one) as source:
            top, left = source.index(profile["transform"].c + 1, profile["transform"].f - 1)
        assert (hr == whole[:, top : top + 96, left : left + 96]).all()


def test_the_low_resolution_made_by_averaging(images: Path, tmp_path: Path) -> None:
    """The truth itself as Sentinel-2: exactly its own averages."""
    name = "T30UVU_20180601.tif"
    views = find_acquisitions([images / "s2" / "2018" / name])
    truths = find_acquisitions([images / "s2" / "2018" / name], scale=1)
    wanted = BuildOptions(patch=64, resolution=10, gap=0, clouds=False)
    build(truths, views, tmp_path / "own", wanted)
    whole = pixels(images / "s2" / "2018" / name)[0].astype(float)
    table = rows(tmp_path / "own")
    assert len(table) == 9
    with rasterio.open(images / "s2" / "2018" / name) as source:
        for _, row in table.iterrows():
            lr = pixels(tmp_path / "own" / row.sen2_acquisitions[0])[0]
            top, left = source.index(row.x + 5, row.y - 5)
            fine = whole[:, top : top + 64, left : left + 64]
            assert np.abs(lr - fine.reshape(3, 16, 4, 16, 4).mean((2, 4))).max() <= 0.5


def test_images_of_one_day_are_one_acquisition(tmp_path: Path) -> None:
    """Two halves of a swath, cut in the middle of a patch."""
    corner = in_utm(EAST, NORTH)
    written(tmp_path / "hr" / "20180615.tif", crs=UTM, corner=corner, resolution=2.5, shape=(384, 384), gain=2000)
    for number, left in enumerate((0, 40)):
        written(
            tmp_path / "s2" / "a" / f"half{number}_20180601.tif", crs=UTM, corner=(corner[0] + left * 10, corner[1]),
            resolution=10, shape=(96, 56),
        )  # fmt: skip
    built(tmp_path, tmp_path / "own")
    table = rows(tmp_path / "own")
    assert len(table) == 16 and all(list(row.sen2_acquisitions) == [14] for _, row in table.iterrows())


def test_two_dates_as_far_on_either_side_both_stay(tmp_path: Path) -> None:
    corner = in_utm(EAST, NORTH)
    written(tmp_path / "hr" / "20180615.tif", crs=UTM, corner=corner, resolution=2.5, shape=(384, 384), gain=2000)
    for day, gain in (("20180610", 10000), ("20180620", 11000)):
        written(tmp_path / "s2" / "a" / f"{day}.tif", crs=UTM, corner=corner, resolution=10, shape=(96, 96), gain=gain)
    built(tmp_path, tmp_path / "own")
    for _, row in rows(tmp_path / "own").iterrows():
        assert list(row.sen2_acquisitions) == [5, -5]
    _, findings = check_data_set(tmp_path / "own", sample=0)
    assert [finding for finding in findings if finding.level == "error"] == []


# ---------------------------------------------------------------------------------------------------------------------
# What goes wrong


def test_nothing_half_is_left(images: Path, tmp_path: Path) -> None:
    """A failure in the middle, and one that a failure before left behind."""
    with pytest.raises(DataError, match="too few"):
        built(images, tmp_path / "own", gap=20)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / ".own.unfinished" / "spot6").mkdir(parents=True)
    (tmp_path / ".own.unfinished" / "spot6" / "old.tif").touch()
    built(images, tmp_path / "own")
    assert [path.name for path in tmp_path.iterdir()] == ["own"]
    assert not (tmp_path / "own" / "spot6" / "old.tif").exists()
    with pytest.raises(DataError, match="holds something already"):
        built(images, tmp_path / "own")


@pytest.mark.slow
def test_a_stopped_command_leaves_nothing(images: Path, tmp_path: Path) -> None:
    arguments = ["--hr", str(images / "hr" / "*.tif"), "--lr", str(images / "s2"), "--output", str(tmp_path / "own")]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / COMMAND), *arguments, "--patch", "32", "--lr", str(images / "s2" / "*" / "*.tif")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    while not (tmp_path / ".own.unfinished" / "spot6").exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143 and "build_dataset.py: error: stopped; nothing was written" in errors
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_fit_together(images: Path, tmp_path: Path) -> None:
    far = written(
        tmp_path / "images" / "hr" / "20180615.tif", crs=UTM, corner=(300000, 4000000), resolution=2.5, shape=(200, 200)
    )
    (tmp_path / "images" / "s2").symlink_to(images / "s2")
    with pytest.raises(DataError, match="don't overlap anywhere"):
        built(tmp_path / "images", tmp_path / "own")
    far.unlink()
    with rasterio.open(far, "w", driver="GTiff", count=3, height=9, width=9, dtype="uint8") as target:
        target.write(np.ones((3, 9, 9), dtype=np.uint8))
    with pytest.raises(DataError, match="no coordinate system"):
        built(tmp_path / "images", tmp_path / "own")
    with pytest.raises(DataError, match="no patch of 5000 m fits"):
        built(images, tmp_path / "own", patch=2000)
    with pytest.raises(ConfigError, match="counts degrees"):
        built(images, tmp_path / "own", crs=CRS.from_epsg(4326))
    assert not (tmp_path / "own").exists()


@pytest.mark.slow
def test_the_command_and_its_errors(images: Path, tmp_path: Path) -> None:
    ours = ["--hr", images / "hr" / "*.tif", "--lr", images / "s2" / "*" / "*.tif", "--output", tmp_path / "own"]
    for arguments, code, words in (
        (["--patch", "90"], 2, "--patch 90: a multiple of --scale 4"),
        (["--crs", "nonsense"], 2, "not a coordinate system"),
        (["--hr", tmp_path / "*.tif"], 3, "--hr: nothing is called"),
        (["--pach", "96"], 2, "did you mean --patch?"),
    ):
        done = run(COMMAND, *ours, *arguments, cwd=tmp_path)
        assert done.returncode == code and words in done.error, done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_real_scene_from_images_to_results(real: Path, tmp_path: Path) -> None:
    """The commands of docs/data.md: built, checked, prepared, trained on, evaluated, checked again."""
    scene, days = real / "scene" / "*.tif", "2020-04-05,2020-08-03"
    succeed(
        COMMAND, "--hr", scene, "--lr", scene, "--hr_dates", days, "--lr_dates", days, "--output", "own",
        "--patch", 96, "--hr_resolution", 10, cwd=tmp_path,
    )  # fmt: skip
    index, columns = read_pickled_table(tmp_path / "own" / "dataset_train.pkl")
    assert set(columns["split"]) == {"train", "val"} and len(index) >= 16
    checked = succeed("data_gen/check.py", "own", "--json", "own.json", cwd=tmp_path)
    assert "0 errors, 0 warnings" in checked.stdout
    found = json.loads((tmp_path / "own.json").read_text())["acquisitions"]["median_displacement"]
    assert abs(found["rows"]) <= 0.1 and abs(found["columns"]) <= 0.1
    succeed("data_gen/preprocess_data.py", "own", "--percentiles", 98, cwd=tmp_path)
    assert "0 errors, 0 warnings" in succeed("data_gen/check.py", "own/preprocessed", cwd=tmp_path).stdout
    tiny = (
        "data_root=own,hidden_size=8,num_block=1,max_updates=3,batch_size=4,eval_batch_size=2,val_check_interval=3,"
        "save_ckpt_interval=3,num_workers=0,test_save_png=false"
    )
    trainer, folder = "tasks/trainer.py", tmp_path / "checkpoints" / "own" / "rrdb"
    config = ROOT / "configs" / "rrdb" / "rrdb.yaml"
    succeed(trainer, "--config", config, "--exp_name", "own/rrdb", "--hparams", tiny, cwd=tmp_path)
    succeed(trainer, "--config", folder / "config.yaml", "--exp_name", "own/rrdb", "--infer", cwd=tmp_path)
    results = pd.read_csv(folder / "test_results.csv", sep=";")
    assert list(results["key"]) == read_pickled_table(tmp_path / "own" / "dataset_test.pkl")[0]
    assert np.isfinite(results["psnr"]).all()


def test_images_that_are_cloud_all_over_are_said(
    images: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "s2").mkdir()
    corner = in_utm(EAST - 200, NORTH + 200)
    everywhere = (slice(0, 220), slice(0, 230))
    path = tmp_path / "s2" / f"{DAYS[0]:%Y%m%d}.tif"
    view = written(path, crs=UTM, corner=corner, resolution=10, shape=(220, 230), cloud=everywhere)
    truths = find_acquisitions(sorted((images / "hr").iterdir()), scale=1)
    with pytest.raises(DataError):
        build(truths, find_acquisitions([view]), tmp_path / "out", BuildOptions(patch=96, gap=0))
    assert "what is bright counts as cloud" in caplog.text


# --- reduced scale


def reduced(images: Path, output: Path, **wanted: Any) -> dict[str, int]:
    """Sentinel-2 alone: 40 m to 10 m, no split but train."""
    views = find_acquisitions(sorted((images / "s2").glob("*/*.tif")))
    shares = {"train": 1.0, "val": 0.0, "test": 0.0}
    options = {"patch": 64, "resolution": 10.0, "gap": 0, "white": 0.5, "mtf": (0.2, 0.2), "shares": shares, **wanted}
    return build(views, views, output, BuildOptions(**options))


def test_at_reduced_scale_every_date_is_a_truth_in_turn(images: Path, tmp_path: Path) -> None:
    reduced(images, tmp_path / "own", clouds=False)
    table = rows(tmp_path / "own")
    places = table.groupby(["x", "y"])
    assert {tuple(group["dates_spot6"].dt.date) for _, group in places} == {DAYS}
    for _, row in table.iterrows():
        offsets = [(day - row["dates_spot6"].date()).days for day in DAYS]
        assert [(stamp - row["dates_spot6"]).days for stamp in row["dates_sen2"]] == offsets
        assert 0 in row["sen2_acquisitions"]


def test_the_reduced_input_is_what_a_sensor_of_that_mtf_sees(images: Path, tmp_path: Path) -> None:
    detail = {}
    for mtf in (0.2, 0.4, AREA_MTF):
        reduced(images, tmp_path / f"{mtf}", mtf=(mtf, mtf), clouds=False)
        errors, spreads = [], []
        for _, row in rows(tmp_path / f"{mtf}").iterrows():
            truth = pixels(tmp_path / f"{mtf}" / row["spot6_image"])[0] / 255 * 0.5
            seen = pixels(tmp_path / f"{mtf}" / row["sen2_acquisitions"][0])[0] / 10000
            if truth.max() == 0.5:  # a cloud, brighter than the truth's white
                continue
            means = truth.reshape(3, 16, 4, 16, 4).mean(axis=(2, 4))
            errors.append(np.abs(seen - means).max())
            spreads.append(np.abs(np.diff(seen, axis=2)).mean())
        detail[mtf] = np.mean(spreads)
        assert mtf < 0.6 or max(errors) < 0.002  # plain means, but for the truth's 8 bits
    assert detail[0.2] < 0.95 * detail[0.4] < 0.95 * detail[AREA_MTF]


def test_clouds_are_left_out_at_reduced_scale_too(images: Path, tmp_path: Path) -> None:
    reduced(images, tmp_path / "all", clouds=False)
    reduced(images, tmp_path / "clear")
    clouded = set(rows(tmp_path / "all").index) - set(rows(tmp_path / "clear").index)
    assert clouded and {label.split("_")[0] for label in clouded} == {f"{DAYS[1]:%Y%m%d}"}


def test_reduced_scale_by_the_command(images: Path, tmp_path: Path) -> None:
    pattern = images / "s2" / "*" / "*.tif"
    arguments = ("--lr", pattern, "--mtf", "0.15,0.45", "--patch", 64, "--val", 0, "--test", 0)
    for name in ("one", "two"):
        succeed(COMMAND, *arguments, "--output", tmp_path / name, cwd=tmp_path)
    files = [path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.tif")]
    assert files and all((tmp_path / "one" / f).read_bytes() == (tmp_path / "two" / f).read_bytes() for f in files)
    assert prepare_with(tmp_path / "one", maxima=(0.5, 0.5, 0.5)).skipped == []
    for wrong, message in (((), "--hr is missing"), (("--mtf", "0.4,0.2"), "lower one first")):
        done = run(COMMAND, "--lr", pattern, *wrong, "--output", tmp_path / "no", cwd=tmp_path)
        assert done.returncode == 2 and message in done.stderr


def test_images_of_one_file_a_band_make_the_same_data_set(images: Path, tmp_path: Path) -> None:
    for path in (images / "s2").glob("*/*.tif"):
        with rasterio.open(path) as source:
            profile = {**source.profile, "count": 1}
            for index, band in enumerate(("B04", "B03", "B02"), 1):
                single = tmp_path / "s2" / path.stem[-8:] / f"{band}.tif"
                single.parent.mkdir(parents=True, exist_ok=True)
                with rasterio.open(single, "w", **profile) as target:
                    target.write(source.read(index), 1)
    built(images, tmp_path / "a")
    truths = find_acquisitions(sorted((images / "hr").iterdir()), scale=1)
    build(truths, find_acquisitions([tmp_path / "s2"]), tmp_path / "b", BuildOptions(patch=96, gap=0))
    written_files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.tif"))
    assert len(written_files) > 10
    for name in written_files:
        np.testing.assert_array_equal(pixels(tmp_path / "a" / name)[0], pixels(tmp_path / "b" / name)[0])
