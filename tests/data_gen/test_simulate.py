"""Series simulated from single images: any format, splits by image, the sensor's and the seasons' properties."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rasterio
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage, stats
from skimage.measure import block_reduce

from data_gen.custom.imagery import as_reflectance, band_quantiles, farmland_quantiles
from data_gen.custom.seasons import days_around_truth, draw_season, segment, simulate_series
from data_gen.synthetic.compose import draw_landscape
from tests.command import run, succeed
from tests.data import prepare_with

COMMAND = "data_gen/simulate.py"


def aerial(seed: int, side: int = 160) -> NDArray[np.uint8]:
    """An image as aerial ones are stretched for display: (3, side, side)."""
    ground = draw_landscape(np.random.default_rng(seed), side).reflectance(180)
    return np.clip(ground / 0.2 * 255, 1, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One image in each format that is known; the NPZ holds four."""
    folder = tmp_path_factory.mktemp("images")
    Image.fromarray(aerial(0).transpose(1, 2, 0)).save(folder / "a.png")
    Image.fromarray(aerial(1).transpose(1, 2, 0)).save(folder / "b.jpg", quality=95)
    with rasterio.open(folder / "c.tif", "w", driver="GTiff", width=160, height=160, count=4, dtype="uint8") as file:
        file.write(np.concatenate([aerial(2), aerial(2)[:1]]))
    np.savez(folder / "d.npz", images=np.stack([aerial(seed) for seed in (3, 4, 5, 6)]), names=np.array(["x"]))
    return folder


@pytest.fixture(scope="module")
def root(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("simulated") / "set"
    arguments = ("--gsd", 1.25, "--patch", 64, "--dates", 5, "--rounds", 2, "--val", 0.15, "--test", 0.15)
    said = succeed(COMMAND, images, *arguments, "--output", root, cwd=images).stdout
    assert said == f"{root}: train 10, val 1, test 1 patches\n"
    return root


def tables(root: Path) -> pd.DataFrame:
    return pd.concat([pd.read_pickle(path) for path in sorted(root.glob("dataset_*.pkl"))])


def pixels(path: Path) -> NDArray[Any]:
    with rasterio.open(path) as file:
        return file.read()


def test_every_format_is_read_and_images_are_not_shared_by_splits(root: Path) -> None:
    table = tables(root)
    record = json.loads((root / "simulate.json").read_text())
    assert sorted({name.split("_", 1)[1] for name in record["images"]}) == [
        "a",
        "b",
        "c",
        *(f"d_{n:04d}" for n in range(4)),
    ]
    of_image = table["split"].groupby([label.split("_")[0] for label in table.index]).unique()
    assert {len(splits) for splits in of_image} == {1}
    assert set(table["split"][table.index.str.contains("_1_", regex=False)]) == {"train"}  # only training sees twice


def test_the_data_set_can_be_prepared(root: Path, tmp_path: Path) -> None:
    manifest = prepare_with(root, output=tmp_path / "store", maxima=(0.5, 0.5, 0.5))
    assert manifest.skipped == [] and manifest.geometry.hr_size == 64
    assert sum(shard.samples for shards in manifest.splits.values() for shard in shards) == 12


def test_the_nearest_acquisition_shows_the_truth(root: Path) -> None:
    for _, row in tables(root).iterrows():
        truth = block_reduce(pixels(root / row["spot6_image"]) / 255 * 0.5, (1, 4, 4), np.mean)
        nearest = min(row["sen2_acquisitions"], key=abs)
        seen = pixels(root / row["sen2_acquisitions"][nearest]) / 10000
        assert seen.shape == (3, 16, 16)
        blurred = ndimage.gaussian_filter(truth, (0, 0.4, 0.4), mode="nearest")
        assert np.abs(seen - blurred).mean() < 0.15 * truth.mean()
        assert np.corrcoef(seen.ravel(), blurred.ravel())[0, 1] > 0.9


def test_equal_commands_give_equal_bytes(root: Path, images: Path, tmp_path: Path) -> None:
    arguments = ("--gsd", 1.25, "--patch", 64, "--dates", 5, "--rounds", 2, "--val", 0.15, "--test", 0.15)
    succeed(COMMAND, images, *arguments, "--output", tmp_path / "again", cwd=images)
    files = sorted(path.relative_to(root) for path in root.rglob("*") if path.suffix in (".tif", ".pkl", ".json"))
    assert len(files) == 12 * 6 + 3
    assert [f for f in files if (root / f).read_bytes() != (tmp_path / "again" / f).read_bytes()] == []


def test_colours_become_those_of_real_images(images: Path, tmp_path: Path) -> None:
    real = (np.random.default_rng(0).gamma(4, 250, (3, 90, 90)) * [[[1.5]], [[1.0]], [[0.5]]]).astype(np.uint16)
    with rasterio.open(tmp_path / "s2.tif", "w", driver="GTiff", width=90, height=90, count=3, dtype="uint16") as file:
        file.write(real)
    options = ("--gsd", 1.25, "--patch", 64, "--like", tmp_path / "s2.tif", "--val", 0, "--test", 0)
    succeed(COMMAND, images, *options, "--output", tmp_path / "like", cwd=tmp_path)
    means = np.mean(
        [pixels(tmp_path / "like" / path).mean(axis=(1, 2)) for path in tables(tmp_path / "like")["spot6_image"]],
        axis=0,
    )
    np.testing.assert_allclose(means / 255 * 0.5, real.mean(axis=(1, 2)) / 10000, rtol=0.3)


@pytest.mark.parametrize(
    ("content", "options", "code", "message"),
    [
        (None, (), 3, "no image there"),
        (b"not an image", (), 3, "can't be read as an image"),
        ("grey", (), 3, "red, green and blue are needed"),
        ("black", (), 3, "they show nothing"),
        ("small", (), 3, "no image covers half a patch"),
        ("good", ("--gsd", 3), 2, "--gsd 3: must lie above 0"),
        ("good", ("--patch", 30), 2, "--patch 30: must be a multiple of 4"),
        ("good", ("--like", "nothing*.tif"), 3, "--like: nothing is called"),
    ],
)
def test_what_can_not_be_used_ends_with_one_line(
    content: bytes | str | None, options: tuple, code: int, message: str, tmp_path: Path
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    if isinstance(content, bytes):
        (folder / "a.png").write_bytes(content)
    elif content == "grey":
        np.savez(folder / "a.npz", np.ones((1, 90, 90), np.uint8))
    elif content is not None:
        side, level = (20 if content == "small" else 160), (0 if content == "black" else 90)
        Image.fromarray(np.full((side, side, 3), level, np.uint8)).save(folder / "a.png")
    done = run(COMMAND, folder, "--gsd", 1.25, "--patch", 64, *options, "--output", tmp_path / "set", cwd=tmp_path)
    assert done.returncode == code
    assert message in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
    assert not (tmp_path / "set").exists()


def test_what_is_there_already_is_not_replaced(images: Path, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "mine.txt").write_text("mine")
    done = run(COMMAND, images, "--gsd", 1.25, "--output", tmp_path / "set", cwd=tmp_path)
    assert done.returncode == 3 and "holds something already" in done.stderr


def test_colours_keep_the_order_of_brightness() -> None:
    image = aerial(0).astype(np.float32)
    source = band_quantiles(image.reshape(3, -1))
    found = as_reflectance(image, source, farmland_quantiles(), np.random.default_rng(1), white=0.5)
    assert found.min() > 0 and found.max() <= 0.5
    for band, reflectance in zip(image, found, strict=True):
        smooth = (ndimage.gaussian_filter(x, 5)[::8, ::8].ravel() for x in (band, reflectance))
        assert stats.spearmanr(*smooth).statistic > 0.95


def test_days_lie_about_the_truth() -> None:
    drawn = [days_around_truth(8, np.random.default_rng(seed)) for seed in range(200)]
    assert all(len(days) == 8 and (np.diff(days) >= 5).all() for days in drawn)
    nearest = np.array([np.abs(days).min() for days in drawn])
    assert 0.6 < (nearest == 0).mean() < 0.85 and nearest.max() <= 7


def test_seasons_change_fields_and_leave_the_day_of_the_truth() -> None:
    days = np.array([-60, -5, 0, 30, 90])
    means = np.random.default_rng(0).uniform(0.03, 0.2, (3, 400)).astype(np.float32)
    sizes = np.repeat([3000, 20], 200)
    season = draw_season(days, means, sizes, np.random.default_rng(1))
    np.testing.assert_array_equal(season.colours[2], 1)
    change = np.abs(np.log(season.colours))[[0, 1, 3, 4]].mean(axis=1)
    fields, roofs = change[:, :200].mean(axis=1), change[:, 200:].mean(axis=1)
    assert fields[0] > 2 * fields[1] and fields[3] > 0.1  # more after two months than after five days
    assert fields[0] > 2 * roofs[0] and fields[3] > 2 * roofs[3]
    red, green = (means * season.colours)[:, 0], (means * season.colours)[:, 1]
    assert np.isfinite(np.log(red / green)).all()


def test_parcels_follow_the_edges_of_fields() -> None:
    ground = np.full((3, 80, 80), 0.05, np.float32)
    ground[:, :, 40:] = 0.2
    labels = segment(ground, np.random.default_rng(0))
    assert labels.shape == (80, 80)
    assert set(np.unique(labels[:, :38])).isdisjoint(np.unique(labels[:, 42:]))


def test_each_acquisition_differs_in_sharpness() -> None:
    ground = draw_landscape(np.random.default_rng(0), 192).reflectance(180)
    series = simulate_series(ground, 8, np.random.default_rng(0))
    assert series.truth.shape == ground.shape and len(series.images) == len(series.days) == 8
    detail = [np.abs(np.diff(image / image.mean(), axis=-1)).mean() for image in series.images]
    assert max(detail) > 1.15 * min(detail)
