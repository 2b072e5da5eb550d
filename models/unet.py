"""The noise predictor of SRDiff: a U-Net without normalisation, conditioned on low-resolution features.

Names and order of the layers are those of the reference implementation, so its checkpoints load.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.layers import doublings


class ReflectionPad(nn.ReflectionPad2d):
    """In the type of its input: on CPUs autocast would make it float32, and the convolution after it bf16 again."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x)


def named(name: str, *layers: nn.Module) -> nn.Sequential:
    """Layers in a row, one name deeper in the state dict, as the reference implementation has them."""
    return nn.Sequential(OrderedDict({name: nn.Sequential(*layers)}))


def reflected_conv(in_channels: int, out_channels: int, *, stride: int = 1) -> list[nn.Module]:
    return [ReflectionPad(1), nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride)]


def conv_block(in_channels: int, out_channels: int) -> nn.Module:
    return named("block", *reflected_conv(in_channels, out_channels), nn.Mish())


def downsample(channels: int) -> nn.Module:
    return named("conv", *reflected_conv(channels, channels, stride=2))


def upsample(channels: int) -> nn.Module:
    return named("conv", nn.ConvTranspose2d(channels, channels, kernel_size=4, stride=2, padding=1))


def time_mlp(dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, 4 * dim), nn.Mish(), nn.Linear(4 * dim, dim))


def time_embedding(t: Tensor, dim: int) -> Tensor:
    """Sines, then cosines, of t at dim/2 frequencies from 1 down to 1/10000: (B,) -> (B, dim)."""
    half = dim // 2
    step = math.log(10000) / max(half - 1, 1)
    frequencies = torch.exp(torch.arange(half, device=t.device, dtype=t.dtype) * -step)
    angles = t[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class ResnetBlock(nn.Module):
    """Two blocks with the time in between, and a skip."""

    def __init__(self, in_channels: int, out_channels: int, *, time_dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Mish(), nn.Linear(time_dim, out_channels))
        self.block1 = conv_block(in_channels, out_channels)
        self.block2 = conv_block(out_channels, out_channels)
        same = in_channels == out_channels
        self.res_conv = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, kernel_size=1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.block1(x) + self.mlp(time)[:, :, None, None]
        return self.block2(h) + self.res_conv(x)


def unet_level(
    in_channels: int, out_channels: int, resize: Callable[[int], nn.Module], *, time_dim: int
) -> nn.ModuleList:
    """Two residual blocks, and what changes the size after them."""
    block1 = ResnetBlock(in_channels, out_channels, time_dim=time_dim)
    block2 = ResnetBlock(out_channels, out_channels, time_dim=time_dim)
    return nn.ModuleList([block1, block2, resize(out_channels)])


class LinearAttention(nn.Module):
    """Attention over all pixels at a cost linear in their number (Shen et al., WACV 2021)."""

    def __init__(self, channels: int, *, heads: int = 4, head_channels: int = 32) -> None:
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Conv2d(channels, 3 * heads * head_channels, kernel_size=1, bias=False)
        self.to_out = nn.Conv2d(heads * head_channels, channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.to_qkv(x).flatten(2).unflatten(1, (3, self.heads, -1)).unbind(1)  # (B, heads, c, h*w) each
        context = k.softmax(dim=-1) @ v.transpose(2, 3)  # (B, heads, c of k, c of v)
        out = context.transpose(2, 3) @ q  # (B, heads, c, h*w)
        return self.to_out(out.flatten(1, 2).unflatten(2, x.shape[-2:]))


class Rezero(nn.Module):
    """x + g · fn(x), with a learned gain g that starts at 0 (Bachlechner et al., 2020)."""

    def __init__(self, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn
        self.g = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fn(x) * self.g


class WeightNormConv2d(nn.Module):
    """A convolution whose weight is weight_g · weight_v / ‖weight_v‖ (Salimans and Kingma, 2016), output by output.

    It starts equal to ``conv``. Torch's own weight norm names its parameters otherwise or can't be copied.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        direction = conv.weight.detach()
        self.stride, self.bias = conv.stride, conv.bias
        self.weight_g = nn.Parameter(direction.flatten(1).norm(dim=1).view(-1, 1, 1, 1))
        self.weight_v = nn.Parameter(direction.clone())

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, torch._weight_norm(self.weight_v, self.weight_g, 0), self.bias, self.stride)


def normalise_weights(module: nn.Module) -> None:
    """Put a weight-normed convolution in the place of every Conv2d below ``module``."""
    for name, child in module.named_children():
        if isinstance(child, nn.Conv2d):
            setattr(module, name, WeightNormConv2d(child))
        else:
            normalise_weights(child)


def initialise_weights(module: nn.Module) -> None:
    """A tenth of Kaiming's normal initialisation (fan in), bias 0, for convolutions and linear layers."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight, mode="fan_in")
        module.weight.data.mul_(0.1)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class UNet(nn.Module):
    """Predicts the noise in x_t. Height and width must be multiples of 2^(levels - 1).

    Args:
        dim: channels of the first level, and size of the time embedding.
        dim_mults: channels of each level as multiples of ``dim``.
        cond_channels: of the low-resolution features; they enter after the first level.
        scale: of the high resolution against the features'.
        use_attn: linear attention in the middle. up_input: the bicubic image enters beside the features.
        use_wn: weight norm on the convolutions. weight_init: start from small weights.
        step_input: the network also knows the size of the sampler's step; at first that has no effect.
    """

    def __init__(
        self,
        *,
        channels: int = 3,
        dim: int,
        dim_mults: Sequence[int],
        cond_channels: int,
        scale: int = 4,
        use_attn: bool = False,
        up_input: bool = False,
        use_wn: bool = False,
        weight_init: bool = False,
        step_input: bool = False,
    ) -> None:
        super().__init__()
        doublings(scale)
        if cond_channels < 1:
            raise ValueError("the backbone gives no features to condition on (an RRDBNet needs 2 blocks at least)")
        self.dim = dim
        widths = [dim * mult for mult in dim_mults]
        resizes: list[Callable[[int], nn.Module]] = [*[downsample] * (len(widths) - 1), nn.Identity]
        self.cond_proj = nn.ConvTranspose2d(cond_channels, dim, kernel_size=2 * scale, stride=scale, padding=scale // 2)
        self.mlp = time_mlp(dim)
        self.downs = nn.ModuleList(
            unet_level(width_in, width_out, resize, time_dim=dim)
            for width_in, width_out, resize in zip([channels, *widths[:-1]], widths, resizes, strict=True)
        )
        self.ups = nn.ModuleList(
            unet_level(2 * width, narrower, upsample, time_dim=dim) for width, narrower in pairwise(widths[::-1])
        )
        self.mid_block1 = ResnetBlock(widths[-1], widths[-1], time_dim=dim)
        self.mid_attn = nn.Sequential()
        if use_attn:
            self.mid_attn.add_module("fn", Rezero(LinearAttention(widths[-1])))
        self.mid_block2 = ResnetBlock(widths[-1], widths[-1], time_dim=dim)
        self.final_conv = nn.Sequential(conv_block(widths[0], dim), nn.Conv2d(dim, channels, kernel_size=1))
        self.up_proj = nn.Sequential(*reflected_conv(channels, dim)) if up_input else None
        if weight_init:
            self.apply(initialise_weights)
        if use_wn:
            normalise_weights(self)
        self.step_mlp = time_mlp(dim) if step_input else None
        if self.step_mlp is not None:
            for parameter in self.step_mlp[-1].parameters():
                nn.init.zeros_(parameter)

    def condition(self, features: Tensor, base: Tensor) -> Tensor:
        """Features (B, cond_channels, h, w) and bicubic image (B, C, H, W) -> (B, dim, H, W), for all times."""
        condition = self.cond_proj(features)
        return condition if self.up_proj is None else condition + self.up_proj(base)

    def forward(self, x: Tensor, t: Tensor, condition: Tensor, step: Tensor | None = None) -> Tensor:
        """What the noise process asks for in x (B, C, H, W), at times t (B,), before a step of size ``step`` (B,)."""
        multiple = 1 << (len(self.downs) - 1)
        if x.shape[-2] % multiple or x.shape[-1] % multiple:
            raise ValueError(f"height and width must be multiples of {multiple}, not {tuple(x.shape[-2:])}")
        time = self.mlp(time_embedding(t.to(x.dtype), self.dim))  # (B, dim)
        if self.step_mlp is not None:
            step = torch.zeros_like(t) if step is None else step
            time = time + self.step_mlp(time_embedding(step.to(x.dtype), self.dim))
        skips = []
        for i, (block1, block2, resize) in enumerate(level.children() for level in self.downs):
            x = block2(block1(x, time), time)
            if i == 0:
                x = x + condition  # (B, dim, H, W)
            skips.append(x)
            x = resize(x)  # halved, except at the last level
        x = self.mid_block2(self.mid_attn(self.mid_block1(x, time)), time)
        for block1, block2, resize in (level.children() for level in self.ups):
            x = torch.cat([x, skips.pop()], dim=1)
            x = resize(block2(block1(x, time), time))  # doubled
        return self.final_conv(x)
