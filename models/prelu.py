"""PReLU with one parameter, in place and with a quick gradient on CPUs."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

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
