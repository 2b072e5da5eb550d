"""Make an experiment's uncertainty mean what it says: factors a band, fitted on the validation split.

After it, nine of ten errors of that split lie within 1.64 standard deviations. The factors go into the checkpoint;
`--predict --uncertainty` applies them, and `--infer` reports coverage before and after.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tqdm import tqdm

from utils.cli import Parser, run
from utils.errors import CheckpointError, ConfigError, DataError

if TYPE_CHECKING:  # --help needs no torch
    from torch import Tensor

    from tasks.base import Task
    from tasks.experiment import Experiment
    from utils.config.settings import Settings
    from utils.dataloader import BreizhSRDataset
    from utils.distributed import World

STEP = 3  # every third row and column is enough, and meets each of the pixels that share one of the input


def parser() -> Parser:
    parsed = Parser(description=(__doc__ or "").splitlines()[0])
    parsed.add_argument("experiment", help="name below checkpoints/")
    parsed.add_argument("--ckpt", help="a step, or best (default: the newest)")
    parsed.add_argument("--split", default="val", help="what the factors are fitted on (default: val)")
    parsed.add_argument("--samples", type=int, default=8, help="as many as --predict will draw (default: 8)")
    parsed.add_argument("--limit", type=int, help="only the first so many patches")
    parsed.add_argument("--hparams", default="", help="overrides, as for tasks/trainer.py")
    parsed.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: auto)")
    return parsed


def errors_and_deviations(
    task: "Task", split: "BreizhSRDataset", *, settings: "Settings", here: "World", samples: int, limit: int | None
) -> "tuple[Tensor, Tensor]":
    """Errors of a split's pixels and the standard deviations that the model states for them, (C, N) each.

    Raises:
        ConfigError: the model states none.
    """
    import torch

    from tasks.evaluation.measure import super_resolve
    from utils.dataloader import evaluation_loader

    errors: list[Tensor] = []
    deviations: list[Tensor] = []
    loader = evaluation_loader(split, batch_size=settings.evaluation.test_batch_size, limit=limit)
    for raw in tqdm(loader, desc="calibration", unit="batch"):
        batch = split.to_batch(raw, here.device)
        result = super_resolve(task, batch, settings=settings, world=here, samples=samples)
        if result.deviation is None:
            raise ConfigError("this model states no uncertainty: train a backbone with --hparams uncertainty=laplace")
        for kept, values in ((errors, result.sr - batch.hr), (deviations, result.deviation)):
            kept.append(values[..., ::STEP, ::STEP].transpose(0, 1).flatten(1).float().cpu())
    if not errors:
        raise DataError("there is no patch to fit the factors on")
    return torch.cat(errors, dim=1), torch.cat(deviations, dim=1)


def calibrate(experiment: "Experiment", here: "World", *, split: str, samples: int, limit: int | None) -> str:
    """Fit the factors and write them into the checkpoint. Returns what was found, as text."""
    import torch

    from tasks import commands
    from tasks.experiment import locked
    from utils.checkpoint import write
    from utils.metrics.calibration import COVERED, FAMILIES, best_family, coverage

    saved, settings = experiment.saved, experiment.settings
    task = commands.trained_task(experiment)
    if saved is None:
        raise CheckpointError(f"{experiment.folder}: nothing is trained, so nothing can be calibrated")
    if task.is_stochastic and samples < 2:
        raise ConfigError(f"--samples {samples}: a spread needs at least 2")
    data = commands.dataset(settings, split)
    commands.check_normalisation(saved, data)
    here.place(task, amp=settings.training.amp)
    task.eval()
    error, deviation = errors_and_deviations(
        task, data, settings=settings, here=here, samples=samples if task.is_stochastic else 1, limit=limit
    )
    family, factors = best_family(error, deviation)
    with locked(experiment.folder):
        kept = {"factors": factors, "family": family, "split": split, "samples": samples, "pixels": error.shape[1]}
        write(saved.path, {**saved.content, "calibration": kept})
    lines = [f"{saved.path}: {family} distributions, factors {', '.join(f'{factor:.3f}' for factor in factors)}"]
    scaled = deviation * torch.tensor(factors)[:, None]
    for words, stated in (("before", deviation), ("after", scaled)):
        shares = zip(COVERED, coverage(error, stated, family=FAMILIES[family]).tolist(), strict=True)
        lines.append(f"{words}: " + ", ".join(f"{share:.1%} of errors in {level:.0%}" for level, share in shares))
    return "\n".join(lines) + "\n"


def main(options: argparse.Namespace) -> None:
    from tasks.experiment import open_experiment
    from utils.distributed import world

    name = options.experiment.rstrip("/").removeprefix("checkpoints/")
    with world(options.device) as here:
        experiment = open_experiment(
            config=Path("checkpoints") / name / "config.yaml", name=name, hparams=options.hparams, ckpt=options.ckpt
        )
        sys.stdout.write(calibrate(experiment, here, split=options.split, samples=options.samples, limit=options.limit))


if __name__ == "__main__":
    run(main, parser())
