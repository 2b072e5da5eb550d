"""Training and prediction of SRDiff, on whichever backbone conditions it."""

import functools
from typing import Literal

from torch import Tensor, nn

from models.diffusion import LossType, SRDiff
from models.samplers import Callback, Noise, Sampler, ddim, ddpm, dpmpp_2m
from models.schedule import Path, Spacing
from models.series import Backbone, Series
from tasks.base import RandomKey, Result, Task, series_of
from tasks.receptive_field import sampling_radius
from utils.config.settings import Diffusion
from utils.dataloader import Batch
from utils.errors import ConfigError
from utils.randomness import Stream, integers, normal_images

SAMPLERS = {"ddpm": ddpm, "dpmpp_2m": dpmpp_2m}  # ddim besides, which has an option
# Steps are wanted where the image changes, near t = 0; ddim's errors grow there. Measured: benchmarks/quality.py.
BEST_SPACING: dict[str, Spacing] = {"ddpm": "superlinear", "ddim": "linear", "dpmpp_2m": "quadratic"}


def build_sampler(
    name: str, *, path: Path, steps: int, spacing: Spacing | Literal["auto"] = "auto", eta: float = 0.0
) -> Sampler:
    """A sampler with its times bound; ``steps`` 0 means all. Raises ConfigError where they don't fit."""
    kept = BEST_SPACING[name] if spacing == "auto" else spacing
    try:
        times = path.times(steps or path.timesteps, kept)
    except ValueError as error:
        raise ConfigError(f"sampler_steps: {error}") from None
    if name == "ddim":
        return functools.partial(ddim, times=times, eta=eta)
    return functools.partial(SAMPLERS[name], times=times)


class SRDiffTask(Task):
    """The noise predictor learns; with ``fix_rrdb: false`` its conditioner learns along."""

    is_stochastic = True

    def __init__(
        self,
        model: SRDiff,
        *,
        diffusion: Diffusion,
        loss_type: LossType,
        perceptual: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.model: SRDiff = model
        self.loss_type = loss_type
        self.perceptual = perceptual
        self.aux_l1, self.aux_ssim = diffusion.aux_l1_loss, diffusion.aux_ssim_loss
        path = model.path
        self.sampler_name = diffusion.sampler
        self.sampler_steps = diffusion.sampler_steps or path.timesteps
        self.sampler = build_sampler(
            diffusion.sampler,
            path=path,
            steps=diffusion.sampler_steps,
            spacing=diffusion.sampler_spacing,
            eta=diffusion.ddim_eta,
        )
        self.preview_steps = min(diffusion.val_sampler_steps, path.timesteps)
        self.preview_sampler = build_sampler("ddpm", path=path, steps=self.preview_steps)

    @property
    def conditioner(self) -> Backbone:
        return self.model.rrdb

    def forward(self, batch: Batch, key: RandomKey) -> dict[str, Tensor]:
        t = integers(Stream.TIMES, key.seed, key.step, key.positions, high=self.model.path.timesteps)  # (B,)
        noise = normal_images(Stream.NOISE, key.positions, key.seed, key.step, shape=batch.hr.shape[1:])
        return self.model.training_losses(
            series_of(batch),
            batch.hr,
            t=t,
            noise=noise,
            loss_type=self.loss_type,
            aux_l1=self.aux_l1,
            aux_ssim=self.aux_ssim,
            perceptual=self.perceptual,
        )

    def predict(
        self, series: Series, *, noise: Noise, samples: int = 1, preview: bool = False, callback: Callback | None = None
    ) -> Result:
        images, backbone = self.model.sample(
            series,
            sampler=self.preview_sampler if preview else self.sampler,
            noise=noise,
            samples=samples,
            callback=callback,
        )
        drawn = images.float().unflatten(0, (-1, samples))  # (B, k, C, H, W)
        return Result(
            sr=drawn.mean(dim=1),
            backbone=backbone.sr.float().clamp(-1, 1),
            samples=drawn if samples > 1 else None,
            deviation=drawn.std(dim=1, correction=0) if samples > 1 else None,
            attention=backbone.attention,
        )

    def halo(self, num_dates: int) -> int:
        return sampling_radius(self.model, sampler=self.preview_sampler, num_dates=num_dates)

    def compiled_parts(self) -> list[nn.Module]:
        return [self.model.denoise_fn, self.model.rrdb]
