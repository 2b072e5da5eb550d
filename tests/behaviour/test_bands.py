"""Data sets of four and of ten bands through every command: what a band is called stays with it to the map."""

import csv
from collections.abc import Callable
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

Made = Callable[[tuple[str, ...]], Path]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The prepared sample data of some bands, made once."""
    top = tmp_path_factory.mktemp("bands")

    def make(bands: tuple[str, ...]) -> Path:
        folder = top / str(len(bands))
        if not folder.exists():
            succeed("data_gen/sample.py", folder, *SIZES, "--bands", ",".join(bands), cwd=top)
            succeed("data_gen/preprocess_data.py", folder, "--max_s2_images", 4, cwd=top)
        return folder

    return make


@pytest.mark.parametrize("bands", [FOUR, TEN], ids=["four", "ten"])
def test_data_say_their_bands(made: Made, bands: tuple[str, ...]) -> None:
    """Red, green and blue are those of three bands: what is seen besides changes nothing."""
    raw, plain = made(bands), made(RGB)
    manifest = read_manifest(raw / "preprocessed")
    assert manifest.geometry.bands == bands and "of B" in manifest.normalisation
    maxima = dict(zip(bands, manifest.maxima, strict=True))
    assert maxima["B04"] == 0.2058 and 0.2 < maxima["B08"] < 0.7
    for path in raw.rglob("*.tif"):
        with rasterio.open(path) as source:
            assert described_bands(source.descriptions) == bands
    for folder in (raw, raw / "preprocessed"):
        checked = succeed("data_gen/check.py", folder, cwd=raw.parent).stdout
        assert "nir" in checked and "0 errors" in checked
    order = [bands.index(band) for band in RGB]
    for split in ("train", "test"):
        shard, three = (Store(root / "preprocessed", split).shard(0) for root in (raw, plain))
        assert torch.equal(shard["hr"][:, order], three["hr"]) and torch.equal(shard["lr"][:, :, order], three["lr"])
        assert torch.equal(shard["matching"][:, order], three["matching"])


@pytest.mark.slow
@pytest.mark.parametrize(("config", "bands"), [("rrdb", FOUR), ("hr_ltae", TEN), ("srdiff", TEN)])
def test_from_training_to_a_map(made: Made, tmp_path: Path, config: str, bands: tuple[str, ...]) -> None:
    raw = made(bands)
    experiments, start = Experiments(tmp_path, raw), dict[str, object](SHORT)
    if config == "srdiff":
        experiments.train("backbone", **SHORT).succeeded()
        start["rrdb_ckpt"] = experiments.folder("backbone")
    experiments.train("whole", config, **start).succeeded()
    state = experiments.checkpoint("whole", 4)
    assert tuple(state["bands"]) == bands and len(state["maxima"]) == len(bands)
    if config == "hr_ltae":
        experiments.train("parts", config, **{**start, "max_updates": 2}).succeeded()
        experiments.train("parts", config, **start).succeeded()
        parts = experiments.checkpoint("parts", 4)["state_dict"]["model"]
        assert all(torch.equal(weight, parts[name]) for name, weight in state["state_dict"]["model"].items())
    experiments.start("whole", config, extra=("--infer",)).wait().succeeded()
    [row] = csv.DictReader((experiments.folder("whole") / "metrics.csv").open(), delimiter=";")
    assert all(np.isfinite(float(row[f"{prefix}psnr_{band}"])) for band in bands for prefix in ("", "bicubic_"))
    assert 0 < float(row["bicubic_ndvi_error"]) < 1 and 0 < float(row["ndvi_error"]) <= 2
    succeed("tasks/export.py", "checkpoints/whole", "model.pt", cwd=tmp_path)
    assert tuple(torch.load(tmp_path / "model.pt")["bands"]) == bands
    [dates] = (raw / "sen2" / "test").iterdir()
    predict = ("--predict", dates, "--date", "2018-06-15", "--output", "map.tif", "--mask", "none")
    succeed("tasks/trainer.py", "--config", "model.pt", "--exp_name", "map", *predict, cwd=tmp_path)
    with rasterio.open(tmp_path / "map.tif") as source:
        assert source.count == len(bands) and source.shape == (64, 64)
        assert described_bands(source.descriptions) == bands
    if config == "rrdb":
        done = experiments.start("whole", config, extra=("--infer",), data_root=made(RGB)).wait()
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
def test_bands_that_there_are_not(made: Made, tmp_path: Path, arguments: list[str], code: int, words: str) -> None:
    done = run("data_gen/preprocess_data.py", made(FOUR), "--output", tmp_path / "out", *arguments, cwd=tmp_path)
    last = done.stderr.splitlines()[-1]
    assert done.returncode == code and words in last and "error" in last


def test_a_choice_of_bands_in_another_order(made: Made, tmp_path: Path) -> None:
    raw = made(FOUR)
    succeed("data_gen/preprocess_data.py", raw, "--output", "out", "--bands", "nir,red", cwd=tmp_path)
    assert read_manifest(tmp_path / "out").geometry.bands == ("B08", "B04")
    whole, chosen = (Store(folder, "train").shard(0) for folder in (raw / "preprocessed", tmp_path / "out"))
    assert torch.equal(chosen["hr"], whole["hr"][:, [3, 0]])


def test_data_sets_of_own_images(made: Made, tmp_path: Path) -> None:
    """The bands are found by name in images, and named in what is built: here in another order, two of them."""
    raw = made(TEN)
    [truth] = (raw / "spot6" / "test").iterdir()
    own = ("--hr", truth, "--hr_dates", "2018-06-15", "--lr", raw / "sen2" / "test" / truth.stem / "*.tif")
    sizes = ("--patch", 32, "--val", 0, "--test", 0, "--gap", 0, "--mask", "none", "--bands", "B08,B04")
    succeed("data_gen/build_dataset.py", *own, *sizes, "--output", "own", cwd=tmp_path)
    with rasterio.open(truth) as source:
        whole = source.read(TEN.index("B08") + 1)
    patches = list((tmp_path / "own" / "spot6").iterdir())
    assert len(patches) == 4
    for path in patches:
        with rasterio.open(path) as source:
            assert source.descriptions == ("B08", "B04")
            top, left = (int(part[1:]) * 32 for part in path.stem.split("_")[1:])
            part = whole[top : top + 32, left : left + 32]
            assert (np.abs(source.read(1).astype(int) - part) <= (part == 0)).all()
    succeed("data_gen/preprocess_data.py", "own", cwd=tmp_path)
    assert read_manifest(tmp_path / "own" / "preprocessed").geometry.bands == ("B08", "B04")
