"""The prepared store: opened where it is whole, refused with a reason where anything about it is wrong."""

import copy
import json
import math
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.data import write_prepared
from tests.soak import examples
from utils.errors import DataError
from utils.store import (
    MANIFEST,
    Manifest,
    Store,
    checksum,
    layout,
    open_shard,
    prepared_folder,
    read_manifest,
    shard_bytes,
    write_manifest,
    write_shard,
)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prepared(tmp_path_factory.mktemp("store")) / "preprocessed"


@pytest.fixture
def store(prepared: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(prepared, tmp_path / "store"))


def test_a_manifest_is_read_as_it_was_written(store: Path) -> None:
    manifest = read_manifest(store)
    assert list(manifest.splits) == ["train", "val", "test"]
    write_manifest(store, manifest)
    assert read_manifest(store) == manifest
    for infos in manifest.splits.values():
        for info in infos:
            assert checksum(store / info.file) == info.sha256


def test_shards_have_the_layout(store: Path) -> None:
    opened = Store(store, "train")
    info = opened.shards[0]
    shapes = layout(opened.manifest.geometry, samples=info.samples, singles=info.singles)
    shard = opened.shard(0)
    assert {*shapes, "key", "columns"} == shard.keys()
    size = sum(shard[name].nbytes for name in shapes)
    assert size == shard_bytes(opened.manifest.geometry, samples=info.samples, singles=info.singles) < info.bytes
    assert opened.shard(0) is shard


def test_positions_across_shards(store: Path) -> None:
    """A second and an empty third shard."""
    manifest = read_manifest(store)
    info = manifest.splits["train"][0]
    shard = dict(open_shard(store, info, manifest.geometry))
    second = write_shard(store / "train-00002.pt", shard | {"key": ["a", "b", "c", "d"]}, clipped=0)
    shapes = layout(manifest.geometry, samples=0, singles=0)
    nothing = {name: torch.empty(shape, dtype=dtype) for name, (dtype, shape) in shapes.items()}
    empty = write_shard(store / "train-00001.pt", nothing | {"key": [], "columns": {}}, clipped=0)
    manifest.splits["train"] = [info, empty, second]
    write_manifest(store, manifest)
    opened = Store(store, "train")
    assert len(opened) == 8 and opened.keys() == [100, 107, 114, 121, "a", "b", "c", "d"]
    found = [(located["key"][row], row) for located, row in map(opened.locate, range(8))]
    assert found == list(zip(opened.keys(), [0, 1, 2, 3] * 2, strict=True))
    for position in (-1, 8):
        with pytest.raises(IndexError):
            opened.locate(position)


def test_a_killed_writer_leaves_no_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="No space"):
        write_shard(tmp_path / "train-00000.pt", {}, clipped=0)
    assert not list(tmp_path.iterdir())


def test_finding_a_store(prepared: Path, tmp_path: Path) -> None:
    assert prepared_folder(prepared) == prepared_folder(prepared.parent) == prepared
    with pytest.raises(DataError, match="doesn't exist; set data_root or BREIZHSR_ROOT"):
        prepared_folder(tmp_path / "absent")
    with pytest.raises(DataError, match=f"run `python data_gen/preprocess_data.py {tmp_path}`"):
        prepared_folder(tmp_path)
    with pytest.raises(DataError, match="no split 'dates'; there are: train, val, test"):
        Store(prepared, "dates")


# ---------------------------------------------------------------------------------------------------------------------


def edit(store: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads((store / MANIFEST).read_text())
    change(content)
    (store / MANIFEST).write_text(json.dumps(content))


def first(content: dict[str, Any]) -> dict[str, Any]:
    return content["splits"]["train"][0]


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "another format": (lambda c: c.update(format="x"), "format: input should be 'misr-store'"),
    "a later version": (lambda c: c.update(version=99), "version: input should be 1; prepare the data anew"),
    "no geometry": (lambda c: c.pop("geometry"), "geometry: field required"),
    "absurd patches": (
        lambda c: c["geometry"].update(hr_size=1 << 40),
        r"geometry\.hr_size: .* less than or equal to 4096",
    ),
    "patches of no multiple": (lambda c: c["geometry"].update(hr_size=81), "hr_size: input should be a multiple of 8"),
    "larger patches": (lambda c: c["geometry"].update(hr_size=4096), "its manifest says otherwise"),
    "an odd scale": (lambda c: c["geometry"].update(scale=3), "geometry\\.scale: .* not one of 2, 4, 8"),
    "a true length": (lambda c: c["geometry"].update(length=True), "length: input should be a valid integer"),
    "longer series": (lambda c: c["geometry"].update(length=4096), "its manifest says otherwise"),
    "two bands": (lambda c: c.update(maxima=[0.1, 0.1]), "maxima: .*2 numbers for 3 bands"),
    "no light": (lambda c: c.update(maxima=[0.1, 0.1, 0.0]), r"maxima\.2: input should be greater than 0"),
    "bands that are none": (lambda c: c["geometry"].update(bands=["B04", "B99", "B02"]), r"geometry\.bands: .*B8A"),
    "a band twice": (lambda c: c["geometry"].update(bands=["B04", "B04", "B02"]), r"geometry\.bands: .*different"),
    "more bands": (lambda c: (c["geometry"]["bands"].append("B08"), c["maxima"].append(0.4)), "says otherwise"),
    "infinite light": (lambda c: c.update(maxima=[0.1, 0.1, math.inf]), r"maxima\.2: input should be a finite number"),
    "an unknown key": (lambda c: c.update(bnads=[]), "bnads: extra inputs are not permitted"),
    "a split's name": (lambda c: c["splits"].update({"../x": []}), r"splits\.\.\./x\.\[key\]: string should match"),
    "no shards": (lambda c: c["splits"].update(train=None), r"splits\.train: input should be a valid array"),
    "absurd samples": (lambda c: first(c).update(samples=1 << 30), "its manifest says otherwise"),
    "negative samples": (lambda c: first(c).update(samples=-1), "samples: input should be greater than or equal to 0"),
    "singles": (lambda c: first(c).update(singles=5), "its manifest says otherwise"),
    "another size": (lambda c: first(c).update(bytes=7), "its manifest says otherwise"),
    "a strange reason": (lambda c: c.update(skipped=[{"what": "patch"}]), r"skipped\.0\.split: field required"),
    "a path": (lambda c: first(c).update(file="../train-00000.pt"), "is no shard of split train"),
    "an absolute path": (lambda c: first(c).update(file="/etc/passwd"), "is no shard of split train"),
    "another split's shard": (lambda c: first(c).update(file="test-00000.pt"), "is no shard of split train"),
    "an absent shard": (lambda c: first(c).update(file="train-00007.pt"), "is missing; prepare the data anew"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_manifests_that_are_refused(store: Path, case: str) -> None:
    change, message = CHANGES[case]
    edit(store, change)
    with pytest.raises(DataError, match=message) as error:
        read_manifest(store)
    assert str(store) in str(error.value)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{", b"\xff\xfe", b"[" * 100_000, b'{"format": ' + b"9" * 5000 + b"}"]
)
def test_manifests_that_are_damaged(store: Path, content: bytes) -> None:
    (store / MANIFEST).write_bytes(content)
    with pytest.raises(DataError, match=MANIFEST):
        read_manifest(store)


def places(x: Any, where: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON document."""
    children = x.items() if isinstance(x, dict) else enumerate(x) if isinstance(x, list) else ()
    return [where] + [place for key, child in children for place in places(child, (*where, key))]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=5,
)


@settings(max_examples=examples(50), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), value=json_values)
def test_whatever_a_manifest_says(prepared: Path, tmp_path: Path, seed: int, value: Any) -> None:
    """Anything anywhere: it is a manifest whose shards open, or a DataError; never another error."""
    content = json.loads((prepared / MANIFEST).read_text())
    *way, last = random.Random(seed).choice(places(content)[1:])
    target = content
    for step in way:
        target = target[step]
    target[last] = value
    folder = tmp_path / "store"
    if not folder.exists():
        shutil.copytree(prepared, folder)
    (folder / MANIFEST).write_text(json.dumps(content))
    try:
        manifest = read_manifest(folder)
        for split in manifest.splits:
            Store(folder, split).keys()
    except DataError:
        return
    assert isinstance(manifest, Manifest)


# ---------------------------------------------------------------------------------------------------------------------


def spoil(store: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Rewrite the first shard, with a manifest that knows its new size."""
    path = store / "train-00000.pt"
    shard = copy.copy(torch.load(path, weights_only=True))
    change(shard)
    torch.save(shard, path)
    edit(store, lambda c: first(c).update(bytes=path.stat().st_size))


def shared(shard: dict[str, Any]) -> None:
    """One number that claims to be all: a small file must not become a large tensor."""
    shard["matching"] = torch.zeros(1).expand(shard["matching"].shape)


SHARDS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a missing tensor": (lambda s: s.pop("dates"), "dates is not torch.int16"),
    "another type": (lambda s: s.update(lr=s["lr"].float()), "lr is not torch.int16"),
    "another shape": (lambda s: s.update(hr=s["hr"][:, :2]), "hr is not torch.uint8"),
    "another count": (lambda s: s.update(alphas=torch.cat([s["alphas"]] * 2)), "alphas is not torch.bool"),
    "a shared number": (shared, r"matching is not torch.float32 \[4, 3, 256\]"),
    "too few keys": (lambda s: s["key"].pop(), "its keys don't match its samples"),
    "keys that are none": (lambda s: s.update(key=[["a"]] * len(s["key"])), "its keys don't match its samples"),
    "keys that can't be written": (lambda s: s["key"].__setitem__(0, "\ud800"), "its keys don't match its samples"),
    "no memory": (lambda s: s.update(lr=s["lr"].to("meta")), "lr is not torch.int16"),
    "sparse": (lambda s: s.update(lr=s["lr"].to_sparse()), "lr is not torch.int16"),
    "a gradient": (lambda s: s["matching"].requires_grad_(), "matching is not torch.float32"),
    "rows beyond": (lambda s: s["single"].fill_(3000), "single names rows that there are not"),
    "rows before": (lambda s: s["single"].fill_(-2), "single names rows that there are not"),
    "no keys": (lambda s: s.update(key=None), "its keys don't match its samples"),
}


@pytest.mark.parametrize("case", SHARDS)
def test_shards_that_are_refused(store: Path, case: str) -> None:
    change, message = SHARDS[case]
    spoil(store, lambda shard: shard.update(ballast=torch.zeros(100_000)))  # size alone is no reason
    spoil(store, change)
    with pytest.raises(DataError, match=message):
        Store(store, "train").keys()
    assert Store(store, "val").keys()


def test_links_are_no_shards(store: Path, tmp_path: Path) -> None:
    (store / "train-00000.pt").rename(tmp_path / "elsewhere.pt")
    (store / "train-00000.pt").symlink_to(tmp_path / "elsewhere.pt")
    with pytest.raises(DataError, match="is missing"):
        Store(store, "train")


@settings(max_examples=examples(50), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_damaged_shards(prepared: Path, tmp_path: Path, seed: int) -> None:
    """Bytes changed anywhere: a shard, or a DataError; and the checksum always tells."""
    rng = random.Random(seed)
    folder = tmp_path / "store"
    if not folder.exists():
        shutil.copytree(prepared, folder)
    path = folder / "val-00000.pt"
    content = bytearray((prepared / path.name).read_bytes())
    for _ in range(rng.randrange(1, 20)):
        region = rng.choice([(0, 3000), (len(content) - 2500, len(content)), (0, len(content))])
        content[rng.randrange(*region)] ^= rng.randrange(1, 256)
    path.unlink()  # a mapped file must not change under its readers
    path.write_bytes(content)
    try:
        opened = Store(folder, "val")
        opened.shard(0)["hr"].sum()
    except DataError:
        return
    assert checksum(path) != opened.shards[0].sha256 or content == (prepared / path.name).read_bytes()
