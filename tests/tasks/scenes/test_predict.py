"""Whole scenes: georeference, seams, holes, radiometry, stops, bad input."""

import argparse
import itertools
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rio_cogeo.cogeo import cog_validate

from models.highresnet import HighResNet
from models.misr import RRDBLTAE, HighResLTAE, RRDBHighResNet
from models.rrdb import RRDBNet
from models.samplers import Noise
from models.series import Backbone, Series
from tasks.base import Result
from tasks.receptive_field import receptive_radius
from tasks.scenes.options import add_arguments
from tasks.scenes.predict import predict_from_options
from tasks.scenes.scene import SOFT
from tests.golden.large import ROOT
from tests.scenes import TRANSFORM, Network, Sampler, ground, predict, write_safe, write_series, write_tif
from tests.trainings import Process, meeting
from utils.cli import Parser
from utils.distributed import World
from utils.errors import ConfigError, DataError, UserError
from utils.geo.clouds import grow

GREY = 0.1118 * 10000 / 255  # digital numbers in the smallest grey level


class Trained(Network):
    """A backbone as a predictor."""

    def __init__(self, backbone: Backbone, *, num_dates: int) -> None:
        super().__init__(num_dates=num_dates)
        self._backbone = backbone.eval()
        self.halo = receptive_radius(backbone, num_dates=num_dates, size=64)

    def __call__(self, series: Series, noise: Noise) -> Result:
        return Result(sr=self._backbone(series).sr)


def mean_of_blocks(image: np.ndarray, size: int = 4) -> np.ndarray:
    bands, height, width = image.shape
    return image.reshape(bands, height // size, size, width // size, size).mean((2, 4))


def test_the_result_covers_the_same_ground(tmp_path: Path) -> None:
    days = write_series(tmp_path / "in", height=70, width=90)
    out = tmp_path / "out.tif"
    predict(Network(), [tmp_path / "in"], out, target=days[2])
    with rasterio.open(out) as result, rasterio.open(tmp_path / "in" / f"{days[0]}.tif") as source:
        assert result.crs == source.crs
        assert result.shape == (280, 360)
        for corner in itertools.product((0, 1), (0, 1)):
            assert result.transform @ (corner[0] * result.width, corner[1] * result.height) == source.transform @ (
                corner[0] * source.width, corner[1] * source.height,
            )  # fmt: skip
        assert (result.nodata, result.dtypes) == (0, ("uint16",) * 3)
        assert result.descriptions == ("red", "green", "blue")
        tags = result.tags()
    assert tags["TARGET_DATE"] == str(days[2])
    assert tags["ACQUISITIONS"] == "; ".join(f"{day} {day}.tif" for day in days[1:])
    assert (tags["CHECKPOINT"], tags["COMMAND"]) == ("test", "test")
    for path in (out, tmp_path / "out_flags.tif"):
        assert cog_validate(path, strict=True) == (True, [], [])
    assert Image.open(tmp_path / "out_preview.png").size == (360 * 2 + 8, 280)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "out.tif", "out_flags.tif", "out_preview.png"]


@pytest.mark.slow
def test_where_tile_borders_fall_does_not_show(clouded: Path, tmp_path: Path) -> None:
    target = date(2023, 6, 12)
    whole = predict(Network(), [clouded], tmp_path / "whole.tif", target=target, tile=1024).astype(float)
    assert set(np.unique(rasterio.open(tmp_path / "whole_flags.tif").read())) >= {1, 2}  # seen and filled
    for tile in (64, 128):
        tiled = predict(Network(), [clouded], tmp_path / "tiled.tif", target=target, tile=tile).astype(float)
        assert np.abs(tiled - whole).max() <= 1  # of 10000: a rounding
        for axis in (1, 2):
            gradients = [np.abs(np.diff(x, axis=axis)).mean((0, 3 - axis)) for x in (tiled, whole)]
            np.testing.assert_allclose(gradients[0], gradients[1], rtol=0.02)


def test_too_small_an_overlap_still_blends(clouded: Path, tmp_path: Path) -> None:
    network = Network()
    network.halo = 30
    whole = predict(network, [clouded], tmp_path / "whole.tif", tile=1024).astype(float)
    tiled = predict(network, [clouded], tmp_path / "tiled.tif", tile=64, overlap=16).astype(float)
    assert np.abs(tiled - whole).max() <= 1  # what it really needs is 4


def test_a_part_is_a_part_of_the_whole(clouded: Path, tmp_path: Path) -> None:
    whole = predict(Network(), [clouded], tmp_path / "whole.tif").astype(float)
    part = predict(Network(), [clouded], tmp_path / "part.tif", window=(33, 21, 91, 50)).astype(float)
    assert np.abs(part - whole[:, 84:284, 132:496]).max() <= 1
    with rasterio.open(tmp_path / "part.tif") as result:
        assert result.transform @ (0, 0) == TRANSFORM @ (33, 21)
        bounds = tuple(result.bounds)
    again = predict(Network(), [clouded], tmp_path / "bbox.tif", bbox=bounds)
    np.testing.assert_array_equal(again, part)


@settings(deadline=None, max_examples=8)
@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from([40, 64]))
def test_any_size(tmp_path_factory: pytest.TempPathFactory, height: int, width: int, tile: int) -> None:
    folder = tmp_path_factory.mktemp("size")
    write_series(folder / "in", height=height, width=width, dates=2)
    result = predict(Network(), [folder / "in"], folder / "out.tif", tile=tile, match_lr="on", clouds=False)
    assert result.shape == (3, 4 * height, 4 * width)
    with rasterio.open(folder / "in" / "2023-06-06.tif") as source:
        np.testing.assert_allclose(mean_of_blocks(result), source.read(), atol=2)


def test_a_missing_pixel_changes_its_neighbourhood_only(tmp_path: Path) -> None:
    place = ground(80, 100).astype(np.float32)
    for name, spoilt in (("a", False), ("b", True)):
        for day in ("2023-08-01", "2023-08-06"):
            pixels = place.copy()
            if spoilt and day == "2023-08-06":
                pixels[1, 40, 50] = np.nan
            write_tif(tmp_path / name / f"{day}.tif", pixels)
    results = [predict(Network(num_dates=2), [tmp_path / n], tmp_path / f"{n}.tif", tile=40).astype(int) for n in "ab"]
    assert (results[1] > 0).all()
    rows, columns = np.nonzero((results[0] != results[1]).any(axis=0))
    reach = Network.halo + SOFT  # the pixel from another date, softened
    assert np.abs(rows // 4 - 40).max(initial=0) <= reach
    assert np.abs(columns // 4 - 50).max(initial=0) <= reach
    off = np.abs(results[0] - results[1])
    assert off[:, 140:180, 180:220].max() < 100
    assert off.mean() < 0.01
    flags = rasterio.open(tmp_path / "b_flags.tif").read(1)
    assert flags[40, 50] == 2
    assert (flags == 2).sum() == 1


def test_no_data_where_no_date_has_any_and_no_cliff_beside_it(tmp_path: Path) -> None:
    place = np.full((3, 96, 96), 800, np.uint16)
    place[:, :, 70:] = 0
    for day in ("2023-08-01", "2023-08-06"):
        write_tif(tmp_path / "in" / f"{day}.tif", place)
    result = predict(Network(num_dates=2), [tmp_path / "in"], tmp_path / "out.tif", tile=40)
    assert (result[:, :, 280:] == 0).all()
    assert np.abs(result[:, :, :280].astype(int) - 800).max() <= 1
    np.testing.assert_array_equal(rasterio.open(tmp_path / "out_flags.tif").read(1) == 0, place[0] == 0)


def test_places_without_any_data_need_no_network(tmp_path: Path) -> None:
    write_tif(tmp_path / "2023-08-01.tif", np.zeros((3, 64, 64), np.uint16))
    network = Network()
    assert not predict(network, [tmp_path / "2023-08-01.tif"], tmp_path / "out.tif").any()
    assert network.passes == 0


def test_what_is_bright_on_all_dates_is_no_hole(tmp_path: Path) -> None:
    place = np.full((3, 64, 64), 600, np.uint16)
    place[:, 20:40, 20:40] = 4000
    for day in ("2023-08-01", "2023-08-06"):
        write_tif(tmp_path / "in" / f"{day}.tif", place)
    result = predict(Network(num_dates=2), [tmp_path / "in"], tmp_path / "out.tif")
    assert np.abs(result[:, 100:140, 100:140].astype(int) - 4000).max() <= 1
    assert (rasterio.open(tmp_path / "out_flags.tif").read(1) == 1).all()


def test_what_is_bright_on_one_date_is_a_cloud(tmp_path: Path) -> None:
    place = np.full((3, 64, 64), 600, np.uint16)
    write_tif(tmp_path / "in" / "2023-08-01.tif", place)
    place[:, 20:40, 20:40] = 4000
    write_tif(tmp_path / "in" / "2023-08-06.tif", place)
    result = predict(Network(num_dates=2), [tmp_path / "in"], tmp_path / "out.tif")
    assert np.abs(result.astype(int) - 600).max() <= 1


def test_a_filled_hole_has_no_sharp_edge(tmp_path: Path) -> None:
    for day, number in (("2023-08-01", 500), ("2023-08-06", 800)):
        write_tif(tmp_path / "in" / f"{day}.tif", np.full((3, 64, 64), number, np.uint16))
    classes = np.full((1, 64, 64), 4, np.uint8)
    classes[:, 24:44, 24:44] = 9
    write_tif(tmp_path / "in" / "2023-08-06_SCL.tif", classes, names=())
    result = predict(Network(num_dates=1), [tmp_path / "in"], tmp_path / "out.tif", min_valid=0.1).astype(int)
    row = result[0, 136]
    assert (row[[0, 136, -1]] == [800, 500, 800]).all()
    assert np.abs(np.diff(row)).max() < 40  # of 300


@pytest.mark.parametrize("tile", [40, 1024])
def test_cells_of_other_dates_fade_into_each_other(tmp_path: Path, tile: int) -> None:
    for day, number in (("2023-08-01", 500), ("2023-08-06", 800)):
        write_tif(tmp_path / "in" / f"{day}.tif", np.full((3, 64, 128), number, np.uint16))
    classes = np.full((1, 64, 128), 4, np.uint8)
    classes[:, :, 80:] = 1  # the later date sees half of the third column of cells: too little
    write_tif(tmp_path / "in" / "2023-08-06_SCL.tif", classes, names=())
    result = predict(
        Network(num_dates=1), [tmp_path / "in"], tmp_path / "out.tif", tile=tile, clouds=True, min_valid=0.6
    ).astype(int)
    row = result[0, 128]
    assert (row[:200] == 800).all()
    assert (row[312:] == 500).all()
    assert np.diff(row).max() <= 0
    assert np.diff(row).min() > -30  # of 300: no step


def test_bright_things_stay_bright(tmp_path: Path) -> None:
    numbers = np.full((3, 60, 60), 600, np.uint16)
    numbers[:, 20:40, 20:40] = 4000  # far above the 98th percentile
    result = predict(Network(num_dates=1), [write_tif(tmp_path / "a.tif", numbers)], tmp_path / "out.tif", clouds=False)
    assert np.abs(result[:, 100:140, 100:140].astype(int) - 4000).max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("tile", [40, 1024])
def test_colours_can_be_held_to_the_input(clouded: Path, tmp_path: Path, tile: int) -> None:
    target = date(2023, 6, 11)
    result = predict(
        Network(), [clouded], tmp_path / "out.tif", target=target, tile=tile, match_lr="on", window=(0, 0, 149, 110)
    )
    flags = rasterio.open(tmp_path / "out_flags.tif").read(1)
    source = rasterio.open(clouded / f"{target}.tif").read()
    with rasterio.open(clouded / f"{target}_SCL.tif") as classes:
        clear = grow((flags == 1) & (classes.read(1) == 4), -SOFT)
    off = np.abs(mean_of_blocks(result.astype(float)) - source)[:, clear]
    assert off.mean() < 0.02 * source.mean()
    assert np.quantile(off, 0.8) <= 1


def test_eight_bits_for_display(tmp_path: Path) -> None:
    write_series(tmp_path / "in", height=40, width=50)
    numbers = predict(Network(), [tmp_path / "in"], tmp_path / "a.tif").astype(float)
    shown = predict(Network(), [tmp_path / "in"], tmp_path / "b.tif", uint8=True)
    assert shown.dtype == np.uint8
    top = np.array(Network.maxima).reshape(3, 1, 1) * 10000
    np.testing.assert_array_equal(
        shown, np.clip(np.rint(numbers.astype(np.float32) / top.astype(np.float32) * 255), 1, 255)
    )


def test_products_of_old_and_new_baselines_give_the_same(tmp_path: Path) -> None:
    place = ground(50, 60)
    results = []
    for name, offset in (("old", 0), ("new", -1000)):
        write_safe(tmp_path / name, place, day=date(2023, 8, 7), offset=offset)
        results.append(predict(Network(num_dates=1), [tmp_path / name], tmp_path / f"{name}.tif"))
    np.testing.assert_array_equal(results[0], results[1])
    assert abs(results[0].mean() / 10000 / place.mean() - 1) < 0.03


def test_a_product_with_its_classification(tmp_path: Path) -> None:
    place, day = ground(64, 64), date(2023, 8, 7)
    classes = np.full((32, 32), 4, np.uint8)
    classes[8:12, 8:12] = 9
    write_safe(tmp_path / "in", place + 0.5, day=day, classes=classes)
    write_safe(tmp_path / "in", place, day=date(2023, 8, 2))
    result = predict(Network(num_dates=1), [tmp_path / "in"], tmp_path / "out.tif", target=day)
    flags = rasterio.open(tmp_path / "out_flags.tif").read(1)
    assert (flags[13:27, 13:27] == 2).all()  # 8 pixels of cloud and 3 around
    assert (flags == 2).sum() == 14 * 14
    assert result[:, 72:88, 72:88].mean() < 2000 < 5000 < result[:, :40].mean()


@pytest.mark.slow
def test_samples_and_their_spread(clouded: Path, tmp_path: Path) -> None:
    spread = tmp_path / "std.tif"
    results = []
    for tile in (64, 128):
        results.append(predict(Sampler(), [clouded], tmp_path / "out.tif", tile=tile, samples=4, uncertainty=spread))
        assert np.abs(results[0].astype(int) - results[-1]).max() <= 1  # tiles agree on their noise
        with rasterio.open(spread) as file:
            deviation = file.read()
            assert file.nodata == -1
        expected = 0.1 * np.array(Network.maxima) / 2 * 10000  # noise of 0.1, [-1, 1] being [0, maximum]
        factor = np.sqrt(3 / 4)  # of a standard deviation over 4 samples, on the whole
        found = np.sqrt((deviation**2).mean((1, 2)))
        np.testing.assert_allclose(found[0], expected[0] * factor, rtol=0.1)  # red: seldom clamped
    one = predict(Sampler(), [clouded], tmp_path / "one.tif", tile=64)
    other = predict(Sampler(), [clouded], tmp_path / "other.tif", tile=64, seed=1)
    assert (one != other).mean() > 0.9
    assert cog_validate(spread, strict=True) == (True, [], [])


def test_memory_that_runs_out_halves_the_batch(clouded: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Small(Network):
        def __call__(self, series: Series, noise: Noise) -> Result:
            if len(series.lr) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().__call__(series, noise)

    with caplog.at_level(logging.INFO):
        small = predict(Small(), [clouded], tmp_path / "a.tif", tile=64, batch=8)
    assert "2 windows at a time" in caplog.text
    np.testing.assert_array_equal(small, predict(Network(), [clouded], tmp_path / "b.tif", tile=64, batch=8))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "num_dates"),
    [
        (lambda: RRDBNet(width=8, blocks=3, base_residual=True), 1),
        (lambda: HighResNet(width=8), 3),
        (lambda: HighResLTAE(width=16, heads=4, d_model=32), 3),
        (lambda: RRDBLTAE(width=16, blocks=2, growth=8, heads=4, d_model=32, base_residual=True), 3),
        (lambda: RRDBHighResNet(width=8, blocks=2, growth=8, base_residual=True), 3),
    ],
)
def test_backbones_do_not_see_tile_borders(
    real: Path, tmp_path: Path, backbone: Callable[[], Backbone], num_dates: int
) -> None:
    torch.manual_seed(0)
    network = Trained(backbone(), num_dates=num_dates)
    assert 2 <= network.halo < 48
    options: dict[str, Any] = {
        "days": [date(2020, 4, 1), date(2020, 8, 1)],
        "window": (60, 40, 150, 130),
        "clouds": False,
    }
    small, large = (
        predict(network, [real / "scene"], tmp_path / f"{t}.tif", tile=t, **options).astype(float) for t in (64, 128)
    )
    assert np.abs(small - large).max() < GREY


@pytest.mark.slow
def test_a_clouded_date_puts_no_cloud_into_the_result(real: Path, tmp_path: Path) -> None:
    target = date(2023, 9, 6)
    folder = tmp_path / "in"
    shutil.copytree(real / "series", folder)
    with rasterio.open(folder / f"{target}.tif") as source:
        write_tif(
            folder / f"{target}_SCL.tif",
            np.full((1, *source.shape), 9, np.uint8),
            names=(),
            transform=source.transform,
            crs=source.crs,
        )
        cloud = source.read()
    kept = predict(Network(), [folder], tmp_path / "kept.tif", target=target, clouds=False)
    result = predict(Network(), [folder], tmp_path / "out.tif", target=target)
    for path in folder.glob(f"{target}*"):
        path.unlink()
    np.testing.assert_array_equal(result, predict(Network(), [folder], tmp_path / "without.tif", target=target))
    inside = cloud.max(axis=0).repeat(4, 0).repeat(4, 1) < 65535
    np.testing.assert_array_equal(result[0] > 0, inside)
    assert kept[:, inside].mean() > 7000
    assert result[:, inside].mean() < 1200


@pytest.mark.slow
@pytest.mark.parametrize(("match", "limit"), [("on", 0.02), ("off", 0.06)])
def test_real_places_keep_their_colours(real: Path, tmp_path: Path, match: str, limit: float) -> None:
    days = [date(2020, 4, 1), date(2020, 8, 1)]
    result = predict(
        Network(num_dates=2), [real / "scene"], tmp_path / "a.tif", days=days, clouds=False, match_lr=match
    )
    source = rasterio.open(real / "scene" / "window_b.tif").read().astype(float)
    assert np.abs(mean_of_blocks(result.astype(float)) - source).mean() < limit * source.mean()


# Stops, processes, memory

SLOW = """
import sys, time
from pathlib import Path
from tests.scenes import Network, predict
class Slow(Network):
    def __call__(self, series, noise):
        time.sleep(float(sys.argv[3]))
        return super().__call__(series, noise)
network = Slow()
predict(network, [Path(sys.argv[1])], Path(sys.argv[2]), tile=40, overwrite=False)
print(network.passes)
"""


def started(script: str, *arguments: object, cwd: Path, environment: Mapping[str, str] | None = None) -> Process:
    path = cwd / f"{hash(script)}.py"
    path.write_text(script)
    return Process(str(path), *arguments, cwd=cwd, environment=environment)


def python(script: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", script, *map(str, arguments)]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_killed_and_run_again_the_file_is_identical(clouded: Path, tmp_path: Path) -> None:
    straight, stopped = tmp_path / "straight" / "out.tif", tmp_path / "stopped" / "out.tif"
    for path in (straight, stopped):
        path.parent.mkdir()
    done = started(SLOW, clouded, straight, 0, cwd=tmp_path).wait().succeeded()
    journal = stopped.parent / ".out.tif.tiles" / "journal.txt"
    process = started(SLOW, clouded, stopped, 0.05, cwd=tmp_path)
    deadline = time.monotonic() + 60
    while not journal.exists() or journal.read_bytes().count(b"\n") < 4:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send(signal.SIGKILL)
    process.wait()
    assert not stopped.exists()
    again = started(SLOW, clouded, stopped, 0, cwd=tmp_path).wait().succeeded()
    assert 0 < int(again.stdout) < int(done.stdout)
    for name in ("out.tif", "out_flags.tif", "out_preview.png"):
        assert (straight.parent / name).read_bytes() == (stopped.parent / name).read_bytes()
    assert not journal.parent.exists()


@pytest.mark.slow
def test_tiles_of_other_work_are_not_taken(clouded: Path, tmp_path: Path) -> None:
    class Stops(Network):
        def __call__(self, series: Series, noise: Noise) -> Result:
            if self.passes > 5:
                raise KeyboardInterrupt
            return super().__call__(series, noise)

    out = tmp_path / "out.tif"
    with pytest.raises(KeyboardInterrupt):
        predict(Stops(), [clouded], out, tile=40)
    target = date(2023, 6, 6)
    result = predict(Network(), [clouded], out, tile=40, target=target)
    np.testing.assert_array_equal(result, predict(Network(), [clouded], tmp_path / "b.tif", tile=40, target=target))


@pytest.mark.slow
def test_tiles_of_another_sampler_are_not_taken(clouded: Path, tmp_path: Path) -> None:
    class Stops(Network):
        about = "sampler_steps=15"

        def __call__(self, series: Series, noise: Noise) -> Result:
            if self.passes > 5:
                raise KeyboardInterrupt
            return Result(sr=super().__call__(series, noise).sr + 0.1)

    out = tmp_path / "out.tif"
    with pytest.raises(KeyboardInterrupt):
        predict(Stops(), [clouded], out, tile=40)
    result = predict(Network(), [clouded], out, tile=40)
    np.testing.assert_array_equal(result, predict(Network(), [clouded], tmp_path / "b.tif", tile=40))


SHARDED = """
import sys
from pathlib import Path
from tasks.scenes.predict import Request, predict_scene
from tests.scenes import Network
from utils.geo.acquisitions import find_acquisitions
from utils.distributed import world
with world("cpu") as here:
    network, found = Network(), find_acquisitions([Path(sys.argv[1])])
    predict_scene(network, found, Request(output=Path(sys.argv[2]), tile=40), world=here, tags={})
    print(network.passes)
"""


@pytest.mark.slow
def test_processes_share_the_tiles(clouded: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    alone = started(SHARDED, clouded, tmp_path / "one" / "out.tif", cwd=tmp_path).wait().succeeded()
    place, environments = meeting(2)
    both = [started(SHARDED, clouded, tmp_path / "two" / "out.tif", cwd=tmp_path, environment=e) for e in environments]
    passes = [int(process.wait().succeeded().stdout) for process in both]
    del place
    assert sum(passes) == int(alone.stdout)
    assert min(passes) > 0.3 * int(alone.stdout)
    for name in ("out.tif", "out_flags.tif"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


MEASURED = """
import resource, sys
from pathlib import Path
import torch
from tasks.scenes.predict import Request, predict_scene
from tests.scenes import Network, write_series
from utils.geo.acquisitions import find_acquisitions
from utils.distributed import World
folder, size = Path(sys.argv[1]), int(sys.argv[2])
if sys.argv[3] == "write":
    write_series(folder / "in", height=size, width=size, dates=4)
else:
    found, request = find_acquisitions([folder / "in"]), Request(output=folder / "out.tif")
    predict_scene(Network(), found, request, world=World(torch.device("cpu")), tags={})
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.soak
def test_memory_does_not_grow_with_the_scene(tmp_path: Path) -> None:
    peaks = []
    for size in (768, 1536):
        folder = tmp_path / str(size)
        for what in ("write", "predict"):
            done = subprocess.run(
                python(MEASURED, folder, size, what), env=environment(), capture_output=True, text=True, check=True
            )
        peaks.append(int(done.stdout))
    assert peaks[1] <= 1.15 * peaks[0]


# The command line


def options(*arguments: object) -> argparse.Namespace:
    parser = Parser(description="test")
    add_arguments(parser)
    return parser.parse_args([str(argument) for argument in arguments])


def command(*arguments: object, network: Network | None = None) -> list[Path]:
    return predict_from_options(
        options(*arguments), network or Network(), World(torch.device("cpu")), checkpoint="model.ckpt of X, step 7"
    )


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    days = write_series(tmp_path / "in", height=40, width=50)
    out = tmp_path / "out.tif"
    assert command(
        "--predict", tmp_path / "in", "--output", out, "--date", days[1], "--tile", 64, "--mask", "none"
    ) == [out]
    with rasterio.open(out) as result:
        assert result.tags()["CHECKPOINT"] == "model.ckpt of X, step 7"
        assert result.tags()["TARGET_DATE"] == str(days[1])
        assert result.tags()["COMMAND"].startswith("python ")
    said = capsys.readouterr()
    assert said.out == ""
    assert "GB are free" in caplog.text
    assert "tiles: 100%" in said.err


def test_bad_input_is_one_clear_line(tmp_path: Path) -> None:
    days = write_series(tmp_path / "in", height=20, width=20, dates=2)
    place = tmp_path / "in"
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.tif").write_text("no raster")
    numbers = (ground(20, 20) * 10000).astype(np.uint16)
    write_tif(tmp_path / "undated" / "a.tif", numbers)
    write_tif(tmp_path / "undated" / "b.tif", numbers)
    write_tif(tmp_path / "grey" / "2023-08-07.tif", numbers[:1])
    write_tif(tmp_path / "away" / "2023-08-07.tif", numbers)
    write_tif(tmp_path / "away" / "2023-08-08.tif", numbers, crs="EPSG:32633")
    out = tmp_path / "out.tif"
    (tmp_path / "old.tif").write_text("")
    cases: list[tuple[type[UserError], str, list[object]]] = [
        (DataError, "no date", ["--predict", tmp_path / "undated", "--output", out]),
        (DataError, "described as B04; needed", ["--predict", tmp_path / "grey", "--output", out]),
        (DataError, "doesn't overlap", ["--predict", tmp_path / "away", "--output", out]),
        (DataError, "not a raster", ["--predict", tmp_path / "text.tif", "--output", out]),
        (DataError, "holds no GeoTIFF", ["--predict", tmp_path / "empty", "--output", out]),
        (DataError, "no such file", ["--predict", tmp_path / "nowhere", "--output", out]),
        (DataError, "exists; give --overwrite", ["--predict", place, "--output", tmp_path / "old.tif"]),
        (DataError, "no such folder", ["--predict", place, "--output", tmp_path / "nowhere" / "out.tif"]),
        (DataError, "no such folder", ["--predict", place, "--output", out, "--mask", tmp_path / "nowhere"]),
        (ConfigError, "needs --output", ["--predict", place]),
        (ConfigError, "must end in .tif", ["--predict", place, "--output", tmp_path / "out.png"]),
        (ConfigError, "no diffusion model", ["--predict", place, "--output", out, "--samples", 3]),
        (ConfigError, "--samples 2", ["--predict", place, "--output", out, "--uncertainty", tmp_path / "s.tif"]),
        (ConfigError, "between 0 and 1", ["--predict", place, "--output", out, "--min_valid", 7]),
        (ConfigError, "outside the image", ["--predict", place, "--output", out, "--window", 20, 0, 5, 5]),
        (ConfigError, "--tile 8", ["--predict", place, "--output", out, "--tile", 8]),
        (ConfigError, "1 dates for 2", ["--predict", place, "--output", out, "--dates", days[0]]),
    ]  # fmt: skip
    before = sorted(tmp_path.rglob("*"))
    for kind, said, arguments in cases:
        with pytest.raises(kind) as caught:
            command(*arguments)
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("arguments", [("--date", "2023-8"), ("--dates", "2023-08-07,x"), ("--bands", "a,b")])
def test_arguments_that_are_none(arguments: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        options("--predict", "x", *arguments)
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert arguments[0] in said
    assert said.count("\n") == 1


def test_results_of_a_run_that_stopped_while_it_wrote_them(clouded: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.tif"
    (tmp_path / "out_flags.tif").write_text("")
    with pytest.raises(DataError, match=r"out_flags\.tif: exists"):
        predict(Network(), [clouded], out, overwrite=False)
    (tmp_path / ".out.tif.tiles").mkdir()
    predict(Network(), [clouded], out, overwrite=False)
    with pytest.raises(DataError, match=r"out\.tif: exists"):
        predict(Network(), [clouded], out, overwrite=False)


def test_too_little_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_series(tmp_path / "in", height=40, width=40)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: argparse.Namespace(free=1000))
    with pytest.raises(DataError, match="needs at most"):
        predict(Network(), [tmp_path / "in"], tmp_path / "out.tif")
    assert not (tmp_path / ".out.tif.tiles").exists()


def test_the_network_sees_dates_in_order_and_padding_last(tmp_path: Path) -> None:
    seen: list[Series] = []

    class Looks(Network):
        def __call__(self, series: Series, noise: Noise) -> Result:
            seen.append(series)
            return super().__call__(series, noise)

    days = write_series(tmp_path / "in", height=20, width=24, dates=4)
    predict(Looks(num_dates=3), [tmp_path / "in"], tmp_path / "a.tif", target=days[2])
    predict(Looks(num_dates=6), [tmp_path / "in"], tmp_path / "b.tif", target=days[0])
    few, many = seen
    assert few.dates.tolist() == [[-5, 0, 5]]
    assert few.mask.all()
    assert many.dates.tolist() == [[0, 5, 10, 15, 15, 15]]
    assert many.mask.tolist() == [[True] * 4 + [False] * 2]
    for series, near in ((few, 1), (many, 0)):
        assert series.lr.abs().max() <= 1
        torch.testing.assert_close(series.nearest(), series.lr[:, near])
        inner = torch.nn.functional.avg_pool2d(series.base, 4) - series.lr[:, near]
        assert inner.abs().mean() < 0.1
    torch.testing.assert_close(many.lr[:, 4], many.lr[:, 3])
