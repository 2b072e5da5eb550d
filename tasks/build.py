"""The registry: the one place where a name in a configuration becomes a class. It reads no experiment."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from models.bicubic import Bicubic
from models.diffusion import SRDiff
from models.highresnet import HighResNet
from models.losses import LaplaceHead, PerceptualLoss
from models.misr import RRDBLTAE, HighResLTAE, RRDBHighResNet
from models.rrdb import RRDBNet
from models.schedule import Path as NoisePath
from models.schedule import Schedule, StraightFlow
from models.series import Backbone
from models.unet import UNet
from tasks.backbone import LOSSES, BackboneTask
from tasks.base import StepDecay, Task
from tasks.srdiff import SRDiffTask
from utils.checkpoint import read
from utils.config.settings import Data, Diffusion, Model, Settings
from utils.distributed import explain_out_of_memory
from utils.errors import ConfigError
from utils.geo.bands import RGB


class BackboneEntry(NamedTuple):
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
BACKBONES: dict[str, BackboneEntry] = {
    "bicubic": BackboneEntry(Bicubic, (), StepDecay(1, 1.0), series=False),
    "rrdb": BackboneEntry(RRDBNet, _RRDB, StepDecay(75_000, 0.5), series=False),
    "highresnet": BackboneEntry(HighResNet, (*_HIGHRESNET, "alpha_residual"), StepDecay(50_000, 0.7), series=True),
    "hr_ltae": BackboneEntry(
        HighResLTAE, (*_HIGHRESNET, *_LTAE, "misr_ref_image"), StepDecay(50_000, 0.7), series=True
    ),
    "rrdb_ltae": BackboneEntry(RRDBLTAE, (*_RRDB, *_LTAE), StepDecay(100_000, 0.5), series=True),
    "rrdb_highresnet": BackboneEntry(RRDBHighResNet, _RRDB, StepDecay(100_000, 0.5), series=True),
}


def check(settings: Settings) -> None:
    """What can be wrong with a configuration as a whole. Raises ConfigError."""
    name, stated = settings.model.trainer_cls, settings.evaluation
    if name not in TASKS:
        raise ConfigError(f"trainer_cls must be one of {', '.join(TASKS)}, not {name!r}")
    conditioned = TASKS[name].conditioned
    if Path(stated.gen_dir_name).name != stated.gen_dir_name:
        raise ConfigError(f"gen_dir_name must be the end of a folder's name, not {stated.gen_dir_name!r}")
    if settings.data.sr_scale not in (2, 4, 8):
        raise ConfigError(f"sr_scale must be 2, 4 or 8, not {settings.data.sr_scale}")
    if not conditioned and settings.training.loss_type not in LOSSES:
        raise ConfigError(f"loss_type of {name} must be one of {', '.join(LOSSES)}, not {settings.training.loss_type}")
    if conditioned and settings.model.uncertainty != "none":
        raise ConfigError("uncertainty goes with backbones: srdiff's samples differ by theirs (samples=8, say)")
    backbone = settings.backbone.trainer_cls if settings.backbone else settings.diffusion.conditioner
    entry = BACKBONES.get(backbone if conditioned else name)
    implied = {"misr": entry.series if entry else None, "test_diff": conditioned, "train_diffsr": conditioned}
    for key, meant in implied.items():
        value = getattr(stated, key)
        if value is not None and meant is not None and value != meant:
            raise ConfigError(f"{key} is {value}, but trainer_cls {name} means {meant}: leave it out")


def build_task(settings: Settings) -> Task:
    """The task that a configuration describes, as it starts.

    Raises ConfigError for sizes that don't fit each other, TrainingError where memory doesn't suffice.
    """
    check(settings)
    entry, training = TASKS[settings.model.trainer_cls], settings.training
    with explain_out_of_memory("hidden_size", settings.model.hidden_size, device=torch.device("cpu")):
        try:
            task = entry.build(settings)
        except ValueError as error:
            raise ConfigError(f"{settings.model.trainer_cls}: {error}") from None
    task.channels = len(settings.data.known_bands)
    task.freeze_norm = training.freeze_norm
    steps, factor = entry.decay
    task.decay = StepDecay(training.decay_steps or steps, training.decay_factor or factor)
    return task


def build_backbone(model: Model, data: Data) -> Backbone:
    """Raises ConfigError for an unknown name, ValueError for sizes that don't fit each other."""
    if model.trainer_cls not in BACKBONES:
        raise ConfigError(f"{model.trainer_cls!r} is no backbone; known: {', '.join(BACKBONES)}")
    entry = BACKBONES[model.trainer_cls]
    options = {KEYWORDS.get(key, key): getattr(model, key) for key in entry.keys}
    return entry.network(scale=data.sr_scale, channels=len(data.known_bands), **options)


def _backbone_task(settings: Settings) -> Task:
    backbone, head = build_backbone(settings.model, settings.data), None
    if settings.model.uncertainty == "laplace":
        channels = len(settings.data.known_bands)
        head = LaplaceHead(features=backbone.feature_channels, channels=channels, scale=backbone.scale)
    return BackboneTask(backbone, loss_type=settings.training.loss_type, scale_head=head)


def _srdiff_task(settings: Settings) -> Task:
    if settings.backbone is None:
        raise ConfigError("srdiff needs its conditioner: --hparams rrdb_ckpt=FOLDER, or conditioner=none")
    diffusion, width = settings.diffusion, settings.model.hidden_size
    backbone = build_backbone(settings.backbone, settings.data)
    multiples = [int(part) for part in diffusion.unet_dim_mults.split("|")]
    if not all(1 <= multiple <= 64 for multiple in multiples) or len(multiples) > 16:
        raise ConfigError(f"unet_dim_mults must be up to 16 numbers of 1 to 64, not {diffusion.unet_dim_mults}")
    if width % 2 or width < 4:
        raise ConfigError(f"hidden_size of srdiff must be even, at least 4, not {width}")
    unet = UNet(
        channels=len(settings.data.known_bands),
        dim=width,
        dim_mults=multiples,
        cond_channels=backbone.feature_channels,
        scale=settings.data.sr_scale,
        use_attn=diffusion.use_attn,
        up_input=diffusion.up_input,
        use_wn=diffusion.use_wn,
        weight_init=diffusion.weight_init,
        step_input=diffusion.shortcut,
    )
    model = SRDiff(
        denoise_fn=unet,
        backbone=backbone,
        path=_noise_path(diffusion),
        residual=diffusion.res,
        residual_rescale=diffusion.res_rescale,
        clip_input=diffusion.clip_input,
        base=diffusion.flow_base,
        fix_backbone=diffusion.fix_rrdb,
    )
    loss_type, perceptual = settings.training.loss_type, _perceptual_loss(settings)
    return SRDiffTask(model, diffusion=diffusion, loss_type=loss_type, perceptual=perceptual)


class TaskEntry(NamedTuple):
    """A task: how it is made, how its published learning rate falls, whether a backbone conditions it."""

    build: Callable[[Settings], Task]
    decay: StepDecay
    conditioned: bool = False


TASKS: dict[str, TaskEntry] = {
    **{name: TaskEntry(_backbone_task, entry.decay) for name, entry in BACKBONES.items()},
    "srdiff": TaskEntry(_srdiff_task, StepDecay(100_000, 0.5), conditioned=True),
}


def is_conditioned(settings: Settings) -> bool:
    """Whether the task needs a backbone to condition it. An unknown one doesn't; `check` refuses it."""
    return settings.model.trainer_cls in TASKS and TASKS[settings.model.trainer_cls].conditioned


def _noise_path(diffusion: Diffusion) -> NoisePath:
    if diffusion.process == "flow":
        return StraightFlow(diffusion.timesteps, source_std=diffusion.source_std)
    if diffusion.shortcut or diffusion.source_std != 1:
        raise ConfigError("shortcut and source_std go with process flow")
    if diffusion.beta_schedule == "cosine":
        return Schedule.cosine(diffusion.timesteps, s=diffusion.beta_s)
    last_beta = 0.999 if diffusion.res else None
    return Schedule.linear(diffusion.timesteps, beta_end=diffusion.beta_end, last_beta=last_beta)


def conditioner_without_weights(settings: Settings) -> Model:
    """The conditioner of a srdiff configuration that names no trained one. Raises ConfigError where it needs one."""
    diffusion = settings.diffusion
    if diffusion.conditioner == "none":
        return Model(trainer_cls="bicubic")
    if diffusion.fix_rrdb or not diffusion.conditioner:
        raise ConfigError(
            "srdiff needs a trained backbone: --hparams rrdb_ckpt=checkpoints/<its experiment>, or conditioner=none"
        )
    model = replace(settings.model, trainer_cls=diffusion.conditioner, hidden_size=64)
    if diffusion.conditioner.startswith("rrdb"):
        model = replace(model, hidden_size=diffusion.rrdb_num_feat, num_block=diffusion.rrdb_num_block)
    return model


def _perceptual_loss(settings: Settings) -> PerceptualLoss | None:
    """The VGG-19 loss, where it is asked for."""
    diffusion = settings.diffusion
    if diffusion.fix_rrdb or not diffusion.aux_percep_loss:
        return None
    if settings.data.known_bands != RGB:
        raise ConfigError("aux_percep_loss sees red, green, blue alone: leave it out for other bands")
    if not diffusion.vgg_weights:
        raise ConfigError("aux_percep_loss needs vgg_weights: the state dict of VGG-19 as torchvision publishes it")
    try:
        return PerceptualLoss(read(Path(diffusion.vgg_weights)))
    except (KeyError, RuntimeError) as error:
        raise ConfigError(f"vgg_weights {diffusion.vgg_weights} is no VGG-19: {str(error).splitlines()[0]}") from None
