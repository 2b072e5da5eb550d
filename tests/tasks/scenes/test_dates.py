"""Maps of several dates, colours held to the nearest acquisitions, and what a map says of its dates and bands."""

import csv
import logging
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from rasterio.enums import ColorInterp

from models.samplers import Noise
from models.series import Series
from tasks.base import Result
from tasks.scenes.options import add_arguments
from tasks.scenes.predict import Request, predict_from_options, predict_scene
from tests.scenes import START, Network, Sampler, ground, predict, write_series, write_tif
from utils.cli import Parser
from utils.distributed import World
from utils.errors import ConfigError, DataError
from utils.geo.acquisitions import find_acquisitions

pytestmark = pytest.mark.slow

HERE = World(torch.device("cpu"))


def maps_of(network: Network, folder: Path, output: Path, targets: list[date], **request: object) -> list[Path]:
    acquisitions = find_acquisitions([folder], bands=network.bands)
    asked = Request(output=output, targets=tuple(targets), tile=64, **request)  # type: ignore[arg-type]
    return predict_scene(network, acquisitions, asked, world=HERE, tags={})


def pixels(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read()


def mean_of_blocks(image: np.ndarray, size: int = 4) -> np.ndarray:
    bands, height, width = image.shape
    return image.reshape(bands, height // size, size, width // size, size).mean((2, 4))


@pytest.fixture
def series(tmp_path: Path) -> Path:
    write_series(tmp_path / "in", height=70, width=90, dates=6)
    return tmp_path / "in"


def test_a_map_a_date_is_the_map_of_that_date_alone(series: Path, tmp_path: Path) -> None:
    targets = [START + timedelta(days=n) for n in (1, 9, 22)]
    maps = maps_of(Network(), series, tmp_path / "out.tif", targets)
    assert [path.name for path in maps] == [f"out_{day}.tif" for day in targets]
    for target, path in zip(targets, maps, strict=True):
        alone = maps_of(Network(), series, tmp_path / "alone.tif", [target], overwrite=True)[0]
        np.testing.assert_array_equal(pixels(path), pixels(alone))
        assert pixels(path).any()
    rows = list(csv.DictReader((tmp_path / "out.csv").open()))
    assert [row["date"] for row in rows] == [str(day) for day in targets]
    assert rows[1]["days"] == "-4; 1; 6"
    assert rows[1]["acquisitions"].startswith("2023-06-06 2023-06-06.tif; 2023-06-11 ")
    assert {row["valid_share"] for row in rows} == {"1.0000"}
    assert [row["nearest_days"] for row in rows] == ["1", "1", "2"]
    with Image.open(tmp_path / "out_preview.webp") as animation:
        assert (getattr(animation, "n_frames", 1), animation.size) == (3, (360, 280))
    assert not (tmp_path / ".out.tif.tiles").exists()


def test_several_dates_stopped_and_run_again(series: Path, tmp_path: Path) -> None:
    class Stops(Network):
        def __call__(self, series: Series, noise: Noise) -> Result:
            if self.passes > 6:
                raise KeyboardInterrupt
            return super().__call__(series, noise)

    targets = [START, START + timedelta(days=12), START + timedelta(days=25)]
    straight, again = Network(), Network()
    expected = maps_of(straight, series, tmp_path / "straight.tif", targets)
    with pytest.raises(KeyboardInterrupt):
        maps_of(Stops(), series, tmp_path / "stopped.tif", targets)
    found = maps_of(again, series, tmp_path / "stopped.tif", targets)
    assert 0 < again.passes < straight.passes
    for a, b in zip(expected, found, strict=True):
        assert a.read_bytes() == b.read_bytes()
    with pytest.raises(DataError, match=r"stopped_2023-06-01\.tif: exists"):
        maps_of(Network(), series, tmp_path / "stopped.tif", targets)


def test_nothing_flickers_but_what_changed(tmp_path: Path) -> None:
    class Still(Sampler):
        def __call__(self, series: Series, noise: Noise) -> Result:
            return super().__call__(series._replace(dates=torch.zeros_like(series.dates)), noise)

    place = (ground(50, 60) * 10000).astype(np.uint16)
    for day in ("2023-06-01", "2023-06-11", "2023-06-21"):
        write_tif(tmp_path / "in" / f"{day}.tif", place)
    first, second = maps_of(Still(), tmp_path / "in", tmp_path / "out.tif", [date(2023, 6, 1), date(2023, 6, 20)])
    np.testing.assert_array_equal(pixels(first), pixels(second))


# The command line


def command(*arguments: object, network: Network | None = None) -> list[Path]:
    parser = Parser(description="test")
    add_arguments(parser)
    parsed = parser.parse_args([str(argument) for argument in arguments])
    return predict_from_options(parsed, network or Network(), HERE, checkpoint="test")


def test_dates_on_the_command_line(series: Path, tmp_path: Path) -> None:
    asked = ("--predict", series, "--output", tmp_path / "out.tif", "--date", "2023-06-01,2023-06-20")
    assert [path.stem[-5:] for path in command(*asked)] == ["06-01", "06-20"]
    every = command(*asked, "--dates_every", 8, "--overwrite")
    assert [path.stem[-5:] for path in every] == ["06-01", "06-09", "06-17"]
    for wrong in (
        ("--dates_every", 0),
        ("--dates_every", 5, "--date", "2023-06-01"),
        ("--dates_every", 1, "--date", "1990-01-01,2023-06-01"),
        ("--date", "2023-06-01,2023-06-01"),
    ):
        with pytest.raises(ConfigError, match="--date"):
            command(*asked, *wrong, "--overwrite")


# Colours


def test_colours_are_held_where_an_acquisition_is_near(series: Path, tmp_path: Path) -> None:
    def off_by(target: date, match: str) -> float:
        result = predict(Network(), [series], tmp_path / "out.tif", target=target, match_lr=match, clouds=False)
        return float(np.abs(mean_of_blocks(result.astype(float)) - pixels(series / "2023-06-01.tif")).mean())

    near, far = date(2023, 5, 28), date(2023, 5, 20)
    assert off_by(near, "auto") == off_by(near, "on") < 1 < off_by(near, "off")
    assert off_by(far, "on") < 1 < off_by(far, "auto") == off_by(far, "off")


@pytest.mark.parametrize("tile", [40, 1024])
def test_each_pixel_is_held_to_its_own_nearest_acquisition(tmp_path: Path, tile: int) -> None:
    """The choice of dates is for whole cells; a pixel that the nearest lacks is held to the next that has it."""
    numbers = {"2023-06-11": 800, "2023-06-14": 500, "2023-06-03": 300}
    for day, number in numbers.items():
        image = np.full((3, 64, 96), number, np.uint16)
        if day != "2023-06-03":
            image[:, 8:24, 40:56] = 0
        if day == "2023-06-11":
            image[:, 40:52, 70:82] = 0
        write_tif(tmp_path / "in" / f"{day}.tif", image)
    result = predict(
        Network(num_dates=1), [tmp_path / "in"], tmp_path / "out.tif", target=date(2023, 6, 12), match_lr="on",
        tile=tile, clouds=False,
    )  # fmt: skip
    blocks = mean_of_blocks(result.astype(float))[0]
    assert np.abs(blocks[28:34] - 800).max() <= 1
    assert np.abs(blocks[12:20, 44:52] - 300).max() <= 1
    assert np.abs(blocks[44:48, 74:78] - 500).max() <= 1
    assert np.abs(np.diff(blocks, axis=1)).max() < 250  # of 500: no hard edge


# What a map says


def test_days_from_the_target_date_are_in_the_flags(tmp_path: Path) -> None:
    image = (ground(64, 64) * 10000).astype(np.uint16)
    write_tif(tmp_path / "in" / "2023-08-01.tif", image)
    holed = image.copy()
    holed[:, 10:20, 30:50] = 0
    write_tif(tmp_path / "in" / "2023-08-06.tif", holed)
    for path in (tmp_path / "in").iterdir():
        with rasterio.open(path, "r+") as file:
            file.write(np.zeros((3, 4, 64), np.uint16), window=((60, 64), (0, 64)))
    predict(Network(num_dates=2), [tmp_path / "in"], tmp_path / "out.tif", target=date(2023, 8, 8), clouds=False)
    with rasterio.open(tmp_path / "out_flags.tif") as file:
        flags, days = file.read()
        assert file.descriptions[1] == "days from the target date"
        assert file.nodata == -32768
    expected = np.full((64, 64), -2)
    expected[10:20, 30:50] = -7
    expected[60:] = -32768
    np.testing.assert_array_equal(days, expected)
    np.testing.assert_array_equal(flags, np.where(expected == -7, 2, np.where(expected == -2, 1, 0)))


def test_the_summary_and_its_warnings(series: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def said(target: date, folder: Path = series) -> tuple[str, list[str]]:
        caplog.clear()
        with caplog.at_level(logging.INFO):
            predict(Network(), [folder], tmp_path / "out.tif", target=target, match_lr="auto")
        warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        return caplog.text, warnings

    text, warnings = said(date(2023, 6, 13))
    assert "2023-06-13: from 3 of 6 acquisitions; nearest 2 days away, 0.0% of the map from others" in text
    assert "colours held" in text and warnings == []
    text, warnings = said(date(2025, 1, 1))
    assert warnings == ["2025-01-01: 100% of the map shows the ground more than 45 days from this date"]
    assert "colours not held" in text
    write_tif(tmp_path / "empty" / "2023-06-01.tif", np.zeros((3, 40, 40), np.uint16))
    assert said(date(2023, 6, 1), tmp_path / "empty")[1] == [
        "2023-06-01: no acquisition shows anything of this part: the map is empty"
    ]


def test_a_part_that_reaches_beyond_the_image_is_said(
    series: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        predict(Network(), [series], tmp_path / "out.tif", window=(80, 60, 30, 30))
    assert "cut to --window 80 60 10 10" in caplog.text
    with pytest.raises(ConfigError, match=r"70 pixels, .*\(EPSG:32630\)"):
        predict(Network(), [series], tmp_path / "out.tif", bbox=(0, 0, 1, 1))


def test_bands_of_the_result(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class FourBands(Network):
        bands = ("B04", "B03", "B02", "B08", "B05")
        maxima = (*Network.maxima, 0.5, 0.4)

    places = np.stack([*ground(40, 50), ground(40, 50)[0] + 0.2, ground(40, 50)[1] + 0.1])
    names = ("B08", "B05", "red", "green", "blue")
    order = [3, 4, 0, 1, 2]
    write_tif(tmp_path / "in" / "2023-06-01.tif", (places[order] * 10000).round().astype(np.uint16), names=names)
    (path,) = maps_of(FourBands(), tmp_path / "in", tmp_path / "out.tif", [], clouds=False, match_lr="on")
    with rasterio.open(path) as file:
        assert file.descriptions == ("red", "green", "blue", "nir", "B05")
        assert file.colorinterp[:4] == (ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.nir)
        assert (set(file.scales), set(file.offsets)) == ({0.0001}, {0.0})
        result = file.read()
    np.testing.assert_allclose(mean_of_blocks(result.astype(float)) / 10000, places, atol=2e-4)
    assert caplog.text == ""  # GDAL has nothing to warn of
    (again,) = find_acquisitions([path], bands=("B05", "B08"))
    assert again.bands == ((path, 5), (path, 4))
    assert again.meanings == ((0.0001, 0.0),) * 2
    assert Image.open(tmp_path / "out_preview.png").size == (408, 160)
