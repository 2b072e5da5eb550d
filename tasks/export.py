"""Write one file that --infer, --predict, rrdb_ckpt and init_from take in place of an experiment's folder."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.cli import VERSION, Parser, code_version, packages, run
from utils.errors import ConfigError, UserError
from utils.geo.bands import RGB

if TYPE_CHECKING:
    from utils.checkpoint import State
    from utils.config.settings import Settings

# What only this machine or training needs: a model travels without.
_LEFT_OUT = ("data_root", "data_weights", "rrdb_ckpt", "init_from", "lpips_weights", "vgg_weights", "aux_percep_loss")


def parser() -> Parser:
    parsed = Parser(description=__doc__ or "")
    parsed.add_argument("experiment", type=Path, help="an experiment's folder or one of its checkpoints")
    parsed.add_argument("model", type=Path, help="the file to write")
    parsed.add_argument("--ckpt", default="newest", help="a step, or best (default: the newest)")
    parsed.add_argument(
        "--damping", type=float, default=1.0, metavar="0..1",
        help="of a model with base_residual: how much of its difference to the bicubic image is kept (default 1)",
    )  # fmt: skip
    parsed.add_argument("--overwrite", action="store_true", help="replace the file if it exists")
    return parsed


def main(options: argparse.Namespace) -> None:
    """Averaged weights where there are any, configuration, normalisation, provenance; plain tensors."""
    from tasks.experiment import saved_settings  # late: --help needs no torch
    from utils.checkpoint import EXPORTED, FORMAT_VERSION, open_saved, write
    from utils.config.parse import flatten

    if options.model.exists() and not options.overwrite:
        raise UserError(f"{options.model} exists; --overwrite replaces it")
    saved = open_saved(options.experiment, which=options.ckpt)
    settings = saved_settings(saved)
    state = saved.state if options.damping == 1 else damped(saved.state, settings, options.damping)
    content = {
        "kind": EXPORTED,
        "format_version": FORMAT_VERSION,
        "config": {key: value for key, value in flatten(settings).items() if key not in _LEFT_OUT},
        "state_dict": state,
        "damping": options.damping,
        "averaged": saved.averaged,
        "global_step": saved.global_step,
        "maxima": saved.content.get("maxima"),
        "calibration": saved.content.get("calibration"),
        "bands": saved.content.get("bands", list(RGB)),
        "version": VERSION,
        "provenance": {"checkpoint": saved.path.name, "code": code_version(), "packages": packages()},
    }
    try:
        write(options.model, content)
    except OSError as error:
        raise UserError(f"{options.model} can't be written: {error}") from None
    weights = "averaged weights" if saved.averaged else "weights"
    sys.stdout.write(f"{options.model}: {weights} of step {saved.global_step} of {saved.path}\n")


def damped(state: State, settings: Settings, damping: float) -> State:
    """The weights of a network whose difference to the bicubic image is so many times as large."""
    if not settings.model.base_residual or not 0 < damping <= 1:
        raise ConfigError("--damping lies above 0 and up to 1, and is for models with base_residual")
    last = {f"{layer}.{kind}" for layer in ("final", "conv_last") for kind in ("weight", "bias")}
    scaled = {name for name in state if ".".join(name.split(".")[-2:]) in last and name.startswith("decode")}
    scaled |= {name for name in state if name.startswith("conv_last.")}
    return {name: value * damping if name in scaled else value for name, value in state.items()}


if __name__ == "__main__":
    run(main, parser())
