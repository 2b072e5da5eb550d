"""The sample data: what is written, when the satellites come by, how they see, what grows."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.measure import block_reduce

from data_gen.synthetic import dataset
from data_gen.synthetic.compose import draw_landscape
from data_gen.synthetic.dataset import (
    LEAST_GAP,
    NEAR,
    SampleSet,
    acquisition_days,
    spot_day,
    truth_days,
    write_sample_set,
)
from data_gen.synthetic.reflectance import KINDS
from data_gen.synthetic.sensors import (
    AREA_MTF,
    MARGIN,
    SCALE,
    View,
    degrade,
    draw_radiometry,
    draw_view,
    sentinel2,
    spot,
)
from tests import command
from utils.errors import ConfigError, DataError

SMALL = SampleSet(train=3, val=1, test=2, seed=7, size=64, truth_dates=3)
MAXIMA = np.array([0.2058, 0.1583, 0.1118])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample") / "set"
    assert write_sample_set(folder, SMALL)
    return folder


def tables(root: Path) -> dict[str, pd.DataFrame]:
    return {path.stem.removeprefix("dataset_"): pd.read_pickle(path) for path in root.glob("*.pkl")}


def pixels(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read()


# --- what is written


def test_tables_and_rasters(root: Path) -> None:
    found = tables(root)
    splits = {name: list(table["split"]) for name, table in found.items()}
    assert splits == {"train": ["train"] * 3 + ["val"], "test": ["test"] * 2, "dates": ["dates"] * 6}
    names = [name for table in found.values() for name in table.index]
    assert len(set(names)) == len(names) == 12 and list(found["train"].index) != list(range(4))
    for table in found.values():
        assert tuple(table.columns) == dataset.COLUMNS
        for _, row in table.iterrows():
            dates, views = row["dates_sen2"], row["sen2_acquisitions"]
            distances = [abs((date - row["dates_spot6"]).days) for date in dates]
            assert list(views) == distances and sorted(dates) == dates
            assert len(set(distances)) == len(distances) >= 5 and 0 < min(distances) <= 30
            assert [Path(path).stem for path in views.values()] == [f"{date:%Y%m%d}" for date in dates]
            with rasterio.open(root / row["spot6_image"]) as file:
                assert (file.count, *file.shape, file.dtypes[0], file.crs.to_epsg()) == (3, 64, 64, "uint8", 2154)
                assert tuple(file.transform)[:6] == (2.5, 0, row["x"], 0, -2.5, row["y"])
                bounds = file.bounds
            for path in views.values():
                with rasterio.open(root / path) as file:
                    assert (file.count, *file.shape, file.dtypes[0], file.crs.to_epsg()) == (3, 16, 16, "uint16", 2154)
                    assert file.bounds == bounds
    corners = pd.concat([found["train"], found["test"]])[["x", "y"]].to_numpy()
    apart = np.abs(corners[:, None] - corners).max(axis=2) + np.where(np.eye(len(corners)), np.inf, 0)
    assert apart.min() >= 64 * 2.5  # patches do not overlap


def test_same_seed_same_bytes(root: Path, tmp_path: Path) -> None:
    write_sample_set(tmp_path, SMALL)
    files = [{path.relative_to(top) for path in top.rglob("*.*")} for top in (root, tmp_path)]
    assert files[0] == files[1]
    assert [file for file in files[0] if (root / file).read_bytes() != (tmp_path / file).read_bytes()] == []


def test_a_patch_does_not_depend_on_how_many_there_are(root: Path, tmp_path: Path) -> None:
    write_sample_set(tmp_path, SampleSet(train=1, val=1, test=1, seed=7, size=64))
    for name, few in tables(tmp_path).items():
        pd.testing.assert_frame_equal(few, tables(root)[name].loc[few.index])
    for path in tmp_path.rglob("*.tif"):
        np.testing.assert_array_equal(pixels(path), pixels(root / path.relative_to(tmp_path)))


def test_truths_of_other_dates_show_the_same_place_in_other_colours(root: Path) -> None:
    found = tables(root)
    for name, row in found["test"].iterrows():
        own = found["dates"].filter(like=f"{name}_", axis=0)
        assert list(own.index) == [f"{name}_{date:%Y%m%d}" for date in own["dates_spot6"]] and len(own) == 3
        for views in own["sen2_acquisitions"]:
            assert list(views.values()) == list(row["sen2_acquisitions"].values())
        images = [pixels(root / path).astype(float) for path in own["spot6_image"]]
        assert min(np.abs(a - b).mean() for i, a in enumerate(images) for b in images[:i]) > 4


# --- the folder and the command


def test_a_finished_set_is_left_alone(root: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert not write_sample_set(root, SMALL)
    with pytest.raises(DataError, match="holds something else"):
        write_sample_set(root, dataclasses.replace(SMALL, seed=8))
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_a_folder_with_anything_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for folder in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(DataError, match="holds something else"):
            write_sample_set(folder, SMALL)


def test_a_stopped_run_is_finished(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    real = dataset.write_geotiff

    def stops(path: Path, *arguments: Any, **keywords: Any) -> None:
        path.write_bytes(b"half a file")
        written.append(path)
        if len(written) == 20:
            raise KeyboardInterrupt
        real(path, *arguments, **keywords)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(dataset, "write_geotiff", stops)
        write_sample_set(tmp_path, SMALL)
    assert not (tmp_path / "sample.json").exists()
    assert write_sample_set(tmp_path, SMALL)
    for path in root.rglob("*.tif"):
        np.testing.assert_array_equal(pixels(path), pixels(tmp_path / path.relative_to(root)))
    assert json.loads((tmp_path / "sample.json").read_text())["size"] == 64


@pytest.mark.parametrize("wrong", [{"size": 66}, {"size": 28}, {"train": -1}, {"truth_dates": -1}])
def test_impossible_numbers(wrong: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        write_sample_set(tmp_path / "new", SampleSet(**wrong))
    assert not (tmp_path / "new").exists()


def test_command(tmp_path: Path) -> None:
    arguments = ("data_gen/sample.py", tmp_path / "set", "--train", 1, "--val", 0, "--test", 0, "--size", 32)
    assert "written" in command.succeed(*arguments, cwd=tmp_path).stdout
    refused = command.run("data_gen/sample.py", tmp_path / "set", cwd=tmp_path)
    assert refused.returncode == 3 and len(refused.stderr.strip().splitlines()) == 1


def test_empty_splits(tmp_path: Path) -> None:
    write_sample_set(tmp_path, SampleSet(train=0, val=0, test=0, truth_dates=2))
    assert {name: len(table) for name, table in tables(tmp_path).items()} == {"train": 0, "test": 0, "dates": 0}


# --- dates


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_dates(seed: int) -> None:
    generator = np.random.default_rng(seed)
    days = acquisition_days(generator)
    assert 5 <= len(days) <= 14
    assert (np.diff(days) >= 2).all()
    assert days.min() >= 31 and days.max() < 315  # February to early November
    distances = np.abs(days - spot_day(generator, days))
    assert len(set(distances.tolist())) == len(days)
    assert 0 < distances.min() <= NEAR
    for count in (1, 2, 4, 6):
        truths = truth_days(days, count)
        assert len(truths) == count
        assert (np.diff(truths) >= LEAST_GAP).all()
        away = np.abs(truths[:, None] - days)
        assert all(len(set(row)) == len(days) for row in away.tolist())
        if count <= 4:
            assert away.min(axis=1).max() <= NEAR


@pytest.mark.parametrize("count", [40, 10**9])
def test_too_many_truths(count: int) -> None:
    with pytest.raises(DataError, match="fewer"):
        truth_days(np.array([40, 100, 160, 220, 280]), count)


# --- the sensors

STILL = View(shift=(0.0, 0.0), gain=np.ones(3, dtype=np.float32), haze=np.zeros(3, dtype=np.float32))
SIZE = 160


def wave(frequency: float, *, phase: float, axis: int) -> np.ndarray:
    """A ground (3, SIZE + margins, ...) of waves: ``frequency`` cycles a pixel of 10 m, amplitude 0.1 about 0.4."""
    metres = (np.arange(SIZE + 2 * MARGIN) - MARGIN + 0.5) / SCALE
    line = 0.4 + 0.1 * np.cos(2 * np.pi * frequency * metres + phase)
    ground = np.broadcast_to(line if axis == 1 else line[:, None], (3, line.size, line.size))
    return np.ascontiguousarray(ground, dtype=np.float32)


def response(frequency: float, view: View, axis: int) -> complex:
    """What becomes of a wave: modulus is the MTF, the angle the shift; from two phases, so sampling doesn't matter."""
    generator = np.random.default_rng(0)
    centres = np.arange(SIZE // SCALE) + 0.5
    seen = []
    for phase in (0.0, -np.pi / 2):
        image = sentinel2(wave(frequency, phase=phase, axis=axis), view, generator) / 10000 - 0.4
        seen.append(image.mean(axis=(0, 2 - axis)))  # along the wave
    along = seen[0] + 1j * seen[1]  # H e^{2 pi i f x}
    return complex((along * np.exp(-2j * np.pi * frequency * centres)).mean() / 0.1)


@pytest.mark.parametrize("shift", [-0.4, 0.13, 0.37])
@pytest.mark.parametrize("axis", [0, 1])
def test_shift(axis: int, shift: float) -> None:
    view = STILL._replace(shift=(shift, 0.0) if axis == 0 else (0.0, shift))
    assert np.angle(response(0.1, view, axis)) == pytest.approx(2 * np.pi * 0.1 * shift, abs=0.01)
    assert abs(np.angle(response(0.1, view, 1 - axis))) < 0.01


@pytest.mark.parametrize("mtf", [0.15, 0.3, 0.45, AREA_MTF])
def test_each_direction_has_the_mtf_that_it_is_given(mtf: float) -> None:
    view = STILL._replace(mtf=(mtf, 0.25), noise=(0.0, 0.0))
    assert abs(response(0.5, view, 0)) == pytest.approx(mtf, rel=0.05)
    assert abs(response(0.5, view, 1)) == pytest.approx(0.25, rel=0.05)
    assert abs(response(0.02, view, 1)) > 0.98
    assert abs(response(0.25, view, 1)) > abs(response(0.5, view, 1)) > abs(response(0.75, view, 1))


def test_the_sharpest_sensor_is_plain_means() -> None:
    ground = np.random.default_rng(0).random((2, 40 + 2 * MARGIN, 24 + 2 * MARGIN), dtype=np.float32)
    means = block_reduce(ground[:, MARGIN:-MARGIN, MARGIN:-MARGIN], (1, 4, 4), np.mean)
    np.testing.assert_allclose(degrade(ground, np.zeros((2, 2)), (AREA_MTF, AREA_MTF)), means, atol=0.02)


def test_bands_have_shifts_of_their_own() -> None:
    view = STILL._replace(band_shifts=np.array([[0.0, 0.1], [0.0, 0.0], [0.0, -0.1]]), noise=(0, 0))
    bands = sentinel2(wave(0.1, phase=0, axis=1), view, np.random.default_rng(0)).mean(axis=1)
    red, green, blue = bands @ np.exp(-2j * np.pi * 0.1 * np.arange(bands.shape[1]))
    assert np.angle(red / green) == pytest.approx(2 * np.pi * 0.1 * 0.1, abs=0.01)
    assert np.angle(blue / green) == pytest.approx(-2 * np.pi * 0.1 * 0.1, abs=0.01)


def test_a_resampled_acquisition_shows_the_same_with_less_noise() -> None:
    ground = np.full((3, 400 + 2 * MARGIN, 400 + 2 * MARGIN), 0.1, np.float32)
    ground[:, :, 200 + MARGIN :] = 0.2
    plain, moved = (
        sentinel2(ground, STILL._replace(resampling=by, noise=(0.001, 0.0)), np.random.default_rng(0)).astype(float)
        for by in (None, (0.5, 0.4))
    )
    np.testing.assert_allclose(plain.mean(axis=1), moved.mean(axis=1), atol=40)  # the edge is where it was
    assert 0.4 < moved[:, 5:-5, 5:40].std() / plain[:, 5:-5, 5:40].std() < 0.9


def test_acquisitions_differ_as_real_ones_do() -> None:
    views = [draw_view(np.random.default_rng(seed)) for seed in range(400)]
    mtf = np.array([view.mtf for view in views])
    assert mtf.min() >= 0.15 and mtf.max() <= AREA_MTF
    assert 0.65 < (mtf.max(axis=1) <= 0.45).mean() < 0.85
    assert (mtf[:, 0] != mtf[:, 1]).mean() > 0.6
    apart = np.stack([view.band_shifts for view in views if view.band_shifts is not None])
    assert 0.2 < np.abs(apart[:, 0] - apart[:, 2]).max() <= 0.3
    assert np.median(np.abs(apart[:, 0] - apart[:, 2])) < 0.06
    at_tenth = [view.noise[0] + 0.1 * view.noise[1] for view in views]
    assert min(at_tenth) >= 2e-4 and max(at_tenth) <= 11e-4
    assert 0.2 < np.mean([view.resampling is not None for view in views]) < 0.4
    shifts = np.array([view.shift for view in views])
    assert 0.2 < np.abs(shifts).max() <= 0.5 and np.abs(shifts.mean(axis=0)).max() < 0.05
    red, green, blue = np.mean([view.haze for view in views], axis=0)
    assert blue > green > red > 0


def test_fields_are_not_smooth() -> None:
    scene = draw_landscape(np.random.default_rng(3), 256)
    grass = scene.surfaces.kind[scene.label] == KINDS["meadow"]
    red = scene.reflectance(200)[0] * 10000
    ripple = np.abs(np.diff(red, axis=1))[grass[:, 1:] & grass[:, :-1] & (np.diff(scene.label, axis=1) == 0)]
    assert 5 < np.median(ripple) < 100


def test_spot_has_a_radiometry_of_its_own() -> None:
    ground = np.full((3, 40 + 2 * MARGIN, 40 + 2 * MARGIN), 0.1, np.float32)
    levels = [spot(ground, draw_radiometry(g), g).mean(axis=(1, 2)) for g in map(np.random.default_rng, range(20))]
    assert np.ptp(np.stack(levels), axis=0).min() > 10
    assert np.abs(np.mean(levels, axis=0) - 255 * 0.1 / MAXIMA).mean() > 20


# --- what grows


def test_reflectance_fits_the_maxima_that_the_loader_clamps_to() -> None:
    seen: list[np.ndarray] = []
    for number in range(24):
        patch = dataset.plan_patch(seed=0, split="train", number=number, size=128)
        seen.extend(image.reshape(3, -1) for image in dataset.sentinel2_images(patch, dataset.landscape_of(patch)))
    top = np.percentile(np.concatenate(seen, axis=1) / 10000, 98, axis=1)
    np.testing.assert_allclose(top, MAXIMA, rtol=0.2)


def test_truth_uses_the_whole_range() -> None:
    images = []
    for number in range(16):
        patch = dataset.plan_patch(seed=0, split="train", number=number, size=128)
        images.append(dataset.spot_image(patch, dataset.landscape_of(patch), patch.spot_day))
    low, high = np.percentile(np.stack(images), [0.5, 99.9])
    assert low < 20 and high > 240


def test_fields_change_over_the_year_and_roads_do_not() -> None:
    scene = draw_landscape(np.random.default_rng(3), 256)
    kinds = scene.surfaces.kind
    april, july, september = (scene.surfaces.reflectance(day) for day in (105, 200, 265))
    for crop in ("wheat", "maize", "ley"):
        fields = kinds == KINDS[crop]
        assert (np.abs(july - april) / april).max(axis=0)[fields].mean() > 0.3, crop
        assert (np.abs(september - july) / july).max(axis=0)[fields].mean() > 0.2, crop
    wheat, maize = (july[0, kinds == KINDS[crop]].mean() for crop in ("wheat", "maize"))
    assert wheat > 2 * maize  # ripe against green
    still = kinds == KINDS["asphalt"]
    assert (np.abs(july - april) / april)[:, still].max() < 0.2


def test_a_landscape_has_what_super_resolution_lives_from() -> None:
    seen: set[int] = set()
    for seed in range(12):
        scene = draw_landscape(np.random.default_rng(seed), 324)
        seen |= set(scene.surfaces.kind[np.unique(scene.label)].tolist())
        edges = (np.diff(scene.label, axis=1) != 0).mean()
        assert 0.02 < edges < 0.25  # fields and hedges, neither empty nor confetti
    grown, built = {"wheat", "maize", "ley", "meadow", "oak", "verge", "garden"}, {"asphalt", "lane", "slate_lit"}
    assert {KINDS[kind] for kind in grown | built | {"river", "sea"}} <= seen


@pytest.mark.parametrize("size", [32, 100, 400])
def test_sizes(size: int) -> None:
    patch = dataset.plan_patch(seed=1, split="val", number=0, size=size)
    scene = dataset.landscape_of(patch)
    assert dataset.spot_image(patch, scene, 100).shape == (3, size, size)
    assert next(dataset.sentinel2_images(patch, scene)).shape == (3, size // 4, size // 4)
