"""An experiment: all that is on disk about it, read once into one value; its folder, its lock, its record."""

import contextlib
import fcntl
import json
import logging
import platform
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tasks.build import conditioner_without_weights, is_conditioned
from utils.checkpoint import EXPORTED, Saved, checkpoints, is_empty, is_exported, open_saved
from utils.cli import code_version, packages
from utils.config import parse
from utils.config.parse import Flat, flatten, read_file, settings_from, translate
from utils.config.settings import ARCHITECTURE, DECIDED_AT_START, Model, Settings
from utils.errors import CheckpointError, ConfigError
from utils.files import write_text
from utils.geo.bands import RGB

ROOT = Path("checkpoints")
PACKAGED = Path(__file__).resolve().parents[1] / "checkpoints"  # models that come with the project
STARTER = "starter/hr_ltae"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Experiment:
    """What a command works with. Nothing of it is read from disk again."""

    name: str  # the folder's below checkpoints/
    folder: Path  # where all that the experiment writes goes
    settings: Settings  # the configuration that holds, of srdiff with its conditioner's description
    steps: tuple[int, ...] = ()  # of the checkpoints that the folder held when it was opened
    saved: Saved | None = None  # the trained model
    conditioner: Saved | None = None  # the backbone that a new srdiff training starts from
    init_from: Saved | None = None  # the model whose weights a new training starts from


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
    folder = ROOT / name
    if not Path(name).parts or Path(name).is_absolute() or ".." in Path(name).parts:
        raise ConfigError(f"--exp_name {name!r} must be a path below {ROOT}/")
    overrides = parse.parse_hparams(hparams)
    exported = None if config.suffix == ".yaml" or not config.is_file() else open_saved(config)
    if exported is not None and exported.content.get("kind") != EXPORTED:
        raise CheckpointError(f"--config {config} is neither a YAML file nor an exported model")
    standing = translate((exported.config or {}) if exported else _read(config), source=str(config))
    asked = flatten(settings_from(standing, source=str(config)))
    saved_file = folder / "config.yaml"
    if saved_file.is_file() and exported is None and not reset and saved_file.resolve() != config.resolve():
        asked = {key: value for key, value in asked.items() if key in standing}
        standing = translate(read_file(saved_file), source=str(saved_file))
        _compare(asked, standing, overrides, config=config, folder=folder)
    source = f"{config} with --hparams" if overrides else str(config)
    settings = settings_from(parse.merge(standing, overrides), source=source)
    saved = None if reset else _trained(folder, ckpt, exported)
    conditioner = init_from = None
    if saved is not None:
        settings = with_bands(settings, saved.content.get("bands", RGB))
    elif is_conditioned(settings):
        model, conditioner = _conditioner(settings)
        settings = replace(settings, backbone=model)
    if saved is None and settings.training.init_from:
        init_from = open_saved(model_path(settings.training.init_from))
    return Experiment(name, folder, settings, tuple(checkpoints(folder)), saved, conditioner, init_from)


def with_bands(settings: Settings, bands: Sequence[str]) -> Settings:
    """The settings with these bands, where they name none."""
    return replace(settings, data=replace(settings.data, bands=settings.data.bands or tuple(bands)))


def model_path(name: str) -> Path:
    """Where a model lies: a path, or the name of an experiment, or of a model that comes with the project."""
    places = (Path(name), ROOT / name, PACKAGED / name)
    return next((place for place in places if place.exists()), places[0])


def saved_settings(saved: Saved) -> Settings:
    """The configuration of a saved model. Raises CheckpointError where there is none, ConfigError for a bad one."""
    if saved.config is None:
        raise CheckpointError(f"{saved.path}: no config.yaml beside it says what model it is")
    source = f"configuration of {saved.path}"
    return settings_from(translate(saved.config, source=source), source=source)


def _read(config: Path) -> Flat:
    """A configuration; the one that an experiment saved is resolved already, so its bases are not looked for."""
    saved = config.name == "config.yaml" and (ROOT.resolve() in config.resolve().parents or not is_empty(config.parent))
    return read_file(config) if saved else parse.load_chain(config)


def _trained(folder: Path, ckpt: str | None, exported: Saved | None) -> Saved | None:
    """The model that is meant, where there is one."""
    if ckpt is not None and not ckpt.isdigit() and ckpt != "best":
        return open_saved(Path(ckpt))
    if exported is not None:
        return exported
    if ckpt is None and is_empty(folder) and not is_exported(folder):
        return None
    return open_saved(folder, which=ckpt or "newest")


def _conditioner(settings: Settings) -> tuple[Model, Saved | None]:
    """The conditioning backbone as its own experiment describes it, and its weights."""
    diffusion = settings.diffusion
    if not diffusion.rrdb_ckpt:
        return conditioner_without_weights(settings), None
    saved = open_saved(model_path(diffusion.rrdb_ckpt))
    described = saved_settings(saved)
    name, scale = described.model.trainer_cls, described.data.sr_scale
    if diffusion.conditioner and diffusion.conditioner != name:
        raise ConfigError(
            f"rrdb_ckpt {saved.path} is {name}, but conditioner is {diffusion.conditioner}: "
            f"use the configuration for {name}, or --hparams conditioner={name}"
        )
    if scale != settings.data.sr_scale:
        raise ConfigError(f"rrdb_ckpt {saved.path} has sr_scale {scale}, not {settings.data.sr_scale}")
    own = {name: value for name, value in saved.state.items() if not name.startswith("scale_head.")}
    return described.model, replace(saved, state=own)


def _compare(asked: Flat, standing: Flat, overrides: Flat, *, config: Path, folder: Path) -> None:
    """Say, or refuse, what the experiment would do differently from what was asked for.

    An override that leaves to ``auto`` what is decided already is taken out.
    """
    was = flatten(settings_from(standing, source=str(folder / "config.yaml")))
    typed = flatten(settings_from(overrides, source="--hparams"))
    wanted = {**asked, **{key: typed[key] for key in overrides if key in typed}}
    kept = []
    for key, value in wanted.items():
        given = key in overrides
        if value == was.get(key) or key == "backbone":
            continue
        if key in DECIDED_AT_START and value == "auto":
            if key in standing:
                overrides.pop(key, None)
        elif key in ARCHITECTURE and not (given and is_empty(folder)):
            raise ConfigError(
                f"{'--hparams' if given else config}: {key} is {value}, but {folder} has {was.get(key)}; "
                "choose another --exp_name, or --reset to start over"
            )
        elif not given:
            kept.append(f"{key}={was.get(key)} (not {value})")
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
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            what = f"another process is writing {folder}"
            raise ConfigError(f"{what}; wait for it or choose another --exp_name") from None
        yield


def record(experiment: Experiment) -> None:
    """Save the resolved configuration, and with what it was run."""
    write_text(experiment.folder / "config.yaml", parse.to_yaml(flatten(experiment.settings)))
    run = {"command": sys.argv, "python": platform.python_version(), "code": code_version(), "packages": packages()}
    runs_file = experiment.folder / "runs.json"
    runs: list[dict[str, Any]] = []
    with contextlib.suppress(OSError, ValueError):
        runs = json.loads(runs_file.read_text())
    if not runs or runs[-1] != run:
        write_text(runs_file, json.dumps([*runs, run], indent=1))
