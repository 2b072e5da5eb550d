"""A trained model as a library: images of a place and their dates in, one image at a chosen date out."""

import logging
from collections.abc import Sequence
from datetime import date
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from models.samplers import Noise
from models.series import Series
from tasks.base import Result, Task, sampling_noise
from tasks.build import build_task
from tasks.experiment import saved_settings
from utils.checkpoint import load_weights, open_saved
from utils.config.settings import Settings
from utils.dataloader import nearest_views
from utils.distributed import World
from utils.errors import ConfigError
from utils.geo.bands import RGB
from utils.radiometry import PUBLISHED_MAXIMA, bicubic, denormalise_lr, normalise_lr
from utils.randomness import word

logger = logging.getLogger(__name__)


class SuperResolver:
    """A task with trained weights, its normalisation, and where it runs.

    The attributes and the call are what `tasks.predict` needs of a network; `at_date` is for one place by itself.
    """

    def __init__(
        self,
        task: Task,
        settings: Settings,
        *,
        maxima: Sequence[float] | None,
        bands: Sequence[str] | None = None,
        world: World,
        calibration: Sequence[float] | None = None,
    ) -> None:
        world.place(task, amp=settings.training.amp)
        self._task = task.eval()
        self._world, self._settings = world, settings
        self.scale = settings.data.sr_scale
        self.num_dates = settings.data.sen2_amount
        self.bands = tuple(bands or settings.data.bands or RGB)
        published = PUBLISHED_MAXIMA if self.bands == RGB else [1.0] * len(self.bands)  # without training: any will do
        self.maxima = tuple(maxima or published)
        self.stochastic = task.sampler_name is not None
        self.states_uncertainty = settings.model.uncertainty != "none"
        self.calibration = tuple(calibration) if calibration else None
        self.about = repr(settings)

    @cached_property
    def halo(self) -> int:
        """How far the network looks, in low-resolution pixels: measured, so it takes a moment."""
        return self._task.halo(self.num_dates)

    def __call__(self, series: Series, noise: Noise) -> Result:
        """Super-resolve a normalised series: images (B, C, H, W) that are meant to lie in [-1, 1]."""
        with torch.inference_mode(), self._world.autocast(self._settings.training.amp):
            return self._task.predict(series, noise=noise)

    def at_date(self, images: Tensor, dates: Sequence[date], target: date, *, name: str = "") -> Tensor:
        """The place as it looked on ``target``.

        Args:
            images: surface reflectance (T, 3, h, w), red, green, blue, 0 to 1; co-registered acquisitions.
            dates: their T dates, in any order.
            target: any date; the acquisitions nearest to it are used.
            name: of the place: the noise of a diffusion model depends on it.

        Returns:
            Surface reflectance (3, s*h, s*w), without what the normalisation clamps away.

        Raises:
            ConfigError: images and dates don't fit each other.
        """
        if images.dim() != 4 or images.shape[1] != len(self.bands) or not 0 < len(images) == len(dates):
            raise ConfigError(f"{tuple(images.shape)} are no images (T, 3, h, w) with {len(dates)} dates")
        images = images.to(self._world.device, torch.float32)
        days = torch.tensor([(day - target).days for day in dates], device=images.device)  # (T,)
        chosen = nearest_views(days, torch.ones_like(days, dtype=torch.bool), amount=self.num_dates)
        near = images[int(days.abs().argmin())]
        series = Series(
            lr=normalise_lr(images[chosen], self.maxima)[None],  # (1, N, C, h, w)
            dates=days[chosen].float()[None],
            mask=torch.ones(1, len(chosen), dtype=torch.bool, device=images.device),
            base=normalise_lr(bicubic(near[None], scale=self.scale), self.maxima),
        )
        key = torch.tensor([word(name)], device=images.device)
        noise = sampling_noise(key, seed=self._settings.training.seed, samples=1)
        return denormalise_lr(self(series, noise).sr, self.maxima)[0]


def load_super_resolver(source: Path | str, *, world: World) -> SuperResolver:
    """From an experiment's folder, a checkpoint in it, or an exported model. Raises CheckpointError or ConfigError."""
    saved = open_saved(Path(source))
    settings = saved_settings(saved)
    task = build_task(settings)
    logger.info(load_weights(task.model, saved.state, source=saved.path))
    maxima, bands = saved.content.get("maxima"), saved.content.get("bands")
    return SuperResolver(task, settings, maxima=maxima, bands=bands, world=world, calibration=saved.factors)
