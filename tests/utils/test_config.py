"""Configuration: chains, overrides and typing, against the reference implementation's results and by properties."""

import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.golden.large import FOLDER, ROOT, Golden
from tests.soak import examples
from utils.config.parse import (
    WITHOUT_EFFECT,
    flatten,
    load_chain,
    merge,
    parse_hparams,
    parse_yaml,
    settings_from,
    to_yaml,
    translate,
)
from utils.config.settings import ARCHITECTURE, KEYS
from utils.errors import ConfigError

ADDED_BY_THE_REFERENCE = {"work_dir", "infer", "debug", "validate", "exp_name"}
HPARAMS_JSON = "10_hparams.json"
OURS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "configs").rglob("*.yaml"))


def without_added(flat: dict) -> dict:
    return {name: value for name, value in flat.items() if name not in ADDED_BY_THE_REFERENCE | {"base_config"}}


def test_chains_resolve_as_in_the_reference_implementation(golden: Golden) -> None:
    tree = golden.path("10_tree")
    for name, expected in golden.load(HPARAMS_JSON)["own_tree"].items():
        assert without_added(load_chain(tree / name)) == without_added(expected), name


def test_nested_overrides(golden: Golden) -> None:
    expected = without_added(golden.load(HPARAMS_JSON)["own_tree_nested"])
    ours = without_added(
        merge(load_chain(golden.path("10_tree") / "sub" / "leaf.yaml"), parse_hparams("nest.y=7,nest.q=3"))
    )
    assert {**ours, "nest": {**ours["nest"], "q": "3"}} == expected  # q is a number with us, a string there


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
    if not (FOLDER / HPARAMS_JSON).exists():
        return []
    resolved = Golden().load(HPARAMS_JSON)["resolved"]
    return [name for name in resolved if "trainer_cls" in resolved[name]]


@pytest.mark.parametrize("name", published())
def test_published_values(golden: Golden, name: str) -> None:
    """Every published value that has a meaning is that of our configuration of the same name."""
    published = golden.load(HPARAMS_JSON)["resolved"][name]
    expected = translate(published, source=name)
    ours = flatten(settings_from(load_chain(ROOT / name), source=name))
    # What the translation adds for the sake of resuming; and what a conditioner's own experiment says.
    for added in ("output_clamp", "backbone", "base_config", *ADDED_BY_THE_REFERENCE):
        expected.pop(added, None)
    assert expected
    for key, value in expected.items():
        assert ours[key] == value, key
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
    assert "clip_grad_norm" in WITHOUT_EFFECT


def test_missing_base_and_missing_file(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("base_config: ./b.yaml\nlr: 1e-4\n")
    with pytest.raises(ConfigError, match=r"b\.yaml doesn't exist \(base_config of .*a\.yaml\)"):
        load_chain(tmp_path / "a.yaml")


def test_base_not_starting_with_a_dot_is_relative_to_the_working_directory(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "root.yaml").write_text("lr: 1e-4\n")
    (tmp_path / "sub" / "leaf.yaml").write_text("base_config: root.yaml\nseed: 3\n")
    monkeypatch.chdir(tmp_path)
    assert load_chain(Path("sub/leaf.yaml")) == {"base_config": "root.yaml", "lr": 1e-4, "seed": 3}


@pytest.mark.parametrize("base", ['"a\\0b"', '"\\ud800"', "[1]", "{a: b}"])
def test_a_base_that_is_no_path(tmp_path: Path, base: str) -> None:
    (tmp_path / "a.yaml").write_text(f"base_config: {base}\n")
    with pytest.raises(ConfigError, match="base_config is a path or a list of paths"):
        load_chain(tmp_path / "a.yaml")


def test_a_chain_that_names_itself_ends(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("base_config: ./b.yaml\nlr: 1.0\n")
    (tmp_path / "b.yaml").write_text("base_config: ./a.yaml\nlr: 2.0\nseed: 1\n")
    assert load_chain(tmp_path / "a.yaml")["lr"] == 1.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr: 1e-4\nlr: 2e-4\n", "twice"),
        ("- a\n", "mapping"),
        ("a: [1\n", "not readable as YAML"),
        ("a: !!python/object/apply:os.system ['true']\n", "not readable as YAML"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_chain(tmp_path / "a.yaml")


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
        ("gen_dir_name=", {"gen_dir_name": ""}),
        ("", {}),
    ],
)
def test_hparams(text: str, expected: dict) -> None:
    assert parse_hparams(text) == expected


@pytest.mark.parametrize("text", ["batch_size", "=3", "a=[1", "a='x", "a..b=1"])
def test_bad_hparams(text: str) -> None:
    with pytest.raises(ConfigError, match="--hparams"):
        parse_hparams(text)


@pytest.mark.parametrize(
    ("flat", "message"),
    [
        ({"bach_size": 3}, "unknown key 'bach_size'; did you mean batch_size"),
        ({3: 3}, "unknown key 3"),
        ({"batch_size": "many"}, "batch_size must be a whole number"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"fix_rrdb": "no"}, "fix_rrdb must be true or false"),
        ({"beta_schedule": "sine"}, "beta_schedule must be one of cosine, linear"),
        ({"lr": float("nan")}, "lr must be a number"),
        ({"augment": ["flip"]}, "augment must be one of"),
        ({"backbone": {"lr": 1}}, "backbone must be a mapping"),
    ],
)
def test_wrong_values_name_key_and_source(flat: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=f"here.yaml: {message}"):
        settings_from(flat, source="here.yaml")


def test_a_saved_configuration_is_read_back() -> None:
    settings = settings_from({"batch_size": 1e3, "lr": 1, "augment": ["flips"], "amp": False}, source="x")
    assert settings.training.batch_size == 1000 and settings.training.amp == "off"
    assert settings_from(parse_yaml(to_yaml(flatten(settings)), source="y"), source="y") == settings


def test_every_key_is_read_somewhere() -> None:
    """A key that nothing reads would be a promise that nothing keeps."""
    folders = ("tasks", "models", "data_gen", "utils")
    code = "\n".join(
        path.read_text() for folder in folders for path in (ROOT / folder).rglob("*.py") if path.name != "settings.py"
    )
    assert [name for name in KEYS if f".{name}" not in code and f'"{name}"' not in code] == []


def test_architecture_keys_are_known() -> None:
    assert {"hidden_size", "timesteps", "trainer_cls"} <= ARCHITECTURE <= set(KEYS)


@given(st.text(max_size=60))
@settings(max_examples=examples(50))
def test_any_hparams_string_parses_or_is_a_configuration_error(text: str) -> None:
    try:
        settings_from(parse_hparams(text), source="--hparams")
    except ConfigError as error:
        assert str(error)


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
