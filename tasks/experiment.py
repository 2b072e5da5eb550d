"""An experiment: its folder under checkpoints/, its configuration, its lock."""

import contextlib
import fcntl
import importlib.metadata
import json
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from utils.checkpoint import EXPORTED, is_empty, read
from utils.config.parse import (
    IGNORED,
    Flat,
    architecture_keys,
    flatten,
    load_chain,
    merge,
    parse_hparams,
    read_file,
    settings_from,
    to_yaml,
)
from utils.config.reference import TASKS, is_reference, translate
from utils.config.settings import Settings
from utils.errors import CheckpointError, ConfigError
from utils.files import write_text

ROOT = Path("checkpoints")
Report = Callable[[str], object]


@dataclass(frozen=True)
class Experiment:
    """A folder and the configuration that holds in it."""

    name: str
    folder: Path
    settings: Settings
    weights: Path  # where --infer finds the model: the folder, or an exported file

    @property
    def config_file(self) -> Path:
        return self.folder / "config.yaml"

    def with_settings(self, settings: Settings) -> "Experiment":
        return replace(self, settings=settings)


def open_experiment(*, config: Path, name: str, hparams: str, reset: bool, report: Report) -> Experiment:
    """The configuration of an experiment. Only reads.

    What the experiment saved stands for every key that ``hparams`` doesn't give, unless ``reset``. A ``config`` that
    says otherwise is an error where it changes the architecture, else it is reported.
    """
    folder = _folder(name)
    overrides = parse_hparams(hparams)
    exported = config.suffix != ".yaml" and config.is_file()
    given = translated(
        _exported_config(config) if exported else _plain(_read(config)), source=str(config), report=report
    )
    settings_from(given, source=str(config))
    saved_file = folder / "config.yaml"
    standing = given
    if saved_file.is_file() and not exported and not reset:
        saved = translated(_plain(read_file(saved_file)), source=str(saved_file))
        _compare(given, saved, overrides, config=config, folder=folder, report=report)
        standing = saved
    settings = settings_from(
        merge(standing, overrides), source=f"{config} with --hparams" if overrides else str(config)
    )
    return Experiment(name, folder, settings, weights=config if exported else folder)


def _read(config: Path) -> Flat:
    """A configuration; the one that an experiment saved is resolved already, so its bases are not looked for."""
    saved = config.name == "config.yaml" and (ROOT.resolve() in config.resolve().parents or not is_empty(config.parent))
    return read_file(config) if saved else load_chain(config)


def _folder(name: str) -> Path:
    parts = Path(name).parts
    if not parts or Path(name).is_absolute() or ".." in parts:
        raise ConfigError(f"--exp_name {name!r} must be a path below {ROOT}/")
    return ROOT / name


def _plain(flat: Flat) -> Flat:
    return {key: value for key, value in flat.items() if key not in IGNORED}


def _exported_config(path: Path) -> Flat:
    content = read(path)
    if content.get("kind") != EXPORTED or not isinstance(content.get("config"), dict):
        raise CheckpointError(f"--config {path} is neither a YAML file nor an exported model")
    return content["config"]


def translated(flat: Flat, *, source: str, report: Report = lambda _: None) -> Flat:
    """A configuration in our keys, whoever wrote it. Raises ConfigError for a class that is not known."""
    if not is_reference(flat):
        return flat
    if flat["trainer_cls"] not in TASKS:
        raise ConfigError(f"{source}: trainer_cls {flat['trainer_cls']!r} is not known; known: {', '.join(TASKS)}")
    ours, left_out = translate(flat)
    if left_out:
        report(f"{source}: keys of the reference implementation without effect: {', '.join(left_out)}")
    return ours


def _compare(given: Flat, saved: Flat, overrides: Flat, *, config: Path, folder: Path, report: Report) -> None:
    """Say, or refuse, what the experiment would do differently from what was asked for."""
    typed_saved = flatten(settings_from(saved, source=str(folder / "config.yaml")))
    typed_given = flatten(settings_from(given, source=str(config)))
    shaping = architecture_keys()
    trained = not is_empty(folder)
    for key in sorted(shaping & set(overrides)):
        new = flatten(settings_from({key: overrides[key]}, source="--hparams"))[key]
        if trained and new != typed_saved.get(key):
            raise ConfigError(
                f"--hparams {key}={new}: {folder} was trained with {typed_saved.get(key)}; "
                "choose another --exp_name, or --reset to start over"
            )
    kept = []
    for key in given:
        if key in overrides or key == "backbone" or typed_given.get(key) == typed_saved.get(key):
            continue
        if key in shaping:
            raise ConfigError(
                f"{config}: {key} is {typed_given.get(key)}, but {folder} has {typed_saved.get(key)}; "
                "choose another --exp_name, or --reset to start over"
            )
        kept.append(f"{key}={typed_saved.get(key)} (not {typed_given.get(key)})")
    if kept:
        report(f"{folder} keeps what it was started with: {', '.join(kept)}; --hparams changes it")


def move_aside(folder: Path, *, report: Report) -> None:
    """Start over: what a folder holds stays beside it under another name. Refused while it is being written."""
    if not folder.exists() or not any(folder.iterdir()):
        return
    with locked(folder):
        number = 1
        while (aside := folder.with_name(f"{folder.name}.before-{number}")).exists():
            number += 1
        folder.rename(aside)
    report(f"--reset: what was in {folder} is now in {aside}")


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Only one process writes an experiment. The lock ends with the process, however that ends.

    It is a POSIX record lock: the processes that read data don't inherit it, so they can't hold it longer.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("a")
    except OSError as error:
        raise ConfigError(f"{folder} can't be written: {error.strerror}") from None
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(
                f"another process is writing {folder}; wait for it or choose another --exp_name"
            ) from None
        yield


def record(experiment: Experiment) -> None:
    """Save the resolved configuration, and with what it was run. Raises ConfigError where that isn't possible."""
    try:
        _record(experiment)
    except OSError as error:
        raise ConfigError(f"{experiment.folder} can't be written: {error}") from None


def _record(experiment: Experiment) -> None:
    write_text(experiment.config_file, to_yaml(flatten(experiment.settings)))
    run = {"command": sys.argv, "python": platform.python_version(), "code": code_version(), "packages": packages()}
    runs_file = experiment.folder / "runs.json"
    runs: list[dict[str, Any]] = []
    with contextlib.suppress(OSError, ValueError):
        runs = json.loads(runs_file.read_text())
    if not runs or runs[-1] != run:
        write_text(runs_file, json.dumps([*runs, run], indent=1))


def code_version() -> str:
    """The commit of the code, or "unknown" outside a git checkout."""
    root = Path(__file__).resolve().parents[1]
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty"], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() or "unknown"


def packages() -> dict[str, str]:
    """Versions of what results depend on."""
    names = ("torch", "numpy", "rasterio", "scikit-image", "pandas")
    return {name: importlib.metadata.version(name) for name in names}
