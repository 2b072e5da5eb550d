"""How far a network looks, measured: an image and the same image with a border cut off are compared."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from models.diffusion import SRDiff
from models.samplers import Sampler
from models.series import Backbone, Prediction, Series
from utils.radiometry import bicubic
from utils.randomness import Stream, normal, normal_images

TOLERANCE = 2 / 255 / 255  # 1/255 of a grey level, where [-1, 1] has 255
SAMPLED_TOLERANCE = 2 / 255 / 50  # sampling is costly, and each step looks further: 1/50 of a grey level
MEASURED_DATES = 2  # acquisitions that are looked at: more of them give the same radius


def receptive_radius(backbone: Backbone, *, num_dates: int, channels: int = 3, size: int = 80) -> int:
    """The distance, in low-resolution pixels, from which a window's border changes less than TOLERANCE."""
    exact = _DoublePrecision(backbone)

    def forward(series: Series) -> Tensor:
        return exact(series).sr

    return influence_radius(
        forward,
        num_dates=min(num_dates, MEASURED_DATES),
        channels=channels,
        scale=backbone.scale,
        size=size,
        device=exact.device,
        dtype=torch.float64,
    )


def sampling_radius(model: SRDiff, *, sampler: Sampler, num_dates: int, channels: int = 3, size: int = 64) -> int:
    """The same for a diffusion model's samples, with SAMPLED_TOLERANCE: backbone and noise predictor together.

    Args:
        sampler: it may take fewer steps than the predictions do; the radius depends little on their number.
    """
    exact = _DoublePrecision(model.rrdb)
    measured = copy.deepcopy(model).eval().to(exact.device)
    measured.rrdb = exact
    key, side = torch.zeros(1, dtype=torch.int64, device=exact.device), size * exact.scale

    def noise(step: int, shape: torch.Size) -> Tensor:
        """The noise belongs to the place: the cut image ends at the same bottom right corner as the whole one."""
        return normal_images(Stream.TRIAL, key, step, shape=(channels, side, side))[..., -shape[2] :, -shape[3] :]

    def forward(series: Series) -> Tensor:
        return measured.sample(series._replace(base=series.base.float()), sampler=sampler, noise=noise)[0].clamp(-1, 1)

    return influence_radius(
        forward,
        num_dates=min(num_dates, MEASURED_DATES),
        channels=channels,
        scale=exact.scale,
        size=size,
        device=exact.device,
        dtype=torch.float64,
        tolerance=SAMPLED_TOLERANCE,
    )


class _DoublePrecision(Backbone):
    """A copy of a backbone that computes in float64, as L-TAE enlarges the rounding of float32 beyond tolerances."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        device = next(iter(backbone.parameters()), torch.zeros(())).device
        self.device = device if device.type == "cuda" else torch.device("cpu")  # MPS has no float64
        self.scale, self.feature_channels = backbone.scale, backbone.feature_channels
        self._double = copy.deepcopy(backbone).to(self.device, torch.float64).eval()

    def forward(self, series: Series) -> Prediction:
        prediction = self._double(series)
        return Prediction(sr=prediction.sr.float(), features=prediction.features.float())


@torch.no_grad()
def influence_radius(
    forward: Callable[[Series], Tensor],
    *,
    num_dates: int,
    channels: int,
    scale: int,
    size: int,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    cut: int = 16,
    tolerance: float = TOLERANCE,
) -> int:
    """The distance from a border beyond which the border changes a result by less than ``tolerance``.

    ``forward`` gets an image, and the same image without its first ``cut`` rows and columns. The two results differ
    near the cut; the radius is how far.

    Args:
        forward: a normalised series -> (1, C, s·h, s·w).
        num_dates: acquisitions in the series.
        size: of the image, in low-resolution pixels.
        cut: rows and columns that are cut off.
        tolerance: in units of the normalised image, [-1, 1].

    Returns:
        Low-resolution pixels, at most size − cut.
    """
    lr = _landscape(num_dates, channels, size).to(device, dtype)
    dates = torch.arange(num_dates, device=device, dtype=dtype)[None] * 5
    mask = torch.ones(1, num_dates, dtype=torch.bool, device=device)
    whole = forward(Series(lr, dates, mask, bicubic(lr[:, 0], scale=scale)))
    part = lr[..., cut:, cut:]
    less = forward(Series(part, dates, mask, bicubic(part[:, 0], scale=scale)))
    change = (whole[..., cut * scale :, cut * scale :] - less).abs().amax(dim=(0, 1))  # (H, W)
    position = torch.arange(size - cut, device=device).repeat_interleave(scale)
    distance = torch.minimum(position[:, None], position[None])
    reached = distance[change > tolerance]
    return int(reached.max()) + 1 if len(reached) else 0


def _landscape(num_dates: int, channels: int, size: int) -> Tensor:
    """A random series (1, T, C, size, size) in [-1, 1] with structure of all sizes, as images have."""
    image = torch.zeros(1, num_dates, channels, size, size)
    for octave in range(4):
        side = -(-size // 2**octave)
        noise = normal(Stream.TRIAL, octave, torch.arange(num_dates * channels * side * side)).view(
            1, num_dates, channels, side, side
        )
        image += bicubic(noise, scale=2**octave)[..., :size, :size] * 0.15 * (octave + 1) ** 0.5
    return image.clamp(-1, 1)
