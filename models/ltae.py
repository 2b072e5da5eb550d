"""L-TAE: lightweight temporal attention, a pixel at a time (Garnot and Landrieu, 2020).

A pixel's series is never laid out as a sequence: everything linear is a 1×1 convolution over the views where they lie,
and the rest are sums over the time axis. Names and order of the layers are those of the reference implementation.
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


def conv1x1(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(N, in, h, w) with weight (out, in) -> (N, out, h, w)."""
    return F.conv2d(x, weight[:, :, None, None], bias)


def standardise(x: Tensor, dims: tuple[int, ...], eps: float, weight: Tensor | None = None) -> Tensor:
    """Zero mean and unit variance over ``dims``, at least in float32; ``weight`` (broadcasting) says what counts."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    if weight is None:
        centred = x - x.mean(dims, keepdim=True)
        variance = centred.square().mean(dims, keepdim=True)
    else:
        share = weight / weight.expand(x.shape).sum(dims, keepdim=True).clamp(min=1)
        centred = x - (x * share).sum(dims, keepdim=True)
        variance = (centred.square() * share).sum(dims, keepdim=True)
    return centred * torch.rsqrt(variance + eps)


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
        """x (B, T, d_model, h, w) -> (B, d_model, h, w) and attention (B, T, heads, h, w)."""
        batch, time = x.shape[:2]
        heads, d_k = self.Q.shape
        # The query doesn't depend on the input: q·(K x + b) / √d_k is one projection to the heads.
        query = (self.Q / math.sqrt(d_k)).unsqueeze(1)  # (heads, 1, d_k)
        weight = (query @ self.fc1_k.weight.unflatten(0, (heads, d_k))).squeeze(1)  # (heads, d_model)
        bias = (query @ self.fc1_k.bias.view(heads, d_k, 1)).view(heads)
        logits = conv1x1(x.flatten(0, 1), weight, bias).unflatten(0, (batch, time))  # (B, T, heads, h, w)
        if pad_mask is not None:
            logits = logits.masked_fill(pad_mask[:, :, None, None, None], -1e3)
        attention = self.dropout(logits.softmax(dim=1))
        values = x.unflatten(2, (heads, -1))  # (B, T, heads, d, h, w)
        mixed = attention[:, 0].unsqueeze(2) * values[:, 0]
        for t in range(1, time):  # a sum over views without laying out all products
            mixed = torch.addcmul(mixed, attention[:, t].unsqueeze(2), values[:, t])
        return mixed.flatten(1, 2), attention


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
        """Normalise every pixel's series, project to d_model, add the position: (B, T, d_model, h, w)."""
        batch, time = x.shape[:2]
        grouped = x.unflatten(2, (self.heads, -1))  # (B, T, heads, channels / heads, h, w)
        weight = None if valid is None else valid.to(x.dtype)[:, :, None, None, None, None]
        normal = standardise(grouped, (1, 3), self.in_norm.eps, weight).flatten(2, 3).flatten(0, 1)
        # The norm's own scale and shift are a part of the projection.
        projection = self.inconv.weight.squeeze(-1)  # (d_model, channels)
        bias = projection @ self.in_norm.bias + self.inconv.get_parameter("bias")
        out = conv1x1(normal, projection * self.in_norm.weight, bias).unflatten(0, (batch, time))
        return out + self.position(dates)[..., None, None].to(out.dtype) if self.positional_encoding else out

    def forward(
        self, x: Tensor, dates: Tensor, pad_mask: Tensor | None = None, *, norm_padding: bool = True
    ) -> tuple[Tensor, Tensor]:
        """x (B, T, C, h, w), dates (B, T) days -> maps (B, mlp[-1], h, w), attention (heads, B, T, h, w).

        ``pad_mask`` (B, T), True = padding: gets no attention. With ``norm_padding`` false padding doesn't
        enter the input's normalisation either, so the result is that of the series without it.
        """
        valid = None if pad_mask is None or norm_padding else ~pad_mask
        out, attention = self.attention_heads(self.embed(x, dates, valid), pad_mask)  # (B, d_model, h, w)
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                out = conv1x1(out, layer.weight, layer.bias)
            elif isinstance(layer, nn.BatchNorm1d):
                out = layer(out.flatten(2)).unflatten(2, x.shape[-2:])
            else:
                out = layer(out)
        out = self.dropout(out)
        out = standardise(out.unflatten(1, (self.heads, -1)), (2,), self.out_norm.eps).flatten(1, 2)
        out = out * self.out_norm.weight[:, None, None] + self.out_norm.bias[:, None, None]
        return out, attention.permute(2, 0, 1, 3, 4)
