"""What the command line can do: each function takes the parsed options and puts the parts together."""

import argparse
import contextlib
import logging
import os
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from tasks.base import Task, blank_batch, blank_loss
from tasks.build import build_task
from tasks.evaluation.evaluate import VALIDATION_FIGURES, Validation, evaluate
from tasks.evaluation.results import Evaluated
from tasks.experiment import PACKAGED, STARTER, Experiment, locked, move_aside, open_experiment, record, with_bands
from tasks.super_resolver import SuperResolver
from tasks.training.state import TrainState, decided
from utils.checkpoint import EXPORTED, EXPORTED_FILE, Saved, checkpoints, load_matching, load_weights
from utils.config.parse import flatten, to_yaml
from utils.config.settings import Settings
from utils.dataloader import BreizhSRDataset
from utils.distributed import World, explain_out_of_memory
from utils.errors import CheckpointError, ConfigError, DataError
from utils.geo.bands import RGB, listed
from utils.metrics.lpips import load_lpips
from utils.randomness import Stream, seed_of

logger = logging.getLogger(__name__)

_BREIZHSR_SIZE = 74  # low-resolution pixels of a patch, after cropping
_TRIAL_SIZE = 16  # low-resolution pixels


def _open(options: argparse.Namespace) -> Experiment:
    wanted = {key: getattr(options, key) for key in ("config", "hparams", "reset", "ckpt")}
    return open_experiment(name=options.exp_name, **wanted)


def use_starter(options: argparse.Namespace) -> None:
    """Let the options name the model that comes with the project."""
    if options.config is not None or options.ckpt is not None or not (options.predict or options.infer):
        other = f"to train on from it, give a configuration and --hparams init_from={STARTER}"
        raise ConfigError(f"--starter goes with --predict or --infer, without --config and --ckpt; {other}")
    options.config = PACKAGED / STARTER / EXPORTED_FILE
    options.exp_name = options.exp_name or STARTER


def dataset(settings: Settings, split: str) -> BreizhSRDataset:
    """A split of the configured data set. Raises ConfigError where it is not named or has another scale."""
    data, roots = settings.data, settings.data.data_root or (os.environ.get("BREIZHSR_ROOT", ""),)
    if not any(roots):
        raise ConfigError("no data: set the hparam data_root or the environment variable BREIZHSR_ROOT")
    opened = BreizhSRDataset(
        roots,
        split,
        weights=data.data_weights,
        sen2_amount=data.sen2_amount,
        spectral_matching=data.spectral_matching,
        target_offset_days=data.target_offset_days,
    )
    if opened.scale != data.sr_scale:
        raise ConfigError(f"sr_scale is {data.sr_scale}, but the truths of {roots[0]} are {opened.scale} times as fine")
    if data.bands and opened.bands != data.bands:
        raise DataError(f"{roots[0]} holds {listed(opened.bands)}, the model is for {listed(data.bands)}")
    return opened


def train(options: argparse.Namespace, world: World) -> None:
    """Start or resume a training run."""
    from tasks.training.loop import fit  # late, as what others need: tensorboard, flops, rasterio

    if options.ckpt or options.limit or options.split != "test":
        raise ConfigError("--ckpt, --limit and --split go with --infer")
    experiment = _open(options)
    training = experiment.settings.training
    if experiment.saved is not None and experiment.saved.content.get("kind") == EXPORTED:
        raise ConfigError(f"{options.config} goes with --infer or --predict; to train on, use --hparams init_from=FILE")
    if training.batch_size % world.size:
        raise ConfigError(f"batch_size {training.batch_size} can't be shared by {world.size} processes")
    if training.valid_monitor_key not in VALIDATION_FIGURES:
        raise ConfigError(f"valid_monitor_key must be one of {', '.join(VALIDATION_FIGURES)}")
    world.barrier()  # all have read what was saved
    if options.reset and world.is_main:
        move_aside(experiment.folder)
    with locked(experiment.folder) if world.is_main else contextlib.nullcontext():
        if not options.reset and world.any(experiment.steps != tuple(checkpoints(experiment.folder))):
            experiment = _open(options)
        data = dataset(experiment.settings, "train")
        settings = with_bands(experiment.settings, data.bands)  # a new training is for the bands of its data
        torch.manual_seed(seed_of(Stream.START, training.seed))  # initial weights
        task = build_task(settings)
        if not task.trainable():
            raise ConfigError(f"{settings.model.trainer_cls} has nothing to train: use --infer")
        load_start(task, experiment, data)
        with explain_out_of_memory("batch_size", training.batch_size, device=world.device):
            settings = decided(settings, task, lr_size=data.lr_size, world=world)
        validate = _validation(task, settings, world)
        if world.is_main:
            record(replace(experiment, settings=settings))
        state = TrainState(task, settings, data=data, world=world)
        fit(state, experiment.folder, name=experiment.name, saved=experiment.saved, validate=validate)


def describe(options: argparse.Namespace, world: World) -> None:
    """Print what would be trained."""
    settings, size = _open(options).settings, _BREIZHSR_SIZE
    if settings.data.data_root or os.environ.get("BREIZHSR_ROOT"):
        data = dataset(settings, "train")
        settings, size = with_bands(settings, data.bands), data.lr_size
    else:
        logger.warning("no data is configured (data_root): the size of BreizhSR's patches is assumed")
    task = build_task(settings)
    if world.is_main:
        sys.stdout.write(_summary(task, settings, world, lr_size=size))


def _summary(task: Task, settings: Settings, world: World, *, lr_size: int) -> str:
    """The configuration, parameters by part, FLOPs of a step and an estimate of its memory, as text."""
    training = settings.training
    size = settings.data.train_crop or lr_size
    flops, activations = _cost_of_a_sample(task, settings, size=size)
    batch, parts = training.batch_size // world.size, training.accumulate_grad_batches
    by_part: Counter[str] = Counter()
    for name, parameter in task.model.named_parameters():
        by_part[name.split(".")[0]] += parameter.numel()
    trained = sum(parameter.numel() for parameter in task.trainable())
    # float32: weights, the averaged ones, gradients, Adam's two moments
    fixed = 4 * (by_part.total() * (2 if training.ema_decay else 1) + 3 * trained)
    activations *= batch
    lines = [
        to_yaml(flatten(settings)).rstrip(),
        "",
        f"parameters: {by_part.total():,} ({trained:,} trained)",
        *(f"  {name:<20} {count:>12,}" for name, count in by_part.items()),
        f"step: batch {batch} of {size}x{size} pixels on this device{f', {parts} times' if parts > 1 else ''}, "
        f"{flops * batch * parts / 1e9:,.1f} GFLOP",
        f"memory: about {(fixed + activations) / 2**30:.2f} GB "
        f"({fixed / 2**30:.2f} weights and optimiser, {activations / 2**30:.2f} activations)",
    ]
    return "\n".join(lines) + "\n"


def _cost_of_a_sample(task: Task, settings: Settings, *, size: int) -> tuple[float, float]:
    """FLOPs, forward and backward, and the bytes that the forward pass keeps for the backward one.

    Counted on a small patch: the networks are convolutional, so both grow with the number of pixels.
    """
    from torch.utils.flop_counter import FlopCounterMode  # late: only needed here

    small = min(size, _TRIAL_SIZE)
    storages: dict[int, int] = {}  # bytes by address

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    task.train()
    with FlopCounterMode(display=False) as counter:
        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            World(torch.device("cpu")).autocast(settings.training.amp),
        ):
            loss = blank_loss(task, blank_batch(settings.data, size=small))
        if task.trainable():
            loss.backward()
    for parameter in task.parameters():
        storages.pop(parameter.untyped_storage().data_ptr(), None)
    area = (size / small) ** 2
    return counter.get_total_flops() * area, sum(storages.values()) * area


def load_start(task: Task, experiment: Experiment, data: BreizhSRDataset) -> None:
    """Give a new task the weights that it starts from: its conditioner's, then those of ``init_from`` that fit."""
    for source in (experiment.conditioner, experiment.init_from):
        if source is not None:
            check_normalisation(source, data)
    if experiment.conditioner is not None and task.conditioner is not None:
        logger.info("conditioner: %s", _loaded(task.conditioner, experiment.conditioner))
    if saved := experiment.init_from:
        fitting, fresh, unused = load_matching(task.model, saved.state)
        if not fitting:
            raise CheckpointError(f"init_from {saved.path}: none of its {len(unused)} tensors fits this model")
        said = f"{len(fitting)} tensors loaded; new: {_names(fresh)}; not used: {_names(unused)}"
        logger.info("init_from %s: %s", saved.path, said)


def _names(names: list[str]) -> str:
    return f"{len(names)} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else "none"


def _loaded(model: torch.nn.Module, saved: Saved) -> str:
    """Load a saved model; what was loaded, in one line."""
    line = load_weights(model, saved.state, source=saved.path)
    return f"{line}, step {saved.global_step}{', averaged weights' if saved.averaged else ''}"


def _validation(task: Task, settings: Settings, world: World) -> Callable[..., Any] | None:
    """What runs a validation, where there is a split for it."""
    try:
        split = dataset(settings, "val")
        if not len(split):
            raise DataError("its split is empty")
    except DataError as error:
        logger.warning("no validation: %s", error)
        return None
    if task.is_stochastic:
        steps = min(settings.diffusion.val_sampler_steps, settings.diffusion.timesteps)
        logger.info("validation samples with %d steps (val_sampler_steps), --infer as sampler says", steps)
    explained = explain_out_of_memory("eval_batch_size", settings.evaluation.eval_batch_size, device=world.device)
    return explained(Validation(split, settings=settings, world=world).run)


def trained_task(experiment: Experiment) -> Task:
    """The experiment's task with trained weights, where there is anything to train. Raises CheckpointError."""
    task = build_task(experiment.settings)
    if list(task.model.parameters()):
        if experiment.saved is None:
            raise CheckpointError(f"{experiment.folder} holds no checkpoint: train it first, or give --ckpt")
        logger.info("model: %s", _loaded(task.model, experiment.saved))
    return task


def check_normalisation(saved: Saved, data: BreizhSRDataset) -> None:
    """A model sees reflectance through the maxima that it was trained with, of the bands that it was trained on."""
    bands, maxima = saved.content.get("bands", RGB), saved.content.get("maxima") or data.maxima
    for option, own, there, sign in (("bands", bands, data.bands, ","), ("maxima", maxima, data.maxima, " ")):
        if list(own) != list(there):
            wanted = f"preprocess_data.py --{option} {sign.join(map(str, own))}"
            raise DataError(
                f"{saved.path} was trained with other {option} than the data's {there}: prepare by `{wanted}`"
            )


def infer(options: argparse.Namespace, world: World) -> None:
    """Evaluate a split of the data with a trained model."""
    if options.limit is not None and options.limit < 1:
        raise ConfigError(f"--limit must be at least 1, not {options.limit}")
    experiment = _open(options)
    task, saved, settings = trained_task(experiment), experiment.saved, experiment.settings
    split = dataset(settings, options.split)
    if saved is not None:
        check_normalisation(saved, split)
    lpips = load_lpips(settings.evaluation.lpips_weights)
    evaluated = Evaluated(
        experiment=experiment.name,
        folder=experiment.folder,
        checkpoint=str(saved.path) if saved else "",
        global_step=saved.global_step if saved else 0,
        averaged=saved.averaged if saved else False,
        split=options.split,
        bands=split.bands,
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
            calibration=saved.content.get("calibration") if saved else None,
        )
    if summary is not None:
        folder = experiment.folder
        sys.stdout.write(_metrics_text({"bicubic": summary["bicubic"], experiment.name: summary["metrics"]}))
        sys.stdout.write(f"pictures: {folder / 'comparison.png'}\nreport: {folder / 'report.html'}\n")


def _metrics_text(columns: dict[str, dict[str, dict[str, float | None]]]) -> str:
    """Mean metrics as text: a row a model."""
    names, width = ("psnr", "ssim", "lpips", "mae", "shift_mae"), max(map(len, columns))
    text = " " * width + "".join(f"{name:>11}" for name in names) + "\n"
    for title, figures in columns.items():
        means = [figures.get(name, {}).get("mean") for name in names]
        cells = ["-" if mean is None else f"{mean:.4f}" for mean in means]
        text += f"{title:<{width}}" + "".join(f"{cell:>11}" for cell in cells) + "\n"
    return text


def predict(options: argparse.Namespace, world: World) -> None:
    """Super-resolve rasters into one georeferenced image."""
    from tasks.scenes.predict import predict_from_options

    experiment = _open(options)
    task, saved, settings = trained_task(experiment), experiment.saved, experiment.settings
    maxima, bands = (saved.content.get(key) if saved else None for key in ("maxima", "bands"))
    factors = saved.factors if saved else None
    predictor = SuperResolver(task, settings, maxima=maxima, bands=bands, world=world, calibration=factors)
    source = f"{saved.path.name} of {experiment.name}, step {saved.global_step}" if saved else experiment.name
    maps = predict_from_options(options, predictor, world, checkpoint=source, seed=settings.training.seed)
    if world.is_main:
        sys.stdout.write("".join(f"{path}\n" for path in maps))
