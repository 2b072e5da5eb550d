"""Every key of a configuration: its type, its default, what it means, and whether it shapes the network.

The keys are flat in the YAML files; here they stand in the section that uses them. Names follow the published
configurations.
"""

import dataclasses
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field
from pydantic.dataclasses import dataclass
from pydantic.fields import FieldInfo

from utils.files import is_text
from utils.geo.bands import RGB, band_names

T = TypeVar("T")
LARGEST = 2**31 - 1  # of a number without a bound of its own


def key(default: Any, meaning: str, *, architecture: bool = False, **bounds: Any) -> Any:
    """One key. The bounds of a number are wider than what makes sense, but no typing error takes all memory."""
    if isinstance(default, int | float) and not isinstance(default, bool):
        bounds = {"ge": -LARGEST, "le": LARGEST, **bounds}
    return Field(default, description=meaning, json_schema_extra={"architecture": architecture}, **bounds)


def shape(default: Any, meaning: str, **bounds: Any) -> Any:
    """A key that shapes the state dict, so an experiment can't change it."""
    return key(default, meaning, architecture=True, **bounds)


def is_word(value: Any) -> bool:
    """Whether it can be a text without line, and name a file."""
    return not isinstance(value, list | dict | bool) and "\0" not in str(value) and is_text(str(value))


def _as_word(value: Any) -> str:
    if not is_word(value):
        raise ValueError("must be a word")
    return "" if value is None else str(value)


def _as_tuple(value: Any) -> Any:
    if isinstance(value, str) and value:
        return (value,)
    return tuple(value or ()) if value is None or isinstance(value, list | str) else value


def _as_whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


# Nothing is guessed; what loses nothing is converted.
Whole = Annotated[int, BeforeValidator(_as_whole)]
Word = Annotated[str, BeforeValidator(_as_word)]
Listed = Annotated[T, BeforeValidator(_as_tuple)]
Bands = Annotated[Listed[tuple[Word, ...]], AfterValidator(lambda bands: band_names(bands) if bands else ())]
# YAML 1.1 writers save `off` as false.
Amp = Annotated[
    Literal["off", "bf16", "fp16", "auto"], BeforeValidator(lambda value: "off" if value is False else value)
]
_STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


@dataclass(frozen=True, config=_STRICT)
class Data:
    """What the loader reads."""

    data_root: Listed[tuple[Word, ...]] = key(
        (), "raw or prepared data sets: one, or [a b c]; empty: the environment variable BREIZHSR_ROOT"
    )
    data_weights: Listed[tuple[float, ...]] = key(
        (), "of several data_root: the share of each in a batch, in any unit; empty: equal ones"
    )
    sr_scale: Whole = shape(4, "how much finer the truth is than the input: 2, 4 or 8", ge=2)
    bands: Bands = shape((), "what the network sees and gives, e.g. [B04 B03 B02 B08]; empty: the data set's own")
    sen2_amount: Whole = key(1, "acquisitions of a series that the network sees: the nearest in time", ge=1, le=4096)
    spectral_matching: Literal["histogram", "moment", "none"] = key(
        "histogram", "how the truth takes on the input's colours"
    )
    target_offset_days: Whole = key(0, "moves the target date: each day offset p becomes p - this", ge=-36500, le=36500)
    train_crop: Whole = key(0, "side of random crops in low-resolution pixels; 0: whole patches", ge=0, le=16384)
    augment: Listed[tuple[Literal["flips", "turns", "drop_dates", "vary_dates", "shuffle_dates"], ...]] = key(
        (), "of [flips turns drop_dates vary_dates shuffle_dates]: flips, turns, fewer dates, 1 to all, other order"
    )
    num_workers: Whole = key(2, "processes that read data; 0: none but the main one", ge=0, le=1024)

    @property
    def known_bands(self) -> tuple[str, ...]:
        """What experiments of earlier versions, which don't say it, were trained on is red, green, blue."""
        return self.bands or RGB


@dataclass(frozen=True, config=_STRICT)
class Model:
    """The backbone, or for srdiff the noise predictor (hidden_size) on a conditioner."""

    trainer_cls: Word = shape("", "what is trained: a name of tasks/build.py")
    hidden_size: Whole = shape(64, "width: of the backbone, or of srdiff's first U-Net level", ge=1, le=4096)
    num_block: Whole = shape(17, "blocks of an RRDB trunk", ge=1, le=1000)
    num_layers: Whole = shape(2, "residual blocks of the HighRes-net encoder", ge=0, le=1000)
    misr_ref_image: Literal["median", "closest"] = shape("median", "the reference image beside each view")
    alpha_residual: bool = shape(True, "HighRes-net fusion: padded views are left out of the sum")
    mask_padding: bool = key(False, "L-TAE: padded views get no attention (the published nets let them vote)")
    ltae_heads: Whole = shape(16, "L-TAE attention heads", ge=1, le=1024)
    ltae_d_k: Whole = shape(4, "L-TAE key size a head", ge=1, le=1024)
    ltae_d_model: Whole = shape(128, "L-TAE channels", ge=1, le=16384)
    ltae_dropout: float = key(0.2, "L-TAE dropout after its last layers; half of it in the attention", ge=0, le=1)
    output_clamp: Literal["straight_through", "hard"] = key("straight_through", "RRDB heads: the clamp to [0, 1]")
    decoder: Literal["published", "smooth"] = shape(
        "published",
        "HighRes-net decoder: smooth lets neighbouring input pixels meet, so none becomes a pattern of its own",
    )
    base_residual: bool = shape(False, "the network predicts the difference to the bicubic image")
    uncertainty: Literal["none", "laplace"] = shape(
        "none", "backbones: a head that states the error's scale a pixel, trained along"
    )


@dataclass(frozen=True, config=_STRICT)
class Diffusion:
    """SRDiff: process, noise predictor, conditioner, sampler."""

    process: Literal["diffusion", "flow"] = shape(
        "diffusion", "noise process: diffusion as published, or a straight flow for few steps"
    )
    source_std: float = shape(1.0, "flow: standard deviation of the noise it starts from", ge=1e-6, le=100)
    flow_base: Literal["bicubic", "backbone"] = shape(
        "bicubic", "what the residual is the difference to: the bicubic image, or the conditioner's"
    )
    shortcut: bool = shape(False, "flow: the network learns steps of 1, 1/2, 1/4 and 1/8 of the way")
    timesteps: Whole = shape(500, "steps of the diffusion process", ge=2, le=100_000)
    beta_schedule: Literal["cosine", "linear"] = shape("cosine", "noise schedule")
    beta_s: float = shape(0.008, "offset of the cosine schedule", ge=0, le=1)
    beta_end: float = shape(0.02, "last beta of the linear schedule", ge=1e-6, le=0.999)
    res: bool = shape(True, "diffuse the residual to the bicubic image, not the image")
    res_rescale: float = shape(2.0, "factor of the residual", ge=1e-6, le=1e6)
    clip_input: bool = shape(True, "clamp the residual to [-1, 1]")
    unet_dim_mults: Word = shape("1|2|3|4", "widths of the U-Net levels in units of hidden_size")
    use_attn: bool = shape(False, "linear attention in the middle of the U-Net")
    up_input: bool = shape(False, "the U-Net sees the bicubic image too")
    use_wn: bool = shape(False, "weight norm on the U-Net's convolutions")
    weight_init: bool = key(False, "Kaiming initialisation x 0.1 of the U-Net")
    rrdb_ckpt: Word = key("", "trained backbone to condition on: experiment folder, checkpoint or exported model")
    conditioner: Word = shape("", "name of the conditioning backbone; empty: as rrdb_ckpt says; none: the input image")
    rrdb_num_block: Whole = key(17, "blocks of an RRDB conditioner that rrdb_ckpt does not describe", ge=1, le=1000)
    rrdb_num_feat: Whole = key(64, "width of an RRDB conditioner that rrdb_ckpt does not describe", ge=1, le=4096)
    fix_rrdb: bool = key(True, "keep the conditioner as it is; false: train it along")
    aux_l1_loss: bool = key(True, "with fix_rrdb false: L1 of the conditioner's own output")
    aux_ssim_loss: bool = key(False, "with fix_rrdb false: 1 - SSIM of the conditioner's own output")
    aux_percep_loss: bool = key(False, "with fix_rrdb false: VGG-19 feature loss of the conditioner's own output")
    vgg_weights: Word = key("", "state dict of VGG-19 for aux_percep_loss")
    sampler: Literal["ddpm", "ddim", "dpmpp_2m", "midpoint"] = key("ddpm", "how images are sampled")
    sampler_steps: Whole = key(0, "network passes an image; 0: all timesteps", ge=0, le=100_000)
    sampler_spacing: Literal["auto", "linear", "superlinear", "quadratic"] = key(
        "auto", "which times are kept: step i of n at (i/n)^1, ^1.5 or ^2 of the way"
    )
    ddim_eta: float = key(0.0, "noise of ddim: 0 none, 1 as much as ddpm", ge=0, le=1)
    sample_from: Literal["noise", "backbone"] = key(
        "noise", "what sampling starts from: noise, or the conditioner's image with the noise of sample_start"
    )
    sample_start: Whole = key(0, "first time of sample_from backbone, below timesteps; 0: half", ge=0, le=100_000)
    samples: Whole = key(1, "samples an image; above 1 their mean and spread", ge=1, le=10_000)
    val_sampler_steps: Whole = key(10, "network passes an image in validation", ge=1, le=100_000)


@dataclass(frozen=True, config=_STRICT)
class Training:
    """The training loop."""

    batch_size: Whole = key(32, "samples a batch, over all devices together", ge=1, le=1_000_000)
    max_updates: Whole = key(400_000, "optimiser steps of the whole training", ge=0)
    lr: float = key(2e-4, "learning rate at the start", ge=0)
    decay_steps: Whole = key(0, "steps between decays of the learning rate; 0: the published recipe", ge=0)
    decay_factor: float = key(0.0, "factor at each decay; 0: the published recipe", ge=0)
    warmup_steps: Whole = key(0, "steps over which the learning rate rises from 0; 0: none", ge=0)
    loss_type: Literal["l1", "l2", "ssim", "l1_shift"] = key("l1", "loss: ssim only for srdiff")
    seed: Whole = key(1234, "all randomness is a function of it", ge=0, le=2**63 - 1)
    clip_grad_norm: float = key(0.0, "largest L2 norm of all gradients together; 0: no clipping", ge=0)
    accumulate_grad_batches: Whole = key(1, "batches an optimiser step, which sees batch_size times this", ge=1)
    amp: Amp = key("off", "mixed precision; fp16 with gradient scaling; auto: bf16 where the device computes in it")
    ema_decay: float = key(0.0, "decay of the averaged weights, at first less; 0: none", ge=0, le=0.999999)
    compile: bool = key(False, "torch.compile, for long trainings; without a C++ compiler off, with one line")
    channels_last: bool | Literal["auto"] = key(
        False,
        "images in the memory format that fast kernels like; auto: where a trial of a few steps is faster with it",
    )
    freeze_norm: bool = key(False, "BatchNorm keeps the statistics that it has: for small batches, for fine-tuning")
    init_from: Word = key("", "start from these weights: experiment folder, checkpoint or exported model")
    val_check_interval: Whole = key(25_000, "steps between validations", ge=1)
    save_ckpt_interval: Whole = key(25_000, "steps between checkpoints", ge=1)
    num_ckpt_keep: Whole = key(100, "newest checkpoints that are kept; the best one besides", ge=1)
    valid_monitor_key: Word = key("val_loss", "column of val_res.csv that chooses the best checkpoint")
    valid_monitor_mode: Literal["min", "max"] = key("min", "whether less or more is better")
    tb_log_interval: Whole = key(100, "steps between rows of the training log", ge=1)


@dataclass(frozen=True, config=_STRICT)
class Evaluation:
    """Validation, --infer and what they write."""

    eval_batch_size: Whole = key(32, "samples a batch in validation", ge=1, le=1_000_000)
    test_batch_size: Whole = key(1, "samples a batch in --infer", ge=1, le=1_000_000)
    test_save_png: bool = key(False, "save the pictures of every patch")
    consistency: bool = key(False, "change results smoothly until they average to the nearest acquisition (--infer)")
    save_intermediate: bool = key(False, "srdiff: save 20 moments of sampling the first patch")
    gen_dir_name: Word = key("", "end of the name of the pictures' folder")
    lpips_weights: Word = key("", "file with LPIPS weights; empty: the public download; none: no LPIPS")
    # Three keys of the published configurations that follow from the task: accepted and checked.
    misr: bool | None = key(None, "whether the input is a series")
    test_diff: bool | None = key(None, "whether evaluation samples a diffusion model")
    train_diffsr: bool | None = key(None, "whether a diffusion model is trained")


@dataclasses.dataclass(frozen=True)
class Settings:
    """A whole configuration."""

    data: Data = dataclasses.field(default_factory=Data)
    model: Model = dataclasses.field(default_factory=Model)
    diffusion: Diffusion = dataclasses.field(default_factory=Diffusion)
    training: Training = dataclasses.field(default_factory=Training)
    evaluation: Evaluation = dataclasses.field(default_factory=Evaluation)
    backbone: Model | None = None  # srdiff: the conditioner, as its own experiment describes it


SECTIONS: dict[str, Any] = {kind.__name__.lower(): kind for kind in (Data, Model, Diffusion, Training, Evaluation)}
KEYS: dict[str, tuple[str, FieldInfo]] = {
    name: (title, described) for title, kind in SECTIONS.items() for name, described in kind.__pydantic_fields__.items()
}
DECIDED_AT_START = ("amp", "channels_last")  # where they are auto; the experiment keeps what was decided
ARCHITECTURE = frozenset(name for name, (_, item) in KEYS.items() if item.json_schema_extra == {"architecture": True})
