"""Data sets of four and of ten bands through every command: what a band is called stays with it to the map."""

import csv
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch

from tests.command import run, succeed
from tests.trainings import Experiments
from utils.geo.bands import RGB, described_bands
from utils.store import Store, read_manifest

FOUR = ("B04", "B03", "B02", "B08")
TEN = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
SIZES = ("--train", 2, "--val", 1, "--test", 1, "--size", 64)
SHORT = {"max_updates": 4, "save_ckpt_interval": 2, "val_check_interval": 4}


def made(folder: Path, bands: tuple[str, ...]) -> Path:
    succeed("data_gen/sample.py", folder, *SIZES, "--bands", ",".join(bands), cwd=folder.parent)
    succeed("data_gen/preprocess_data.py", folder, "--max_s2_images", 4, cwd=folder.parent)
    return folder


@pytest.fixture(scope="module", params=[FOUR, TEN], ids=["four", "ten"])
def raw(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("bands") / "raw", request.param)


def bands_of(raw: Path) -> tuple[str, ...]:
    return read_manifest(raw / "preprocessed").geometry.bands


def test_data_say_their_bands(raw: Path) -> None:
    bands = bands_of(raw)
    assert bands in (FOUR, TEN)
    manifest = read_manifest(raw / "preprocessed")
    assert len(manifest.maxima) == len(bands) and manifest.maxima[bands.index("B04")] == 0.2058
    assert 0.2 < manifest.maxima[bands.index("B08")] < 0.7 and "of B" in manifest.normalisation
    for path in raw.rglob("*.tif"):
        with rasterio.open(path) as source:
            assert described_bands(source.descriptions) == bands
    checked = succeed("data_gen/check.py", raw, cwd=raw.parent).stdout
    assert "nir" in checked and "0 errors" in checked
    assert "0 errors" in succeed("data_gen/check.py", raw / "preprocessed", cwd=raw.parent).stdout


def test_red_green_blue_are_those_of_three_bands(raw: Path) -> None:
    """The same places, dates and numbers: what is seen besides changes nothing."""
    plain = made(raw.parent / "plain", RGB)
    order = [bands_of(raw).index(band) for band in RGB]
    for split in ("train", "test"):
        shard, three = (Store(root / "preprocessed", split).shard(0) for root in (raw, plain))
        assert torch.equal(shard["hr"][:, order], three["hr"]) and torch.equal(shard["lr"][:, :, order], three["lr"])
        assert torch.equal(shard["matching"][:, order], three["matching"])


@pytest.mark.slow
@pytest.mark.parametrize("config", ["rrdb", "hr_ltae", "srdiff"])
def test_from_training_to_a_map(raw: Path, tmp_path: Path, config: str) -> None:
    bands, experiments = bands_of(raw), Experiments(tmp_path, raw)
    start: dict[str, object] = dict(SHORT)
    if config == "srdiff":
        experiments.train("backbone", **SHORT).succeeded()
        start["rrdb_ckpt"] = experiments.folder("backbone")
    experiments.train("whole", config, **start).succeeded()
    experiments.train("parts", config, **{**start, "max_updates": 2}).succeeded()
    experiments.train("parts", config, **start).succeeded()
    states = [torch.load(experiments.folder(name) / "model_ckpt_steps_4.ckpt") for name in ("whole", "parts")]
    assert all(torch.equal(a, states[1]["state_dict"]["model"][n]) for n, a in states[0]["state_dict"]["model"].items())
    assert tuple(states[0]["bands"]) == bands and len(states[0]["maxima"]) == len(bands)
    experiments.start("whole", config, extra=("--infer",)).wait().succeeded()
    [row] = csv.DictReader((experiments.folder("whole") / "metrics.csv").open(), delimiter=";")
    assert all(np.isfinite(float(row[f"{prefix}psnr_{band}"])) for band in bands for prefix in ("", "bicubic_"))
    assert 0 < float(row["bicubic_ndvi_error"]) < 1 and 0 < float(row["ndvi_error"]) <= 2
    succeed("tasks/export.py", "checkpoints/whole", "model.pt", cwd=tmp_path)
    assert tuple(torch.load(tmp_path / "model.pt")["bands"]) == bands
    dates = next(path for path in sorted((raw / "sen2" / "test").iterdir()))
    predict = ("--predict", dates, "--date", "2018-06-15", "--output", "map.tif", "--mask", "none")
    succeed("tasks/trainer.py", "--config", "model.pt", "--exp_name", "map", *predict, cwd=tmp_path)
    with rasterio.open(tmp_path / "map.tif") as source:
        assert source.count == len(bands) and source.shape == (64, 64)
        assert described_bands(source.descriptions) == bands


def test_other_bands_are_refused(raw: Path, tmp_path: Path) -> None:
    plain = made(tmp_path / "plain", RGB)
    experiments = Experiments(tmp_path, raw)
    experiments.train("bicubic", "rrdb", **SHORT).succeeded()
    done = experiments.start("bicubic", "rrdb", extra=("--infer",), data_root=plain).wait()
    assert done.returncode == 3 and "holds red, green, blue, the model is for" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--bands", "B04,B99"], 2, "'B99' is no band of Sentinel-2"),
        (["--bands", "red,B04"], 2, "name each band once"),
        (["--bands", "B04,B03,B01"], 3, "no patch can be used"),
        (["--maxima", "0.2", "0.2"], 3, "--maxima gives 2 numbers for the bands"),
    ],
)
def test_bands_that_there_are_not(raw: Path, tmp_path: Path, arguments: list[str], code: int, words: str) -> None:
    done = run("data_gen/preprocess_data.py", raw, "--output", tmp_path / "out", *arguments, cwd=tmp_path)
    last = done.stderr.splitlines()[-1]
    assert done.returncode == code and words in last and "error" in last


def test_a_choice_of_bands_in_another_order(raw: Path, tmp_path: Path) -> None:
    succeed("data_gen/preprocess_data.py", raw, "--output", "out", "--bands", "nir,red", cwd=tmp_path)
    manifest = read_manifest(tmp_path / "out")
    assert manifest.geometry.bands == ("B08", "B04")
    order = [bands_of(raw).index(band) for band in ("B08", "B04")]
    whole, chosen = (Store(folder, "train").shard(0) for folder in (raw / "preprocessed", tmp_path / "out"))
    assert torch.equal(chosen["hr"], whole["hr"][:, order])


def test_data_sets_of_own_images(raw: Path, tmp_path: Path) -> None:
    """The bands are found by name in images, and named in what is built: here in another order, two of them."""
    truth = next((raw / "spot6" / "test").iterdir())
    own = ("--hr", truth, "--hr_dates", "2018-06-15", "--lr", raw / "sen2" / "test" / truth.stem / "*.tif")
    sizes = ("--patch", 32, "--val", 0, "--test", 0, "--gap", 0, "--mask", "none", "--bands", "B08,B04")
    succeed("data_gen/build_dataset.py", *own, *sizes, "--output", "own", cwd=tmp_path)
    position = bands_of(raw).index("B08")
    with rasterio.open(truth) as source:
        whole = source.read(position + 1)
    [*patches] = sorted((tmp_path / "own" / "spot6").iterdir())
    assert len(patches) == 4
    for path in patches:
        with rasterio.open(path) as source:
            assert source.descriptions == ("B08", "B04")
            top, left = (int(part[1:]) * 32 for part in path.stem.split("_")[1:])
            part = whole[top : top + 32, left : left + 32]
            assert (np.abs(source.read(1).astype(int) - part) <= (part == 0)).all()
    succeed("data_gen/preprocess_data.py", "own", cwd=tmp_path)
    assert read_manifest(tmp_path / "own" / "preprocessed").geometry.bands == ("B08", "B04")
