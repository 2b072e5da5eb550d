"""The one place where a name in a configuration becomes a class."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from models.bicubic import Bicubic
from models.diffusion import SRDiff
from models.highresnet import HighResNet
from models.losses import PerceptualLoss
from models.misr import RRDBLTAE, HighResLTAE, RRDBHighResNet
from models.rrdb import RRDBNet
from models.schedule import Schedule
from models.series import Backbone
from models.uncertainty import LaplaceHead
from models.unet import UNet
from tasks.backbone import LOSSES, BackboneTask
from tasks.base import StepDecay, Task
from tasks.experiment import Report, translated
from tasks.srdiff import SRDiffTask
from utils.checkpoint import Saved, State, open_saved, read
from utils.config.parse import settings_from
from utils.config.settings import Diffusion, Model, Settings
from utils.distributed import explain_out_of_memory
from utils.errors import ConfigError


class Entry(NamedTuple):
    """A backbone: its class, the keys that it takes, how its published learning rate falls, if it looks at a series."""

    network: Callable[..., Backbone]
    keys: tuple[str, ...]  # besides its scale
    decay: StepDecay
    series: bool


# The keyword of the networks' constructors for a key that is named otherwise.
KEYWORDS = {
    "hidden_size": "width",
    "num_block": "blocks",
    "num_layers": "layers",
    "misr_ref_image": "reference",
    "ltae_heads": "heads",
    "ltae_d_k": "d_k",
    "ltae_d_model": "d_model",
    "ltae_dropout": "dropout",
}
_RRDB = ("hidden_size", "num_block", "output_clamp", "base_residual")
_HIGHRESNET = ("hidden_size", "num_layers", "decoder", "base_residual")
_LTAE = ("ltae_heads", "ltae_d_k", "ltae_d_model", "ltae_dropout", "mask_padding")
BACKBONES: dict[str, Entry] = {
    "bicubic": Entry(Bicubic, (), StepDecay(1, 1.0), series=False),
    "rrdb": Entry(RRDBNet, _RRDB, StepDecay(75_000, 0.5), series=False),
    "highresnet": Entry(HighResNet, (*_HIGHRESNET, "alpha_residual"), StepDecay(50_000, 0.7), series=True),
    "hr_ltae": Entry(HighResLTAE, (*_HIGHRESNET, *_LTAE, "misr_ref_image"), StepDecay(50_000, 0.7), series=True),
    "rrdb_ltae": Entry(RRDBLTAE, (*_RRDB, *_LTAE), StepDecay(100_000, 0.5), series=True),
    "rrdb_highresnet": Entry(RRDBHighResNet, _RRDB, StepDecay(100_000, 0.5), series=True),
}
SRDIFF = "srdiff"
SRDIFF_DECAY = StepDecay(100_000, 0.5)


def check(settings: Settings) -> None:
    """What can be wrong with a configuration as a whole. Raises ConfigError."""
    name = settings.model.trainer_cls
    if name not in BACKBONES and name != SRDIFF:
        raise ConfigError(f"trainer_cls must be one of {', '.join([*BACKBONES, SRDIFF])}, not {name!r}")
    if Path(settings.evaluation.gen_dir_name).name != settings.evaluation.gen_dir_name:
        raise ConfigError(f"gen_dir_name must be the end of a folder's name, not {settings.evaluation.gen_dir_name!r}")
    if settings.data.sr_scale not in (2, 4, 8):
        raise ConfigError(f"sr_scale must be 2, 4 or 8, not {settings.data.sr_scale}")
    if name != SRDIFF and settings.training.loss_type not in LOSSES:
        raise ConfigError(
            f"loss_type of {name} must be one of {', '.join(LOSSES)}, not {settings.training.loss_type!r}"
        )
    if name == SRDIFF and settings.model.uncertainty != "none":
        raise ConfigError("uncertainty goes with backbones: srdiff's samples differ by theirs (samples=8, say)")
    eyes = settings.backbone.trainer_cls if settings.backbone else settings.diffusion.conditioner or None
    series = BACKBONES[name].series if name in BACKBONES else BACKBONES[eyes].series if eyes in BACKBONES else None
    stated = settings.evaluation
    for key, value, implied in (
        ("misr", stated.misr, series),
        ("test_diff", stated.test_diff, name == SRDIFF),
        ("train_diffsr", stated.train_diffsr, name == SRDIFF),
    ):
        if value is not None and implied is not None and value != implied:
            raise ConfigError(f"{key} is {value}, but trainer_cls {name} means {implied}: leave it out")


def build_backbone(model: Model, *, scale: int) -> Backbone:
    """Raises ConfigError for an unknown name or sizes that don't fit each other."""
    if model.trainer_cls not in BACKBONES:
        raise ConfigError(f"{model.trainer_cls!r} is no backbone; known: {', '.join(BACKBONES)}")
    entry = BACKBONES[model.trainer_cls]
    options = {KEYWORDS.get(key, key): getattr(model, key) for key in entry.keys}
    try:
        return entry.network(scale=scale, **options)
    except ValueError as error:
        raise ConfigError(f"{model.trainer_cls}: {error}") from None


def build_task(settings: Settings) -> Task:
    """The task that a configuration describes, as it starts. Raises ConfigError, or TrainingError without memory."""
    with explain_out_of_memory("hidden_size", settings.model.hidden_size, device=torch.device("cpu")):
        return _build_task(settings)


def _build_task(settings: Settings) -> Task:
    check(settings)
    name, training = settings.model.trainer_cls, settings.training
    if name != SRDIFF:
        backbone = build_backbone(settings.model, scale=settings.data.sr_scale)
        features = backbone.feature_channels
        head = LaplaceHead(features=features, scale=backbone.scale) if settings.model.uncertainty == "laplace" else None
        task: Task = BackboneTask(backbone, decay=BACKBONES[name].decay, loss_type=training.loss_type, scale_head=head)
    else:
        if settings.backbone is None:
            raise ConfigError("srdiff needs its conditioner: --hparams rrdb_ckpt=FOLDER, or conditioner=none")
        backbone = build_backbone(settings.backbone, scale=settings.data.sr_scale)
        task = SRDiffTask(
            build_srdiff(settings, backbone),
            decay=SRDIFF_DECAY,
            diffusion=settings.diffusion,
            loss_type=training.loss_type,
            perceptual=perceptual_loss(settings.diffusion),
        )
    chosen = StepDecay(training.decay_steps or task.decay.decay_steps, training.decay_factor or task.decay.decay_factor)
    task.decay = chosen
    return task


def build_srdiff(settings: Settings, backbone: Backbone) -> SRDiff:
    diffusion = settings.diffusion
    try:
        multiples = [int(part) for part in diffusion.unet_dim_mults.split("|")]
        if not all(1 <= multiple <= 64 for multiple in multiples) or len(multiples) > 16:
            raise ValueError(f"unet_dim_mults must be up to 16 numbers of 1 to 64, not {diffusion.unet_dim_mults}")
        if settings.model.hidden_size % 2 or settings.model.hidden_size < 4:
            raise ValueError(f"hidden_size must be even, at least 4, not {settings.model.hidden_size}")
        denoise_fn = UNet(
            dim=settings.model.hidden_size,
            dim_mults=multiples,
            cond_channels=backbone.feature_channels,
            scale=settings.data.sr_scale,
            use_attn=diffusion.use_attn,
            up_input=diffusion.up_input,
            use_wn=diffusion.use_wn,
            weight_init=diffusion.weight_init,
        )
        path = (
            Schedule.cosine(diffusion.timesteps, s=diffusion.beta_s)
            if diffusion.beta_schedule == "cosine"
            else Schedule.linear(
                diffusion.timesteps, beta_end=diffusion.beta_end, last_beta=0.999 if diffusion.res else None
            )
        )
    except ValueError as error:
        raise ConfigError(f"srdiff: {error}") from None
    return SRDiff(
        denoise_fn=denoise_fn,
        backbone=backbone,
        path=path,
        residual=diffusion.res,
        residual_rescale=diffusion.res_rescale,
        clip_input=diffusion.clip_input,
        fix_backbone=diffusion.fix_rrdb,
    )


class Conditioner(NamedTuple):
    """What a new diffusion training starts from."""

    model: Model
    state: State | None  # None: nothing to load
    saved: Saved | None


def resolve_conditioner(settings: Settings, *, report: Report) -> Conditioner:
    """The conditioning backbone as its own experiment describes it. Raises ConfigError or CheckpointError."""
    diffusion = settings.diffusion
    if diffusion.rrdb_ckpt:
        saved = open_saved(Path(diffusion.rrdb_ckpt), report=report)
        if saved.config is None:
            raise ConfigError(f"rrdb_ckpt {saved.path}: no config.yaml beside it says what backbone it is")
        source = f"configuration of {saved.path}"
        described = settings_from(translated(saved.config, source=source), source=source)
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
        state = {name: value for name, value in saved.state.items() if not name.startswith("scale_head.")}
        return Conditioner(model, state, replace(saved, state=state))
    if diffusion.conditioner == "none":
        return Conditioner(Model(trainer_cls="bicubic"), None, None)
    if diffusion.fix_rrdb or not diffusion.conditioner:
        raise ConfigError(
            "srdiff needs a trained backbone: --hparams rrdb_ckpt=checkpoints/<its experiment>, or conditioner=none"
        )
    model = replace(settings.model, trainer_cls=diffusion.conditioner, hidden_size=64)
    if diffusion.conditioner.startswith("rrdb"):
        model = replace(model, hidden_size=diffusion.rrdb_num_feat, num_block=diffusion.rrdb_num_block)
    return Conditioner(model, None, None)


def perceptual_loss(diffusion: Diffusion) -> PerceptualLoss | None:
    """The VGG-19 loss, where it is asked for. Raises ConfigError where its weights are not named or not whole."""
    if diffusion.fix_rrdb or not diffusion.aux_percep_loss:
        return None
    if not diffusion.vgg_weights:
        raise ConfigError("aux_percep_loss needs vgg_weights: the state dict of VGG-19 as torchvision publishes it")
    try:
        return PerceptualLoss(read(Path(diffusion.vgg_weights)))
    except (KeyError, RuntimeError) as error:
        raise ConfigError(f"vgg_weights {diffusion.vgg_weights} is no VGG-19: {str(error).splitlines()[0]}") from None
