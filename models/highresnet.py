"""HighRes-net: recursive fusion of a series of views (Deudon et al., 2020).

Names and order of the layers are those of the reference implementation, so its checkpoints load.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from models.layers import conv3x3, doublings
from models.series import Backbone, Prediction, Series

DecoderKind = Literal["published", "smooth"]


class ResidualBlock(nn.Module):
    """Two convolutions, each with PReLU, and a skip."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.block = nn.Sequential(conv3x3(width, width), nn.PReLU(), conv3x3(width, width), nn.PReLU())

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x)


class Encoder(nn.Module):
    """Embeds every view together with the reference image.

    Views (B, T, channels, h, w), reference (B, channels, h, w) -> (B * T, width, h, w).
    """

    def __init__(self, *, channels: int, width: int, layers: int) -> None:
        super().__init__()
        self.init_layer = nn.Sequential(conv3x3(2 * channels, width), nn.PReLU())
        self.res_layers = nn.Sequential(*(ResidualBlock(width) for _ in range(layers)))
        self.final = nn.Sequential(conv3x3(width, width))

    def forward(self, lr: Tensor, reference: Tensor) -> Tensor:
        both = torch.cat([lr, reference.unsqueeze(1).expand_as(lr)], dim=2).flatten(0, 1)  # (B * T, 2 * channels, h, w)
        return self.final(self.res_layers(self.init_layer(both)))


class RecursiveFusion(nn.Module):
    """Fuses views by halves until one is left: (B, T, width, h, w), mask (B, T) -> (B, width, h, w).

    Of n views the first n//2 meet the next n//2 in reversed order; with n odd the last view is dropped.
    """

    def __init__(self, *, width: int, alpha_residual: bool = True) -> None:
        super().__init__()
        self.alpha_residual = alpha_residual
        self.fuse = nn.Sequential(ResidualBlock(2 * width), conv3x3(2 * width, width), nn.PReLU())

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        alphas = mask.to(x.dtype)
        while x.shape[1] > 1:
            half = x.shape[1] // 2
            first, second = x[:, :half], x[:, half : 2 * half].flip(1)
            pairs = torch.cat([first, second], dim=2)  # (B, half, 2 * width, h, w)
            fused = self.fuse(pairs.flatten(0, 1)).unflatten(0, pairs.shape[:2])  # (B, half, width, h, w)
            alpha = alphas[:, half : 2 * half].flip(1)[:, :, None, None, None]  # of the second views
            x = first + alpha * fused if self.alpha_residual else fused
            alphas = alphas[:, :half]
        return x.mean(dim=1)


class Decoder(nn.Module):
    """To high resolution by doublings: (B, width, h, w) -> (B, channels, s*h, s*w).

    published: transposed convolutions of kernel 2 and a 1 x 1, in which two input pixels never meet, so each becomes a
    pattern of its own. smooth: bilinear interpolation and 3 x 3 convolutions, nearly as in the head of RRDB.
    With ``base_residual`` the last layer is the difference to ``base``.
    """

    def __init__(
        self, *, channels: int, width: int, scale: int, kind: DecoderKind = "published", base_residual: bool = False
    ) -> None:
        super().__init__()
        self.base_residual = base_residual
        for i in range(1, doublings(scale) + 1):
            if kind == "smooth":
                up: nn.Module = nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), conv3x3(width, width))
            else:
                up = nn.ConvTranspose2d(width, width, kernel_size=2, stride=2)
            self.add_module("deconv" if i == 1 else f"deconv{i}", nn.Sequential(up, nn.PReLU()))
        self.final = conv3x3(width, channels) if kind == "smooth" else nn.Conv2d(width, channels, kernel_size=1)

    def forward(self, x: Tensor, base: Tensor) -> Tensor:
        for layer in self.children():  # in the order in which they were added
            x = layer(x)
        return base + x if self.base_residual else x


def median_view(lr: Tensor, mask: Tensor | None = None) -> Tensor:
    """Per-pixel median over the views (the lower of two middle values): (B, T, C, h, w) -> (B, C, h, w).

    ``mask`` (B, T), True = acquired: only these views count.
    """
    if mask is None:
        return lr.median(dim=1).values
    ordered = lr.masked_fill(~mask[:, :, None, None, None], float("inf")).sort(dim=1).values
    middle = (mask.sum(dim=1) - 1).clamp(min=0) // 2  # (B,)
    return ordered[torch.arange(len(lr), device=lr.device), middle]


class HighResNet(Backbone):
    """Encoder with the median view as reference, recursive fusion, decoder. Padded views have alpha 0."""

    def __init__(
        self,
        *,
        channels: int = 3,
        width: int = 64,
        layers: int = 2,
        scale: int = 4,
        alpha_residual: bool = True,
        base_residual: bool = False,
        decoder: DecoderKind = "published",
    ) -> None:
        super().__init__()
        self.scale, self.feature_channels = scale, width
        self.encode = Encoder(channels=channels, width=width, layers=layers)
        self.fuse = RecursiveFusion(width=width, alpha_residual=alpha_residual)
        self.decode = Decoder(channels=channels, width=width, scale=scale, kind=decoder, base_residual=base_residual)

    def forward(self, series: Series) -> Prediction:
        views = series.by_date(self.encode(series.lr, median_view(series.lr)))  # (B, T, width, h, w)
        features = self.fuse(views, series.mask)  # (B, width, h, w)
        return Prediction(sr=self.decode(features, series.base), features=features)
