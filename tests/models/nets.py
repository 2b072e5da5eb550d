"""Small networks, and series for them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from models.bicubic import Bicubic
from models.diffusion import SRDiff
from models.highresnet import HighResNet
from models.misr import RRDBLTAE, HighResLTAE, RRDBHighResNet
from models.rrdb import RRDBNet
from models.schedule import Schedule
from models.series import Backbone, Series
from models.unet import UNet


def make_series(
    lr: Tensor, dates: Tensor | None = None, alphas: Tensor | None = None, base: Tensor | None = None, *, scale: int = 4
) -> Series:
    """A series of one view (B, C, h, w) or several (B, T, C, h, w); what isn't given: day 0, all acquired, base 0."""
    lr = lr.unsqueeze(1) if lr.dim() == 4 else lr
    batch, time, channels, height, width = lr.shape
    return Series(
        lr=lr,
        dates=lr.new_zeros(batch, time) if dates is None else dates.to(lr.dtype),
        mask=torch.ones(batch, time, dtype=torch.bool) if alphas is None else alphas > 0,
        base=lr.new_zeros(batch, channels, scale * height, scale * width) if base is None else base,
    )


def random_series(
    *, batch: int = 2, views: int = 4, height: int = 6, width: int = 8, scale: int = 4, seed: int = 0
) -> Series:
    generator = torch.Generator().manual_seed(seed)
    lr = torch.rand(batch, views, 3, height, width, generator=generator) * 2 - 1
    dates = torch.randint(-90, 90, (batch, views), generator=generator).float()
    base = torch.rand(batch, 3, scale * height, scale * width, generator=generator) * 2 - 1
    return make_series(lr, dates, base=base, scale=scale)


def double(series: Series) -> Series:
    return Series(series.lr.double(), series.dates.double(), series.mask, series.base.double())


def acquired(series: Series, count: int) -> Series:
    """The same series with only its first views acquired."""
    return series._replace(mask=(torch.arange(series.mask.shape[1]) < count).expand_as(series.mask))


# Small networks of our own, by name: (scale, base_residual) -> backbone.
BACKBONES: dict[str, Callable[..., Backbone]] = {
    "rrdb": lambda **kw: RRDBNet(width=8, blocks=3, **kw),
    "highresnet": lambda **kw: HighResNet(width=8, **kw),
    "highres_ltae": lambda **kw: HighResLTAE(width=16, heads=4, d_model=16, **kw),
    "rrdb_ltae": lambda **kw: RRDBLTAE(width=8, blocks=1, growth=4, heads=4, d_model=16, **kw),
    "rrdb_highresnet": lambda **kw: RRDBHighResNet(width=8, blocks=1, growth=4, **kw),
}


def channels_last(module: Any) -> Any:
    return module.to(memory_format=torch.channels_last)


def small_backbone(name: str, *, scale: int = 4, **options: Any) -> Backbone:
    torch.manual_seed(0)
    return Bicubic(scale=scale) if name == "bicubic" else BACKBONES[name](scale=scale, **options)


def small_srdiff(name: str, *, scale: int = 4, timesteps: int = 10, **options: Any) -> SRDiff:
    backbone = small_backbone(name, scale=scale)
    denoise_fn = UNet(dim=8, dim_mults=(1, 2), cond_channels=backbone.feature_channels, scale=scale)
    return SRDiff(denoise_fn=denoise_fn, backbone=backbone, path=Schedule.cosine(timesteps), **options)
