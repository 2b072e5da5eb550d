"""Every key of a configuration: its type, its default, what it means, and whether it shapes the network.

The keys are flat in the YAML files; here they stand in the section that uses them. Names follow the published
configurations.
"""

from dataclasses import dataclass, field, fields
from typing import Any, Literal

LARGEST = 2**31 - 1  # of a number without a maximum of its own


def key(
    default: Any,
    meaning: str,
    *,
    architecture: bool = False,
    minimum: float | None = None,
    maximum: float = LARGEST,
) -> Any:
    """One key. ``architecture``: it shapes the state dict, so an experiment can't change it.

    Numbers lie in [minimum, maximum]: wider than what makes sense, but no typing error takes all memory.
    """
    described = {"meaning": meaning, "architecture": architecture, "minimum": minimum, "maximum": maximum}
    return field(default=default, metadata=described)


@dataclass(frozen=True)
class Data:
    """What the loader reads."""

    data_root: str = key("", "raw or prepared data set; empty: the environment variable BREIZHSR_ROOT")
    sr_scale: int = key(4, "how much finer the truth is than the input: 2, 4 or 8", architecture=True, minimum=2)
    sen2_amount: int = key(
        1, "acquisitions of a series that the network sees: the nearest in time", minimum=1, maximum=4096
    )
    spectral_matching: Literal["histogram", "moment", "none"] = key(
        "histogram", "how the truth takes on the input's colours"
    )
    target_offset_days: int = key(
        0, "moves the target date: each day offset p becomes p - this", minimum=-36500, maximum=36500
    )
    train_crop: int = key(
        0, "side of random training crops in low-resolution pixels; 0: whole patches", minimum=0, maximum=16384
    )
    augment: tuple[Literal["flips", "turns", "drop_dates", "shuffle_dates"], ...] = key(
        (), "of [flips turns drop_dates shuffle_dates]: mirrored, turned by quarters, fewer dates, other order of dates"
    )
    num_workers: int = key(2, "processes that read data; 0: none but the main one", minimum=0, maximum=1024)


@dataclass(frozen=True)
class Model:
    """The backbone, or for srdiff the noise predictor (hidden_size) on a conditioner."""

    trainer_cls: str = key("", "what is trained: a name of tasks/build.py", architecture=True)
    hidden_size: int = key(
        64, "width: of the backbone, or of srdiff's first U-Net level", architecture=True, minimum=1, maximum=4096
    )
    num_block: int = key(17, "blocks of an RRDB trunk", architecture=True, minimum=1, maximum=1000)
    num_layers: int = key(2, "residual blocks of the HighRes-net encoder", architecture=True, minimum=0, maximum=1000)
    misr_ref_image: Literal["median", "closest"] = key(
        "median", "the reference image beside each view", architecture=True
    )
    alpha_residual: bool = key(True, "HighRes-net fusion: padded views are left out of the sum", architecture=True)
    mask_padding: bool = key(False, "L-TAE: padded views get no attention (the published nets let them vote)")
    ltae_heads: int = key(16, "L-TAE attention heads", architecture=True, minimum=1, maximum=1024)
    ltae_d_k: int = key(4, "L-TAE key size a head", architecture=True, minimum=1, maximum=1024)
    ltae_d_model: int = key(128, "L-TAE channels", architecture=True, minimum=1, maximum=16384)
    ltae_dropout: float = key(
        0.2, "L-TAE dropout after its last layers; half of it in the attention", minimum=0, maximum=1
    )
    output_clamp: Literal["straight_through", "hard"] = key("straight_through", "RRDB heads: the clamp to [0, 1]")
    decoder: Literal["published", "smooth"] = key(
        "published",
        "HighRes-net decoder: smooth lets neighbouring input pixels meet, so none becomes a pattern of its own",
        architecture=True,
    )
    base_residual: bool = key(False, "the network predicts the difference to the bicubic image", architecture=True)
    uncertainty: Literal["none", "laplace"] = key(
        "none", "backbones: a head that states the error's scale a pixel, trained along", architecture=True
    )


@dataclass(frozen=True)
class Diffusion:
    """SRDiff: process, noise predictor, conditioner, sampler."""

    timesteps: int = key(500, "steps of the diffusion process", architecture=True, minimum=2, maximum=100_000)
    beta_schedule: Literal["cosine", "linear"] = key("cosine", "noise schedule", architecture=True)
    beta_s: float = key(0.008, "offset of the cosine schedule", architecture=True, minimum=0, maximum=1)
    beta_end: float = key(0.02, "last beta of the linear schedule", architecture=True, minimum=1e-6, maximum=0.999)
    res: bool = key(True, "diffuse the residual to the bicubic image, not the image", architecture=True)
    res_rescale: float = key(2.0, "factor of the residual", architecture=True, minimum=1e-6, maximum=1e6)
    clip_input: bool = key(True, "clamp the residual to [-1, 1]", architecture=True)
    unet_dim_mults: str = key("1|2|3|4", "widths of the U-Net levels in units of hidden_size", architecture=True)
    use_attn: bool = key(False, "linear attention in the middle of the U-Net", architecture=True)
    up_input: bool = key(False, "the U-Net sees the bicubic image too", architecture=True)
    use_wn: bool = key(False, "weight norm on the U-Net's convolutions", architecture=True)
    weight_init: bool = key(False, "Kaiming initialisation x 0.1 of the U-Net")
    rrdb_ckpt: str = key("", "trained backbone to condition on: experiment folder, checkpoint or exported model")
    conditioner: str = key(
        "", "name of the conditioning backbone; empty: as rrdb_ckpt says; none: the input image", architecture=True
    )
    rrdb_num_block: int = key(
        17, "blocks of an RRDB conditioner that rrdb_ckpt does not describe", minimum=1, maximum=1000
    )
    rrdb_num_feat: int = key(
        64, "width of an RRDB conditioner that rrdb_ckpt does not describe", minimum=1, maximum=4096
    )
    fix_rrdb: bool = key(True, "keep the conditioner as it is; false: train it along")
    aux_l1_loss: bool = key(True, "with fix_rrdb false: L1 of the conditioner's own output")
    aux_ssim_loss: bool = key(False, "with fix_rrdb false: 1 - SSIM of the conditioner's own output")
    aux_percep_loss: bool = key(False, "with fix_rrdb false: VGG-19 feature loss of the conditioner's own output")
    vgg_weights: str = key("", "state dict of VGG-19 for aux_percep_loss")
    sampler: Literal["ddpm", "ddim", "dpmpp_2m"] = key("ddpm", "how images are sampled")
    sampler_steps: int = key(0, "network passes an image; 0: all timesteps", minimum=0, maximum=100_000)
    sampler_spacing: Literal["auto", "linear", "superlinear", "quadratic"] = key(
        "auto", "which times are kept: step i of n at (i/n)^1, ^1.5 or ^2 of the way"
    )
    ddim_eta: float = key(0.0, "noise of ddim: 0 none, 1 as much as ddpm", minimum=0, maximum=1)
    samples: int = key(1, "samples an image; above 1 their mean and spread", minimum=1, maximum=10_000)
    val_sampler_steps: int = key(10, "network passes an image (ddpm) in validation", minimum=1, maximum=100_000)


@dataclass(frozen=True)
class Training:
    """The training loop."""

    batch_size: int = key(32, "samples a batch, over all devices together", minimum=1, maximum=1_000_000)
    max_updates: int = key(400_000, "optimiser steps of the whole training", minimum=0)
    lr: float = key(2e-4, "learning rate at the start", minimum=0)
    decay_steps: int = key(0, "steps between decays of the learning rate; 0: the published recipe", minimum=0)
    decay_factor: float = key(0.0, "factor at each decay; 0: the published recipe", minimum=0)
    warmup_steps: int = key(0, "steps over which the learning rate rises from 0; 0: none", minimum=0)
    loss_type: Literal["l1", "l2", "ssim", "l1_shift"] = key("l1", "loss: ssim only for srdiff")
    seed: int = key(1234, "all randomness is a function of it", minimum=0, maximum=2**63 - 1)
    clip_grad_norm: float = key(0.0, "largest L2 norm of all gradients together; 0: no clipping", minimum=0)
    accumulate_grad_batches: int = key(1, "batches an optimiser step, which sees batch_size times this", minimum=1)
    amp: Literal["off", "bf16", "fp16"] = key("off", "mixed precision; fp16 with gradient scaling")
    ema_decay: float = key(0.0, "decay of the averaged weights, at first less; 0: none", minimum=0, maximum=0.999999)
    compile: bool = key(False, "torch.compile, for long trainings; without a C++ compiler off, with one line")
    channels_last: bool = key(False, "images in the memory format that fast kernels like")
    init_from: str = key("", "start from these weights: experiment folder, checkpoint or exported model")
    val_check_interval: int = key(25_000, "steps between validations", minimum=1)
    save_ckpt_interval: int = key(25_000, "steps between checkpoints", minimum=1)
    num_ckpt_keep: int = key(100, "newest checkpoints that are kept; the best one besides", minimum=1)
    valid_monitor_key: str = key("val_loss", "column of val_res.csv that chooses the best checkpoint")
    valid_monitor_mode: Literal["min", "max"] = key("min", "whether less or more is better")
    tb_log_interval: int = key(100, "steps between rows of the training log", minimum=1)


@dataclass(frozen=True)
class Evaluation:
    """Validation, --infer and what they write."""

    eval_batch_size: int = key(32, "samples a batch in validation", minimum=1, maximum=1_000_000)
    test_batch_size: int = key(1, "samples a batch in --infer", minimum=1, maximum=1_000_000)
    test_save_png: bool = key(False, "save the pictures of every patch")
    save_intermediate: bool = key(False, "srdiff: save 20 moments of sampling the first patch")
    gen_dir_name: str = key("", "end of the name of the pictures' folder")
    lpips_weights: str = key("", "file with LPIPS weights; empty: the public download")
    # Three keys of the published configurations that follow from the task: accepted and checked.
    misr: bool | None = key(None, "whether the input is a series")
    test_diff: bool | None = key(None, "whether evaluation samples a diffusion model")
    train_diffsr: bool | None = key(None, "whether a diffusion model is trained")


@dataclass(frozen=True)
class Settings:
    """A whole configuration."""

    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    diffusion: Diffusion = field(default_factory=Diffusion)
    training: Training = field(default_factory=Training)
    evaluation: Evaluation = field(default_factory=Evaluation)
    backbone: Model | None = None  # srdiff: the conditioner, as its own experiment describes it


SECTIONS: dict[str, type] = {
    "data": Data,
    "model": Model,
    "diffusion": Diffusion,
    "training": Training,
    "evaluation": Evaluation,
}
KEYS = {item.name: (section, item) for section, kind in SECTIONS.items() for item in fields(kind)}
