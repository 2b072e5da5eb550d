"""How far a network looks, measured."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from models.series import Backbone, Series
from utils.radiometry import bicubic
from utils.randomness import normal

TOLERANCE = 2 / 255 / 255  # 1/255 of a grey level, where [-1, 1] has 255
# Beyond it a border changes a sampled image by less than a tenth of a grey level (measured with ddim, dpmpp_2m, ddpm).
DIFFUSION_RADIUS = 12


def receptive_radius(backbone: Backbone, *, amount: int, channels: int = 3, size: int = 80) -> int:
    """The distance, in low-resolution pixels, from which a window's border changes less than TOLERANCE.

    Measured in float64, on a copy: L-TAE enlarges the rounding of float32 beyond the tolerance. Two views tell as
    much as more.
    """
    device = next(iter(backbone.parameters()), torch.zeros(())).device
    device = device if device.type == "cuda" else torch.device("cpu")  # MPS has no float64
    double = copy.deepcopy(backbone).to(device, torch.float64).eval()

    def forward(series: Series) -> Tensor:
        return double(series).sr

    views = min(amount, 2)
    return influence_radius(
        forward, amount=views, channels=channels, scale=backbone.scale, size=size, device=device, dtype=torch.float64
    )


@torch.no_grad()
def influence_radius(
    forward: Callable[[Series], Tensor],
    *,
    amount: int,
    channels: int,
    scale: int,
    size: int,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    cut: int = 16,
    tolerance: float = TOLERANCE,
) -> int:
    """The distance from which a border changes a result by less than ``tolerance``, in low-resolution pixels.

    Compares what ``forward`` makes of an image and of the same image with ``cut`` rows and columns cut off at the top
    left. The result differs near the cut; the radius is the distance beyond which it doesn't. At most size − cut:
    more can't be seen.
    """
    lr = _landscape(amount, channels, size).to(device, dtype)
    dates = torch.arange(amount, device=device, dtype=dtype)[None] * 5
    mask = torch.ones(1, amount, dtype=torch.bool, device=device)
    whole = forward(Series(lr, dates, mask, bicubic(lr[:, 0], scale=scale)))
    part = lr[..., cut:, cut:]
    less = forward(Series(part, dates, mask, bicubic(part[:, 0], scale=scale)))
    change = (whole[..., cut * scale :, cut * scale :] - less).abs().amax(dim=(0, 1))  # (H, W)
    position = torch.arange(size - cut, device=device).repeat_interleave(scale)
    distance = torch.minimum(position[:, None], position[None])
    reached = distance[change > tolerance]
    return int(reached.max()) + 1 if len(reached) else 0


def _landscape(amount: int, channels: int, size: int) -> Tensor:
    """A random series (1, T, C, size, size) in [-1, 1] with structure of all sizes, as images have."""
    image = torch.zeros(1, amount, channels, size, size)
    for octave in range(4):
        side = -(-size // 2**octave)
        noise = normal(torch.arange(amount * channels * side * side), octave).view(1, amount, channels, side, side)
        image += bicubic(noise, scale=2**octave)[..., :size, :size] * 0.15 * (octave + 1) ** 0.5
    return image.clamp(-1, 1)
