"""What the loop and the evaluation know of a task: a model, what trains, its losses, its predictions."""

from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from models.samplers import Callback, Noise
from models.series import Backbone, Series
from utils.config.settings import Data
from utils.dataloader import Batch
from utils.randomness import Stream, bits, normal_images

_SAMPLING = 3  # in the address of sampling noise: evaluations give the figures that earlier versions gave


class RandomKey(NamedTuple):
    """Where the random numbers of a batch belong."""

    seed: int
    step: int  # -1 in validation, whose numbers are the same each time
    positions: Tensor  # (B,) of each sample, in the global batch or in the split


class Result(NamedTuple):
    """A super-resolved batch."""

    sr: Tensor  # (B, C, H, W); the mean where there are several samples
    backbone: Tensor | None = None  # (B, C, H, W), a conditioner's own output
    samples: Tensor | None = None  # (B, k, C, H, W) where k > 1 were drawn
    deviation: Tensor | None = None  # (B, C, H, W), the standard deviation of the error that the model states
    attention: Tensor | None = None  # (heads, B, T, h, w), the weights of the dates where a backbone has some


class StepDecay(NamedTuple):
    """How the learning rate falls."""

    decay_steps: int
    decay_factor: float


class Task(nn.Module):
    """A model and how it learns. ``forward`` gives the losses, so that DistributedDataParallel sees every call."""

    model: nn.Module
    decay: StepDecay
    channels: int = 3  # of its images, one a band
    is_stochastic: bool = False  # predictions depend on noise
    freeze_norm: bool = False  # BatchNorm keeps the statistics that it has
    sampler_name: str | None = None  # of a task whose predictions are sampled
    sampler_steps: int | None = None

    @property
    def conditioner(self) -> Backbone | None:
        """The backbone that a generative model is conditioned on, where there is one."""
        return None

    def trainable(self) -> list[nn.Parameter]:
        """What the optimiser updates, in the order of the state dict."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for module in self.modules() if self.freeze_norm else ():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.eval()
        return self

    def forward(self, batch: Batch, key: RandomKey) -> dict[str, Tensor]:
        """Scalar loss terms; training minimises their sum."""
        raise NotImplementedError

    def choose_sampler(self, name: str, *, steps: int) -> None:
        """From now on predictions are sampled so, where they are sampled at all. Raises ConfigError."""

    def predict(
        self, series: Series, *, noise: Noise, samples: int = 1, preview: bool = False, callback: Callback | None = None
    ) -> Result:
        """Super-resolve a series. ``noise`` is asked for (B * samples, C, H, W); ``preview``: as validation does it."""
        raise NotImplementedError

    def halo(self, num_dates: int) -> int:
        """How far predictions from ``num_dates`` acquisitions look, in low-resolution pixels; measured."""
        raise NotImplementedError

    def compiled_parts(self) -> list[nn.Module]:
        """The modules that torch.compile is worth on."""
        return [self.model]


def series_of(batch: Batch) -> Series:
    return Series(lr=batch.lr, dates=batch.dates, mask=batch.mask, base=batch.base)


def blank_batch(data: Data, *, size: int, samples: int = 1, device: torch.device | str = "cpu") -> Batch:
    """A batch without content, of views of ``size`` pixels, otherwise as configured: for trials of a task."""
    num_dates, channels, fine = data.sen2_amount, len(data.known_bands), size * data.sr_scale
    with torch.device(device):
        return Batch(
            lr=torch.zeros(samples, num_dates, channels, size, size),
            dates=torch.arange(num_dates).float().expand(samples, num_dates),
            mask=torch.ones(samples, num_dates, dtype=torch.bool),
            base=torch.zeros(samples, channels, fine, fine),
            hr=torch.zeros(samples, channels, fine, fine),
            keys=list(range(samples)),
            indices=torch.arange(samples),
            near=torch.zeros(samples, dtype=torch.int64),
        )


def blank_loss(task: Task, batch: Batch) -> Tensor:
    """The task's loss of such a batch."""
    return torch.stack(list(task(batch, RandomKey(0, 0, batch.indices)).values())).sum()


def sampling_noise(keys: Tensor, *, seed: int, samples: int) -> Noise:
    """Noise as a function of (seed, image key, sample, time), whatever the batch. keys: (B,)."""
    sample = torch.arange(samples, device=keys.device).repeat(len(keys))  # (B * samples,)
    sources = bits(Stream.START, keys.repeat_interleave(samples), sample)

    def noise(time: int, shape: torch.Size) -> Tensor:
        return normal_images(Stream.START, sources, _SAMPLING, seed, time, shape=shape[1:])

    return noise
