"""RRDBNet: residual-in-residual dense blocks (Wang et al., ESRGAN, ECCV Workshops 2018).

Names and order of the layers are those of the reference implementation, so its checkpoints load.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.layers import conv3x3, doublings, repeat_pixels
from models.series import Backbone, Prediction, Series

OutputClamp = Literal["straight_through", "hard"]


def leaky_relu(x: Tensor) -> Tensor:
    """In place: for the output of a convolution, which nothing else needs."""
    return F.leaky_relu(x, negative_slope=0.2, inplace=True)


def clamp_to_unit(x: Tensor, *, straight_through: bool) -> Tensor:
    """Clamp to [0, 1]; with ``straight_through`` the gradient passes as if there were no clamp.

    A hard clamp gives a colour channel that starts outside [0, 1] no gradient: it stays dead for ever.
    """
    if not straight_through:
        return x.clamp(0, 1)
    return x.detach().clamp(0, 1) + (x - x.detach())  # the bracket is exactly 0, with gradient 1


class DenseBlock(nn.Module):
    """Five convolutions; each sees the block's input and the outputs of all earlier ones."""

    def __init__(self, *, width: int, growth: int) -> None:
        super().__init__()
        for k in range(5):
            self.add_module(f"conv{k + 1}", conv3x3(width + k * growth, growth if k < 4 else width))

    def forward(self, x: Tensor) -> Tensor:
        *growing, last = self.children()
        seen = x  # (B, width + k * growth, h, w)
        for conv in growing:
            seen = torch.cat([seen, leaky_relu(conv(seen))], dim=1)
        return torch.add(x, last(seen), alpha=0.2)


class RRDB(nn.Module):
    """Three dense blocks inside one more scaled residual connection."""

    def __init__(self, *, width: int, growth: int) -> None:
        super().__init__()
        self.RDB1 = DenseBlock(width=width, growth=growth)
        self.RDB2 = DenseBlock(width=width, growth=growth)
        self.RDB3 = DenseBlock(width=width, growth=growth)

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(x, self.RDB3(self.RDB2(self.RDB1(x))), alpha=0.2)


class RRDBTrunk(nn.Module):
    """The part of RRDBNet that works at low resolution: (B, channels, h, w) in [-1, 1] -> features."""

    def __init__(self, *, channels: int, width: int, blocks: int, growth: int) -> None:
        super().__init__()
        self.conv_first = conv3x3(channels, width)
        self.RRDB_trunk = nn.Sequential(*(RRDB(width=width, growth=growth) for _ in range(blocks)))
        self.trunk_conv = conv3x3(width, width)

    def encode(self, x: Tensor) -> list[Tensor]:
        """The output of every block, then the sum after the long skip: blocks + 1 maps (B, width, h, w)."""
        first = self.conv_first((x + 1) / 2)
        features = [first]
        for block in self.RRDB_trunk:
            features.append(block(features[-1]))
        return [*features[1:], first + self.trunk_conv(features[-1])]

    def forward(self, x: Tensor) -> Tensor:
        return self.encode(x)[-1]


class UpsamplingHead(nn.Module):
    """The part of RRDBNet that goes to high resolution: (B, width, h, w) -> (B, channels, s*h, s*w) in [-1, 1].

    With ``base_residual`` the last layer is the difference to ``base``, and neither clamped nor rescaled.
    """

    def __init__(
        self, *, channels: int, width: int, scale: int, output_clamp: OutputClamp, base_residual: bool
    ) -> None:
        super().__init__()
        self._add_head(channels, width, scale=scale, output_clamp=output_clamp, base_residual=base_residual)

    def _add_head(
        self, channels: int, width: int, *, scale: int, output_clamp: OutputClamp, base_residual: bool
    ) -> None:
        self.upconvs = [f"upconv{i + 1}" for i in range(doublings(scale))]
        self.straight_through = output_clamp == "straight_through"
        self.base_residual = base_residual
        for name in [*self.upconvs, "HRconv"]:
            self.add_module(name, conv3x3(width, width))
        self.conv_last = conv3x3(width, channels)

    def decode(self, x: Tensor, base: Tensor) -> Tensor:
        for name in self.upconvs:
            x = leaky_relu(self.get_submodule(name)(repeat_pixels(x)))  # (B, width, 2h, 2w), then 4h, 4w, ...
        x = self.conv_last(leaky_relu(self.get_submodule("HRconv")(x)))  # (B, channels, s*h, s*w)
        return base + x if self.base_residual else clamp_to_unit(x, straight_through=self.straight_through) * 2 - 1

    def forward(self, x: Tensor, base: Tensor) -> Tensor:
        return self.decode(x, base)


class RRDBNet(UpsamplingHead, RRDBTrunk, Backbone):
    """Single-image super-resolution of the view nearest to the target date.

    Trunk and head lie side by side in the state dict here; the fusions of ``models/misr.py`` hold them apart. The
    features for a diffusion model are every third map of the trunk, from the third on, concatenated.
    """

    def __init__(
        self,
        *,
        channels: int = 3,
        width: int,
        blocks: int,
        growth: int | None = None,
        scale: int = 4,
        output_clamp: OutputClamp = "straight_through",
        base_residual: bool = False,
    ) -> None:
        RRDBTrunk.__init__(self, channels=channels, width=width, blocks=blocks, growth=growth or width // 2)
        self._add_head(channels, width, scale=scale, output_clamp=output_clamp, base_residual=base_residual)
        self.scale = scale
        self.feature_channels = width * ((blocks + 1) // 3)

    def forward(self, series: Series) -> Prediction:  # type: ignore[override]
        maps = self.encode(series.nearest())  # blocks + 1 of (B, width, h, w)
        chosen = maps[2::3] or [maps[-1][:, :0]]
        features = torch.cat(chosen, dim=1)  # (B, feature_channels, h, w)
        return Prediction(sr=self.decode(maps[-1], series.base), features=features)
