"""What a map says about itself: from which dates each place was made, and how far off it may be."""

import math
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from numpy.typing import NDArray
from PIL import Image
from rio_cogeo.cogeo import cog_validate

from models.samplers import Noise
from models.series import Series
from tasks.base import Result
from tasks.scenes.explanation import BANDS, attention_summary
from tests.scenes import Network, Sampler, ground, predict, write_series, write_tif

pytestmark = pytest.mark.slow


class Stated(Network):
    """States a deviation, and attends to the dates by how near they are; with ``alone`` to the last one only."""

    states_uncertainty = True

    def __init__(self, *, num_dates: int = 3, alone: bool = False) -> None:
        super().__init__(num_dates=num_dates)
        self.alone = alone

    def __call__(self, series: Series, noise: Noise) -> Result:
        batch, views = series.dates.shape
        weights = series.dates.new_zeros(batch, views)
        if self.alone:
            weights[:, -1] = 1
        else:
            weights += 1 / views
        attention = weights[None, :, :, None, None].expand(2, -1, -1, *series.lr.shape[-2:])
        deviation = torch.full_like(series.base, 0.02)
        return Result(sr=super().__call__(series, noise).sr, deviation=deviation, attention=attention)


def read(path: Path) -> tuple[NDArray[np.float32], float]:
    with rasterio.open(path) as file:
        return file.read(), file.nodata


def test_attention_in_days_and_nats() -> None:
    attention = torch.tensor([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25]]).view(2, 1, 3, 1, 1)
    distance, entropy = attention_summary(attention, torch.tensor([[-10.0, 4.0, 20.0]]))[0, :, 0, 0].tolist()
    assert distance == pytest.approx(0.5 * 10 + 0.25 * 4 + 0.25 * 20)
    assert entropy == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(4))


def test_dates_that_a_place_was_made_from(tmp_path: Path) -> None:
    """Pixels that the day itself has not: the nearest date that has them, and one date fewer."""
    days = write_series(tmp_path / "in", height=40, width=50, dates=3, step=5)
    holed = (ground(40, 50) * 10000).astype(np.uint16)
    holed[:, 10:20, 10:25] = 0
    write_tif(tmp_path / "in" / f"{days[1]}.tif", holed, nodata=0)
    out, explained = tmp_path / "out.tif", tmp_path / "why.tif"
    predict(Stated(), [tmp_path / "in"], out, target=days[1], clouds=False, explain=explained)
    maps, unknown = read(explained)
    assert maps.shape == (len(BANDS), 40, 50) and unknown == -9999
    hole = np.zeros((40, 50), bool)
    hole[10:20, 10:25] = True
    assert (maps[0][~hole] == 0).all() and (np.abs(maps[0][hole]) == 5).all()
    assert (maps[3][~hole] == 3).all() and (maps[3][hole] == 2).all()
    assert maps[1] == pytest.approx((5 + 0 + 5) / 3)
    assert maps[2] == pytest.approx(math.log(3))
    assert cog_validate(explained, strict=True) == (True, [], [])
    with Image.open(tmp_path / "why.png") as picture:
        assert min(picture.size) > 100
    predict(Stated(alone=True), [tmp_path / "in"], out, target=days[1], clouds=False, explain=explained)
    maps, _ = read(explained)
    assert (maps[1] == 5).all() and (maps[2] == 0).all()


def test_tiles_agree_on_it(clouded: Path, tmp_path: Path) -> None:
    found = []
    for tile in (64, 128):
        explained = tmp_path / f"{tile}.tif"
        predict(Stated(), [clouded], tmp_path / "out.tif", tile=tile, explain=explained)
        found.append(read(explained)[0])
    assert np.array_equal(*found)


def test_a_network_without_attention_leaves_its_bands_empty(tmp_path: Path) -> None:
    write_series(tmp_path / "in", height=40, width=50)
    explained = tmp_path / "why.tif"
    predict(Network(), [tmp_path / "in"], tmp_path / "out.tif", explain=explained)
    maps, unknown = read(explained)
    assert (maps[1:3] == unknown).all()
    assert (maps[[0, 3]] != unknown).all()


def test_the_deviation_that_a_network_states(tmp_path: Path) -> None:
    write_series(tmp_path / "in", height=40, width=50)
    network = Stated()
    deviation = tmp_path / "std.tif"
    expected = 0.02 * np.array(Network.maxima) / 2 * 10000  # [-1, 1] is [0, maximum]
    for factors, tag in ((None, "none"), ((2.0, 1.5, 0.5), "factors 2.000, 1.500, 0.500")):
        network.calibration = factors
        predict(network, [tmp_path / "in"], tmp_path / "out.tif", uncertainty=deviation)
        with rasterio.open(deviation) as file:
            found, tags = file.read(), file.tags()
        assert found == pytest.approx(
            np.broadcast_to((expected * (factors or 1))[:, None, None], found.shape), rel=1e-5
        )
        assert tags["CALIBRATION"] == tag


def test_samples_are_calibrated_too(tmp_path: Path) -> None:
    write_series(tmp_path / "in", height=40, width=50)
    network, deviations = Sampler(), []
    for calibration in (None, (3.0, 1.0, 1.0)):
        network.calibration = calibration
        predict(network, [tmp_path / "in"], tmp_path / "out.tif", samples=3, uncertainty=tmp_path / "std.tif")
        deviations.append(read(tmp_path / "std.tif")[0])
    assert deviations[1][0] == pytest.approx(3 * deviations[0][0], rel=1e-5)
    assert np.array_equal(deviations[1][1:], deviations[0][1:])
