"""Tiles of a scene through a network: series, batches, noise by absolute pixel, back to reflectance, dates blended."""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from models.samplers import Noise
from models.series import Series
from tasks.base import Result
from tasks.scenes.explanation import BANDS, DAYS, DISTANCE, ENTROPY, NOT_KNOWN, VALID, attention_summary, nearest_days
from tasks.scenes.scene import Scene, SceneDate, SceneWindow
from tasks.scenes.tiling import Layout, run_in_batches
from utils.geo.clouds import grow
from utils.geo.windows import Box, Span, align_down, align_up
from utils.radiometry import bicubic, denormalise_lr, match_low_frequencies, normalise_lr
from utils.randomness import Stream, normal_images

REFLECTANCE = 10000  # digital number of reflectance 1 in results
NODATA = 0
UNSEEN, OBSERVED, FILLED = 0, 1, 2  # flags
DAYS_UNKNOWN = -32768


class Predictor(Protocol):
    """A trained network as scenes need it."""

    scale: int
    bands: tuple[str, ...]  # Sentinel-2's names of what it sees and gives
    num_dates: int  # acquisitions that it wants; 1: a single image
    maxima: tuple[float, ...]  # reflectance of each band that is normalised to 1
    stochastic: bool  # results depend on noise
    about: str  # what else results depend on, as the sampler: tiles of another are not taken for its own
    states_uncertainty: bool  # its results state a standard deviation without samples
    calibration: tuple[float, ...] | None  # factors a band on its standard deviations, where they were fitted

    @property
    def halo(self) -> int:
        """How far it looks, in low-resolution pixels."""
        ...

    def __call__(self, series: Series, noise: Noise) -> Result:
        """Super-resolve a series: images (B, C, H, W) that are meant to lie in [-1, 1]."""
        ...

    def seconds_by_steps(self, size: int) -> dict[int, float]:
        """Seconds that a window of size × size low-resolution pixels takes, by sampler steps; found by trying."""
        ...


class TileJob(NamedTuple):
    """One pass through the network: a part of a tile seen with one set of acquisitions."""

    tile: int  # which of the tiles at hand
    box: Box  # window, in low-resolution pixels
    part: Box  # what of it is used
    reflectance: Tensor  # (T, C, h, w) in order of dates
    nearest: Tensor  # (C, h, w), the one nearest to the target date
    reference: Tensor | None  # (C, h, w) that the result is held to
    dates: Tensor  # (T,)
    mask: Tensor  # (T,)
    weights: NDArray[np.float32]  # of the part, (s·h, s·w)
    own: NDArray[np.bool_]  # pixels of the part that these acquisitions are first for, (h, w)


class TileResult(NamedTuple):
    """What the network makes of the used part of a window."""

    images: NDArray[np.float32]  # mean and deviation, reflectance × 10000: (2, C, s·h, s·w)
    attention: NDArray[np.float32] | None  # of `attention_summary`, (2, h, w)


class TileRunner:
    """Computes tiles of a scene.

    Args:
        samples: draws of a stochastic network; the result is their mean.
        spread: also give the standard deviation: of the samples, or what the network states.
        explain: also say from which dates each pixel was made.
        seed: of the noise.
        batch: windows that go through the network together at first.
    """

    def __init__(
        self,
        predictor: Predictor,
        scene: Scene,
        layout: Layout,
        *,
        device: torch.device,
        samples: int,
        spread: bool,
        explain: bool,
        seed: int,
        batch: int,
    ) -> None:
        self._predictor = predictor
        self._scene = scene
        self._layout = layout
        self._device = device
        self._samples = samples
        self._seed = seed
        self._batch = batch
        height, width = layout.support(0, 0).shape
        s, channels = predictor.scale, len(predictor.bands)
        fields = [
            ("image", "<u2", (channels, s * height, s * width)),  # reflectance × 10000
            ("input", "<u2", (channels, height, width)),  # nearest acquisition, holes filled
            ("flags", "u1", (height, width)),
            ("days", "<i2", (height, width)),  # from the target date to the acquisition that a pixel is from
            ("used", "u1", (len(scene.acquisitions),)),
        ]
        if spread:
            fields.append(("spread", "<f4", (channels, s * height, s * width)))
        if explain:
            fields.append(("explanation", "<f4", (len(BANDS), height, width)))
        self.record = np.dtype(fields)
        self.spread, self._explain = spread, explain

    def windows(self, cells: Sequence[tuple[int, int]]) -> list[SceneWindow]:
        """What tiles look at; shared by their target dates."""
        return [SceneWindow(self._scene, self._layout.window(*cell)) for cell in cells]

    def compute(self, cells: Sequence[tuple[int, int]], windows: Sequence[SceneWindow], at: SceneDate) -> NDArray:
        """Records of tiles (n,) for a target date."""
        records = np.zeros(len(cells), self.record)
        records["days"] = DAYS_UNKNOWN
        if self._explain:
            records["explanation"] = NOT_KNOWN
        jobs: dict[tuple[int, int], list[TileJob]] = defaultdict(list)
        for index, (cell, window) in enumerate(zip(cells, windows, strict=True)):
            for job in self._prepare(index, cell, window, at, records[index]):
                jobs[job.box.shape].append(job)
        sums = np.zeros((2 if self.spread else 1, *records["image"].shape), np.float32)  # mean and deviation
        supports = [self._layout.support(*cell) for cell in cells]

        def compute(batch: Sequence[TileJob]) -> None:
            for job, result in zip(batch, self._predict(batch), strict=True):
                support, scale = supports[job.tile], self._predictor.scale
                rows, columns = job.part.times(scale).slices(support.times(scale))
                sums[:, job.tile, :, rows, columns] += result.images[: len(sums)] * job.weights
                if self._explain and result.attention is not None:
                    maps = records["explanation"][job.tile][:, *job.part.slices(support)]  # a view
                    maps[DISTANCE : ENTROPY + 1, job.own] = result.attention[:, job.own]

        for shape in sorted(jobs):
            self._batch = run_in_batches(compute, jobs[shape], batch=self._batch)
        for record, image in zip(records, sums[0], strict=True):
            seen = (record["flags"] != UNSEEN).repeat(self._predictor.scale, 0).repeat(self._predictor.scale, 1)
            record["image"] = np.where(seen, _integers(image), NODATA)
        if self.spread:
            records["spread"] = sums[1]
        return records

    def _prepare(
        self, index: int, cell: tuple[int, int], place: SceneWindow, at: SceneDate, record: NDArray
    ) -> list[TileJob]:
        """The passes that a tile needs; what needs no network is written to its record."""
        window, support = self._layout.window(*cell), self._layout.support(*cell)
        sets, labels, weights = place.choices(at.choice)
        inner = support.slices(window)
        reference = place.reference(at.offsets) if at.match_lr and sets else None
        jobs = []
        used: set[int] = set()
        for number, chosen in enumerate(sets):
            share = weights[number]  # with a margin of one pixel
            touched = grow(share > 0, 1)[1:-1, 1:-1][inner]  # interpolation reaches one pixel further
            if not touched.any():
                continue
            views = {acquisition: place.view(acquisition) for acquisition in sorted(chosen)}  # in order of dates
            used = used.union(*(view.used for view in views.values()))
            near = views[chosen[0]]
            own = (labels[inner] == number) & near.known[inner]
            source = near.source[inner]
            record["flags"][own] = np.where(source == chosen[0], OBSERVED, FILLED)[own]
            record["days"][own] = np.array(at.offsets, np.int16)[source[own]]
            record["input"][:, own] = _integers(near.reflectance[:, *inner] * REFLECTANCE)[:, own]
            if self._explain:
                observed = np.stack([view.source[inner] == i for i, view in views.items()])  # (T, h, w)
                offsets = np.array([at.offsets[i] for i in views], np.float32)
                record["explanation"][DAYS][own] = nearest_days(observed, offsets)[own]
                record["explanation"][VALID][own] = observed.sum(axis=0)[own]
            part = _bounding_box(touched, support)
            box = Box(*(_align(span) for span in part.grown(self._layout.trim))).within(window)
            here = box.slices(window)
            missing = self._predictor.num_dates - len(chosen)
            order = [*views, *[max(views)] * missing]  # padded by repeating the last
            jobs.append(
                TileJob(
                    tile=index,
                    box=box,
                    part=part,
                    reflectance=torch.from_numpy(np.stack([views[i].reflectance[:, *here] for i in order])),
                    nearest=torch.from_numpy(near.reflectance[:, *here].copy()),
                    reference=None if reference is None else torch.from_numpy(reference[:, *here].copy()),
                    dates=torch.tensor([at.offsets[i] for i in order], dtype=torch.float32),
                    mask=torch.arange(len(order)) < len(chosen),
                    weights=_enlarged(share, part.slices(window), self._predictor.scale),
                    own=own[part.slices(support)],
                )
            )
        record["used"][sorted(used)] = 1
        return jobs

    @torch.no_grad()
    def _predict(self, batch: Sequence[TileJob]) -> list[TileResult]:
        """What the network makes of each window's used part: the mean of the samples, and their deviation."""
        predictor, s = self._predictor, self._predictor.scale
        reflectance = torch.stack([job.reflectance for job in batch]).to(self._device)  # (B, T, C, h, w)
        nearest = torch.stack([job.nearest for job in batch]).to(self._device)  # (B, C, h, w)
        base = bicubic(nearest, scale=s)  # (B, C, s·h, s·w)
        top = torch.tensor(predictor.maxima, device=self._device).view(-1, 1, 1)
        series = Series(
            lr=normalise_lr(reflectance, predictor.maxima),
            dates=torch.stack([job.dates for job in batch]).to(self._device),
            mask=torch.stack([job.mask for job in batch]).to(self._device),
            base=normalise_lr(base, predictor.maxima),
        )
        references = [job.reference for job in batch if job.reference is not None]  # of all jobs or of none
        mean, squares = torch.zeros_like(base), torch.zeros_like(base)
        for sample in range(self._samples):
            seen = predictor(series, self._noise(batch, sample))
            sr = seen.sr.to(base.dtype).clamp(-1, 1)
            # What the clamp took from the input (roofs, sand) the network never saw: it comes from the bicubic image.
            image = denormalise_lr(sr, predictor.maxima) + (base - top).clamp(min=0)
            if references:
                image = match_low_frequencies(image, torch.stack(references).clamp(min=0).to(self._device), scale=s)
            change = image - mean  # Welford's running mean and variance
            mean = mean + change / (sample + 1)
            squares = squares + change * (image - mean)
        deviation = (squares / self._samples).sqrt()
        if seen.deviation is not None:
            deviation = seen.deviation * top / 2  # a reflectance of `top` is 2 wide in the network's numbers
        if predictor.calibration is not None:
            deviation = deviation * deviation.new_tensor(predictor.calibration).view(-1, 1, 1)
        images = torch.stack([mean, deviation], dim=1) * REFLECTANCE  # (B, 2, C, s·h, s·w)
        attention = [None] * len(batch)
        if self._explain and seen.attention is not None:
            attention = list(attention_summary(seen.attention, series.dates).cpu().numpy())  # (2, h, w) each
        results = []
        for job, image, summary in zip(batch, images, attention, strict=True):
            fine, coarse = job.part.times(s).slices(job.box.times(s)), job.part.slices(job.box)
            results.append(
                TileResult(image[:, :, *fine].cpu().numpy(), None if summary is None else summary[:, *coarse])
            )
        return results

    def _noise(self, batch: Sequence[TileJob], sample: int) -> Noise:
        """Noise that belongs to the pixel's place in the scene, so windows that share pixels share their noise."""
        key = torch.tensor([sample], device=self._device)
        origins = [job.box.times(self._predictor.scale) for job in batch]

        def noise(step: int, shape: torch.Size) -> Tensor:
            return torch.cat(
                [
                    normal_images(
                        Stream.SCENES,
                        key,
                        self._seed,
                        step,
                        shape=shape[1:],
                        row=box.rows.start,
                        column=box.columns.start,
                    )
                    for box in origins
                ]
            )

        return noise


def _integers(image: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Digital numbers, none of which means "no data"."""
    return np.clip(np.rint(image), NODATA + 1, 65535).astype(np.uint16)


def _align(span: Span) -> Span:
    return Span(align_down(span.start), align_up(span.stop))


def _bounding_box(mask: NDArray[np.bool_], origin: Box) -> Box:
    """The smallest box around the set pixels of a mask that begins at the top left of ``origin``."""
    spans = []
    for axis, span in enumerate(origin):
        positions = np.flatnonzero(mask.any(axis=1 - axis))
        spans.append(Span(span.start + int(positions[0]), span.start + int(positions[-1]) + 1))
    return Box(*spans)


def _enlarged(share: NDArray[np.float32], part: tuple[slice, slice], scale: int) -> NDArray[np.float32]:
    """Weights (with a margin of one pixel) interpolated to ``scale`` times the resolution; a part, given without it."""
    rows, columns = (slice(axis.start, axis.stop + 2) for axis in part)
    values = torch.from_numpy(share[rows, columns].copy())[None, None]
    large = F.interpolate(values, scale_factor=scale, mode="bilinear", align_corners=False)
    return large[0, 0, scale:-scale, scale:-scale].numpy()
