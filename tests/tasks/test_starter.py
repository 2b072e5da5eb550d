"""The model that comes with the project: it is there, small, described, and works at once."""

import math
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
import yaml
from PIL import Image
from rasterio.windows import Window

from data_gen.synthetic.compose import draw_landscape
from data_gen.synthetic.sensors import AREA_MTF, MARGIN, draw_view, sentinel2
from tasks.experiment import PACKAGED, STARTER, model_path
from tasks.super_resolver import load_super_resolver
from tests.command import run, succeed
from tests.scenes import write_series
from utils.distributed import World
from utils.metrics.grid import border_gradient, sampling_peak
from utils.metrics.pixel import mean_gradient
from utils.radiometry import bicubic

FOLDER = PACKAGED / STARTER
TRAINER = "tasks/trainer.py"


def test_it_is_small_and_described() -> None:
    assert {path.name for path in FOLDER.iterdir()} == {"model.pt", "config.yaml", "MODEL_CARD.md"}
    assert (FOLDER / "model.pt").stat().st_size < 8e6
    content = torch.load(FOLDER / "model.pt", weights_only=True)
    assert content["config"] == yaml.safe_load((FOLDER / "config.yaml").read_text())
    assert content["bands"] == ["B04", "B03", "B02"]
    card = (FOLDER / "MODEL_CARD.md").read_text()
    assert "CC BY 4.0" in card and "Urban Forest" in card and "not a general model" in card


def test_it_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert model_path(STARTER) == FOLDER
    (tmp_path / "checkpoints" / STARTER).mkdir(parents=True)
    assert model_path(STARTER) == Path("checkpoints") / STARTER  # one's own goes first
    assert model_path("nowhere") == Path("nowhere")


@pytest.mark.parametrize("mtf", [0.2, 0.35, AREA_MTF])
def test_it_is_nearer_to_the_truth_than_interpolation_whatever_the_blur(mtf: float) -> None:
    """On artificial landscapes, none of which it was trained on; edges are sharper, colours stay, no pattern comes."""
    model = load_super_resolver(FOLDER, world=World(torch.device("cpu")))
    day, gains, sharper, grids = date(2023, 8, 7), [], [], []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        ground = draw_landscape(rng, 256 + 2 * MARGIN).reflectance(190)
        view = draw_view(rng)._replace(mtf=(mtf, mtf), shift=(0, 0), gain=np.ones(3), haze=np.zeros(3))
        image = torch.from_numpy(sentinel2(ground, view, rng) / np.float32(10000))
        truth = torch.from_numpy(ground)[:, MARGIN:-MARGIN, MARGIN:-MARGIN]
        result, smooth = model.at_date(image[None], [day], day), bicubic(image, scale=4)
        result, smooth, truth = (x[None, :, 16:-16, 16:-16] for x in (result, smooth, truth))
        gains.append(10 * math.log10((smooth - truth).square().mean() / (result - truth).square().mean()))
        sharper.append((mean_gradient(result) / mean_gradient(smooth)).item())
        grids.append((border_gradient(result, scale=4) - border_gradient(smooth, scale=4)).item())
        assert sampling_peak(result, scale=4) < 3
        averaged = torch.nn.functional.avg_pool2d(result, 4).mean(dim=(0, 2, 3))
        torch.testing.assert_close(averaged, image[:, 4:-4, 4:-4].mean(dim=(1, 2)), rtol=0.01, atol=0)
    assert np.mean(gains) > 0.3
    assert 1.1 < np.mean(sharper) < 1.6
    assert np.mean(grids) < 0.2


@pytest.mark.slow
def test_predict_with_it_anywhere(tmp_path: Path) -> None:
    (tmp_path / "s2").mkdir()
    write_series(tmp_path / "s2", height=40, width=44, dates=3)
    succeed(TRAINER, "--starter", "--predict", "s2", "--output", "map.tif", "--sheet", "sheet.png", cwd=tmp_path)
    with rasterio.open(tmp_path / "map.tif") as file:
        assert (file.count, file.height, file.width) == (3, 160, 176)
        result = file.read(window=Window(0, 0, 128, 128)).astype(float)
    with Image.open(tmp_path / "sheet.png") as sheet:
        panels = np.asarray(sheet.convert("RGB")).astype(float)
    assert panels.shape[1] > 3 * 512
    shown = [p[..., 0] for p in np.array_split(panels, 3, axis=1)]
    steps = [np.abs(np.diff(panel, axis=1)).astype(bool).mean() for panel in shown]
    assert steps[0] < 0.5 * steps[1]  # blocks of input pixels beside what is interpolated
    assert np.ptp(result) > 0


@pytest.mark.parametrize(
    "options",
    [
        ("--starter",),
        ("--starter", "--config", "x.yaml", "--predict", "s2", "--output", "map.tif"),
        ("--predict", "s2", "--output", "map.tif"),
    ],
)
def test_it_goes_with_predict_and_infer(options: tuple[str, ...], tmp_path: Path) -> None:
    done = run(TRAINER, *options, cwd=tmp_path)
    assert done.returncode == 2
    assert "--starter" in done.stderr and len(done.stderr.strip().splitlines()) == 1
