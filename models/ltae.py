"""L-TAE: lightweight temporal attention, a pixel at a time (Garnot and Landrieu, 2020).

The maps are read with their channels last. Everything linear then is one matrix product over all views and pixels, and
what mixes dates is a sum over views: no pixel's series is ever laid out by itself. Names and order of the layers are
those of the reference implementation.
"""

import math
from collections.abc import Sequence
from itertools import chain, pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def normalise(x: Tensor, *, groups: int, eps: float, share: Tensor | None = None, over_time: bool = False) -> Tensor:
    """Zero mean and unit variance over the channels of a group: (B, ..., C), at least in float32.

    ``over_time``: over the second axis as well, where ``share`` (B, T), of mean 1 over time, weighs the views.
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32)).unflatten(-1, (groups, -1))  # (B, ..., groups, c)

    def mean(y: Tensor) -> Tensor:
        if over_time:
            y = (y if share is None else y * share[:, :, None, None, None, None]).mean(dim=1, keepdim=True)
        return y.mean(dim=-1, keepdim=True)  # one axis after the other is much faster than both at once

    centred = x - mean(x)
    return (centred * torch.rsqrt(mean(centred.square()) + eps)).flatten(-2)


class AttentionHeads(nn.Module):
    """One learned query for each head; keys are a projection, values are the channels themselves, split by head."""

    def __init__(self, *, heads: int, d_k: int, d_model: int, dropout: float) -> None:
        super().__init__()
        self.Q = nn.Parameter(torch.empty(heads, d_k))
        self.fc1_k = nn.Linear(d_model, heads * d_k)
        nn.init.normal_(self.Q, std=math.sqrt(2 / d_k))
        nn.init.normal_(self.fc1_k.weight, std=math.sqrt(2 / d_k))
        self.dropout = nn.Dropout(dropout)

    def logit_projection(self) -> tuple[Tensor, Tensor]:
        """Weight (heads, d_model) and bias (heads,) that take a token straight to its logits.

        The query doesn't depend on the input, so q·(K x + b) / √d_k is one linear map of x.
        """
        heads, d_k = self.Q.shape
        query = (self.Q / math.sqrt(d_k)).unsqueeze(1)  # (heads, 1, d_k)
        weight = query @ self.fc1_k.weight.unflatten(0, (heads, d_k))  # (heads, 1, d_model)
        bias = query @ self.fc1_k.bias.view(heads, d_k, 1)  # (heads, 1, 1)
        return weight.squeeze(1), bias.flatten()

    def forward(self, tokens: Tensor, logits: Tensor, pad_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """tokens (B, T, h, w, d_model), logits (B, T, h, w, heads) -> (B, h, w, d_model), attention like the logits."""
        if pad_mask is not None:
            logits = logits.masked_fill(pad_mask[:, :, None, None, None], -1e3)
        attention = self.dropout(logits.softmax(dim=1))
        values = tokens.unflatten(-1, (len(self.Q), -1))  # (B, T, h, w, heads, d)
        pairs = zip(attention.unsqueeze(-1).unbind(1), values.unbind(1), strict=True)  # date by date
        weight, value = next(pairs)
        mixed = weight * value
        for weight, value in pairs:
            mixed = torch.addcmul(mixed, weight, value)  # no product is kept
        return mixed.flatten(-2), attention


class LTAE2d(nn.Module):
    """Fuses a series of feature maps by temporal attention at every pixel.

    Args:
        channels: of the maps that come in; a multiple of ``heads``.
        mlp: widths of the perceptron after attention, from ``d_model`` to the output's channels; None: to ``channels``.
        dropout: after the perceptron; the attention has half of it (published: 0.2 and 0.1).
        period: the T of the positional encoding, in days.
    """

    def __init__(
        self,
        *,
        channels: int,
        heads: int = 16,
        d_k: int = 4,
        d_model: int = 128,
        mlp: Sequence[int] | None = None,
        dropout: float = 0.2,
        period: float = 1000,
        positional_encoding: bool = True,
    ) -> None:
        super().__init__()
        mlp = mlp or (d_model, channels)
        if channels % heads or d_model % heads or mlp[-1] % heads:
            raise ValueError(f"channels, d_model and the last of mlp must be multiples of the {heads} heads")
        if mlp[0] != d_model:
            raise ValueError(f"mlp starts with {mlp[0]}, but d_model is {d_model}")
        self.heads, self.out_channels = heads, mlp[-1]
        self.inconv = nn.Conv1d(channels, d_model, kernel_size=1)
        self.attention_heads = AttentionHeads(heads=heads, d_k=d_k, d_model=d_model, dropout=dropout / 2)
        self.in_norm = nn.GroupNorm(heads, channels)
        self.out_norm = nn.GroupNorm(heads, mlp[-1])
        layers = [[nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU()] for a, b in pairwise(mlp)]
        self.mlp = nn.Sequential(*chain.from_iterable(layers))
        self.dropout = nn.Dropout(dropout)
        self.positional_encoding = positional_encoding
        d = d_model // heads
        self.denominators: Tensor  # float32, also in a float64 network
        self.register_buffer("denominators", period ** (2 * (torch.arange(d) // 2) / d), persistent=False)

    def position(self, dates: Tensor) -> Tensor:
        """Sines and cosines of signed day offsets: (B, T) -> (B, T, d_model)."""
        angles = dates.to(self.denominators.dtype).unsqueeze(-1) / self.denominators  # (B, T, d)
        even = torch.arange(len(self.denominators), device=dates.device) % 2 == 0
        return torch.where(even, angles.sin(), angles.cos()).repeat(1, 1, self.heads)

    def embed(self, x: Tensor, dates: Tensor, share: Tensor | None) -> tuple[Tensor, Tensor]:
        """Normalise every pixel's series, project it, add the position: (B, T, h, w, C) -> tokens and their logits.

        One matrix product gives both; the norm's scale and shift are a part of its weight, the position of its bias.
        """
        x = normalise(x, groups=self.heads, eps=self.in_norm.eps, share=share, over_time=True)
        projection = self.inconv.weight.squeeze(-1)  # (d_model, C)
        weight = projection * self.in_norm.weight
        bias = projection @ self.in_norm.bias + self.inconv.get_parameter("bias")  # (d_model,)
        if self.positional_encoding:
            bias = bias + self.position(dates)[:, :, None, None]  # (B, T, 1, 1, d_model)
        to_logits, logit_bias = self.attention_heads.logit_projection()
        weight = torch.cat([weight, to_logits @ weight])  # (d_model + heads, C)
        bias = torch.cat([bias, bias @ to_logits.T + logit_bias], dim=-1)  # (B, T, 1, 1, d_model + heads)
        tokens, logits = F.linear(x, weight).add_(bias).split([len(projection), self.heads], dim=-1)
        return tokens, logits  # (B, T, h, w, d_model), (B, T, h, w, heads)

    def forward(
        self, x: Tensor, dates: Tensor, pad_mask: Tensor | None = None, *, norm_padding: bool = True
    ) -> tuple[Tensor, Tensor]:
        """x (B, T, C, h, w), dates (B, T) days -> maps (B, mlp[-1], h, w), attention (heads, B, T, h, w).

        ``pad_mask`` (B, T), True = padding: gets no attention. With ``norm_padding`` false padding doesn't
        enter the input's normalisation either, so the result is that of the series without it.
        """
        share = None
        if pad_mask is not None and not norm_padding:
            valid = (~pad_mask).to(x.dtype)
            share = valid / valid.mean(dim=1, keepdim=True).clamp(min=1 / valid.shape[1])
        x = x.movedim(2, -1).contiguous()  # (B, T, h, w, C); not a copy if the maps are channels_last
        mixed, attention = self.attention_heads(*self.embed(x, dates, share), pad_mask)  # (B, h, w, d_model)
        pixels = self.dropout(self.mlp(mixed.flatten(0, 2)))  # (B * h * w, mlp[-1])
        pixels = normalise(pixels, groups=self.heads, eps=self.out_norm.eps)
        pixels = pixels * self.out_norm.weight + self.out_norm.bias
        return pixels.view(*mixed.shape[:3], -1).movedim(-1, 1), attention.permute(4, 0, 1, 2, 3)
