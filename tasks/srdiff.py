"""Training and prediction of SRDiff, on whichever backbone conditions it."""

import functools
import math
from typing import Literal

import torch
from torch import Tensor, nn

from models.diffusion import SHORTCUTS, LossType, SRDiff
from models.samplers import Callback, Noise, Sampler, ddim, ddpm, dpmpp_2m, midpoint
from models.schedule import Spacing
from models.series import Backbone, Series
from tasks.base import RandomKey, Result, Task
from tasks.receptive_field import sampling_radius
from utils.config.settings import Diffusion
from utils.dataloader import Batch
from utils.errors import ConfigError
from utils.randomness import Stream, integers, normal_images

SAMPLERS = {"ddpm": ddpm, "dpmpp_2m": dpmpp_2m, "midpoint": midpoint}  # ddim besides, which has an option
# Steps are wanted where the image changes, near t = 0; ddim's errors grow there. Measured: benchmarks/quality.py.
BEST_SPACING: dict[str, Spacing] = {"ddpm": "superlinear", "dpmpp_2m": "quadratic"}  # of a diffusion; else linear
_GOLDEN_RATIO = (math.sqrt(5) - 1) / 2
_SHORTCUT_SHARE = 4  # one sample of so many learns a shortcut


class SRDiffTask(Task):
    """The noise predictor learns; with ``fix_rrdb: false`` its conditioner learns along."""

    is_stochastic = True

    def __init__(
        self, model: SRDiff, *, diffusion: Diffusion, loss_type: LossType, perceptual: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.model: SRDiff = model
        self.loss_type = loss_type
        self.perceptual = perceptual
        self.aux_l1, self.aux_ssim = diffusion.aux_l1_loss, diffusion.aux_ssim_loss
        self.shortcut = diffusion.shortcut
        path = model.path
        self.start = None
        if diffusion.sample_from == "backbone":
            self.start = diffusion.sample_start or path.timesteps // 2
            if self.start >= path.timesteps:
                raise ConfigError(f"sample_start must be below timesteps {path.timesteps}, not {self.start}")
        self.choose_sampler(
            diffusion.sampler, steps=diffusion.sampler_steps, spacing=diffusion.sampler_spacing, eta=diffusion.ddim_eta
        )
        preview, steps = "ddim" if path.is_straight else "ddpm", min(diffusion.val_sampler_steps, path.timesteps)
        self.preview_sampler = self._sampler(preview, steps=steps, spacing="auto")

    def choose_sampler(
        self, name: str, *, steps: int, spacing: Spacing | Literal["auto"] = "auto", eta: float = 0.0
    ) -> None:
        """From now on predictions are sampled so, with ``steps`` network passes an image, or 0: as many as there are
        times. Raises ConfigError where these don't fit."""
        timesteps = self.model.path.timesteps
        self.sampler = self._sampler(name, steps=steps, spacing=spacing, eta=eta, start=self.start)
        self.sampler_name, self.sampler_steps = name, steps or timesteps
        is_shortcut = self.shortcut and self.start is None and name == "ddim" and self.sampler_steps in SHORTCUTS
        self.step_size = timesteps / self.sampler_steps if is_shortcut else 0.0

    def _sampler(
        self, name: str, *, steps: int, spacing: Spacing | Literal["auto"], eta: float = 0.0, start: int | None = None
    ) -> Sampler:
        """A sampler with its times bound, from the time ``start``, or else the noisiest."""
        path, passes = self.model.path, 2 if name == "midpoint" else 1  # a step
        if steps % passes:
            raise ConfigError(f"sampler_steps: midpoint makes two network passes a step, so {steps} must be even")
        if spacing == "auto":
            spacing = "linear" if path.is_straight else BEST_SPACING.get(name, "linear")
        try:
            times = path.times(steps // passes or start or path.timesteps, spacing, start=start)
        except ValueError as error:
            raise ConfigError(f"sampler_steps: {error}") from None
        if name == "ddim":
            return functools.partial(ddim, times=times, eta=eta)
        return functools.partial(SAMPLERS[name], times=times)

    @property
    def conditioner(self) -> Backbone:
        return self.model.rrdb

    def forward(self, batch: Batch, key: RandomKey) -> dict[str, Tensor]:
        t, step = self.draw_times(key)
        return self.model.training_losses(
            Series(lr=batch.lr, dates=batch.dates, mask=batch.mask, base=batch.base),
            batch.hr,
            t=t,
            noise=normal_images(Stream.NOISE, key.positions, key.seed, key.step, shape=batch.hr.shape[1:]),
            step=step,
            loss_type=self.loss_type,
            aux_l1=self.aux_l1,
            aux_ssim=self.aux_ssim,
            perceptual=self.perceptual,
        )

    def draw_times(self, key: RandomKey) -> tuple[Tensor, Tensor | None]:
        """Times (B,), and the sizes of steps (B,) where shortcuts are learned."""
        timesteps = self.model.path.timesteps
        if not self.model.path.is_straight:
            return integers(Stream.TIMES, key.seed, key.step, key.positions, high=timesteps), None
        # In strata: multiples of the golden ratio lie evenly in [0, 1), however many there are.
        first = integers(Stream.TIMES, key.seed, key.step, high=1 << 24).to(key.positions.device) / (1 << 24)
        tau = 1 - (first + key.positions * _GOLDEN_RATIO).frac()  # (B,) in (0, 1]
        if not self.shortcut:
            return (tau * timesteps).float(), None
        level = integers(Stream.TIMES, key.seed, key.step, key.positions, 0, high=len(SHORTCUTS))
        count = 2**level  # steps from noise to image
        which = 1 + integers(Stream.TIMES, key.seed, key.step, key.positions, 1, high=count)
        chosen = key.positions % _SHORTCUT_SHARE == 0
        tau = torch.where(chosen, which / count, tau)
        return (tau * timesteps).float(), torch.where(chosen, timesteps / count, 0).float()

    def predict(
        self, series: Series, *, noise: Noise, samples: int = 1, preview: bool = False, callback: Callback | None = None
    ) -> Result:
        images, backbone = self.model.sample(
            series,
            sampler=self.preview_sampler if preview else self.sampler,
            noise=noise,
            samples=samples,
            callback=callback,
            start=None if preview else self.start,
            step=0.0 if preview else self.step_size,
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
        return sampling_radius(self.model, sampler=self.preview_sampler, num_dates=num_dates, channels=self.channels)

    def compiled_parts(self) -> list[nn.Module]:
        return [self.model.denoise_fn, self.model.rrdb]
