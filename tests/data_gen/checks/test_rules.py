"""A check finds each planted fault, and none in a clean data set."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rasterio
import torch
from numpy.typing import NDArray
from PIL import Image

from data_gen.checks.rules import check_data_set
from data_gen.synthetic.dataset import SampleSet, write_sample_set
from tests.command import run
from tests.data import landscape, prepare_with, write_raster, write_raw
from tests.golden.large import Golden
from utils.errors import DataError
from utils.store import MANIFEST, checksum

COMMAND = "data_gen/check.py"
TRAIN, TEST = "dataset_train.pkl", "dataset_test.pkl"
RNG = np.random.default_rng(0)


def wrong(root: Path) -> dict[str, str]:
    """Check -> "level: message, examples" of all that is not ok."""
    found: dict[str, str] = {}
    for finding in check_data_set(root, sample=0)[1]:
        if finding.level != "ok":
            text = f"{finding.level}: {finding.message} {' '.join(finding.examples)}"
            found[finding.check] = f"{found.get(finding.check, '')}{text}\n"
    return found


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten patches beside each other."""
    root = write_raw(tmp_path_factory.mktemp("pristine") / "raw", train=6, hr_size=160)
    for start, table in ((0, TRAIN), (8, TEST)):
        frame = pd.read_pickle(root / table)
        frame.assign(x=[250000.0 + 1000 * (start + i) for i in range(len(frame))]).to_pickle(root / table)
    return root


@pytest.fixture
def root(pristine: Path, tmp_path: Path) -> Path:
    return shutil.copytree(pristine, tmp_path / "raw")


def test_a_clean_set_has_no_fault(pristine: Path) -> None:
    assert wrong(pristine) == {}


def test_a_sample_data_set_is_clean(tmp_path: Path) -> None:
    write_sample_set(tmp_path / "sample", SampleSet(train=3, val=1, test=2, size=160))
    assert wrong(tmp_path / "sample") == {}


# Planted faults: each changes a clean data set


def files(root: Path, pattern: str) -> list[Path]:
    return sorted(root.glob(pattern))


def repaint(path: Path, change: Callable[[NDArray], NDArray]) -> None:
    """Write a raster anew with other pixels."""
    with rasterio.open(path) as source:
        pixels, resolution = source.read(), source.transform.a
    write_raster(path, change(pixels), resolution=resolution)


def as_picture(pixels: NDArray) -> NDArray:
    return (pixels / 10).clip(0, 255).astype(np.uint8)


VIEWS, TRUTHS = "sen2/**/*.tif", "spot6/**/*.tif"
REPAINTED: dict[str, tuple[str, Callable[[NDArray], NDArray], str]] = {  # which rasters, how; what is found
    "not square": ("one view", lambda x: x[:, :, :-5], "sizes error: .*acquisitions that are not 40×40: 1;.*40×35"),
    "reflectance": (VIEWS, lambda x: (x / 10000).astype(np.float32), "scaling error: .*reflectance × 1, .*: multiply"),
    "pictures": (VIEWS, as_picture, "scaling error: .*8-bit levels, not reflectance × 10000"),
    "one picture": ("one view", as_picture, "scaling error: scalings are mixed: 8-bit levels in 1 of 50"),
    "offset": ("half", lambda x: x + np.uint16(1000), r"scaling error: .*of 50: they hold.*\+1000 .*subtract 1000"),
    "holes": (VIEWS, lambda x: x * (np.arange(40) > 24).astype(np.uint16), "nodata error: 62.50% of the acq.* no data"),
    "hole in a truth": (
        "one truth", lambda x: x * (np.arange(160) > 20).astype(np.uint8), "nodata error: .*with holes: 1.*truth 13%"
    ),
    "too bright": (VIEWS, lambda x: x * 3, "clipping warning: .*prepare it with --percentiles 98"),
    "3 pixels right": (  # 0.75 low-resolution ones
        TRUTHS, lambda x: np.roll(x, 3, axis=2), r"registration error: .*\([+-]0.[01] down, -0.[78] right\).*different"
    ),
    "one series moved": (
        "sen2/train/100/*.tif", lambda x: np.roll(x, 2, axis=1),
        r"registration error: .*off by more than 1.5: 5 .*\+2.0 down, \+0.0 right",
    ),
    "another place": (
        "one truth", lambda x: np.rot90(x, axes=(1, 2)).copy(), "place error: truths of 10 .* than their acq.*: 1"
    ),
    "red is blue": (TRUTHS, lambda x: x[::-1].copy(), "bands error: red and blue are swapped"),
    "16 bits": ("one truth", lambda x: x.astype(np.uint16) * 8, "sizes error: truths that are not 8-bit.*: 1 "),
    "five times finer": (VIEWS, lambda x: x[:, :32, :32], "sizes error: truths of 160 .* beside acquisitions of 32"),
}  # fmt: skip


@pytest.mark.parametrize("case", REPAINTED)
def test_other_pixels(root: Path, case: str) -> None:
    which, change, expected = REPAINTED[case]
    chosen = {
        "one view": files(root, VIEWS)[3:4],
        "half": files(root, VIEWS)[::2],
        "one truth": files(root, TRUTHS)[:1],
    }
    for path in chosen.get(which) or files(root, which):
        repaint(path, change)
    assert_found(root, expected)


def assert_found(root: Path, expected: str) -> None:
    """``expected``: "check level: pattern"."""
    check, words = expected.split(" ", 1)
    found = wrong(root)
    assert check in found, found
    assert re.match(words, found[check], re.DOTALL), found[check]


def slip_names(frame: pd.DataFrame, root: Path) -> None:
    """The keys follow the dates, the images don't."""
    for i in range(len(frame)):
        paths, dates = frame["sen2_acquisitions"].iloc[i], frame["dates_sen2"].iloc[i]
        dated = [
            str(Path(path).with_name(f"S2_{date:%Y%m%d}.tif")) for path, date in zip(paths.values(), dates, strict=True)
        ]
        for before, after in zip(paths.values(), dated, strict=True):
            (root / before).rename(root / after)
        paths.update(zip(paths, dated[1:] + dated[:1] if i == 0 else dated, strict=True))


def another_year(frame: pd.DataFrame, root: Path) -> None:
    acquisitions, dates = frame["sen2_acquisitions"].iloc[0], frame["dates_sen2"].iloc[0]
    acquisitions[900] = acquisitions.pop(next(iter(acquisitions)))
    dates[:] = [*dates[1:], frame["dates_spot6"].iloc[0] + pd.Timedelta(days=900)]


def lead_out(frame: pd.DataFrame, root: Path) -> None:
    frame["sen2_acquisitions"].iloc[0][3] = "../../secret.tif"
    frame["dates_sen2"].iloc[0].append(frame["dates_spot6"].iloc[0] + pd.Timedelta(days=3))


def slip_dates(frame: pd.DataFrame, root: Path) -> None:
    dates = frame["dates_sen2"].iloc[0]
    dates.insert(0, dates.pop())


def twice_named(frame: pd.DataFrame, root: Path) -> None:
    frame.index = pd.Index([100, 100, *frame.index[2:]])


def forget_a_date(frame: pd.DataFrame, root: Path) -> None:
    frame["dates_sen2"].iloc[0].pop(2)


def no_train(frame: pd.DataFrame, root: Path) -> None:
    frame["split"] = "val"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (forget_a_date, "pairs error: .*used: 1 .*5 acquisitions but 4 dates"),
        (slip_dates, "dates error: .*contradict the acquisition's key: 5 "),
        (slip_names, "dates error: .*contradict the file's name: 5 "),
        (another_year, "dates warning: .*more than 400 days from the truth: 1 "),
        (twice_named, "labels error: row labels that occur twice.*: 1 train 100: 2 times"),
        (lead_out, "files error: .*unreadable files: 1 .*secret.* leads out of"),
        (no_train, "splits error: .*nothing to train on"),
    ],
)
def test_other_tables(root: Path, change: Callable[[pd.DataFrame, Path], None], expected: str) -> None:
    frame = pd.read_pickle(root / TRAIN)
    change(frame, root)
    frame.to_pickle(root / TRAIN)
    assert_found(root, expected)


def missing(root: Path) -> None:
    files(root, VIEWS)[3].unlink()


def cut_short(root: Path) -> None:
    path = files(root, VIEWS)[3]
    path.write_bytes(path.read_bytes()[:900])


def truth_is_text(root: Path) -> None:
    files(root, TRUTHS)[0].write_text("not a raster")


def twice_in_a_series(root: Path) -> None:
    first, second, *_ = files(root, "sen2/train/100/*.tif")
    shutil.copy(first, second)


def twice_in_train(root: Path) -> None:
    first, second, *_ = files(root, "spot6/train/*.tif")
    shutil.copy(first, second)


def leaks_into_test(root: Path) -> None:
    """Brighter and noisy, so that no pixel is the same."""
    path = files(root, "spot6/test/*.tif")[0]
    shutil.copy(files(root, "spot6/train/*.tif")[0], path)
    repaint(path, lambda x: (x * 1.05 + RNG.normal(3, 1.5, x.shape)).clip(0, 255).astype(np.uint8))


def overlaps_test(root: Path) -> None:
    """Two thirds of a test patch lie in a train patch."""
    ground = (landscape(np.random.default_rng(5), 320) * 200 + 20).round().astype(np.uint8)
    repaint(root / "spot6" / "train" / "100.tif", lambda x: ground[:, :160, :160])
    repaint(files(root, "spot6/test/*.tif")[0], lambda x: ground[:, :160, 53:213])
    frame = pd.read_pickle(root / TEST)
    frame.assign(x=[250000.0 + 53 * 2.5, *frame["x"].iloc[1:]]).to_pickle(root / TEST)


@pytest.mark.parametrize(
    ("plant", "expected"),
    [
        (missing, "files error: missing files: 1; unreadable files: 0.*missing file"),
        (cut_short, "files error: missing files: 0; unreadable files: 1 .*unreadable raster"),
        (truth_is_text, "files error: missing files: 0; unreadable files: 1 .*not recognized"),
        (twice_in_a_series, "dates error: .*one image under two dates: 1 "),
        (twice_in_train, "duplicates error: .*occur twice in their split: 1 train 100 and train 107"),
        (leaks_into_test, "leakage error: .*in another too: 1 train 100 and test"),
        (overlaps_test, "leakage error: .*overlap on the ground: 1 train 100 and test.*: 67%"),
    ],
)
def test_other_files(root: Path, plant: Callable[[Path], None], expected: str) -> None:
    plant(root)
    assert_found(root, expected)


# Prepared data


@pytest.fixture
def store(root: Path) -> Path:
    prepare_with(root)
    return root / "preprocessed"


def test_a_clean_store_has_no_fault(store: Path) -> None:
    assert wrong(store) == {}
    data, _ = check_data_set(store, sample=0)
    assert data.source.kind == "prepared" and data.patches == {"train": 6, "val": 2, "test": 2}
    assert len(data.acquired) == 50


def test_a_flipped_bit_in_a_store(store: Path) -> None:
    path = store / "train-00000.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert "train-00000.pt: isn't what was written" in wrong(store)["checksums"]


def with_duplicates(shard: dict[str, Any]) -> dict[str, Any]:
    order = torch.tensor([0, 0, *range(2, 6)])
    return {name: shard[name][order] for name in ("hr", "matching", "matching_moment", "lr")}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda shard: {"matching": shard["matching"].flip(0)}, "tables error: .*prepare the data anew: 6"),
        (lambda shard: {"lr": shard["lr"].to(torch.int32)}, "shards error: .*lr is not torch.int16"),
        (lambda shard: {"lr": shard["lr"].to(torch.int32)}, "splits error: .*nothing to train on"),
        (lambda shard: {"alphas": shard["alphas"].flip(1)}, "pairs error: .*views don't come before padded ones"),
        (with_duplicates, "duplicates error: .*train 100 and train 107"),
    ],
    ids=["tables", "types", "lost", "padding", "duplicates"],
)
def test_another_content_of_a_store(
    store: Path, change: Callable[[dict[str, Any]], dict[str, Any]], expected: str
) -> None:
    """The manifest knows of it."""
    path = store / "train-00000.pt"
    shard = torch.load(path, weights_only=True)
    torch.save(shard | change(shard), path)
    manifest = json.loads((store / MANIFEST).read_text())
    manifest["splits"]["train"][0].update(bytes=path.stat().st_size, sha256=checksum(path))
    (store / MANIFEST).write_text(json.dumps(manifest))
    assert_found(store, expected)


# The command


@pytest.mark.slow
def test_the_reference_raw_set(golden: Golden, tmp_path: Path) -> None:
    """What is true of it: all there, aligned within half a pixel, but every image claims the same place."""
    done = run(COMMAND, golden.path("11_raw/"), "--json", tmp_path / "found" / "check.json", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    content = json.loads((tmp_path / "found" / "check.json").read_text())
    patches = {split: numbers["patches"] for split, numbers in content["splits"].items()}
    assert patches == {"train": 3, "val": 1, "test": 2}
    assert content["splits"]["train"]["series"] == {"least": 6, "median": 7, "most": 8}
    assert content["splits"]["val"]["acquisitions"] == 9
    levels = {finding["check"]: finding["level"] for finding in content["findings"]}
    assert levels.pop("leakage") == "warning" and set(levels.values()) == {"ok"}
    assert content["errors"] == 0 and content["warnings"] == 1
    assert sum(bin["acquisitions"] for bin in content["offsets"]["bins"]) == 46
    assert all(abs(lies["rows"]) < 0.5 for lies in content["acquisitions"]["displacements"])
    assert Image.open(tmp_path / "found" / "check.png").width > 500
    rasters = [rasterio.open(path) for path in golden.path("11_raw/").glob("sen2/**/*.tif")]
    pixels = np.concatenate([raster.read().reshape(3, -1) for raster in rasters], axis=1)
    for values, band in zip(content["acquisitions"]["values"].values(), pixels, strict=True):
        np.testing.assert_allclose(list(values.values()), np.percentile(band, [0, 1, 50, 99, 100]))
    for words in ("train               3            21", "0 errors, 1 warning: it can be trained on", "check.png"):
        assert words in done.stdout


def test_the_command_says_so_with_its_exit_code(root: Path, tmp_path: Path) -> None:
    missing(root)
    before = sorted(root.rglob("*"))
    done = run(COMMAND, root, "--sample", "3", cwd=tmp_path)
    assert done.returncode == 1 and "1 error, 0 warnings: training on it would go wrong" in done.stdout
    assert sorted(root.rglob("*")) == before and list(tmp_path.iterdir()) == [root]  # nothing is left lying about


@pytest.mark.parametrize(
    ("content", "arguments", "code"),
    [(b"", ["--json", "/"], 2), (b"", ["--json", "found.png"], 2), (b"\x80\x04cos\nsystem\n(U\x04trueo.", [], 3)],
)
def test_a_refusal_is_one_line(tmp_path: Path, content: bytes, arguments: list[str], code: int) -> None:
    """The contact sheet takes the name of the JSON with .png."""
    (tmp_path / TRAIN).write_bytes(content)
    done = run(COMMAND, tmp_path, *arguments, cwd=tmp_path)
    assert done.returncode == code and done.stdout == "" and list(tmp_path.iterdir()) == [tmp_path / TRAIN]
    assert done.stderr.startswith("check.py: error: ") and done.stderr.count("\n") == 1


def test_what_can_not_be_read(store: Path, tmp_path: Path) -> None:
    (store / "test-00000.pt").unlink()
    (tmp_path / "empty").mkdir()
    for folder, words in ((store, r"test-00000\.pt is missing"), (tmp_path / "empty", "holds no dataset_train")):
        with pytest.raises(DataError, match=words):
            check_data_set(folder, sample=0)


def test_a_sample_takes_patches_of_every_split(pristine: Path) -> None:
    data, _ = check_data_set(pristine, sample=4)
    assert {view.ref.split for view in data.acquired} == {"train", "val", "test"}
    assert data.sampled == 4 and len(data.truths) == 10


@pytest.mark.parametrize(("pixel", "corner"), [(1e-200, 3e5), (1e-20, 3e5), (1e200, 0.0), (10.0, 1e300)])
def test_a_damaged_georeference_is_no_place(tmp_path: Path, pixel: float, corner: float) -> None:
    root = write_raw(tmp_path, train=2, val=1, test=1, hr_size=32, dates=2)
    for path in files(root, TRUTHS):
        with rasterio.open(path, "r+") as raster:
            raster.transform = rasterio.Affine(pixel, 0, corner, 0, -pixel, corner)
    data, _ = check_data_set(root, sample=0)
    places = [truth.place for truth in data.truths if truth.place is not None]
    assert len(data.truths) == 4 and all(1e-6 <= place.side < 1e9 for place in places)
