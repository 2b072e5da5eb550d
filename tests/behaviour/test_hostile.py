"""Hostile and broken files at every door: nothing they ask for runs, a refusal is one line, nothing is half written.

Tables, stores and configurations have tests of their own; here whole files are thrown at what commands do with them.
MISR_SOAK=1 tries 10,000 of each.
"""

import contextlib
import copy
import io
import json
import math
import pickle
import random
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from datetime import date
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest
import rasterio
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_gen.checks.rules import check_data_set
from data_gen.custom.build import BuildOptions, build
from data_gen.pickled_table import STANDARD, read_pickled_table
from tasks.build import build_task, check
from tasks.evaluation.evaluate import PictureSaver
from tasks.experiment import open_experiment
from tasks.training.state import TrainState
from tests.data import prepare_with, write_raster, write_raw
from tests.golden.large import ROOT
from tests.pickles import Call, Name, dumps
from tests.scenes import ground, write_band_files, write_item, write_safe, zipped
from tests.soak import examples
from tests.trainings import run
from utils.checkpoint import EXPORTED, file_name, load_weights, open_saved, read, read_training
from utils.config.parse import parse_yaml, settings_from, translate
from utils.config.settings import KEYS
from utils.dataloader import BreizhSRDataset, training_loader
from utils.distributed import world
from utils.errors import CheckpointError, ConfigError, DataError, TrainingError, UserError
from utils.geo.acquisitions import find_acquisitions, open_raster
from utils.geo.bands import RGB
from utils.geo.raster import AlignedReader, grid_of_acquisition
from utils.geo.windows import Box, Span
from utils.metrics.lpips import load_lpips
from utils.report.comparison import save_pictures
from utils.store import MANIFEST, Geometry, ShardInfo, checksum, open_shard, read_manifest

FUZZ = settings(max_examples=examples(30), suppress_health_check=[HealthCheck.function_scoped_fixture])


# Pickles that run something where they are trusted


def payloads(canary: Path) -> dict[str, Any]:
    """Each makes the canary file, or would with some help."""
    touch, python = f"touch {canary}", f"open({str(canary)!r}, 'w').close()"

    def call(name: str, *arguments: Any, **options: Any) -> Call:
        return Call(Name(*name.rsplit(".", 1)), arguments, **options)

    system, runner = call("os.system", touch), Name("os", "system")
    return {
        "os.system": system,
        "posix.system": call("posix.system", touch),
        "eval": call("builtins.eval", python),
        "exec": call("builtins.exec", python),
        "python 2's eval": call("__builtin__.eval", python),
        "subprocess": call("subprocess.call", ["touch", str(canary)]),
        "in a tensor": call(
            "torch._utils._rebuild_tensor_v2", system, 0, (1,), (1,), False, call("collections.OrderedDict")
        ),
        "in a dictionary": call("collections.OrderedDict", [["weight", system]]),
        "in a state": call("collections.OrderedDict", state={"hook": system}),
        "in an attribute": call("torch.nn.modules.linear.Linear", 1, 1, state={"forward": system}),
        "nested": {"state_dict": {"model": {"a": [call("builtins.map", runner, [touch])]}}},
        "partial": Call(call("functools.partial", runner, touch)),
        "getattr": Call(call("builtins.getattr", runner, "__call__"), (touch,)),
        "another pickle": call("pickle.loads", dumps(system)),
        "another file of torch's": call("torch.storage._load_from_bytes", legacy(dumps(system))),
        "pathlib": Call(Name("pathlib", "Path.touch"), (call("pathlib.Path", str(canary)),)),
        "a module by importing it": call("antigravity.geohash", 1, 2, b""),
        "numpy's runner": call("numpy.testing._private.utils.runstring", python, {}),
        "site's": Call(Name("code", "InteractiveInterpreter.runsource"), (python,)),
    }


RUN_WHERE_TRUSTED = ("os.system", "eval", "exec", "subprocess", "in a dictionary", "another pickle")


def legacy(content: bytes) -> bytes:
    """A file as torch.save wrote it before it wrote zip archives: magic number, version, system, object, storages."""
    head = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2) + pickle.dumps(1001, protocol=2)
    system = pickle.dumps({"protocol_version": 1001, "little_endian": True, "type_sizes": {}}, protocol=2)
    return head + system + content + pickle.dumps([], protocol=2)


def archive(
    content: bytes = b"", *, parts: dict[str, bytes] | None = None, compression: int = zipfile.ZIP_STORED
) -> bytes:
    """A file as torch.save writes it."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as target:
        for name, part in (parts or {"data.pkl": content, "byteorder": b"little", "version": b"3\n"}).items():
            target.writestr(f"archive/{name}", part)
        for entry in target.infolist():
            entry.external_attr = 0
    return file.getvalue()


def tar(content: bytes) -> bytes:
    """A file as torch.save wrote it in 2016, with a way out of the folder it is unpacked to."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as target:
        for name in ("sys_info", "pickle", "tensors", "storages", "../canary"):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            target.addfile(info, io.BytesIO(content))
    return file.getvalue()


CONTAINERS: dict[str, Callable[[bytes], bytes]] = {"zip": archive, "legacy": legacy, "tar": tar, "bare": bytes}


def open_shard_at(path: Path) -> object:
    info = ShardInfo(file=path.name, samples=1, singles=0, clipped=0, bytes=path.stat().st_size, sha256="")
    return open_shard(path.parent, info, Geometry(hr_size=8, scale=4, length=1))


DOORS: list[tuple[Callable[[Path], object], type[UserError]]] = [
    (read, CheckpointError),
    (lambda path: open_saved(path.parent), CheckpointError),
    (load_lpips, CheckpointError),
    (open_shard_at, DataError),
    (read_pickled_table, DataError),
]


@pytest.mark.parametrize("case", payloads(Path("canary")))
@pytest.mark.parametrize("container", CONTAINERS)
def test_payloads_are_refused_at_every_door(tmp_path: Path, case: str, container: str) -> None:
    canary, path = tmp_path / "canary", tmp_path / file_name(5)
    for protocol in (2, 4):
        path.write_bytes(CONTAINERS[container](dumps(payloads(canary)[case], protocol=protocol)))
        for door, error in DOORS:
            with pytest.raises(error) as refusal:
                door(path)
            assert "\n" not in str(refusal.value)
            assert not canary.exists() and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("case", RUN_WHERE_TRUSTED)
@pytest.mark.parametrize("container", ["zip", "legacy"])
def test_the_corpus_would_have_run(tmp_path: Path, case: str, container: str) -> None:
    """The canary appears where such a file is trusted: the corpus is no dummy."""
    canary, path = tmp_path / "canary", tmp_path / "model.ckpt"
    path.write_bytes(CONTAINERS[container](dumps(payloads(canary)[case])))
    with contextlib.suppress(Exception):
        torch.load(path, weights_only=False)
    assert canary.exists()


def test_a_refusal_names_what_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    path.write_bytes(archive(dumps(payloads(tmp_path)["posix.system"])))
    with pytest.raises(CheckpointError, match=r"refused: .*posix\.system"):
        read(path)


def test_packed_archives_are_refused(tmp_path: Path) -> None:
    """A gigabyte of zeros is a megabyte, packed."""
    path = tmp_path / file_name(5)
    path.write_bytes(archive(pickle.dumps({"a": bytes(10**6)}), compression=zipfile.ZIP_DEFLATED))
    for door, error in DOORS[:-1]:
        with pytest.raises(error, match="packed"):
            door(path)


@pytest.mark.parametrize("shape", [(1 << 40,), (1 << 20, 1 << 20), (-1,)])
def test_tensors_of_absurd_sizes_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """They claim what their storage hasn't."""
    path = tmp_path / "model.ckpt"
    torch.save({"a": torch.zeros(2)}, path)
    with zipfile.ZipFile(path) as source:
        parts = {name.split("/", 1)[1]: source.read(name) for name in source.namelist()}
    size = b"".join(b"\x8a\x08" + struct.pack("<q", number) for number in shape)  # LONG1
    parts["data.pkl"] = parts["data.pkl"].replace(b"K\x02\x85", b"(" + size + b"t", 1)
    path.write_bytes(archive(parts=parts))
    with pytest.raises(CheckpointError, match=r"damaged|refused|memory"):
        read(path)


def test_hostile_yaml_is_refused(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    bomb, merges = (
        start + "".join(f"{b}: &{b} " + form % ", ".join(["*" + a] * 10) + "\n" for a, b in pairwise("abcdefghi"))
        for start, form in (("a: &a [x, x, x, x, x, x, x, x, x, x]\n", "[%s]"), ("a: &a {x: 1}\n", "{<<: [%s]}"))
    )
    for text in (
        f"a: !!python/object/apply:os.system ['touch {canary}']",
        f"a: !!python/object/new:os.system ['touch {canary}']",
        "a: !!python/name:os.system",
        "a: !!python/module:os",
        f"!!python/object/apply:subprocess.check_call [['touch', '{canary}']]: 1",
        f"!!map {{? !!python/object/apply:os.system ['touch {canary}'] : 1}}",
        "a: &a [*a]",
        "&a {x: *a}",
        "a: " + "[" * 5000 + "]" * 5000,
        "a: " + "{b: " * 3000 + "1" + "}" * 3000,
        bomb,
        merges,
        "a: !!binary '====='",
        "a: !!timestamp 'x'",
        "a: !!int ''",
        "a: 2001-99-99",
        "a: " + "9" * 5000,
        "? [a]\n: 1",
        "? {a: 1}\n: 1",
        "a: \x01",
        "lr: .inf",
        "hidden_size: 0x" + "f" * 4000,
        "num_block: 1e300",
        "max_updates: 99999999999999999999",
        "data_root: {a: 1}",
        'data_root: "a\\0b"',
        'init_from: "\\ud800"',
        "augment: [[[[flips]]]]",
        "augment: {a: " + "[" * 40 + "]" * 40 + "}",
    ):
        with pytest.raises(ConfigError) as refusal:
            flat = parse_yaml(text, source="a.yaml")
            settings_from(flat if isinstance(flat, dict) else {"": flat}, source="a.yaml")
        assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 1000
    assert not canary.exists()


def test_a_raster_that_is_a_description_of_others_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GDAL's virtual format names files, addresses on the network, and, where that is allowed, code."""
    canary, path = tmp_path / "canary", tmp_path / "20180601.tif"
    monkeypatch.setenv("GDAL_VRT_ENABLE_PYTHON", "YES")
    secret = write_raster(tmp_path / "secret.tif", np.full((3, 8, 8), 7, dtype=np.uint16))
    path.write_text(
        f"""<VRTDataset rasterXSize="8" rasterYSize="8">
        <VRTRasterBand dataType="Byte" band="1" subClass="VRTDerivedRasterBand">
        <PixelFunctionType>f</PixelFunctionType><PixelFunctionLanguage>Python</PixelFunctionLanguage>
        <PixelFunctionCode><![CDATA[def f(*a): open({str(canary)!r}, "w").close()]]></PixelFunctionCode>
        <SimpleSource><SourceFilename>{secret}</SourceFilename><SourceBand>1</SourceBand></SimpleSource>
        </VRTRasterBand></VRTDataset>"""
    )
    with rasterio.open(path) as source:
        assert source.driver == "VRT"  # GDAL alone would take it
    with pytest.raises(DataError, match="not a raster image"), open_raster(path):
        pass
    root = write_raw(tmp_path / "raw", train=1, val=1, test=1, hr_size=32, dates=2)
    shutil.copy(path, next((root / "sen2").glob("**/*.tif")))
    _, findings = check_data_set(root, sample=0)
    assert any(finding.check == "files" and finding.level == "error" for finding in findings)
    assert not canary.exists()


# Configurations

fragments = st.sampled_from(
    [*KEYS, "backbone", "base_config", "=", ",", ".", "[", "]", "{", "}", "'", '"', " ", ":", "&a", "*a", "<<", "!!",
     "|", "1e-4", "-1", "0", "8", "1e999", ".nan", ".inf", "0x1f", "true", "off", "~", "null", "srdiff", "rrdb",
     "hr_ltae", "none", "../..", "/etc", "é", "\u0000", "\n", "---", "!!python/name:os.system", "9" * 400, "[" * 60]
)  # fmt: skip
odd_values = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 20), st.integers(), st.floats(), st.text(max_size=8),
    st.sampled_from(["rrdb", "srdiff", "highresnet", "hr_ltae", "bicubic", "none", "1|2", "linear", "../x", "/etc"]),
    st.sampled_from(["tasks.srdiff_sat.SRDiffSat", "tasks.hr_ltae.MISR", "tasks.rrdb.RRDBSatTask"]),
    st.lists(st.one_of(st.integers(), st.text(max_size=3)), max_size=3),
    st.dictionaries(st.sampled_from([*KEYS][:12]), st.integers(), max_size=2),
)  # fmt: skip
TASKS = ["rrdb", "highresnet", "hr_ltae", "rrdb_ltae", "rrdb_highresnet", "srdiff", "bicubic"]


def near(name: str) -> st.SearchStrategy[Any]:
    """Values of a key that may do, and the ones beside them."""
    item = KEYS[name][1]
    bounds = [getattr(bound, side) for bound in item.metadata for side in ("ge", "le") if hasattr(bound, side)]
    plain = [value for value in get_args(item.annotation) if not isinstance(value, type) and get_args(value) == ()]
    return st.sampled_from([item.default, *plain, *bounds, *((1, 2, 8, 12, "8") if bounds else ()), True])


@st.composite
def mappings(draw: st.DrawFn) -> dict[str, Any]:
    """Keys with values that may do; now and then one with a value that is odd."""
    names = draw(st.lists(st.sampled_from(sorted(KEYS)), max_size=5, unique=True))
    flat = {name: draw(near(name)) for name in names if name != "trainer_cls"}
    odd_names = st.one_of(st.sampled_from([*KEYS, "backbone"]), st.text(max_size=6))
    return flat | (draw(st.dictionaries(odd_names, odd_values, max_size=2)) if draw(st.integers(0, 3)) == 0 else {})


SMALL = {"hidden_size": 8, "num_block": 1, "timesteps": 4, "unet_dim_mults": "1|2", "conditioner": "none"}


@FUZZ
@given(
    text=st.one_of(
        st.lists(fragments, max_size=14).map("".join),
        mappings().map(lambda flat: ",".join(f"{name}={value}" for name, value in flat.items())),
    )
)
def test_any_hparams(text: str) -> None:
    """Overrides become settings or one line."""
    config = ROOT / "configs" / "rrdb" / "rrdb.yaml"
    with contextlib.chdir(ROOT), contextlib.suppress(ConfigError, CheckpointError):
        check(open_experiment(config=config, name="nowhere/at_all", hparams=text, reset=False).settings)


@FUZZ
@given(flat=mappings(), task=st.sampled_from(TASKS))
def test_any_configuration(flat: dict[str, Any], task: str) -> None:
    """Keys with odd values become a task that is ready to train, or one line. Large ones are not tried."""
    with contextlib.suppress(ConfigError, CheckpointError, TrainingError):
        found = settings_from(translate({"trainer_cls": task, **SMALL, **flat}, source="a.yaml"), source="a.yaml")
        check(found)
        model, diffusion = found.model, found.diffusion
        sizes = [model.hidden_size, model.num_block, model.num_layers, model.ltae_heads, model.ltae_d_k]
        sizes += [diffusion.timesteps, diffusion.rrdb_num_feat]
        if math.prod(max(1, size // 8) for size in sizes) < 300 and model.ltae_d_model < 300:
            build_task(found)


# Tables

RECORDED = """numpy.dtype numpy.ndarray numpy._core.multiarray._reconstruct numpy.core.multiarray.scalar
numpy._core.numeric._frombuffer pandas.core.internals.managers.BlockManager pandas._libs.internals._unpickle_block
pandas._libs.arrays.__pyx_unpickle_NDArrayBacked pandas.core.frame.DataFrame geopandas.geodataframe.GeoDataFrame
pandas.core.indexes.base._new_Index pandas.core.indexes.range.RangeIndex pandas.core.dtypes.dtypes.CategoricalDtype
pandas.core.arrays.categorical.Categorical pandas.core.arrays.boolean.BooleanArray pandas.arrays.ArrowStringArray
pandas._libs.tslibs.timestamps._unpickle_timestamp pandas._libs.tslibs.nattype._nat_unpickle pandas.Timestamp
pyarrow.lib._restore_array pyarrow.lib.chunked_array pyarrow.lib.type_for_alias shapely.from_wkb"""
REFUSED = ["os.system", "builtins.eval", "pandas.eval"]
names = st.sampled_from([Name(*full.rsplit(".", 1)) for full in (*STANDARD, *RECORDED.split(), *REFUSED)])
leaves = st.one_of(
    names, st.none(), st.integers(-5, 300), st.text(max_size=5), st.binary(max_size=9), st.just(slice(0, 1, 1)),
    st.sampled_from(["_data", "_mgr", "values", "i8", "O8", "M8", "<", "ns", b"\x07\xe2\x06\x0f\x0b\0\0\0\0\0"]),
)  # fmt: skip
programs = st.recursive(
    leaves,
    lambda parts: st.one_of(
        st.lists(parts, max_size=4).map(tuple),
        st.lists(parts, max_size=3),
        st.dictionaries(st.sampled_from(["_data", "_mgr", "data", "dtype", "categories", 0]), parts, max_size=3),
        st.builds(
            Call, st.one_of(names, parts), st.lists(parts, max_size=5).map(tuple), parts, st.booleans()
        ),
    ),
    max_leaves=12,
)  # fmt: skip


@FUZZ
@given(program=programs, protocol=st.integers(2, 5))
def test_any_program_of_allowed_names(tmp_path: Path, program: Any, protocol: int) -> None:
    """Whatever a pickle asks for, it is a table or a DataError."""
    path = tmp_path / "dataset_train.pkl"
    path.write_bytes(dumps(program, protocol=protocol))
    try:
        read_pickled_table(path)
    except DataError as error:
        assert str(path) in str(error) and len(str(error)) < 2000


# Raw roots and stores


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_raw(tmp_path_factory.mktemp("raw"), train=2, val=1, test=1, hr_size=32, dates=2)


@pytest.fixture(scope="module")
def prepared(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared") / "store"
    prepare_with(raw, output=folder)
    return folder


def damaged(content: bytes, rng: random.Random) -> bytes:
    """A few bytes changed, most of them where the headers are, or the end cut off."""
    changed = bytearray(content)
    for _ in range(rng.randrange(1, 12)):
        changed[rng.randrange(min(len(changed), rng.choice([64, 500, len(changed)])))] = rng.randrange(256)
    return bytes(changed[: rng.randrange(len(changed))] if rng.random() < 0.3 else changed)


@contextlib.contextmanager
def one_damaged(files: list[Path], seed: int) -> Iterator[Path]:
    """One of some files is damaged for a while."""
    rng = random.Random(seed)
    path = rng.choice(files)
    whole = path.read_bytes()
    path.write_bytes(damaged(whole, rng))
    try:
        yield path
    finally:
        path.write_bytes(whole)


@FUZZ
@given(seed=st.integers(0, 2**32))
def test_any_damage_to_a_raw_root(raw: Path, tmp_path: Path, seed: int) -> None:
    """A look at it gives verdicts; preparing it gives a whole store, or a DataError and none."""
    files = [path for path in sorted(raw.rglob("*")) if path.suffix in (".tif", ".pkl")]
    output = tmp_path / "store"
    shutil.rmtree(output, ignore_errors=True)
    with one_damaged(files, seed):
        if seed % 2:
            with contextlib.suppress(DataError):
                data, findings = check_data_set(raw, sample=0)
                assert findings and data.patches
            return
        try:
            manifest = prepare_with(raw, output=output)
        except DataError:
            assert not (output / MANIFEST).exists()
            return
    assert read_manifest(output) == manifest
    for shards in manifest.splits.values():
        assert all(checksum(output / shard.file) == shard.sha256 for shard in shards)


tensors = st.sampled_from(
    [torch.zeros(3), torch.full((3, 3), math.nan), torch.zeros(0), torch.tensor(5),
     torch.zeros(2, dtype=torch.complex64), torch.zeros(3, 8, 8, dtype=torch.uint8), torch.eye(3).to_sparse(),
     torch.zeros(1).expand(1 << 20), torch.zeros(4, dtype=torch.bool)]
)  # fmt: skip
things = st.one_of(
    tensors, st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.one_of(st.text(max_size=4), st.integers()), st.integers(), max_size=3),
)  # fmt: skip


def places(x: Any, where: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in nested containers."""
    children = x.items() if isinstance(x, dict) else enumerate(x) if isinstance(x, list) else ()
    return [where] + [place for key, child in children for place in places(child, (*where, key))]


def put(x: Any, rng: random.Random, thing: Any) -> None:
    """Replace, add or remove something somewhere in nested containers."""
    *way, last = rng.choice(places(x)[1:])
    target = x
    for step in way:
        target = target[step]
    if rng.random() < 0.2 and isinstance(target, dict):
        del target[last]
    else:
        target[last] = thing


@FUZZ
@given(seed=st.integers(0, 2**32), thing=things)
def test_any_content_of_a_shard(prepared: Path, tmp_path: Path, seed: int, thing: Any) -> None:
    """A store with another thing in a shard is opened and looked at, or a DataError."""
    folder = tmp_path / "store"
    if not folder.exists():
        shutil.copytree(prepared, folder)
    shard = torch.load(prepared / "train-00000.pt", weights_only=True)
    put(shard, random.Random(seed), thing)
    path = folder / "train-00000.pt"
    path.unlink()  # a mapped file must not change under its readers
    torch.save(shard, path)
    manifest = (prepared / MANIFEST).read_text()
    before = (prepared / path.name).stat().st_size
    (folder / MANIFEST).write_text(manifest.replace(f'"bytes": {before}', f'"bytes": {path.stat().st_size}'))
    with contextlib.suppress(DataError):
        check_data_set(folder, sample=0)
        dataset = BreizhSRDataset(folder, "train", sen2_amount=2)
        for position in range(len(dataset)):
            dataset[position]


# Checkpoints


@pytest.fixture(scope="module")
def learner(prepared: Path) -> Iterator[TrainState]:
    """A tiny training that has done a step."""
    flat = {"trainer_cls": "highresnet", "hidden_size": 4, "num_layers": 0, "batch_size": 2, "ema_decay": 0.9}
    found = settings_from(flat, source="tiny")
    with world("cpu") as here:
        data = BreizhSRDataset(prepared, "train", sen2_amount=2)
        made = TrainState(build_task(found), found, data=data, world=here)
        made.train_step(iter(training_loader(data, batch_size=2, seed=1, stop_step=1)))
        yield made


@pytest.fixture(scope="module")
def checkpoint(learner: TrainState, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / file_name(1)
    torch.save(learner.content(), path)
    return path


@pytest.fixture(scope="module")
def content(checkpoint: Path) -> dict[str, Any]:
    """What the checkpoint holds; each test changes a copy."""
    return read_training(checkpoint)


def test_the_checkpoint_is_whole(learner: TrainState, checkpoint: Path) -> None:
    learner.restore(read_training(checkpoint), source=checkpoint)
    assert open_saved(checkpoint).averaged


@FUZZ
@given(seed=st.integers(0, 2**32), thing=things)
def test_any_content_of_a_checkpoint(
    learner: TrainState, content: dict[str, Any], tmp_path: Path, seed: int, thing: Any
) -> None:
    """Another thing somewhere in a checkpoint: it is gone on from, or a CheckpointError."""
    content = copy.deepcopy(content)
    rng = random.Random(seed)
    put(content, rng, thing)
    path = tmp_path / file_name(1)
    torch.save(content, path)
    with contextlib.suppress(CheckpointError):
        if seed % 2:
            saved = open_saved(path)
            load_weights(learner.task.model, saved.state, source=path)
        else:
            learner.restore(read_training(path), source=path)
            assert 0 <= learner.step < 2**31 and 0 <= learner.rate < math.inf


@FUZZ
@given(seed=st.integers(0, 2**32), thing=things)
def test_any_content_of_an_exported_model(
    learner: TrainState, content: dict[str, Any], tmp_path: Path, seed: int, thing: Any
) -> None:
    content = {
        "kind": EXPORTED, "format_version": 1, "global_step": 1, "averaged": False, "maxima": [0.2, 0.2, 0.1],
        "config": {"trainer_cls": "highresnet", "hidden_size": 4, "num_layers": 0}, "provenance": {},
        "state_dict": dict(content["state_dict"]["model"]),
    }  # fmt: skip
    put(content, random.Random(seed), thing)
    path = tmp_path / "model.pt"
    torch.save(content, path)
    with contextlib.suppress(CheckpointError, ConfigError):
        found = open_experiment(config=path, name="nowhere", hparams="")
        check(found.settings)
        saved = open_saved(path)
        load_weights(learner.task.model, saved.state, source=path)


def test_labels_lead_nowhere(tmp_path: Path) -> None:
    """A row label names the files of its pictures, and no other."""
    image = torch.zeros(1, 3, 8, 8)
    batch: Any = SimpleNamespace(keys=["../../../x"], hr=image, base=image, lr=image[None])
    result: Any = SimpleNamespace(sr=image, backbone=None)
    folder = tmp_path / "checkpoints" / "a"
    wanted = settings_from({"trainer_cls": "rrdb", "test_save_png": True}, source="a.yaml")
    PictureSaver(folder, 1, bands=("B04", "B03", "B02"), settings=wanted).save(result, batch)
    save_pictures(folder, "..", {"truth": np.zeros((8, 8, 3), dtype=np.uint8)})
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.parent.relative_to(folder).parts[0] for path in written} == {"results_1_", "report_pictures"}
    assert {path.parent.name for path in written} == {"SR", "HR", "UP", "LR", "%2E."}


# Images of one's own


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A truth and two acquisitions, and a product in an archive."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    write_raster(folder / "hr" / "20180615.tif", rng.integers(1, 255, (3, 128, 128), dtype=np.uint8), resolution=2.5)
    for day in ("20180601", "20180612"):
        write_raster(folder / "s2" / f"{day}.tif", rng.integers(100, 900, (3, 32, 32), dtype=np.uint16))
    product = write_safe(folder, ground(64, 64), day=date(2023, 8, 7), classes=np.full((32, 32), 4, np.uint8))
    zipped(product, folder / "product.zip")
    return folder


@pytest.fixture(scope="module")
def item_of_a_place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("item")
    write_band_files(folder, (ground(16, 16) * 10000).astype(np.uint16))
    stated: dict[str, Any] = {"raster:bands": [{"scale": 0.0001, "offset": 0}]}
    hrefs = {band: f"{band}.tif" for band in RGB}
    return write_item(folder / "item.json", day=date(2023, 8, 7), hrefs=hrefs, **stated)


ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.just([]), st.just({}),
    st.sampled_from(["/etc/passwd", "../x.tif", "https://127.0.0.1:9/a.tif", "file:///etc/passwd", "B04", "\u0000",
                     "http://[", "//127.0.0.1/a", "1e999"]),
    st.lists(st.one_of(st.integers(), st.dictionaries(st.sampled_from(["name", "scale"]), st.integers())), max_size=3),
)  # fmt: skip


@pytest.mark.parametrize("name", ["s2/20180601.tif", "product.zip"])
@FUZZ
@given(seed=st.integers(0, 2**32))
def test_any_damage_to_an_acquisition(images: Path, name: str, seed: int) -> None:
    """Its pixels, or a DataError of one line."""
    with one_damaged([images / name], seed) as path, contextlib.suppress(DataError, ConfigError):
        (found,) = find_acquisitions([path])
        grid = grid_of_acquisition(found)
        box = grid.box.within(Box(Span(0, 64), Span(0, 64)))
        with contextlib.closing(AlignedReader(found, grid)) as reader:
            assert reader.read(box).reflectance.shape == (3, *box.shape)


@FUZZ
@given(changes=st.lists(st.tuples(st.integers(0, 2**32), ODD), min_size=1, max_size=3))
def test_any_content_of_an_item(item_of_a_place: Path, changes: list[tuple[int, Any]]) -> None:
    """Any of an item's values is another: an acquisition in its folder, or a DataError of one line."""
    item = json.loads(item_of_a_place.read_text())
    for place, value in changes:
        where: Any = item
        while True:
            keys = list(where) if isinstance(where, dict) else list(range(len(where)))
            key = keys[place % len(keys)]
            if not isinstance(where[key], dict | list) or not where[key] or place % 5 == 0:
                where[key] = value
                break
            where, place = where[key], place // len(keys)
    path = item_of_a_place.with_name("changed.json")
    path.write_text(json.dumps(item))
    try:
        found = find_acquisitions([path], remote=True)
    except DataError as error:
        assert "\n" not in str(error)
        return
    assert all(file.is_relative_to(path.parent) for file in found[0].files)


@FUZZ
@given(seed=st.integers(0, 2**32))
def test_a_data_set_from_damaged_images_is_whole_or_absent(images: Path, tmp_path: Path, seed: int) -> None:
    output = tmp_path / "own"
    shutil.rmtree(output, ignore_errors=True)
    wanted = BuildOptions(patch=32, gap=0, clouds=False)
    with one_damaged(sorted(images.glob("*/*.tif")), seed):
        try:
            truths = find_acquisitions([images / "hr" / "20180615.tif"], scale=1)
            views = find_acquisitions([images / "s2"])
            build(truths, views, output, wanted)
        except (DataError, ConfigError):
            assert list(tmp_path.iterdir()) == []
            return
    data, _ = check_data_set(output, sample=0)
    assert sum(data.patches.values()) and not [fault for fault in data.source.faults if fault.check == "files"]


# Whole commands: the documented exit code, one line, nothing run, nothing written


def test_commands(raw: Path, prepared: Path, checkpoint: Path, tmp_path: Path) -> None:
    canary, here = tmp_path / "canary", tmp_path / "here"
    here.mkdir()
    evil = dumps(payloads(canary)["os.system"])
    hostile_raw = shutil.copytree(raw, tmp_path / "raw")
    (hostile_raw / "dataset_test.pkl").write_bytes(evil)
    folder = here / "checkpoints" / "evil"
    folder.mkdir(parents=True)
    (folder / file_name(3)).write_bytes(archive(evil))
    (folder / "config.yaml").write_text("trainer_cls: rrdb\nhidden_size: 4\nnum_block: 1\n")
    (tmp_path / "evil.yaml").write_text(f"trainer_cls: !!python/object/apply:os.system ['touch {canary}']\n")
    config = ROOT / "configs" / "rrdb" / "rrdb.yaml"
    trainer, before = "tasks/trainer.py", sorted(hostile_raw.rglob("*"))
    (tmp_path / "evil.zip").write_bytes(archive(evil))
    item = write_item(tmp_path / "items" / "a.json", day=date(2023, 8, 7), hrefs=dict.fromkeys(RGB, "../secret.tif"))
    predict = ("--config", ROOT / "configs" / "bicubic.yaml", "--exp_name", "b", "--output", "map.tif", "--predict")
    new = ("--config", config, "--exp_name", "new")
    for code, script, *arguments in (
        (3, "data_gen/preprocess_data.py", hostile_raw),
        (3, "data_gen/check.py", hostile_raw),
        (4, trainer, "--config", folder / "config.yaml", "--exp_name", "evil", "--infer"),
        (4, trainer, *new, "--hparams", f"init_from={folder},data_root={prepared}"),
        (4, trainer, "--config", folder / file_name(3), "--exp_name", "new", "--infer"),
        (2, trainer, "--config", tmp_path / "evil.yaml", "--exp_name", "new"),
        (2, trainer, "--config", config, "--exp_name", "../../new"),
        (2, trainer, *new, "--hparams", "data_root=" + "x" * 5000),
        (2, trainer, *new, "--hparams", f"data_root=!!python/name:os.system {canary}"),
        (3, trainer, *predict, tmp_path / "evil.zip"),
        (3, trainer, *predict, item),
        (3, "data_gen/build_dataset.py", "--hr", tmp_path / "evil.yaml", "--lr", tmp_path, "--output", here / "own"),
    ):
        done = run(script, *arguments, cwd=here)
        assert done.returncode == code, (arguments, done.stdout, done.stderr)
        lines = done.stderr.strip().splitlines()
        assert lines[-1].startswith(f"{Path(script).name}: error: ") and "Traceback" not in done.stderr, done.stderr
    assert not canary.exists()
    assert sorted(hostile_raw.rglob("*")) == before and not (here / "own").exists()
    assert not list(here.glob("*map*"))
    assert not (here / "checkpoints" / "new" / "config.yaml").exists()
