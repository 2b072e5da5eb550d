"""SRDiff: a diffusion model of what a backbone's image lacks (Li et al., 2022), on the features of any backbone."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from models import losses
from models.samplers import Callback, Noise, Sampler
from models.schedule import Path
from models.series import Backbone, Prediction, Series
from models.unet import UNet

LossType = Literal["l1", "l2", "ssim", "l1_shift"]

PATH_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": losses.l1,
    "l2": losses.l2,
    "ssim": lambda output, target: losses.l1(output, target) + losses.ssim_loss(output, target),
    "l1_shift": losses.l1_shift,
}


class SRDiff(nn.Module):
    """The diffusion model with its conditioner.

    Args:
        denoise_fn: predicts the noise; its ``cond_channels`` are the backbone's ``feature_channels``.
        backbone: gives the features to condition on; in the state dict it is ``rrdb``, whichever it is.
        path: the noise process.
        residual: diffuse the difference to the bicubic image, times ``residual_rescale``; else the image itself.
        clip_input: clamp the difference to [-1, 1].
        fix_backbone: the backbone stays as it is: in evaluation mode, without gradient. Else it trains along.
    """

    def __init__(
        self,
        *,
        denoise_fn: UNet,
        backbone: Backbone,
        path: Path,
        residual: bool = True,
        residual_rescale: float = 2.0,
        clip_input: bool = True,
        fix_backbone: bool = True,
    ) -> None:
        super().__init__()
        self._path = path
        for name, table in path.tables().items():
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
    def path(self) -> Path:
        """The noise process. Its tables are buffers: they follow the model to its device and into checkpoints."""
        return self._path.with_tables({name: self.get_buffer(name) for name in self._path.tables()})

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

        ``q`` is the loss of what the path has the network predict. A backbone that trains along also gets the auxiliary
        ones, between its own output and the truth.
        """
        backbone = self.rrdb(series)
        condition = self.denoise_fn.condition(backbone.features, series.base)
        path, x0 = self.path, self.residual(hr, series.base)
        output = self.denoise_fn(path.q_sample(x0, t, noise), t, condition)
        terms = {"q": PATH_LOSSES[loss_type](output.to(noise.dtype), path.target(x0, noise))}
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
        """Draw images from noise.

        What doesn't depend on time is computed once a series.

        Args:
            sampler: with its times bound; predictions of the clean residual are clamped to [-1, 1] for it.
            noise: sampling starts from ``noise(timesteps, shape)``; a step draws ``noise(noise_index(t), shape)``.
            samples: drawn of each series.
            callback: sees images (B * samples, C, H, W), not residuals.

        Returns:
            Images (B * samples, C, H, W), samples of one series side by side, and the backbone's prediction (B, ...).
        """
        backbone = self.rrdb(series)
        condition = self.denoise_fn.condition(backbone.features, series.base)
        base = series.base
        if samples > 1:
            condition, base = condition.repeat_interleave(samples, 0), base.repeat_interleave(samples, 0)
        path = self.path
        start = noise(path.timesteps, base.shape)
        x = path.source_std * start
        if not self.use_residual:  # starts from the bicubic image with as much noise as the last time has
            last = torch.full((len(base),), path.times(1)[0], device=base.device)
            x = path.q_sample(base, last, start)

        def predict_clean(x: Tensor, t: float) -> Tensor:
            times = torch.full((len(x),), t, device=x.device)
            output = self.denoise_fn(x, times, condition).to(x.dtype)
            return path.predict_start(x, times, output).clamp(-1, 1)

        def show(step: int, t: float, x: Tensor, x0: Tensor) -> None:
            if callback:
                callback(step, t, self.image(x, base), self.image(x0, base))

        x = sampler(predict_clean, x, path, noise=noise, callback=show if callback else None)
        return self.image(x, base), backbone
