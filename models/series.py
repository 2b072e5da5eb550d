"""What passes between data, backbones and the diffusion model."""

from typing import NamedTuple

from torch import Tensor, nn


class Series(NamedTuple):
    """Co-registered acquisitions of one place; every backbone sees this. T = 1 is single-image; s is the scale."""

    lr: Tensor  # (B, T, C, h, w) in [-1, 1]
    dates: Tensor  # (B, T) days relative to the target date
    mask: Tensor  # (B, T) True = acquired, False = padding
    base: Tensor  # (B, C, s*h, s*w) bicubic of the acquisition nearest to the target date

    def nearest(self) -> Tensor:
        """The acquired view nearest to the target date, (B, C, h, w); ties: the first."""
        distance = self.dates.abs().masked_fill(~self.mask, float("inf"))
        index = distance.argmin(dim=1)  # (B,)
        return self.lr[range(len(index)), index]

    def by_date(self, views: Tensor) -> Tensor:
        """What was computed for each view by itself: (B * T, ...) -> (B, T, ...)."""
        return views.unflatten(0, self.lr.shape[:2])


class Prediction(NamedTuple):
    """What a backbone gives back."""

    sr: Tensor  # (B, C, s*h, s*w), meant to lie in [-1, 1]
    features: Tensor  # (B, F, h, w): what a diffusion model is conditioned on
    attention: Tensor | None = None  # (heads, B, T, h, w): weights of the dates, where the network has some


class Backbone(nn.Module):
    """A network that super-resolves a series and hands over features for a diffusion model."""

    scale: int
    feature_channels: int

    def forward(self, series: Series) -> Prediction:
        raise NotImplementedError
