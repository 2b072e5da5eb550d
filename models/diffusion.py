"""SRDiff: a diffusion model of what a backbone's image lacks (Li et al., 2022), on the features of any backbone."""

import copy
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from models import losses
from models.samplers import Callback, Noise, Sampler
from models.schedule import Path
from models.series import Backbone, Prediction, Series
from models.unet import UNet

Base = Literal["bicubic", "backbone"]
LossType = Literal["l1", "l2", "ssim", "l1_shift"]

SHORTCUTS = (1, 2, 4, 8)  # how many steps a network that knows its step's size can take in place of many

PATH_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": losses.l1,
    "l2": losses.l2,
    "ssim": lambda output, target: losses.l1(output, target) + (1 - losses.ssim(output, target)),
    "l1_shift": losses.l1_shift,
}


class SRDiff(nn.Module):
    """The diffusion model with its conditioner.

    Args:
        denoise_fn: predicts the noise; its ``cond_channels`` are the backbone's ``feature_channels``.
        backbone: gives the features to condition on; in the state dict it is ``rrdb``, whichever it is.
        path: the noise process.
        residual: diffuse the difference to the base image, times ``residual_rescale``; else the image itself.
        clip_input: clamp the difference to [-1, 1].
        base: what the residual is the difference to: the bicubic image, or the backbone's own output.
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
        base: Base = "bicubic",
        fix_backbone: bool = True,
    ) -> None:
        super().__init__()
        self._path = path
        for name, table in path.tables.items():
            self.register_buffer(name, table)
        self.denoise_fn = denoise_fn
        self.rrdb = backbone
        self.use_residual = residual
        self.residual_rescale = residual_rescale
        self.limit = 1.0 if clip_input else float("inf")
        self.base = base
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
        path = copy.copy(self._path)
        path.tables = {name: self.get_buffer(name) for name in path.tables}
        return path

    def _given(self, series: Series) -> tuple[Prediction, Tensor, Tensor]:
        """What doesn't depend on time: the backbone's prediction, base image (B, C, H, W), condition (B, dim, H, W)."""
        backbone, base = self.rrdb(series), series.base
        if self.base == "backbone":
            base = backbone.sr.detach().to(base.dtype).clamp(-1, 1)
        return backbone, base, self.denoise_fn.condition(backbone.features, base)

    def residual(self, hr: Tensor, base: Tensor) -> Tensor:
        """What is diffused: the image's difference to the base image (B, C, H, W)."""
        return ((hr - base) * self.residual_rescale).clamp(-self.limit, self.limit) if self.use_residual else hr

    def image(self, r: Tensor, base: Tensor) -> Tensor:
        """Back from ``residual`` to the image; not clamped again."""
        return r.clamp(-self.limit, self.limit) / self.residual_rescale + base if self.use_residual else r

    def training_losses(
        self,
        series: Series,
        hr: Tensor,
        *,
        t: Tensor,
        noise: Tensor,
        step: Tensor | None = None,
        loss_type: LossType = "l1",
        aux_l1: bool = False,
        aux_ssim: bool = False,
        perceptual: nn.Module | None = None,
    ) -> dict[str, Tensor]:
        """The terms whose sum is minimised, for images hr (B, C, H, W), times t (B,) and noise like hr.

        ``q`` is the loss of what the path has the network predict. Where ``step`` (B,) is above 0, it is that of a
        shortcut of this size: one step must lead where two of half the size do (Frans et al., 2025). A backbone that
        trains along also gets the auxiliary ones, between its own output and the truth.
        """
        backbone, base, condition = self._given(series)
        path, x0 = self.path, self.residual(hr, base)
        x_t, target = path.q_sample(x0, t, noise), path.target(x0, noise)
        output = self.denoise_fn(x_t, t, condition, step)
        if step is not None:  # after the output: autocast would keep weights that were cast without gradient
            far = step > 0
            target[far] = self._two_steps(x_t[far], t[far], step[far] / 2, condition[far])
        terms = {"q": PATH_LOSSES[loss_type](output.to(noise.dtype), target)}
        if not self.fix_backbone:
            sr = backbone.sr.to(hr.dtype)
            if aux_l1:
                terms["aux_l1"] = losses.l1(sr, hr)
            if aux_ssim:
                terms["aux_ssim"] = 1 - losses.ssim(sr, hr)
            if perceptual is not None:
                terms["aux_percep"] = perceptual(sr, hr)
        return terms

    forward = training_losses  # what a wrapper for distributed training calls

    @torch.no_grad()
    def _two_steps(self, x: Tensor, t: Tensor, step: Tensor, condition: Tensor) -> Tensor:
        """The mean velocity of two Euler steps of a straight flow from x (n, C, H, W) at t (n,), each of ``step`` (n,).

        The smallest steps follow the velocity itself (size 0): what the rest of the batch learns.
        """
        size = torch.where(step < 0.75 * self.path.timesteps / SHORTCUTS[-1], 0, step)
        first = self.denoise_fn(x, t, condition, size).to(x.dtype)
        x = x - (step / self.path.timesteps).view(-1, 1, 1, 1) * first
        return (first + self.denoise_fn(x, t - step, condition, size).to(x.dtype)) / 2

    @torch.no_grad()
    def sample(
        self,
        series: Series,
        *,
        sampler: Sampler,
        noise: Noise,
        samples: int = 1,
        callback: Callback | None = None,
        start: float | None = None,
        step: float = 0.0,
    ) -> tuple[Tensor, Prediction]:
        """Draw images from noise.

        Args:
            sampler: with its times bound; predictions of the clean residual are clamped to [-1, 1] for it.
            noise: sampling starts from ``noise(timesteps, shape)``; a step draws ``noise(noise_index(t), shape)``.
            samples: drawn of each series.
            callback: sees images (B * samples, C, H, W), not residuals.
            start: the sampler's first time, where it is to start from the backbone's image with the noise of that time;
                None: from noise alone.
            step: the size of the sampler's steps, for a network that knows it; 0: its prediction is a velocity.

        Returns:
            Images (B * samples, C, H, W), samples of one series side by side, and the backbone's prediction (B, ...).
        """
        backbone, base, condition = self._given(series)
        guess = base if start is None else backbone.sr.to(base.dtype).clamp(-1, 1)
        if samples > 1:
            condition, base, guess = (x.repeat_interleave(samples, 0) for x in (condition, base, guess))
        path = self.path

        def of_each(value: float) -> Tensor:
            return torch.full((len(base),), value, device=base.device)

        x = noise(path.timesteps, base.shape)
        if start is None and self.use_residual:
            x = path.source_std * x
        else:  # from an image with as much noise as the first time has
            x = path.q_sample(self.residual(guess, base), of_each(path.times(1)[0] if start is None else start), x)
        size = of_each(step) if step else None

        def predict_clean(x: Tensor, t: float) -> Tensor:
            output = self.denoise_fn(x, of_each(t), condition, size).to(x.dtype)
            return path.predict_start(x, of_each(t), output).clamp(-1, 1)

        for i, (t, state, x0) in enumerate(sampler(predict_clean, x, path, noise)):
            x = state
            if callback:
                callback(i, t, self.image(x, base), self.image(x0, base))
        return self.image(x, base), backbone
