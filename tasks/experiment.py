"""An experiment: all that is on disk about it, read once into one value; its folder, its lock, its record."""

import contextlib
import fcntl
import json
import logging
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tasks.build import conditioner_without_weights, is_conditioned
from utils.checkpoint import EXPORTED, Saved, checkpoints, is_empty, is_exported, open_saved
from utils.cli import code_version, packages
from utils.config.parse import (
    IGNORED,
    Flat,
    flatten,
    load_chain,
    merge,
    parse_hparams,
    read_file,
    settings_from,
    to_yaml,
    translate,
)
from utils.config.settings import ARCHITECTURE, DECIDED_AT_START, Model, Settings
from utils.errors import CheckpointError, ConfigError
from utils.files import write_text

ROOT = Path("checkpoints")
PACKAGED = Path(__file__).resolve().parents[1] / "checkpoints"  # models that come with the project
STARTER = "starter/hr_ltae"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Experiment:
    """What a command works with. Nothing of it is read from disk again.

    Attributes:
        name: the folder's name below checkpoints/.
        folder: where all that the experiment writes goes.
        settings: the configuration that holds, of srdiff with its conditioner's description.
        steps: the checkpoints that the folder held when it was opened.
        saved: the trained model; None where nothing has been trained.
        conditioner: the backbone that a new srdiff training starts from.
        init_from: the model whose weights a new training starts from.
    """

    name: str
    folder: Path
    settings: Settings
    steps: tuple[int, ...] = ()
    saved: Saved | None = None
    conditioner: Saved | None = None
    init_from: Saved | None = None

    @property
    def is_outdated(self) -> bool:
        """Whether another process has saved a checkpoint since it was opened."""
        return self.steps != tuple(checkpoints(self.folder))


def open_experiment(
    *, config: Path, name: str, hparams: str = "", reset: bool = False, ckpt: str | None = None
) -> Experiment:
    """Read configuration, saved configuration, weights, and what a new training starts from. Writes nothing.

    What the experiment saved stands for every key that ``hparams`` doesn't give, unless ``reset``. A ``config`` that
    says otherwise is an error where it changes the architecture; else a message says what is kept.

    Args:
        config: a YAML file, or an exported model.
        name: path below checkpoints/.
        hparams: overrides, as `parse_hparams` reads them.
        reset: what the folder holds doesn't count.
        ckpt: the model to use: a step, ``best``, or a file. Default: the newest of the folder.

    Raises:
        ConfigError: a key, value or path is wrong.
        CheckpointError: a model is missing or damaged.
    """
    folder = _folder(name)
    overrides = parse_hparams(hparams)
    exported = _exported(config)
    given = translate(_plain(_read(config) if exported is None else exported.config or {}), source=str(config))
    settings_from(given, source=str(config))
    saved_file = folder / "config.yaml"
    standing = given
    if saved_file.is_file() and exported is None and not reset and saved_file.resolve() != config.resolve():
        saved_flat = translate(_plain(read_file(saved_file)), source=str(saved_file))
        _compare(given, saved_flat, overrides, config=config, folder=folder)
        standing = saved_flat
        for key in DECIDED_AT_START:
            if overrides.get(key) == "auto" and key in saved_flat:
                del overrides[key]
    source = f"{config} with --hparams" if overrides else str(config)
    settings = settings_from(merge(standing, overrides), source=source)
    steps = tuple(checkpoints(folder))
    saved = None if reset else _trained(folder, ckpt, exported)
    if saved is not None:
        return Experiment(name, folder, settings, steps, saved)
    conditioner = None
    if is_conditioned(settings):
        model, conditioner = _conditioner(settings)
        settings = replace(settings, backbone=model)
    start = settings.training.init_from
    init_from = open_saved(model_path(start)) if start else None
    return Experiment(name, folder, settings, steps, None, conditioner, init_from)


def _folder(name: str) -> Path:
    parts = Path(name).parts
    if not parts or Path(name).is_absolute() or ".." in parts:
        raise ConfigError(f"--exp_name {name!r} must be a path below {ROOT}/")
    return ROOT / name


def model_path(name: str) -> Path:
    """Where a model lies: a path, or the name of an experiment, or of a model that comes with the project."""
    places = (Path(name), ROOT / name, PACKAGED / name)
    return next((place for place in places if place.exists()), places[0])


def _exported(config: Path) -> Saved | None:
    if config.suffix == ".yaml" or not config.is_file():
        return None
    saved = open_saved(config)
    if saved.content.get("kind") != EXPORTED:
        raise CheckpointError(f"--config {config} is neither a YAML file nor an exported model")
    return saved


def _read(config: Path) -> Flat:
    """A configuration; the one that an experiment saved is resolved already, so its bases are not looked for."""
    saved = config.name == "config.yaml" and (ROOT.resolve() in config.resolve().parents or not is_empty(config.parent))
    return read_file(config) if saved else load_chain(config)


def _plain(flat: Flat) -> Flat:
    return {key: value for key, value in flat.items() if key not in IGNORED}


def _trained(folder: Path, ckpt: str | None, exported: Saved | None) -> Saved | None:
    """The model that is meant, where there is one."""
    if ckpt is not None and not ckpt.isdigit() and ckpt != "best":
        if not Path(ckpt).exists():
            raise CheckpointError(f"--ckpt {ckpt} doesn't exist: give a step, best, or a file")
        return open_saved(Path(ckpt))
    if exported is not None:
        return exported
    if ckpt is not None:
        return open_saved(folder, which=ckpt)
    return open_saved(folder) if is_exported(folder) or not is_empty(folder) else None


def _conditioner(settings: Settings) -> tuple[Model, Saved | None]:
    """The conditioning backbone as its own experiment describes it, and its weights."""
    diffusion = settings.diffusion
    if not diffusion.rrdb_ckpt:
        return conditioner_without_weights(settings), None
    saved = open_saved(model_path(diffusion.rrdb_ckpt))
    described = saved_settings(saved)
    model = described.model
    if diffusion.conditioner and diffusion.conditioner != model.trainer_cls:
        raise ConfigError(
            f"rrdb_ckpt {saved.path} is {model.trainer_cls}, but conditioner is {diffusion.conditioner}: "
            f"use the configuration for {model.trainer_cls}, or --hparams conditioner={model.trainer_cls}"
        )
    if described.data.sr_scale != settings.data.sr_scale:
        raise ConfigError(
            f"rrdb_ckpt {saved.path} has sr_scale {described.data.sr_scale}, not {settings.data.sr_scale}"
        )
    own = {name: value for name, value in saved.state.items() if not name.startswith("scale_head.")}
    return model, replace(saved, state=own)


def saved_settings(saved: Saved) -> Settings:
    """The configuration of a saved model. Raises CheckpointError where there is none, ConfigError for a bad one."""
    if saved.config is None:
        raise CheckpointError(f"{saved.path}: no config.yaml beside it says what model it is")
    source = f"configuration of {saved.path}"
    return settings_from(translate(saved.config, source=source), source=source)


def _compare(given: Flat, saved: Flat, overrides: Flat, *, config: Path, folder: Path) -> None:
    """Say, or refuse, what the experiment would do differently from what was asked for."""
    typed_saved = flatten(settings_from(saved, source=str(folder / "config.yaml")))
    typed_given = flatten(settings_from(given, source=str(config)))
    trained = not is_empty(folder)
    for key in sorted(ARCHITECTURE & set(overrides)):
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
        if key in DECIDED_AT_START and typed_given.get(key) == "auto":
            continue
        if key in ARCHITECTURE:
            raise ConfigError(
                f"{config}: {key} is {typed_given.get(key)}, but {folder} has {typed_saved.get(key)}; "
                "choose another --exp_name, or --reset to start over"
            )
        kept.append(f"{key}={typed_saved.get(key)} (not {typed_given.get(key)})")
    if kept:
        logger.info("%s keeps what it was started with: %s; --hparams changes it", folder, ", ".join(kept))


def move_aside(folder: Path) -> None:
    """Start over: what a folder holds stays beside it under another name. Refused while it is being written."""
    if not folder.exists() or not any(folder.iterdir()):
        return
    with locked(folder):
        number = 1
        while (aside := folder.with_name(f"{folder.name}.before-{number}")).exists():
            number += 1
        folder.rename(aside)
    logger.info("--reset: what was in %s is now in %s", folder, aside)


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
    write_text(experiment.folder / "config.yaml", to_yaml(flatten(experiment.settings)))
    run = {"command": sys.argv, "python": platform.python_version(), "code": code_version(), "packages": packages()}
    runs_file = experiment.folder / "runs.json"
    runs: list[dict[str, Any]] = []
    with contextlib.suppress(OSError, ValueError):
        runs = json.loads(runs_file.read_text())
    if not runs or runs[-1] != run:
        write_text(runs_file, json.dumps([*runs, run], indent=1))
