"""Small things that several networks share."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


def doublings(scale: int) -> int:
    """How many times ×2 makes ``scale``. Raises ValueError unless it is 2, 4, 8, ..."""
    count = scale.bit_length() - 1
    if count < 1 or scale != 1 << count:
        raise ValueError(f"scale must be a power of two from 2 on, not {scale}")
    return count


def conv3x3(in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)


_INVERTIBLE = 1e-3  # slopes from here on: the input follows from the output without loss


class _LeakyReLU(torch.autograd.Function):
    """F.prelu with a weight of one element; torch's own gradient takes four times as long on a CPU.

    With a positive slope the output has the signs of the input, and takes its place: one image less to keep.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.slope = weight.item()
        ctx.in_place = ctx.slope >= _INVERTIBLE
        if ctx.in_place:
            ctx.mark_dirty(x)
        y = F.leaky_relu(x, ctx.slope, inplace=ctx.in_place)
        ctx.save_for_backward(y if ctx.in_place else x)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        (kept,) = ctx.saved_tensors  # the output in place, else the input
        of_weight = kept.clamp(max=0).mul_(gradient).sum(dtype=torch.promote_types(kept.dtype, torch.float32))
        if ctx.in_place:
            of_weight = of_weight / ctx.slope  # the output's negative values are slope · input
        return torch.ops.aten.leaky_relu_backward(gradient, kept, ctx.slope, ctx.in_place), of_weight.view(1)


class PReLU(nn.PReLU):
    """max(x, 0) + weight · min(x, 0), one weight for all channels.

    May overwrite its input: for the output of a convolution, which nothing else needs.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(x)
        return _LeakyReLU.apply(x, self.weight)


_PIECE = 1 << 16  # elements a thread


def _mish(out: Tensor, x: Tensor) -> None:
    gain, rest = _gain(x)
    torch.mul(x, gain, out=gain)
    torch.div(gain, rest, out=out)


def _gradient(out: Tensor, x: Tensor, upstream: Tensor) -> None:
    """d/dx x tanh(softplus(x)) = T + x σ(x) (1 − T²), T = tanh(softplus(x))."""
    gain, rest = _gain(x)
    t = gain.div_(rest)
    slope = torch.mul(t, t, out=rest).neg_().add_(1).mul_(x).mul_(torch.sigmoid(x))
    torch.mul(t.add_(slope), upstream, out=out)


def _gain(x: Tensor) -> tuple[Tensor, Tensor]:
    """(h, 1 − h)."""
    s = torch.sigmoid(x)
    h = torch.addcmul(s, s, s, value=-0.5)
    return h, torch.sub(1, h, out=s)


def _by_pieces(compute: Callable[..., None], *inputs: Tensor) -> Tensor:
    """``compute(out, *inputs)`` over tensors of one shape and memory format, piece by piece."""
    result = torch.empty_like(inputs[0])
    wide = torch.promote_types(result.dtype, torch.float32)
    size = _PIECE * torch.get_num_threads()
    flat = [x.as_strided((x.numel(),), (1,), x.storage_offset()) for x in (result, *inputs)]  # as they lie in memory
    for out, *parts in zip(*(x.split(size) for x in flat), strict=True):
        if wide == out.dtype:
            compute(out, *parts)
        else:
            part = torch.empty_like(out, dtype=wide)
            compute(part, *(x.to(wide) for x in parts))
            out.copy_(part)
    return result


def _dense(x: Tensor, *, like: Tensor | None = None) -> Tensor:
    """Without gaps in memory: in the format of ``like`` or its own."""
    last = (x if like is None else like).is_contiguous(memory_format=torch.channels_last)
    return x.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


class _Mish(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = _dense(x)
        ctx.save_for_backward(x)
        return _by_pieces(_mish, x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return _by_pieces(_gradient, x, _dense(gradient, like=x))


class Mish(nn.Mish):
    """x · tanh(softplus(x))."""

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            return F.mish(x)
        return _Mish.apply(x)


def repeat_pixels(x: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, C, 2h, 2w), each pixel four times: nearest-neighbour interpolation.

    Compiled, interpolation is an indexing, and its gradient a scatter that torch 2.13's inductor may put after the
    gradient's use: the losses are right, the gradients are not. An expansion has a plain sum for a gradient.
    """
    if torch.compiler.is_compiling():
        batch, channels, height, width = x.shape
        repeated = x[:, :, :, None, :, None].expand(-1, -1, -1, 2, -1, 2)  # (B, C, h, 2, w, 2)
        return repeated.reshape(batch, channels, 2 * height, 2 * width)
    return F.interpolate(x, scale_factor=2, mode="nearest")
