"""A trained model as a library: images of a place and their dates in, one image at a chosen date out."""

import copy
import logging
import time
from collections.abc import Sequence
from datetime import date, datetime
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.samplers import Noise
from models.series import Series
from tasks.base import Result, Task, blank_batch, sampling_noise, series_of
from tasks.build import build_task
from tasks.experiment import PACKAGED, STARTER, saved_settings
from utils.checkpoint import load_weights, open_saved
from utils.config.settings import Settings
from utils.dataloader import nearest_views
from utils.distributed import World, choose_device
from utils.errors import ConfigError
from utils.geo.bands import RGB
from utils.radiometry import PUBLISHED_MAXIMA, bicubic, denormalise_lr, normalise_lr
from utils.randomness import word

logger = logging.getLogger(__name__)

Day = date | str | np.datetime64  # 2018-08-02 as text; of a datetime the day counts


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

    def seconds_by_steps(self, size: int) -> dict[int, float]:
        """Seconds that a window of size × size low-resolution pixels takes, for 1, 4 and the chosen number of steps."""
        batch = blank_batch(self._settings.data, size=size, device=self._world.device)
        noise = sampling_noise(torch.zeros(1, dtype=torch.int64, device=self._world.device), seed=0, samples=1)
        seconds = {}
        for steps in (1, 1, 3):  # the first time more than the network is made ready
            task = copy.copy(self._task)
            task.choose_sampler("ddim", steps=min(steps, self._settings.diffusion.timesteps))
            started = time.perf_counter()
            with torch.inference_mode(), self._world.autocast(self._settings.training.amp):
                task.predict(series_of(batch), noise=noise).sr.sum().item()  # waits for the device
            seconds[steps] = time.perf_counter() - started
        a_step = (seconds[3] - seconds[1]) / 2
        return {steps: seconds[1] + (steps - 1) * a_step for steps in sorted({1, 4, self._task.sampler_steps or 1})}

    def at_date(
        self, images: Tensor | NDArray, dates: Sequence[Day] | NDArray, target: Day, *, name: str = ""
    ) -> Tensor:
        """The place as it looked on ``target``.

        Args:
            images: surface reflectance (T, C, h, w), 0 to 1, of the model's bands; co-registered acquisitions. What is
                not finite is taken from the acquisition nearest to ``target`` that has it.
            dates: their T dates, in any order.
            target: any date; the acquisitions nearest to it are used.
            name: of the place: the noise of a diffusion model depends on it.

        Returns:
            Surface reflectance (C, s*h, s*w), without what the normalisation clamps away; NaN where no acquisition has
            data.

        Raises:
            ConfigError: images and dates don't fit each other; images are no reflectance; a date is none.
        """
        if images.ndim != 4 or images.shape[1] != len(self.bands) or not 0 < len(images) == len(dates):
            raise ConfigError(
                f"{tuple(images.shape)} are no images (T, {len(self.bands)}, h, w) with {len(dates)} dates"
            )
        if not isinstance(images, Tensor):
            images = torch.from_numpy(np.array(images, np.float32))
        images = images.to(self._world.device, torch.float32)
        middle = float(images.nanmedian())
        if not middle <= _BRIGHTEST:
            raise ConfigError(
                f"the images' median is {middle:g}: give surface reflectance, 0 to 1 (digital numbers / 10000; in "
                "products since 2022 subtract 1000 first)"
            )
        day = _day(target)
        days = torch.tensor([(_day(other) - day).days for other in dates], device=images.device)  # (T,)
        images, is_known = _filled(images, days)
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
        sr = denormalise_lr(self(series, noise).sr, self.maxima)[0]  # (C, s*h, s*w)
        is_known = is_known.repeat_interleave(self.scale, 0).repeat_interleave(self.scale, 1)
        return sr.where(is_known, torch.nan)


_BRIGHTEST = 2  # reflectance that no image's middle has, and above which digital numbers begin


def _day(given: Day) -> date:
    """The day of a text, date, datetime or NumPy date."""
    day: object = given
    if isinstance(given, np.datetime64):
        day = given.astype("datetime64[D]").item()
    elif isinstance(given, str):
        try:
            day = datetime.fromisoformat(given)
        except ValueError:
            day = None
    if not isinstance(day, date) or day != day:  # pandas has a date that is none
        raise ConfigError(f"{given!r} is no date: give 2018-08-02, a datetime.date, or a NumPy date")
    return day.date() if isinstance(day, datetime) else day


def _filled(images: Tensor, days: Tensor) -> tuple[Tensor, Tensor]:
    """Images (T, C, h, w) without gaps, and where any of them has data (h, w)."""
    has_data = images.isfinite().all(dim=1, keepdim=True)  # (T, 1, h, w)
    if bool(has_data.all()):
        return images, has_data[0, 0]
    filling = images.where(has_data, torch.nan).nanmean(dim=(0, 2, 3))[:, None, None].expand(images.shape[1:])
    for i in days.abs().argsort(descending=True).tolist():
        filling = images[i].where(has_data[i], filling)
    return images.where(has_data, filling), has_data.any(dim=0)[0]


def load_super_resolver(source: Path | str = PACKAGED / STARTER, *, world: World | None = None) -> SuperResolver:
    """Load a trained model.

    Args:
        source: an experiment's folder, a checkpoint in it, or an exported model; default: the starter weights.
        world: where it runs; default: the best device there is.

    Raises:
        CheckpointError: there is no model, or it is damaged.
        ConfigError: its configuration can't be.
    """
    saved = open_saved(Path(source))
    settings = saved_settings(saved)
    task = build_task(settings)
    logger.info(load_weights(task.model, saved.state, source=saved.path))
    maxima, bands = saved.content.get("maxima"), saved.content.get("bands")
    world = world or World(choose_device("auto"))
    return SuperResolver(task, settings, maxima=maxima, bands=bands, world=world, calibration=saved.factors)
