"""L-TAE: lightweight temporal attention, a pixel at a time (Garnot and Landrieu, 2020).

The maps are read with their channels last. Everything linear then is one matrix product over all views and pixels, and
what mixes dates is a sum over views: no pixel's series is ever laid out by itself. Names and order of the layers are
those of the reference implementation.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TypedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LTAEOptions(TypedDict, total=False):
    """The keywords of LTAE2d that the networks around it hand through."""

    heads: int
    d_k: int
    d_model: int
    mlp: Sequence[int]
    dropout: float
    period: float
    positional_encoding: bool


def normalise_series(x: Tensor, *, groups: int, eps: float, valid: Tensor | None = None) -> Tensor:
    """Zero mean and unit variance over time and the channels of a group: (B, T, h, w, C), at least in float32.

    ``valid`` (B, T): only these views count.
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32)).unflatten(-1, (groups, -1))  # (B, T, h, w, groups, c)
    if valid is None:
        share = None
    else:  # (B, T, 1, 1, 1, 1), mean 1 over time
        share = valid.to(x.dtype) / valid.to(x.dtype).mean(dim=1, keepdim=True).clamp(min=1 / valid.shape[1])
        share = share[:, :, None, None, None, None]

    def mean(y: Tensor) -> Tensor:
        y = y if share is None else y * share
        return y.mean(dim=1, keepdim=True).mean(dim=-1, keepdim=True)  # one axis after the other: much faster than both

    centred = x - mean(x)
    return (centred * torch.rsqrt(mean(centred.square()) + eps)).flatten(-2)


class AttentionHeads(nn.Module):
    """One learned query for each head; keys are a projection, values are the channels themselves, split by head."""

    def __init__(self, *, heads: int, d_k: int, d_model: int) -> None:
        super().__init__()
        self.Q = nn.Parameter(torch.empty(heads, d_k))
        self.fc1_k = nn.Linear(d_model, heads * d_k)
        nn.init.normal_(self.Q, std=math.sqrt(2 / d_k))
        nn.init.normal_(self.fc1_k.weight, std=math.sqrt(2 / d_k))
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor, pad_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """x (B, T, h, w, d_model) -> (B, h, w, d_model) and attention (B, T, h, w, heads)."""
        heads, d_k = self.Q.shape
        # The query doesn't depend on the input: q·(K x + b) / √d_k is one projection to the heads.
        query = (self.Q / math.sqrt(d_k)).unsqueeze(1)  # (heads, 1, d_k)
        weight = (query @ self.fc1_k.weight.unflatten(0, (heads, d_k))).squeeze(1)  # (heads, d_model)
        bias = (query @ self.fc1_k.bias.view(heads, d_k, 1)).view(heads)
        logits = F.linear(x, weight, bias)  # (B, T, h, w, heads)
        if pad_mask is not None:
            logits = logits.masked_fill(pad_mask[:, :, None, None, None], -1e3)
        attention = self.dropout(logits.softmax(dim=1))
        values = x.unflatten(-1, (heads, -1))  # (B, T, h, w, heads, d)
        mixed: Tensor | None = None
        for weights, view in zip(attention.unsqueeze(-1).unbind(1), values.unbind(1), strict=True):
            mixed = weights * view if mixed is None else torch.addcmul(mixed, weights, view)  # no product is kept
        assert mixed is not None
        return mixed.flatten(-2), attention


class LTAE2d(nn.Module):
    """Fuses a series of feature maps by temporal attention at every pixel.

    Args:
        channels: of the maps that come in; a multiple of ``heads``.
        mlp: widths of the perceptron after attention; the first is ``d_model``, the last the output's channels.
        period: the T of the positional encoding, in days.
    """

    def __init__(
        self,
        *,
        channels: int,
        heads: int = 16,
        d_k: int = 4,
        d_model: int = 128,
        mlp: Sequence[int] = (128, 64),
        dropout: float = 0.2,
        period: float = 1000,
        positional_encoding: bool = True,
    ) -> None:
        super().__init__()
        if channels % heads or d_model % heads or mlp[-1] % heads:
            raise ValueError(f"channels, d_model and the last of mlp must be multiples of the {heads} heads")
        if mlp[0] != d_model:
            raise ValueError(f"mlp starts with {mlp[0]}, but d_model is {d_model}")
        self.heads = heads
        self.inconv = nn.Conv1d(channels, d_model, kernel_size=1)
        self.attention_heads = AttentionHeads(heads=heads, d_k=d_k, d_model=d_model)
        self.in_norm = nn.GroupNorm(heads, channels)
        self.out_norm = nn.GroupNorm(heads, mlp[-1])
        layers: list[nn.Module] = []
        for width_in, width_out in pairwise(mlp):
            layers += [nn.Linear(width_in, width_out), nn.BatchNorm1d(width_out), nn.ReLU()]
        self.mlp = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)
        self.positional_encoding = positional_encoding
        d = d_model // heads
        denominators = torch.pow(period, 2 * (torch.arange(d) // 2) / d)  # float32, also in a float64 network
        self.register_buffer("denominators", denominators, persistent=False)
        self.denominators: Tensor

    def position(self, dates: Tensor) -> Tensor:
        """Sines and cosines of signed day offsets: (B, T) -> (B, T, d_model)."""
        angles = dates.to(self.denominators.dtype).unsqueeze(-1) / self.denominators  # (B, T, d)
        even = torch.arange(len(self.denominators), device=dates.device) % 2 == 0
        return torch.where(even, angles.sin(), angles.cos()).repeat(1, 1, self.heads)

    def embed(self, x: Tensor, dates: Tensor, valid: Tensor | None) -> Tensor:
        """Normalise every pixel's series, project it, add the position: (B, T, h, w, C) -> (B, T, h, w, d_model)."""
        x = normalise_series(x, groups=self.heads, eps=self.in_norm.eps, valid=valid)
        # The norm's scale and shift become a part of the projection, and the position a part of its bias.
        projection = self.inconv.weight.squeeze(-1)  # (d_model, C)
        bias = projection @ self.in_norm.bias + self.inconv.get_parameter("bias")  # (d_model,)
        if self.positional_encoding:
            bias = (bias + self.position(dates))[:, :, None, None]  # (B, T, 1, 1, d_model)
        return F.linear(x, projection * self.in_norm.weight).add_(bias)

    def forward(
        self, x: Tensor, dates: Tensor, pad_mask: Tensor | None = None, *, norm_padding: bool = True
    ) -> tuple[Tensor, Tensor]:
        """x (B, T, C, h, w), dates (B, T) days -> maps (B, mlp[-1], h, w), attention (heads, B, T, h, w).

        ``pad_mask`` (B, T), True = padding: gets no attention. With ``norm_padding`` false padding doesn't
        enter the input's normalisation either, so the result is that of the series without it.
        """
        valid = None if pad_mask is None or norm_padding else ~pad_mask
        x = x.movedim(2, -1).contiguous()  # (B, T, h, w, C); not a copy if the maps are channels_last
        out, attention = self.attention_heads(self.embed(x, dates, valid), pad_mask)  # (B, h, w, d_model)
        pixels = self.out_norm(self.dropout(self.mlp(out.flatten(0, 2))))  # (B * h * w, mlp[-1])
        return pixels.view(*out.shape[:3], -1).movedim(-1, 1), attention.permute(4, 0, 1, 2, 3)
