"""Write one file that --infer, --predict, rrdb_ckpt and init_from take in place of an experiment's folder."""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.cli import VERSION, Parser, code_version, packages, run
from utils.errors import UserError
from utils.geo.bands import RGB

# What only this machine or training needs: a model travels without.
_LEFT_OUT = ("data_root", "rrdb_ckpt", "init_from", "lpips_weights", "vgg_weights", "aux_percep_loss")


def parser() -> Parser:
    parsed = Parser(description=__doc__ or "")
    parsed.add_argument("experiment", type=Path, help="an experiment's folder or one of its checkpoints")
    parsed.add_argument("model", type=Path, help="the file to write")
    parsed.add_argument("--ckpt", default="newest", help="a step, or best (default: the newest)")
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
    content = {
        "kind": EXPORTED,
        "format_version": FORMAT_VERSION,
        "config": {key: value for key, value in flatten(settings).items() if key not in _LEFT_OUT},
        "state_dict": saved.state,
        "averaged": saved.averaged,
        "global_step": saved.global_step,
        "maxima": saved.content.get("maxima"),
        "calibration": saved.content.get("calibration"),
        "bands": saved.content.get("bands", list(RGB)),
        "version": VERSION,
        "provenance": {"checkpoint": str(saved.path), "code": code_version(), "packages": packages()},
    }
    try:
        write(options.model, content)
    except OSError as error:
        raise UserError(f"{options.model} can't be written: {error}") from None
    weights = "averaged weights" if saved.averaged else "weights"
    sys.stdout.write(f"{options.model}: {weights} of step {saved.global_step} of {saved.path}\n")


if __name__ == "__main__":
    run(main, parser())
