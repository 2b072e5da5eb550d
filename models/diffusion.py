"""SRDiff: a diffusion model of what a backbone's image lacks (Li et al., 2022), on the features of any backbone."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from models import losses
from models.samplers import Callback, Noise, Sampler
from models.schedule import Schedule
from models.series import Backbone, Prediction, Series
from models.unet import UNet

LossType = Literal["l1", "l2", "ssim", "l1_shift"]

NOISE_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": losses.l1,
    "l2": losses.l2,
    "ssim": lambda prediction, noise: losses.l1(prediction, noise) + losses.ssim_loss(prediction, noise),
    "l1_shift": losses.l1_shift,
}


class SRDiff(nn.Module):
    """The diffusion model with its conditioner.

    Args:
        denoise_fn: predicts the noise; its ``cond_channels`` are the backbone's ``feature_channels``.
        backbone: gives the features to condition on; in the state dict it is ``rrdb``, whichever it is.
        residual: diffuse the difference to the bicubic image, times ``residual_rescale``; else the image itself.
        clip_input: clamp the difference to [-1, 1].
        fix_backbone: the backbone stays as it is: in evaluation mode, without gradient. Else it trains along.
    """

    def __init__(
        self,
        *,
        denoise_fn: UNet,
        backbone: Backbone,
        schedule: Schedule,
        residual: bool = True,
        residual_rescale: float = 2.0,
        clip_input: bool = True,
        fix_backbone: bool = True,
    ) -> None:
        super().__init__()
        for name, table in schedule.tables().items():
            self.register_buffer(name, table)
        self.denoise_fn = denoise_fn
        self.rrdb = backbone
        self.use_residual = residual
        self.residual_rescale = residual_rescale
        self.clip_input = clip_input
        self.fix_backbone = fix_backbone or not list(backbone.parameters())
        if self.fix_backbone:
            self.rrdb.requires_grad_(False)
            self.rrdb.eval()

    def train(self, mode: bool = True) -> "SRDiff":
        super().train(mode)
        if self.fix_backbone:
            self.rrdb.eval()
        return self

    @property
    def schedule(self) -> Schedule:
        """The tables where they lie: as buffers they follow the model to its device and into checkpoints."""
        return Schedule(**{name: self.get_buffer(name) for name in Schedule.__dataclass_fields__})

    def residual(self, hr: Tensor, base: Tensor) -> Tensor:
        """What is diffused: the image's difference to the bicubic one (B, C, H, W)."""
        if not self.use_residual:
            return hr
        r = (hr - base) * self.residual_rescale
        return r.clamp(-1, 1) if self.clip_input else r

    def image(self, r: Tensor, base: Tensor) -> Tensor:
        """Back from ``residual`` to the image; not clamped again."""
        if not self.use_residual:
            return r
        return (r.clamp(-1, 1) if self.clip_input else r) / self.residual_rescale + base

    def training_losses(
        self,
        series: Series,
        hr: Tensor,
        *,
        t: Tensor,
        noise: Tensor,
        loss_type: LossType = "l1",
        aux_l1: bool = False,
        aux_ssim: bool = False,
        perceptual: nn.Module | None = None,
    ) -> dict[str, Tensor]:
        """The terms whose sum is minimised, for images hr (B, C, H, W), times t (B,) and noise like hr.

        ``q`` is the loss of the noise. A backbone that trains along also gets the auxiliary ones, between its own
        output and the truth.
        """
        backbone = self.rrdb(series)
        condition = self.denoise_fn.condition(backbone.features, series.base)
        x_t = self.schedule.q_sample(self.residual(hr, series.base), t, noise)
        predicted = self.denoise_fn(x_t, t, condition)
        terms = {"q": NOISE_LOSSES[loss_type](predicted.to(noise.dtype), noise)}
        if not self.fix_backbone:
            sr = backbone.sr.to(hr.dtype)
            if aux_l1:
                terms["aux_l1"] = losses.l1(sr, hr)
            if aux_ssim:
                terms["aux_ssim"] = losses.ssim_loss(sr, hr)
            if perceptual is not None:
                terms["aux_percep"] = perceptual(sr, hr)
        return terms

    forward = training_losses  # what a wrapper for distributed training calls

    @torch.no_grad()
    def sample(
        self, series: Series, *, sampler: Sampler, noise: Noise, samples: int = 1, callback: Callback | None = None
    ) -> tuple[Tensor, Prediction]:
        """Images (B * samples, C, H, W), samples of one series side by side, and the backbone's prediction (B, ...).

        ``noise(timesteps, shape)`` is what sampling starts from, ``noise(t, shape)`` what a step from time t draws.
        What doesn't depend on time is computed once a series. ``callback`` sees residuals; ``image`` makes them images.
        """
        backbone = self.rrdb(series)
        condition = self.denoise_fn.condition(backbone.features, series.base)
        base = series.base
        if samples > 1:
            condition, base = condition.repeat_interleave(samples, 0), base.repeat_interleave(samples, 0)
        schedule = self.schedule
        x = noise(schedule.timesteps, base.shape)
        if not self.use_residual:  # starts from the bicubic image with as much noise as the last time has
            last = torch.full((len(base),), schedule.timesteps - 1, device=base.device)
            x = schedule.q_sample(base, last, x)

        def denoise(x: Tensor, t: Tensor) -> Tensor:
            return self.denoise_fn(x, t, condition)

        return self.image(sampler(denoise, x, schedule, noise=noise, callback=callback), base), backbone
