"""Checkpoints: written aside, checked when read, and never trusted.

`model_ckpt_steps_<N>.ckpt` is a dict `global_step`, `optimizer_states` (list of one), `state_dict` = {"model": ...}, as
the reference implementation writes it, and besides `format_version`, `ema` (averaged weights), `log` (what the training
log has summed up since its last row).
Files are read with `weights_only=True`: no file can run code.
"""

import contextlib
import logging
import math
import pickle
import re
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor, nn

from utils.config.parse import Flat, read_file
from utils.errors import CheckpointError
from utils.files import archive_fault, atomic_write
from utils.geo.bands import RGB, described_bands

FORMAT_VERSION = 1
EXPORTED = "super-resolution model"  # the `kind` of an exported file
EXPORTED_FILE = "model.pt"  # an exported model that stands in for the checkpoints of a folder
BEST = "model_ckpt_best.ckpt"
_NAME = re.compile(r"model_ckpt_steps_(\d+)\.ckpt")

State = dict[str, Tensor]

logger = logging.getLogger(__name__)


class DamagedCheckpoint(CheckpointError):
    """The bytes of a file are not those that were written."""


@dataclass(frozen=True)
class Saved:
    """A model as it was found on disk."""

    path: Path
    global_step: int
    state: State
    averaged: bool  # the state is the averaged weights
    config: Flat | None  # the configuration beside or inside it, where there is one
    content: dict[str, Any]  # the whole checkpoint

    @property
    def factors(self) -> list[float] | None:
        """Of a calibration, one a band."""
        calibration = self.content.get("calibration")
        return calibration["factors"] if calibration else None


def file_name(step: int) -> str:
    return f"model_ckpt_steps_{step}.ckpt"


def checkpoints(folder: Path) -> dict[int, Path]:
    """The checkpoints of a folder by step, in rising order; the best one is apart."""
    files = [path for path in folder.glob("*.ckpt") if path.is_file()]
    found = {int(match[1]): path for path in files if (match := _NAME.fullmatch(path.name))}
    return dict(sorted(found.items()))


def is_empty(folder: Path) -> bool:
    """Whether a folder holds no checkpoint to go on from."""
    return not checkpoints(folder) and not (folder / BEST).is_file()


def is_exported(folder: Path) -> bool:
    """Whether a folder's only model is an exported one."""
    return (folder / EXPORTED_FILE).is_file() and is_empty(folder)


def write(path: Path, content: dict[str, Any]) -> None:
    """Save aside, flush, rename: the file of this name is always a whole one. Raises OSError on a full disk."""
    with atomic_write(path) as aside, aside.open("wb") as file:
        try:
            torch.save(content, file)  # not by its name, which would end up in the file
        except RuntimeError as error:  # torch's zip writer reports a failed write this way
            raise OSError(f"writing {path.name} failed, as on a full disk") from error


def _damage(path: Path) -> str | None:
    """What is wrong with the bytes of a file: torch itself does not compare the checksums it stores."""
    try:
        if path.stat().st_size == 0:
            return "is empty"
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if fault := archive_fault(archive, size=path.stat().st_size):
                    return fault
                broken = archive.testzip()
            return f"is damaged (checksum of {broken})" if broken else None
    except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError, ValueError, EOFError) as error:
        return f"is damaged ({error})"
    return None


def read(path: Path) -> dict[str, Any]:
    """A file as plain tensors, numbers and words. Raises CheckpointError; nothing from the file is run."""
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} doesn't exist")
    if damage := _damage(path):
        raise DamagedCheckpoint(f"checkpoint {path} {damage}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of pickle protocols that others write
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported operand" in str(error):  # no instruction of any pickle
            raise DamagedCheckpoint(f"checkpoint {path} is damaged (its pickle breaks off or is garbled)") from None
        reason = re.search(r"(?:Unsupported|GLOBAL|global|class)\s[^\n]{0,120}", str(error))
        raise CheckpointError(f"checkpoint {path} is refused: {reason[0] if reason else 'not plain tensors'}") from None
    except MemoryError:
        raise CheckpointError(f"checkpoint {path} claims more memory than there is") from None
    except Exception as error:  # a damaged pickle can raise anything; none of it is ours to tell apart
        raise DamagedCheckpoint(f"checkpoint {path} is damaged ({type(error).__name__}: {str(error)[:120]})") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"checkpoint {path} holds no dictionary")
    version = content.get("format_version", 0)
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise CheckpointError(f"checkpoint {path} has format {version}, newer than this code ({FORMAT_VERSION})")
    return content


def read_training(path: Path) -> dict[str, Any]:
    """A training checkpoint, its parts in place. Raises CheckpointError where one is missing or of another kind."""
    content = read(path)
    _check(content, _Training, path, what="training checkpoint")
    return content


def _plain(x: Tensor) -> Tensor:
    if x.layout != torch.strided or x.device.type != "cpu" or x.is_complex() or x.is_quantized:
        raise ValueError("is no plain tensor of real numbers")
    return x


_Plain = Annotated[Tensor, AfterValidator(_plain)]
_Maximum = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, arbitrary_types_allowed=True)


class _Calibration(_Strict):
    """What tasks/calibrate.py found: factors on the standard deviations that the model states."""

    factors: list[_Maximum] = Field(min_length=1)
    family: Literal["normal", "laplace"]


class _Content(_Strict):
    """What any saved model holds; more may stand beside it."""

    global_step: int = Field(ge=0, lt=2**31)
    calibration: _Calibration | None = None
    bands: list[str] = list(RGB)  # of files of earlier versions
    maxima: list[_Maximum] | None = None

    @model_validator(mode="after")
    def _one_maximum_a_band(self) -> Self:
        if described_bands(self.bands) != tuple(self.bands):
            raise ValueError("its bands are not different bands of Sentinel-2")
        if self.maxima is not None and len(self.maxima) != len(self.bands):
            raise ValueError(f"its normalisation (maxima) is not {len(self.bands)} numbers, one a band")
        return self


class _Weights(_Strict):
    model: dict[str, _Plain]


class _Log(_Strict):
    """What the training log has summed up since its last row: names of the loss terms, their sums (n,)."""

    names: list[str] = []
    summed: _Plain | None = None

    @model_validator(mode="after")
    def _one_row(self) -> Self:
        if self.summed is not None and self.summed.dim() != 1:
            raise ValueError("summed must be one row")
        return self


class _Training(_Content):
    state_dict: _Weights
    ema: dict[str, _Plain] | None = None
    log: _Log = _Log()

    @model_validator(mode="after")
    def _same_weights(self) -> Self:
        if self.ema is not None and _shapes(self.ema) != _shapes(self.state_dict.model):
            raise ValueError("its averaged weights (ema) are not those of its model")
        return self


class _Exported(_Content):
    config: dict[str, Any]
    state_dict: dict[str, _Plain]
    averaged: bool = False


def _check(content: dict[str, Any], kind: type[_Content], path: Path, *, what: str) -> None:
    try:
        kind.model_validate(content)
    except ValidationError as error:
        wrong = error.errors()[0]
        part = ".".join(map(str, wrong["loc"]))
        raise CheckpointError(f"{path} is no {what}: {part or 'content'}: {wrong['msg']}") from None


def _shapes(state: State) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in state.items()}


def newest(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The newest whole checkpoint; damaged ones are passed over with a warning, the best one is the last resort.

    Raises CheckpointError where none is readable.
    """
    candidates = [*reversed(checkpoints(folder).values()), folder / BEST]
    present = [path for path in candidates if path.is_file()]
    for path in present:
        try:
            return path, read_training(path)
        except DamagedCheckpoint as error:
            logger.warning("%s; trying the one before", error)
    if present:
        raise CheckpointError(f"no checkpoint in {folder} is readable; --reset starts over")
    raise CheckpointError(f"{folder} holds no checkpoint (model_ckpt_steps_<N>.ckpt)")


def set_damaged_aside(folder: Path, *, after: int) -> None:
    """Rename the checkpoints of steps after ``after``, which were not readable: none is taken for the newest again."""
    for step, path in checkpoints(folder).items():
        if step > after:
            path.rename(path.with_name(path.name + ".damaged"))


def prune(folder: Path, *, keep: int) -> None:
    """Remove the checkpoints of the earliest steps beyond ``keep``."""
    for path in list(checkpoints(folder).values())[:-keep]:
        path.unlink(missing_ok=True)


def open_saved(source: Path, *, which: str = "newest") -> Saved:
    """A model from an experiment's folder, a checkpoint file or an exported model.

    ``which`` chooses in a folder: "newest", "best", or a step. Averaged weights are taken where there are any.
    Raises CheckpointError where there is nothing to take.
    """
    source = source / EXPORTED_FILE if is_exported(source) else source
    path, content = _from_folder(source, which=which) if source.is_dir() else (source, read(source))
    if content.get("kind") == EXPORTED:
        _check(content, _Exported, path, what="exported model")
        averaged = content.get("averaged", False)
        return Saved(path, content["global_step"], content["state_dict"], averaged, content["config"], content)
    content = content if source.is_dir() else read_training(path)
    averaged = content.get("ema") is not None
    state = content["ema"] if averaged else content["state_dict"]["model"]
    beside = path.parent / "config.yaml"
    config = read_file(beside) if beside.is_file() else None
    return Saved(path, content["global_step"], state, averaged, config, content)


def _from_folder(folder: Path, *, which: str) -> tuple[Path, dict[str, Any]]:
    if which == "newest":
        return newest(folder)
    if which != "best" and not (which.isascii() and which.isdigit()):
        raise CheckpointError(f"which checkpoint of {folder}? newest, best or a step, not {which!r}")
    path = folder / (BEST if which == "best" else file_name(int(which)))
    if not path.is_file():
        known = ", ".join(str(step) for step in checkpoints(folder)) or "none"
        raise CheckpointError(f"{folder} holds no checkpoint {which!r}; steps there: {known}")
    return path, read_training(path)


def load_weights(model: nn.Module, state: State, *, source: Path) -> str:
    """Load every weight, or raise CheckpointError naming what doesn't fit. Returns what was loaded, in one line."""
    own = model.state_dict()
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    reshaped = [
        f"{name} {tuple(state[name].shape)} for {tuple(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    retyped = [name for name in own if name in state and not _of_a_kind(state[name], own[name])]
    wrong = {"missing": missing, "unexpected": unexpected, "of another shape": reshaped, "of another type": retyped}
    problems = [
        f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for what, names in wrong.items()
        if names
    ]
    if problems:
        raise CheckpointError(f"{source} doesn't fit this configuration: {'; '.join(problems)}")
    model.load_state_dict(state)
    return f"{len(own)} of {len(own)} tensors from {source}"


def _of_a_kind(a: Tensor, b: Tensor) -> bool:
    return a.is_floating_point() == b.is_floating_point()


def load_matching(model: nn.Module, state: State) -> tuple[list[str], list[str], list[str]]:
    """Load what fits, for fine-tuning. Returns names loaded, left as initialised, and not used."""
    own = model.state_dict()
    fitting = {
        name: value
        for name, value in state.items()
        if name in own and own[name].shape == value.shape and _of_a_kind(value, own[name])
    }
    model.load_state_dict(fitting, strict=False)
    return list(fitting), [name for name in own if name not in fitting], [n for n in state if n not in fitting]


def load_optimizer(optimizer: torch.optim.Optimizer, content: dict[str, Any], *, source: Path) -> None:
    """Restore Adam's state, which is indexed by the order of parameters.

    The file may list parameters beyond ours that hold no state: the reference implementation does so for a fixed
    conditioner. Learning rate and other options stay ours: they follow from the configuration.
    """
    states = content.get("optimizer_states")
    own = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    saved = states[0].get("state") if isinstance(states, list) and states and isinstance(states[0], dict) else None
    if not isinstance(saved, dict):
        raise CheckpointError(f"{source} holds no optimiser state")
    beyond = [index for index in saved if not isinstance(index, int) or not 0 <= index < len(own)]
    if beyond:
        raise CheckpointError(f"{source}: optimiser state for parameter {beyond[0]}, of {len(own)} that are trained")
    for index, entry in saved.items():
        try:
            moments = _Moments.model_validate(entry)
        except ValidationError:
            raise CheckpointError(f"{source}: optimiser state of parameter {index} is not that of Adam") from None
        for value in (moments.exp_avg, moments.exp_avg_sq):
            if value.shape != own[index].shape or not value.is_floating_point():
                raise CheckpointError(
                    f"{source}: optimiser state of parameter {index} has shape {tuple(value.shape)}, "
                    f"not {tuple(own[index].shape)}"
                )
    optimizer.load_state_dict({"state": saved, "param_groups": optimizer.state_dict()["param_groups"]})
    for parameter, entry in optimizer.state.items():
        for name, value in entry.items():
            # Its own copy, in the parameter's memory format, which may have changed.
            entry[name] = torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value.clone()


class _Moments(_Strict):
    """Adam's state of one parameter; the step is a number, by itself or as a tensor."""

    exp_avg: _Plain
    exp_avg_sq: _Plain
    step: _Plain | int | float

    @model_validator(mode="after")
    def _counts(self) -> Self:
        is_flag = isinstance(self.step, Tensor) and (self.step.dim() != 0 or self.step.dtype == torch.bool)
        if is_flag or not 0 <= float(self.step) < math.inf:
            raise ValueError("step must be a number from 0")
        return self


def remove_leftovers(folder: Path) -> None:
    """Files aside of a process that was killed while it saved a checkpoint."""
    for path in folder.glob(".model_ckpt_*.tmp"):
        with contextlib.suppress(OSError):
            path.unlink()
