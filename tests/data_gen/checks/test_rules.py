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

from data_gen.checks.rules import Finding, check_data_set
from data_gen.synthetic.dataset import SampleSet, write_sample_set
from tests.command import run
from tests.data import landscape, prepare_with, write_raster, write_raw
from tests.golden.large import Golden
from utils.errors import DataError
from utils.store import MANIFEST, checksum, read_manifest

COMMAND = "data_gen/check.py"
TRAIN, TEST = "dataset_train.pkl", "dataset_test.pkl"


def findings(root: Path, *, sample: int = 0) -> list[Finding]:
    return check_data_set(root, sample=sample)[1]


def wrong(root: Path) -> dict[str, str]:
    """Check -> "level: message, examples" of all that is not ok."""
    found: dict[str, str] = {}
    for finding in findings(root):
        if finding.level != "ok":
            text = f"{finding.level}: {finding.message} {' '.join(finding.examples)}"
            found[finding.check] = f"{found.get(finding.check, '')}{text}\n"
    return found


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten patches beside each other."""
    root = write_raw(tmp_path_factory.mktemp("pristine") / "raw", train=6, hr_size=160)
    count = iter(range(100))

    def place(frame: pd.DataFrame) -> None:
        frame["x"] = [250000.0 + 1000 * next(count) for _ in range(len(frame))]

    for table in (TRAIN, TEST):
        edit(root, place, table)
    return root


@pytest.fixture
def root(pristine: Path, tmp_path: Path) -> Path:
    return shutil.copytree(pristine, tmp_path / "raw")


def edit(root: Path, change: Callable[[pd.DataFrame], pd.DataFrame | None], table: str = TRAIN) -> None:
    frame = pd.read_pickle(root / table)
    changed = change(frame)
    (frame if changed is None else changed).to_pickle(root / table)


def repaint(path: Path, change: Callable[[NDArray], NDArray]) -> None:
    """Write a raster anew with other pixels."""
    with rasterio.open(path) as source:
        pixels, resolution = source.read(), source.transform.a
    write_raster(path, change(pixels), resolution=resolution)


def views(root: Path, pattern: str = "**/*.tif") -> list[Path]:
    return sorted((root / "sen2").glob(pattern))


def truths(root: Path) -> list[Path]:
    return sorted((root / "spot6").glob("**/*.tif"))


# ---------------------------------------------------------------------------------------------------------------------
# Planted faults: each changes a clean data set, and says which check must name what


def missing(root: Path) -> None:
    views(root)[3].unlink()


def cut_short(root: Path) -> None:
    path = views(root)[3]
    path.write_bytes(path.read_bytes()[:900])


def truth_is_text(root: Path) -> None:
    truths(root)[0].write_text("not a raster")


def not_square(root: Path) -> None:
    repaint(views(root)[3], lambda pixels: pixels[:, :, :-5])


def one_date_too_few(root: Path) -> None:
    edit(root, lambda frame: frame["dates_sen2"].iloc[0].pop(2) and None)


def dates_slipped(root: Path) -> None:
    edit(root, lambda frame: frame["dates_sen2"].iloc[0].insert(0, frame["dates_sen2"].iloc[0].pop()))


def names_slipped(root: Path) -> None:
    """The keys follow the dates, the images don't."""

    def rename(frame: pd.DataFrame) -> None:
        for i in range(len(frame)):
            row = frame.iloc[i]
            paths = list(row["sen2_acquisitions"].values())
            dated = []
            for path, date in zip(paths, row["dates_sen2"], strict=True):
                name = str(Path(path).with_name(f"S2_{date:%Y%m%d}.tif"))
                (root / path).rename(root / name)
                dated.append(name)
            if i == 0:
                dated = dated[1:] + dated[:1]
            row["sen2_acquisitions"].update(zip(row["sen2_acquisitions"], dated, strict=True))

    edit(root, rename)


def another_year(root: Path) -> None:
    def change(frame: pd.DataFrame) -> None:
        acquisitions, dates = frame["sen2_acquisitions"].iloc[0], frame["dates_sen2"].iloc[0]
        acquisitions[900] = acquisitions.pop(next(iter(acquisitions)))
        dates.append(frame["dates_spot6"].iloc[0] + pd.Timedelta(days=900))
        dates.pop(0)

    edit(root, change)


def one_image_twice_in_a_series(root: Path) -> None:
    first, second, *_ = sorted((root / "sen2" / "train" / "100").iterdir())
    shutil.copy(first, second)


def twice_in_train(root: Path) -> None:
    first, second, *_ = sorted((root / "spot6" / "train").iterdir())
    shutil.copy(first, second)


def leaks_into_test(root: Path) -> None:
    """Brighter and noisy, so that no pixel is the same."""
    first, other = truths(root / ".")[0], sorted((root / "spot6" / "train").iterdir())[0]
    assert first.parent.name == "test"
    shutil.copy(other, first)
    rng = np.random.default_rng(0)
    repaint(first, lambda pixels: (pixels * 1.05 + rng.normal(3, 1.5, pixels.shape)).clip(0, 255).astype(np.uint8))


def overlaps_test(root: Path) -> None:
    """Two thirds of a test patch lie in a train patch."""
    ground = (landscape(np.random.default_rng(5), 320) * 200 + 20).round().astype(np.uint8)
    repaint(root / "spot6" / "train" / "100.tif", lambda pixels: ground[:, :160, :160])
    test = sorted((root / "spot6" / "test").iterdir())[0]
    repaint(test, lambda pixels: ground[:, :160, 53:213])

    def place(frame: pd.DataFrame) -> None:
        frame["x"] = [250000.0 + 53 * 2.5, *frame["x"].iloc[1:]]

    edit(root, place, TEST)


def reflectance_as_it_is(root: Path) -> None:
    for path in views(root):
        repaint(path, lambda pixels: (pixels / 10000).astype(np.float32))


def pictures_for_reflectance(root: Path) -> None:
    for path in views(root):
        repaint(path, lambda pixels: (pixels / 10).clip(0, 255).astype(np.uint8))


def one_picture_for_reflectance(root: Path) -> None:
    repaint(views(root)[3], lambda pixels: (pixels / 10).clip(0, 255).astype(np.uint8))


def offset_of_1000(root: Path) -> None:
    for path in views(root)[::2]:
        repaint(path, lambda pixels: (pixels + 1000).astype(np.uint16))


def holes(root: Path) -> None:
    for path in views(root):
        repaint(path, lambda pixels: pixels * (np.arange(40) > 24).astype(np.uint16))


def hole_in_a_truth(root: Path) -> None:
    repaint(truths(root)[0], lambda pixels: pixels * (np.arange(160) > 20).astype(np.uint8))


def too_bright(root: Path) -> None:
    for path in views(root):
        repaint(path, lambda pixels: pixels * 3)


def misregistered(root: Path) -> None:
    """All truths lie 3 pixels, or 0.75 low-resolution ones, further right."""
    for path in truths(root):
        repaint(path, lambda pixels: np.roll(pixels, 3, axis=2))


def one_series_misregistered(root: Path) -> None:
    for path in views(root, "train/100/*.tif"):
        repaint(path, lambda pixels: np.roll(pixels, 2, axis=1))


def truth_of_another_place(root: Path) -> None:
    path = truths(root)[0]
    repaint(path, lambda pixels: np.rot90(pixels, axes=(1, 2)).copy())


def red_is_blue(root: Path) -> None:
    for path in truths(root):
        repaint(path, lambda pixels: pixels[::-1].copy())


def truth_of_16_bits(root: Path) -> None:
    repaint(truths(root)[0], lambda pixels: pixels.astype(np.uint16) * 8)


def one_label_twice(root: Path) -> None:
    edit(root, lambda frame: frame.set_axis([100, 100, *frame.index[2:]]))


def leads_out(root: Path) -> None:
    edit(root, lambda frame: frame["sen2_acquisitions"].iloc[0].update({3: "../../secret.tif"}))
    edit(root, lambda frame: frame["dates_sen2"].iloc[0].append(frame["dates_spot6"].iloc[0] + pd.Timedelta(days=3)))


def nothing_to_train_on(root: Path) -> None:
    edit(root, lambda frame: frame.assign(split="val"))


def five_times_finer(root: Path) -> None:
    for path in views(root):
        repaint(path, lambda pixels: pixels[:, :32, :32])


PLANTED = [  # (fault, the check that must find it, its level, words of it)
    (missing, "files", "error", "missing files: 1; unreadable files: 0.*missing file"),
    (cut_short, "files", "error", "missing files: 0; unreadable files: 1 .*unreadable raster"),
    (truth_is_text, "files", "error", "missing files: 0; unreadable files: 1 .*not recognized"),
    (not_square, "sizes", "error", "acquisitions that are not 40×40: 1;.*40×35"),
    (one_date_too_few, "pairs", "error", "used: 1 .*5 acquisitions but 4 dates"),
    (dates_slipped, "dates", "error", "contradict the acquisition's key: 5 "),
    (names_slipped, "dates", "error", "contradict the file's name: 5 "),
    (another_year, "dates", "warning", "more than 400 days from the truth: 1 "),
    (one_image_twice_in_a_series, "dates", "error", "one image under two dates: 1 "),
    (twice_in_train, "duplicates", "error", "occur twice in their split: 1 train 100 and train 107"),
    (leaks_into_test, "leakage", "error", "in another too: 1 train 100 and test"),
    (overlaps_test, "leakage", "error", "overlap on the ground: 1 train 100 and test.*: 67%"),
    (reflectance_as_it_is, "scaling", "error", "reflectance × 1, not reflectance × 10000: multiply"),
    (pictures_for_reflectance, "scaling", "error", "8-bit levels, not reflectance × 10000"),
    (one_picture_for_reflectance, "scaling", "error", "scalings are mixed: 8-bit levels in 1 of 50"),
    (offset_of_1000, "scaling", "error", r"of 50: they hold.*\+1000 still in it \(subtract 1000\)"),
    (holes, "nodata", "error", "62.50% of the acquisitions' pixels have no data"),
    (hole_in_a_truth, "nodata", "error", "truths with holes: 1.*truth 13%"),
    (too_bright, "clipping", "warning", "prepare it with --percentiles 98"),
    (misregistered, "registration", "error", r"\([+-]0.[01] down, -0.[78] right\) pixels.*different grids"),
    (one_series_misregistered, "registration", "error", r"off by more than 1.5: 5 .*\+2.0 down, \+0.0 right"),
    (truth_of_another_place, "place", "error", "show another place than their acquisitions: 1 of 10"),
    (red_is_blue, "bands", "error", "red and blue are swapped"),
    (truth_of_16_bits, "sizes", "error", "truths that are not 8-bit.*: 1 "),
    (one_label_twice, "labels", "error", "row labels that occur twice.*: 1 train 100: 2 times"),
    (leads_out, "files", "error", "unreadable files: 1 .*secret.* leads out of"),
    (nothing_to_train_on, "splits", "error", "nothing to train on"),
    (five_times_finer, "sizes", "error", "truths of 160 pixels .* beside acquisitions of 32"),
]


def test_a_clean_set_has_no_fault(pristine: Path) -> None:
    assert wrong(pristine) == {}


@pytest.mark.parametrize(("plant", "check", "level", "words"), PLANTED, ids=lambda x: getattr(x, "__name__", None))
def test_planted_faults(root: Path, plant: Callable[[Path], None], check: str, level: str, words: str) -> None:
    plant(root)
    found = wrong(root)
    assert check in found, found
    assert found[check].startswith(level)
    assert re.search(words, found[check], re.DOTALL), found[check]


# ---------------------------------------------------------------------------------------------------------------------
# Prepared data


@pytest.fixture
def store(root: Path) -> Path:
    prepare_with(root)
    return root / "preprocessed"


def rewrite(store: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Another content of the first shard of train, with a manifest that knows it."""
    path = store / "train-00000.pt"
    shard = torch.load(path, weights_only=True)
    change(shard)
    torch.save(shard, path)
    manifest = json.loads((store / MANIFEST).read_text())
    info = manifest["splits"]["train"][0]
    info["bytes"], info["sha256"] = path.stat().st_size, checksum(path)
    (store / MANIFEST).write_text(json.dumps(manifest))


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


def test_tables_of_other_images(store: Path) -> None:
    rewrite(store, lambda shard: shard.update(matching=shard["matching"].flip(0)))
    found = wrong(store)
    assert (
        set(found) == {"tables"} and "not those of the images (10 patches): 6; prepare the data anew" in found["tables"]
    )


def test_tensors_of_another_shape(store: Path) -> None:
    rewrite(store, lambda shard: shard.update(lr=shard["lr"].to(torch.int32)))
    found = wrong(store)
    assert "lr is not torch.int16" in found["shards"] and "nothing to train on" in found["splits"]


def test_duplicates_in_a_store(store: Path) -> None:
    def change(shard: dict[str, Any]) -> None:
        for name in ("hr", "matching", "matching_moment", "lr"):
            shard[name][1] = shard[name][0]

    rewrite(store, change)
    assert "train 100 and train 107" in wrong(store)["duplicates"]


def test_padding_before_acquisitions(store: Path) -> None:
    rewrite(store, lambda shard: shard.update(alphas=shard["alphas"].flip(1)))
    assert "acquired views don't come before padded ones" in wrong(store)["pairs"]


# ---------------------------------------------------------------------------------------------------------------------
# The command


@pytest.mark.slow
def test_the_reference_raw_set(golden: Golden, tmp_path: Path) -> None:
    """What is true of it: all there, aligned within half a pixel, but every image claims the same place."""
    done = run(COMMAND, golden.path("11_raw/"), "--json", tmp_path / "found" / "check.json", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    content = json.loads((tmp_path / "found" / "check.json").read_text())
    assert {split: numbers["patches"] for split, numbers in content["splits"].items()} == {
        "train": 3,
        "val": 1,
        "test": 2,
    }
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


def test_a_sample_data_set_is_clean(tmp_path: Path) -> None:
    write_sample_set(tmp_path / "sample", SampleSet(train=3, val=1, test=2, size=160))
    assert wrong(tmp_path / "sample") == {}


def test_the_command_says_so_with_its_exit_code(root: Path, tmp_path: Path) -> None:
    missing(root)
    before = sorted(root.rglob("*"))
    done = run(COMMAND, root, "--sample", "3", cwd=tmp_path)
    assert done.returncode == 1 and "1 error, 0 warnings: training on it would go wrong" in done.stdout
    assert sorted(root.rglob("*")) == before and list(tmp_path.iterdir()) == [root]  # nothing is left lying about


@pytest.mark.parametrize("json", ["/", "found.png"])
def test_a_report_needs_a_name_of_its_own(root: Path, tmp_path: Path, json: str) -> None:
    """The contact sheet takes the same name with .png."""
    done = run(COMMAND, root, "--json", json, cwd=tmp_path)
    assert done.returncode == 2 and "must be the name of a JSON file" in done.stderr and done.stdout == ""
    assert done.stderr.count("\n") == 1 and list(tmp_path.iterdir()) == [root]


@pytest.mark.parametrize("content", [None, b""])
def test_what_can_not_be_read(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / TRAIN).write_bytes(content)
    with pytest.raises(DataError, match=r"holds no dataset_train|not a pickled"):
        findings(tmp_path)


def test_what_can_not_be_read_ends_with_3(tmp_path: Path) -> None:
    (tmp_path / TRAIN).write_bytes(b"\x80\x04cos\nsystem\n(U\x04trueo.")
    done = run(COMMAND, tmp_path, cwd=tmp_path)
    assert done.returncode == 3 and done.stdout == ""
    assert done.stderr.startswith("check.py: error: ") and done.stderr.count("\n") == 1


def test_a_store_without_its_shard_can_not_be_read(store: Path) -> None:
    (store / read_manifest(store).splits["test"][0].file).unlink()
    with pytest.raises(DataError, match=r"test-00000\.pt is missing"):
        findings(store)


def test_a_sample_takes_patches_of_every_split(pristine: Path) -> None:
    data, _ = check_data_set(pristine, sample=4)
    assert {view.ref.split for view in data.acquired} == {"train", "val", "test"}
    assert data.sampled == 4 and len(data.truths) == 10


@pytest.mark.parametrize(("pixel", "corner"), [(1e-200, 3e5), (1e-20, 3e5), (1e200, 0.0), (10.0, 1e300)])
def test_a_damaged_georeference_is_no_place(tmp_path: Path, pixel: float, corner: float) -> None:
    root = write_raw(tmp_path, train=2, val=1, test=1, hr_size=32, dates=2)
    for path in truths(root):
        with rasterio.open(path, "r+") as raster:
            raster.transform = rasterio.Affine(pixel, 0, corner, 0, -pixel, corner)
    data, _ = check_data_set(root, sample=0)
    places = [truth.place for truth in data.truths if truth.place is not None]
    assert len(data.truths) == 4 and all(1e-6 <= place.side < 1e9 for place in places)
