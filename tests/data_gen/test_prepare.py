"""Preprocessing: the real command against golden numbers; stopped, killed, repeated, changed; what is left out."""

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from data_gen import prepare as preparing
from data_gen.shards import percentile
from tests.command import succeed
from tests.data import RawBreizhSR, prepare_with, write_patch, write_raster, write_raw
from tests.golden.large import ROOT, Golden, names
from utils.dataloader import BreizhSRDataset
from utils.errors import DataError
from utils.radiometry import PUBLISHED_MAXIMA
from utils.store import MANIFEST, Store, checksum, read_manifest

SCRIPT = "data_gen/preprocess_data.py"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def golden_store(golden: Golden, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the real command makes of the golden raw data set."""
    output = tmp_path_factory.mktemp("golden") / "store"
    succeed(SCRIPT, golden.path("11_raw/"), "--select", "first", "--output", output, cwd=output.parent)
    return output


@pytest.mark.parametrize("name", names("11_data_*_item.pt"))
def test_golden_items(golden: Golden, golden_store: Path, name: str) -> None:
    loaded = golden.load(name)
    config = loaded["config"]
    for series, expected in loaded["outputs"].items():
        amount = 1 if series == "sisr" else int(series.removeprefix("misr"))
        item = BreizhSRDataset(golden_store, config["split"], sen2_amount=amount)[config["position"]]
        for key, value in expected.items():
            if {series, key} & set(golden.deviates(name)):
                continue
            found = item[key]
            if isinstance(value, torch.Tensor) and value.ndim > 1:
                rows, columns = (-(-found.shape[axis] // value.shape[axis]) for axis in (-2, -1))
                tolerance = 1e-5 if key == "img_hr" else 1e-6
                torch.testing.assert_close(found[..., ::rows, ::columns], value, rtol=0, atol=tolerance)
            elif isinstance(value, torch.Tensor):
                assert torch.equal(found, value), key
            else:
                assert found == value, key


@pytest.mark.parametrize("name", names("11_data_*_raw.pt"))
def test_golden_upsampling(golden: Golden, golden_store: Path, name: str) -> None:
    """The bicubic base is that of the unclamped reflectance."""
    loaded = golden.load(name)
    config, expected = loaded["config"], loaded["outputs"]["sisr"]["img_lr_up"]
    item = BreizhSRDataset(golden_store, config["split"])[config["position"]]
    top = torch.tensor(PUBLISHED_MAXIMA).view(3, 1, 1)
    clamped = torch.minimum(expected.clamp(min=0), top) / top * 2 - 1
    torch.testing.assert_close(item["img_lr_up"][:, :: config["rows_step"]], clamped, rtol=0, atol=1e-5)


def test_golden_table(golden: Golden, golden_store: Path) -> None:
    table = golden.load("11_preprocessed_table.json")
    found: list[tuple[Any, ...]] = []
    for split in ("train", "val"):
        store = Store(golden_store, split)
        for position in range(len(store)):
            shard, row = store.locate(position)
            found.append((shard["key"][row], shard["alphas"][row].int().tolist(), shard["dates"][row].tolist()))
    rows = zip(table["index"], table["rows"], strict=True)
    assert found == [(key, row["alphas"], row["dates_encoding"]) for key, row in rows]
    assert {split: len(Store(golden_store, split)) for split in table["lens"]} == table["lens"]


# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("select", ["nearest", "first"])
@pytest.mark.parametrize("length", [1, 3, 8])
def test_the_store_holds_what_the_raw_set_says(tmp_path: Path, select: str, length: int) -> None:
    root = write_raw(tmp_path, string_labels=True)
    prepare_with(root, max_s2_images=length, select=select)
    raw = RawBreizhSR(root, "train", max_s2_images=length, select=select)
    store = Store(root / "preprocessed", "train")
    assert len(store) == len(raw) and store.keys() == [row.key for row in raw.rows]
    for position in range(len(raw)):
        shard, row = store.locate(position)
        patch = raw[position]
        real = len(patch.views)
        assert real == min(length, 5)
        assert torch.equal(shard["hr"][row], patch.hr)
        assert shard["alphas"][row].tolist() == [True] * real + [False] * (length - real)
        for place in range(length):
            view = patch.views[min(place, real - 1)]
            assert torch.equal(shard["lr"][row, place], view.lr) and shard["dates"][row, place] == view.offset
        assert shard["columns"]["x"][row] == 250000.0
        single = int(shard["single"][row])
        lost = patch.single is not patch.views[patch.nearest()]
        assert (single >= 0) == lost
        if lost:
            assert torch.equal(shard["single_lr"][single], patch.single.lr)
            assert shard["single_dates"][single] == patch.single.offset
    if select == "nearest":
        assert sum(info.singles for info in store.shards) == 0
    elif length == 1:
        assert sum(info.singles for info in store.shards) > 0


def test_the_single_image_survives_select_first(tmp_path: Path) -> None:
    """With its own table: the item is the same as with --select nearest."""
    root = write_raw(tmp_path)
    items = []
    for select in ("first", "nearest"):
        prepare_with(root, max_s2_images=1, select=select, output=tmp_path / select)
        dataset = BreizhSRDataset(tmp_path / select, "train")
        items.append([dataset[i] for i in range(len(dataset))])
    for first, nearest in zip(*items, strict=True):
        for key in ("img_lr", "img_lr_up", "img_hr"):
            assert torch.equal(first[key], nearest[key]), key


def test_what_is_left_out_is_listed(tmp_path: Path) -> None:
    root = write_raw(tmp_path)
    raw = RawBreizhSR(root, "train")
    (root / raw.rows[1].hr).unlink()
    lost = raw.rows[2].acquisitions[min(raw.rows[2].acquisitions)]
    write_raster(root / lost, np.ones((3, 20, 21), np.uint16))
    manifest = prepare_with(root)
    assert [entry.model_dump() for entry in manifest.skipped] == [
        {"split": "train", "key": 107, "what": "patch", "path": raw.rows[1].hr, "reason": "missing file"},
        {"split": "train", "key": 114, "what": "acquisition", "path": lost, "reason": "not square: 20×21"},
    ]
    assert Store(root / "preprocessed", "train").keys() == [100, 114, 121]
    assert read_manifest(root / "preprocessed") == manifest
    with pytest.raises(DataError, match=r"train 107: patch .*: missing file"):  # the finished store too
        prepare_with(root, strict=True)
    with pytest.raises(DataError, match=r"train 107: patch .*: missing file"):
        prepare_with(root, strict=True, output=tmp_path / "other")


def test_clipped_pixels_are_counted(tmp_path: Path) -> None:
    root = write_raw(tmp_path, train=1, val=0, test=0, dates=1)
    [path] = RawBreizhSR(root, "train").rows[0].acquisitions.values()
    pixels = np.full((3, 20, 20), 500, np.uint16)
    pixels[0, :2, 0] = 40000
    write_raster(root / path, pixels)
    manifest = prepare_with(root)
    assert manifest.splits["train"][0].clipped == 2


def test_percentiles_of_the_train_split(tmp_path: Path) -> None:
    root = write_raw(tmp_path)
    raw = RawBreizhSR(root, "train", max_s2_images=3)
    views = torch.stack([view.lr for i in range(len(raw)) for view in raw[i].views]).double()
    manifest = prepare_with(root, percentile=90.0, max_s2_images=3)
    expected = [np.percentile(views[:, band].numpy(), 90) / 10000 for band in range(3)]
    assert manifest.maxima == pytest.approx(expected, rel=1e-12)
    assert manifest.normalisation == "90th percentiles of the train split"
    dataset = BreizhSRDataset(root, "train")
    assert dataset.maxima == manifest.maxima
    assert dataset[0]["img_lr"].amax() == 1
    assert prepare_with(root).maxima == PUBLISHED_MAXIMA


def test_maxima_of_another_data_set(tmp_path: Path) -> None:
    root = write_raw(tmp_path)
    succeed(SCRIPT, root, "--maxima", 0.3, 0.25, 0.2, cwd=tmp_path)
    dataset = BreizhSRDataset(root, "train")
    assert dataset.maxima == (0.3, 0.25, 0.2)
    assert read_manifest(root / "preprocessed").normalisation == "as given"


@pytest.mark.parametrize("percent", [0.5, 50, 98, 100])
def test_percentile_of_counts(percent: float) -> None:
    counts = np.array([3, 0, 0, 5, 1, 0, 2])
    values = np.repeat(np.arange(7), counts)
    assert percentile(counts, percent) == pytest.approx(float(np.percentile(values, percent)))


def test_size_of_a_patch(tmp_path: Path) -> None:
    root = write_raw(tmp_path, train=3, val=0, test=0, hr_size=300, dates=8)
    [shard] = prepare_with(root).splits["train"]
    assert shard.bytes / 3 < 600_000


# ---------------------------------------------------------------------------------------------------------------------


def test_a_finished_run_says_so_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_raw(tmp_path)
    prepare_with(root)
    before = content(root / "preprocessed")
    monkeypatch.setattr(preparing, "read_rows", None)  # nothing is read
    prepare_with(root)
    assert content(root / "preprocessed") == before


@pytest.mark.parametrize("change", ["parameters", "table", "missing shard", "cut shard", "damaged manifest"])
def test_what_does_not_fit_is_made_anew(tmp_path: Path, change: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    root = write_raw(tmp_path)
    folder = root / "preprocessed"
    prepare_with(root, max_s2_images=2 if change == "parameters" else 8)
    if change == "table":
        frame = pd.read_pickle(root / "dataset_train.pkl")
        frame[frame.split == "train"][1:].to_pickle(root / "dataset_train.pkl")
    elif change == "missing shard":
        (folder / "val-00000.pt").unlink()
    elif change == "cut shard":
        (folder / "val-00000.pt").write_bytes((folder / "val-00000.pt").read_bytes()[:-5])
    elif change == "damaged manifest":
        (folder / MANIFEST).write_text((folder / MANIFEST).read_text()[:-30])
    (folder / "notes.txt").write_text("mine")
    caplog.clear()
    prepare_with(root)
    assert "starting over" in caplog.text
    assert (folder / "notes.txt").read_text() == "mine"
    assert (folder / "val-00000.pt").exists() == (change != "table")
    fresh = tmp_path / "fresh"
    prepare_with(root, output=fresh)
    (folder / "notes.txt").unlink()
    assert content(folder) == content(fresh)


def test_it_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(preparing, "_MOST_SAMPLES", 1)
    root = write_raw(tmp_path)
    prepare_with(root, output=tmp_path / "whole")

    def make(task: Any) -> Any:
        if task.name == "train-00002":
            raise KeyboardInterrupt
        return original(task)

    original = preparing.make_shard
    monkeypatch.setattr(preparing, "make_shard", make)
    with pytest.raises(KeyboardInterrupt):
        prepare_with(root)
    folder = root / "preprocessed"
    assert sorted(content(folder)) == ["train-00000.json", "train-00000.pt", "train-00001.json", "train-00001.pt"]
    (folder / ".train-00002.pt.123.tmp").write_bytes(b"half")
    (folder / "train-00001.json").write_text("{")
    monkeypatch.setattr(preparing, "make_shard", original)
    kept = (folder / "train-00000.pt").stat().st_mtime_ns
    prepare_with(root)
    assert "going on: 1 of 8 shards were finished before" in caplog.messages
    assert (folder / "train-00000.pt").stat().st_mtime_ns == kept
    assert content(folder) == content(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_and_resumed_it_is_the_same_store(tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """kill -9 in the middle: no process stays, and what a second run completes equals an undisturbed one."""
    monkeypatch.setattr(preparing, "_MOST_SAMPLES", 1)
    root = write_raw(tmp_path, train=40)
    prepare_with(root, output=tmp_path / "whole")
    folder = tmp_path / "killed"
    code = (
        "from pathlib import Path; import data_gen.prepare; data_gen.prepare._MOST_SAMPLES = 1\n"
        "from tests.data import RawBreizhSR, prepare_with\n"
        f"prepare_with(Path({str(root)!r}), output=Path({str(folder)!r}), workers={workers})"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=ENVIRONMENT)
    deadline = time.monotonic() + 60
    while not list(folder.glob("*.json")) and time.monotonic() < deadline:
        time.sleep(0.001)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.kill()
    process.wait()
    assert not (folder / MANIFEST).exists() and 0 < len(list(folder.glob("*.json"))) < 44
    assert len(children) == (0 if workers == 1 else workers + 1)  # and multiprocessing's tracker
    while any(map(_alive, children)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(_alive, children))
    with pytest.raises(DataError, match="not to the end"):
        BreizhSRDataset(folder, "train")
    prepare_with(root, output=folder)
    assert content(folder) == content(tmp_path / "whole")


def _alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
def test_processes_make_the_same_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparing, "_MOST_SAMPLES", 2)
    root = write_raw(tmp_path)
    prepare_with(root, output=tmp_path / "one", percentile=98.0)
    prepare_with(root, output=tmp_path / "two", percentile=98.0, workers=2)
    assert content(tmp_path / "one") == content(tmp_path / "two")


# ---------------------------------------------------------------------------------------------------------------------


def test_the_command(tmp_path: Path) -> None:
    root = write_raw(tmp_path / "root")
    done = succeed(SCRIPT, root, "--max_s2_images", 3, "--output", "out", cwd=tmp_path)
    first = done.stderr.splitlines()[0]
    assert first.startswith("8 patches of 80×80 to prepare: about 0.3 MB (") and first.endswith("with 1 process")
    assert done.stdout.strip() == "out is prepared: train 4, val 2, test 2 patches, 0.3 MB"
    assert not (root / "preprocessed").exists()
    assert BreizhSRDataset(tmp_path / "out", "val", sen2_amount=3)[0]["img_lr"].shape == (3, 3, 20, 20)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["ROOT", "--max_s2_image", "3"], 2, "did you mean --max_s2_images?"),
        (["ROOT", "--max_s2_images", "0"], 2, "must be 1 or more"),
        (["ROOT", "--percentiles", "101"], 2, "must lie in (0, 100]"),
        (["ROOT", "--maxima", "2058", "1583", "1118"], 2, "must lie in (0, 7)"),
        (["ROOT", "--maxima", "0.2", "0.2", "0.2", "--percentiles", "98"], 2, "not allowed with argument"),
        (["absent"], 3, "data folder absent doesn't exist"),
        (["ROOT", "--output", "ROOT/dataset_train.pkl"], 3, "--output says where to write"),
        (["ROOT", "--output", "ROOT/foreign"], 3, "belongs to something else"),
    ],
)
def test_errors_of_the_command(
    tmp_path: Path,
    arguments: list[str],
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = write_raw(tmp_path, train=1, val=1, test=1)
    (root / "foreign").mkdir()
    (root / "foreign" / MANIFEST).write_text("{}")
    monkeypatch.setattr(sys, "argv", [SCRIPT, *(word.replace("ROOT", str(root)) for word in arguments)])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / SCRIPT), run_name="__main__")
    assert ended.value.code == code
    stderr = capsys.readouterr().err
    assert message in stderr and len(stderr.splitlines()) == 1
    assert (root / "foreign" / MANIFEST).read_text() == "{}"


def test_a_full_disk_is_seen_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_raw(tmp_path)
    usage = type("Usage", (), {"free": 10_000})
    monkeypatch.setattr(preparing.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(DataError, match=r"0\.4 MB are needed, 0\.0 MB are free"):
        prepare_with(root)
    assert not content(root / "preprocessed")


@pytest.mark.slow
def test_terminated(tmp_path: Path) -> None:
    """SIGTERM ends it with one line and 143; nothing half-written stays, and the same command goes on."""
    rng = np.random.default_rng(0)
    rows = [write_patch(tmp_path, str(i), rng=rng, hr_size=80, offsets=range(1, 9)) for i in range(3)]
    frame = pd.DataFrame([{"split": "train", **rows[i % 3]} for i in range(250)])
    frame.to_pickle(tmp_path / "dataset_train.pkl")
    process = subprocess.Popen(
        [sys.executable, str(ROOT / SCRIPT), str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    assert process.stderr is not None
    assert "to prepare" in process.stderr.readline()
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 143
    assert stderr.splitlines()[-1].endswith("error: stopped; the same command goes on from here")
    assert "Traceback" not in stderr
    assert {path.suffix for path in (tmp_path / "preprocessed").iterdir()} <= {".pt", ".json"}
    prepare_with(tmp_path)
    for info in Store(tmp_path / "preprocessed", "train").shards:
        assert checksum(tmp_path / "preprocessed" / info.file) == info.sha256
    assert json.loads((tmp_path / "preprocessed" / MANIFEST).read_text())["skipped"] == []
