"""What the command line can do: each function takes the parsed options and puts the parts together."""

import argparse
import contextlib
import os
import sys
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

from tasks.base import Task
from tasks.build import SRDIFF, build_task, resolve_conditioner
from tasks.evaluation.evaluate import VALIDATION_FIGURES, Validation, evaluate
from tasks.evaluation.results import Evaluated
from tasks.experiment import Experiment, Report, locked, move_aside, open_experiment, record
from tasks.scenes import predict as scenes
from tasks.srdiff import SRDiffTask
from tasks.super_resolver import SuperResolver
from tasks.training.checkpoints import CheckpointManager
from tasks.training.loop import fit
from tasks.training.state import TrainState
from tasks.training.summary import describe as description
from utils.checkpoint import Saved, is_empty, load_matching, load_weights, open_saved
from utils.config.settings import Settings
from utils.dataloader import BreizhSRDataset
from utils.distributed import World, explain_out_of_memory
from utils.errors import CheckpointError, ConfigError, DataError, UserError
from utils.metrics.lpips import load_lpips
from utils.randomness import Stream, seed_of


def reporter(world: World) -> Report:
    """One line on stderr, from the main process only."""

    def report(line: str) -> None:
        if world.is_main:
            tqdm.write(line, file=sys.stderr)  # above a status line, if there is one

    return report


def _open(options: argparse.Namespace, world: World) -> Experiment:
    return open_experiment(
        config=options.config,
        name=options.exp_name,
        hparams=options.hparams,
        reset=options.reset,
        report=reporter(world),
    )


def dataset(settings: Settings, split: str) -> BreizhSRDataset:
    """A split of the configured data set. Raises ConfigError where it is not named or has another scale."""
    data = settings.data
    root = data.data_root or os.environ.get("BREIZHSR_ROOT", "")
    if not root:
        raise ConfigError("no data: set the hparam data_root or the environment variable BREIZHSR_ROOT")
    opened = BreizhSRDataset(
        root,
        split,
        sen2_amount=data.sen2_amount,
        spectral_matching=data.spectral_matching,
        target_offset_days=data.target_offset_days,
    )
    if opened.scale != data.sr_scale:
        raise ConfigError(
            f"sr_scale is {data.sr_scale}, but {root} holds truths {opened.scale} times as fine as the input"
        )
    return opened


# Training


def train(options: argparse.Namespace, world: World) -> None:
    """Start or resume a training run."""
    report = reporter(world)
    _refuse_evaluation_options(options)
    experiment = _open(options, world)
    settings = experiment.settings
    training = settings.training
    if experiment.weights != experiment.folder:
        raise ConfigError(f"{options.config} goes with --infer or --predict; to train on, use --hparams init_from=FILE")
    if training.batch_size % world.size:
        raise ConfigError(f"batch_size {training.batch_size} can't be shared by {world.size} processes")
    if training.valid_monitor_key not in VALIDATION_FIGURES:
        raise ConfigError(f"valid_monitor_key must be one of {', '.join(VALIDATION_FIGURES)}")
    world.barrier()  # all have read what was saved
    if options.reset and world.is_main:
        move_aside(experiment.folder, report=report)
    with _lock(experiment, world):
        is_new = world.from_main(is_empty(experiment.folder))
        torch.manual_seed(seed_of(Stream.START, training.seed))  # initial weights
        if is_new:
            task, settings, sources = _new_task(settings, report=report)
        else:
            task, sources = build_task(settings), []
        if not task.trainable():
            raise ConfigError(f"{settings.model.trainer_cls} has nothing to train: use --infer")
        experiment = experiment.with_settings(settings)
        train_data = dataset(settings, "train")
        for source in sources:
            check_normalisation(source, train_data)
        validation = _validation(settings, world, report=report)
        if world.is_main:
            record(experiment)
        state = TrainState(task, settings, data=train_data, world=world, report=report)
        manager = CheckpointManager(experiment.folder, training, world=world, report=report)
        if not is_new:
            manager.resume(state)
        fit(state, manager, name=experiment.name, validation=validation, report=report)


def describe(options: argparse.Namespace, world: World) -> None:
    """Print what would be trained."""
    experiment = _open(options, world)
    settings = experiment.settings
    if settings.backbone is None:
        task, settings, _ = _new_task(settings, report=reporter(world))
    else:
        task = build_task(settings)
    size = None
    with contextlib.suppress(UserError):  # without the data the size of BreizhSR's patches is assumed
        size = dataset(settings, "train").lr_size
    if world.is_main:
        sys.stdout.write(description(task, settings, world, lr_size=size))


def _refuse_evaluation_options(options: argparse.Namespace) -> None:
    if options.ckpt or options.limit or options.split != "test":
        raise ConfigError("--ckpt, --limit and --split go with --infer")


def _lock(experiment: Experiment, world: World) -> contextlib.AbstractContextManager:
    return locked(experiment.folder) if world.is_main else contextlib.nullcontext()


def _new_task(settings: Settings, *, report: Report) -> tuple[Task, Settings, list[Saved]]:
    """A freshly initialised task, and what it started from: a conditioner and `init_from` are read now, never again."""
    sources = []
    if settings.model.trainer_cls != SRDIFF:
        task = build_task(settings)
    else:
        conditioner = resolve_conditioner(settings, report=report)
        settings = replace(settings, backbone=conditioner.model)
        task = build_task(settings)
        if conditioner.saved is not None and conditioner.state is not None and isinstance(task, SRDiffTask):
            report("conditioner: " + loaded(task.model.rrdb, conditioner.saved))
            sources.append(conditioner.saved)
    if settings.training.init_from:
        saved = open_saved(Path(settings.training.init_from), report=report)
        fitting, fresh, unused = load_matching(task.model, saved.state)
        if not fitting:
            raise CheckpointError(f"init_from {saved.path}: none of its {len(unused)} tensors fits this model")
        report(
            f"init_from {saved.path}: {len(fitting)} tensors loaded; new: {_names(fresh)}; not used: {_names(unused)}"
        )
        sources.append(saved)
    return task, settings, sources


def _names(names: list[str]) -> str:
    return f"{len(names)} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else "none"


def loaded(model: torch.nn.Module, saved: Saved) -> str:
    """Load a saved model; what was loaded, in one line."""
    line = load_weights(model, saved.state, source=saved.path)
    return f"{line}, step {saved.global_step}{', averaged weights' if saved.averaged else ''}"


def _validation(settings: Settings, world: World, *, report: Report) -> Validation | None:
    try:
        split = dataset(settings, "val")
    except DataError as error:
        report(f"no validation: {error}")
        return None
    if not len(split):
        report("no validation: its split is empty")
        return None
    if settings.model.trainer_cls == SRDIFF:
        steps = min(settings.diffusion.val_sampler_steps, settings.diffusion.timesteps)
        report(f"validation samples with {steps} steps of ddpm (val_sampler_steps), --infer as sampler says")
    return Validation(split, settings=settings, world=world)


# Evaluation


def infer(options: argparse.Namespace, world: World) -> None:
    """Evaluate a split of the data with a trained model."""
    report = reporter(world)
    if options.reset or options.dry_run:
        raise ConfigError("--reset and --dry_run go with training, not with --infer")
    if options.limit is not None and options.limit < 1:
        raise ConfigError(f"--limit must be at least 1, not {options.limit}")
    experiment = _open(options, world)
    task, saved = trained_task(experiment, options.ckpt, report=report)
    settings = experiment.settings
    split = dataset(settings, options.split)
    if saved is not None:
        check_normalisation(saved, split)
    lpips = load_lpips(settings.evaluation.lpips_weights or None)
    if lpips is None:
        report("LPIPS is left empty: its weights are not here and could not be downloaded (set lpips_weights)")
    evaluated = Evaluated(
        experiment=experiment.name,
        folder=experiment.folder,
        checkpoint=str(saved.path) if saved else "",
        global_step=saved.global_step if saved else 0,
        averaged=bool(saved and saved.averaged),
        split=options.split,
    )
    with explain_out_of_memory("test_batch_size", settings.evaluation.test_batch_size, device=world.device):
        summary = evaluate(
            task,
            split,
            evaluated,
            settings=settings,
            world=world,
            lpips=lpips.to(world.device) if lpips else None,
            limit=options.limit,
        )
    if summary is not None:
        sys.stdout.write(table({"bicubic": summary["bicubic"], experiment.name: summary["metrics"]}))
        sys.stdout.write(
            f"pictures: {experiment.folder / 'comparison.png'}\nreport: {experiment.folder / 'report.html'}\n"
        )


# Whole scenes


def predict(options: argparse.Namespace, world: World) -> None:
    """Super-resolve rasters into one georeferenced image."""
    if options.infer or options.reset or options.dry_run:
        raise ConfigError("--predict goes without --infer, --reset and --dry_run")
    report = reporter(world)
    experiment = _open(options, world)
    task, saved = trained_task(experiment, options.ckpt, report=report)
    maxima = saved.content.get("maxima") if saved else None
    predictor = SuperResolver(task, experiment.settings, maxima=maxima, world=world)
    source = f"{saved.path.name} of {experiment.name}, step {saved.global_step}" if saved else experiment.name
    output = scenes.predict_from_options(
        options, predictor, world, checkpoint=source, seed=experiment.settings.training.seed
    )
    if world.is_main:
        sys.stdout.write(f"{output}\n")


def trained_task(experiment: Experiment, which: str | None, *, report: Report) -> tuple[Task, Saved | None]:
    """The experiment's task with trained weights; None where there is nothing to train."""
    task = build_task(experiment.settings)
    if not list(task.model.parameters()):
        return task, None
    source, choice = experiment.weights, "newest"
    if which is not None:
        source, choice = (source, which) if which.isdigit() or which == "best" else (Path(which), "newest")
    if not source.exists():
        raise CheckpointError(f"{source} doesn't exist: train the experiment first, or give --ckpt FILE")
    saved = open_saved(source, which=choice, report=report)
    report("model: " + loaded(task.model, saved))
    return task, saved


def check_normalisation(saved: Saved, data: BreizhSRDataset) -> None:
    """A model sees reflectance through the maxima that it was trained with."""
    maxima = saved.content.get("maxima")
    if maxima is not None and list(maxima) != list(data.maxima):
        raise DataError(
            f"{saved.path} was trained with normalisation {list(maxima)}, but the data was prepared with "
            f"{list(data.maxima)}: prepare it with `preprocess_data.py --maxima {' '.join(map(str, maxima))}`"
        )


def table(columns: dict[str, dict[str, dict[str, float | None]]]) -> str:
    """Mean metrics as text: a row a model."""
    names = ("psnr", "ssim", "lpips", "mae", "shift_mae")
    width = max(map(len, columns))
    lines = [" " * width + "".join(f"{name:>11}" for name in names)]
    for title, figures in columns.items():
        cells = [figures.get(name, {}).get("mean") for name in names]
        lines.append(f"{title:<{width}}" + "".join(f"{'-' if cell is None else f'{cell:.4f}':>11}" for cell in cells))
    return "\n".join(lines) + "\n"
