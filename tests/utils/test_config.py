"""Configuration: chains, overrides and typing, against the reference implementation's results and by properties."""

import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.golden.large import FOLDER, ROOT, Golden
from tests.soak import examples
from utils.config.parse import flatten, load_chain, merge, parse_hparams, parse_yaml, settings_from, to_yaml, translate
from utils.config.settings import KEYS
from utils.errors import ConfigError

ADDED_BY_THE_REFERENCE = {"work_dir", "infer", "debug", "validate", "exp_name", "base_config"}
HPARAMS_JSON = "10_hparams.json"
OURS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "configs").rglob("*.yaml"))


def without_added(flat: dict) -> dict:
    return {name: value for name, value in flat.items() if name not in ADDED_BY_THE_REFERENCE}


def test_chains_resolve_as_in_the_reference_implementation(golden: Golden) -> None:
    tree, content = golden.path("10_tree"), golden.load(HPARAMS_JSON)
    for name, expected in content["own_tree"].items():
        assert without_added(load_chain(tree / name)) == without_added(expected), name
    ours = merge(load_chain(tree / "sub" / "leaf.yaml"), parse_hparams("nest.y=7,nest.q=3"))
    assert ours["nest"].pop("q") == 3 and content["own_tree_nested"]["nest"].pop("q") == "3"  # a string there
    assert without_added(ours) == without_added(content["own_tree_nested"])


def test_overrides_as_in_the_reference_implementation(golden: Golden) -> None:
    content = golden.load(HPARAMS_JSON)
    assert content["cli"]
    for case in content["cli"]:
        before = content["resolved"].get(case["config"], case["resolved"])  # not every configuration is listed
        ours = merge(before, parse_hparams(case["hparams"]))
        for name, value in case["resolved"].items():
            if name in before and not (isinstance(value, str) and not isinstance(ours[name], str)):
                assert ours[name] == value, (case["hparams"], name)


def published() -> list[str]:
    resolved = Golden().load(HPARAMS_JSON)["resolved"] if (FOLDER / HPARAMS_JSON).exists() else {}
    return [name for name in resolved if "trainer_cls" in resolved[name]]


@pytest.mark.parametrize("name", published())
def test_published_values(golden: Golden, name: str) -> None:
    """Every published value that has a meaning is that of our configuration of the same name."""
    published = golden.load(HPARAMS_JSON)["resolved"][name]
    expected = without_added(translate(published, source=name))
    ours = flatten(settings_from(load_chain(ROOT / name), source=name))
    # What the translation adds for the sake of resuming; and what a conditioner's own experiment says.
    for added in ("output_clamp", "backbone"):
        expected.pop(added, None)
    assert expected and {key: ours[key] for key in expected} == expected
    assert ours["clip_grad_norm"] == 0 and ours["amp"] == "off" and ours["accumulate_grad_batches"] == 1
    assert ours["augment"] == [] and not ours["base_residual"] and ours["ema_decay"] == 0
    assert ours["misr"] == published.get("misr", False)


@pytest.mark.parametrize("name", OURS)
def test_our_configurations_are_valid(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    settings_from(load_chain(ROOT / name), source=name)


def test_reference_keys_without_effect_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    flat = {"trainer_cls": "tasks.hr_ltae.MISR", "clip_grad_norm": 10, "hidden_size": 32, "amp": True, "lr": 1e-3}
    with caplog.at_level("INFO"):
        ours = translate(flat, source="a.yaml")
    assert "without effect: amp, clip_grad_norm, hidden_size" in caplog.text
    assert ours == {"trainer_cls": "hr_ltae", "lr": 1e-3, "hidden_size": 64, "output_clamp": "hard"}
    assert translate(ours, source="a.yaml") is ours
    with pytest.raises(ConfigError, match=r"tasks\.x\.Y"):
        translate({"trainer_cls": "tasks.x.Y"}, source="a.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr: 1e-4\nlr: 2e-4\n", "'lr' twice"),
        ("- a\n", "mapping"),
        ("a: [1\n", "not readable as YAML"),
        ("base_config: ./b.yaml", r"b\.yaml doesn't exist \(base_config of .*a\.yaml\)"),
        *((f"base_config: {base}", "a path or a list") for base in ('"a\\0b"', '"\\ud800"', "[1]", "{a: b}")),
    ],
)
def test_bad_files(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_chain(tmp_path / "a.yaml")


def test_bases_beside_the_file_in_the_working_directory_and_in_a_circle(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "root.yaml").write_text("lr: 1e-4\n")
    (tmp_path / "sub" / "leaf.yaml").write_text("base_config: [root.yaml, ./b.yaml]\nseed: 3\n")
    (tmp_path / "sub" / "b.yaml").write_text("base_config: ./leaf.yaml\nseed: 2\namp: off\nx: &x {a: 1}\ny: {<<: *x}\n")
    monkeypatch.chdir(tmp_path)
    resolved = without_added(load_chain(Path("sub/leaf.yaml")))
    assert resolved == {"lr": 1e-4, "seed": 3, "amp": "off", "x": {"a": 1}, "y": {"a": 1}}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lr=1e-4", {"lr": 1e-4}),
        ("a=[64 64]", {"a": [64, 64]}),
        ('a=["x" "y"],b=2', {"a": ["x", "y"], "b": 2}),
        ("a=[1,2],b.c=[x y]", {"a": [1, 2], "b": {"c": ["x", "y"]}}),
        ("rrdb_ckpt=a=b", {"rrdb_ckpt": "a=b"}),
        ('loss_type="l1_shift"', {"loss_type": "l1_shift"}),
        ("fix_rrdb=False,res=true", {"fix_rrdb": False, "res": True}),
        ("unet_dim_mults=1|2|3|4", {"unet_dim_mults": "1|2|3|4"}),
        ("gen_dir_name=, ", {"gen_dir_name": ""}),
        ("", {}),
    ],
)
def test_hparams(text: str, expected: dict) -> None:
    assert parse_hparams(text) == expected


@pytest.mark.parametrize("text", ["batch_size", "=3", "a=[1", "a='x", "a..b=1", "a=" + "[" * 60 + "]" * 60])
def test_bad_hparams(text: str) -> None:
    with pytest.raises(ConfigError, match="--hparams"):
        parse_hparams(text)


@pytest.mark.parametrize(
    ("flat", "message"),
    [
        ({"bach_size": 3}, ": unknown key 'bach_size'; did you mean batch_size"),
        ({3: 3}, ": unknown key 3"),
        ({"batch_size": "many"}, ": batch_size must be a whole number"),
        ({"batch_size": 0}, ": batch_size must be at least 1"),
        ({"fix_rrdb": "no"}, ": fix_rrdb must be true or false"),
        ({"beta_schedule": "sine"}, ": beta_schedule must be 'cosine' or 'linear', not 'sine'"),
        ({"lr": float("nan")}, ": lr must be a finite number"),
        ({"lr": 10**5000}, ": lr must be .*thousands of digits"),
        ({"augment": ["flip"]}, ": augment must be 'flips'"),
        ({"bands": ["B99"]}, ": bands 'B99' is no band of Sentinel-2"),
        ({"backbone": 3}, ": backbone must be a mapping"),
        ({"backbone": {"lr": 1}}, ", backbone: lr is unknown"),
    ],
)
def test_wrong_values_name_key_and_source(flat: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=f"here.yaml{message}"):
        settings_from(flat, source="here.yaml")


def test_a_saved_configuration_is_read_back() -> None:
    flat = {"batch_size": 1e3, "lr": 1, "augment": ["flips"], "amp": False, "backbone": {"trainer_cls": "rrdb"}}
    settings = settings_from(flat, source="x")
    assert settings.training.batch_size == 1000 and settings.training.amp == "off"
    assert settings_from(parse_yaml(to_yaml(flatten(settings)), source="y"), source="y") == settings


def test_every_key_is_read_somewhere() -> None:
    """A key that nothing reads would be a promise that nothing keeps."""
    files = [path for folder in ("tasks", "models", "data_gen", "utils") for path in (ROOT / folder).rglob("*.py")]
    code = "\n".join(path.read_text() for path in files if path.name != "settings.py")
    assert [name for name in KEYS if f".{name}" not in code and f'"{name}"' not in code] == []


@given(st.binary(max_size=200) | st.text(alphabet=":-[]{}&*!|>'\" \nabc01.", max_size=80).map(str.encode))
@settings(max_examples=examples(50))
def test_any_file_parses_or_is_a_configuration_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("config")
    (folder / "a.yaml").write_bytes(content)
    try:
        settings_from(load_chain(folder / "a.yaml"), source="a.yaml")
    except ConfigError as error:
        assert str(error)
    finally:
        shutil.rmtree(folder)
