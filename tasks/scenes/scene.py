"""A place at several dates: what can be used of each acquisition, which ones a tile is made from, holes filled."""

import contextlib
import functools
import logging
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from tasks.scenes.date_selection import CELL, FEATHER, DateChoice, feathered
from utils.geo.bands import Acquisition
from utils.geo.clouds import BRIGHTNESS_BANDS, DOUBTFUL, GOOD, Mask, Quality, grow
from utils.geo.raster import AlignedReader, Grid, gdal_memory, grid_of_acquisition
from utils.geo.stac import shown
from utils.geo.windows import Box, Span, mirrored

logger = logging.getLogger(__name__)

SPREAD = 8  # pixels that colours run into places which no acquisition saw
SOFT = 4  # pixels over which an acquisition fades into what fills its holes
_KEPT = 4  # blocks of each acquisition whose quality is kept for the next target date


class Scene:
    """Acquisitions on the grid of the first one. A context manager.

    Args:
        acquisitions: in order of their dates.
        clouds: leave out clouds: by scene classification where there is one, else by brightness.
        middle: a reflectance for each band, used where no acquisition has data within SPREAD pixels.
    """

    def __init__(self, acquisitions: Sequence[Acquisition], *, clouds: bool, middle: Sequence[float]) -> None:
        self.acquisitions = tuple(acquisitions)
        self.middle = np.array(middle, np.float32).reshape(-1, 1, 1)
        self._clouds = clouds
        self._files = contextlib.ExitStack()
        self._files.enter_context(gdal_memory(acquisitions))
        self._readers: list[AlignedReader] = []
        try:
            self.grid: Grid = grid_of_acquisition(acquisitions[0])
            for acquisition in acquisitions:
                reader = AlignedReader(acquisition, self.grid)
                self._files.callback(reader.close)
                self._readers.append(reader)
                for path in reader.resampled:
                    logger.info(f"{Path(shown(path)).name}: lies on another grid; resampled onto the first image's")
        except BaseException:
            self._files.close()
            raise
        bare = [a.name for a in acquisitions if a.classes is None]
        if clouds and bare and len(acquisitions) > 1:
            told = set(acquisitions[0].names) >= BRIGHTNESS_BANDS
            how = "told by brightness" if told else "left in, as red or blue is missing"
            logger.info(f"{len(bare)} of {len(acquisitions)} images have no scene classification: clouds are {how}")
        self.quality = functools.lru_cache(maxsize=_KEPT * len(acquisitions))(self._quality)

    def __enter__(self) -> "Scene":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files.close()

    def pixels(self, index: int, box: Box) -> tuple[NDArray[np.float32], Quality]:
        """Reflectance (C, h, w) of an acquisition in a box inside the scene, and what it is worth (h, w)."""
        return self._readers[index].read_rated(box, clouds=self._clouds)

    def _quality(self, index: int, box: Box) -> Quality:
        return self.pixels(index, box)[1]

    def nearest_first(self, index: int) -> list[int]:
        """The other acquisitions, nearest in time to one first; of two as near, the earlier."""
        days = self.offsets(self.acquisitions[index].day)
        others = [i for i in range(len(days)) if i != index]
        return sorted(others, key=lambda i: (abs(days[i]), days[i]))

    def offsets(self, target: date | None) -> list[int]:
        """Days from a date to each acquisition; 0 where it or the acquisition has no date."""
        return [(a.day - target).days if a.day and target else 0 for a in self.acquisitions]


class SceneDate:
    """A scene for one target date: which acquisitions each place is made from.

    Args:
        target: the date asked for; None where the only acquisition has none.
        num_dates: how many acquisitions the network looks at.
        min_valid: see ``DateChoice``.
        match_lr: the colours of the result are held to the acquisitions nearest to the date.
    """

    def __init__(self, scene: Scene, target: date | None, *, num_dates: int, min_valid: float, match_lr: bool) -> None:
        self.target = target
        self.match_lr = match_lr
        self.offsets = scene.offsets(target)
        self.choice = DateChoice(
            quality=scene.quality,
            offsets=self.offsets,
            num_dates=num_dates,
            min_valid=min_valid,
            height=scene.grid.height,
            width=scene.grid.width,
        )


class FilledView(NamedTuple):
    """An acquisition in a window, without holes."""

    reflectance: NDArray[np.float32]  # (C, h, w)
    source: NDArray[np.int16]  # (h, w): the acquisition that a pixel is from, -1: none
    known: Mask  # (h, w): pixels that any acquisition has
    used: frozenset[int]  # acquisitions that pixels were taken from


class SceneWindow:
    """A window on a scene; it may reach beyond the scene, which is mirrored there. What was read and filled is kept."""

    def __init__(self, scene: Scene, box: Box) -> None:
        self._scene = scene
        self._box = box
        around = box.grown(max(SPREAD, FEATHER + 1))
        self._rows = mirrored(around.rows, scene.grid.height)
        self._columns = mirrored(around.columns, scene.grid.width)
        self._inner = box.slices(around)
        self._seen: dict[int, tuple[NDArray[np.float32], Quality]] = {}
        self._views: dict[int, FilledView] = {}

    def choices(self, choice: DateChoice) -> tuple[list[tuple[int, ...]], NDArray[np.int64], NDArray[np.float32]]:
        """The sets of acquisitions chosen, which one each pixel's cell has (h, w), -1: none, and weights (n, h+2, w+2).

        The weights have a margin of one pixel, for interpolation. They sum to one wherever a set has any.
        """
        rows, cell_rows = np.unique(self._rows // CELL, return_inverse=True)
        columns, cell_columns = np.unique(self._columns // CELL, return_inverse=True)
        found = [[choice.cell(int(i), int(j)) for j in columns] for i in rows]
        sets = sorted({chosen for row in found for chosen in row if chosen})
        numbers = np.array([[sets.index(chosen) if chosen else -1 for chosen in row] for row in found])
        labels = numbers[cell_rows][:, cell_columns]
        weights = feathered(labels, len(sets))
        total = weights.sum(axis=0)
        weights /= np.where(total > 0, total, 1)
        return sets, labels[self._inner], weights

    def view(self, index: int) -> FilledView:
        """An acquisition whose holes are filled, pixel by pixel, from the acquisition nearest to it in time.

        A good pixel of another date is taken before the acquisition's own doubtful one. Where every date is doubtful
        (a white roof), its own is kept. Where no date has data, the mean of the pixels around is taken.
        """
        if index not in self._views:
            self._views[index] = self._filled(index)
        return self._views[index]

    def _filled(self, index: int) -> FilledView:
        own, quality = self._pixels(index)
        reflectance = own.copy()
        source = np.where(quality == GOOD, index, -1).astype(np.int16)
        used = {index}
        for least in (GOOD, DOUBTFUL):
            source[(source < 0) & (quality >= least)] = index
            used |= self._fill(reflectance, source, of=index, least=least)
        known = source >= 0
        filled = known & (source != index)
        if filled.any():
            reflectance = self._soften(index, reflectance, filled, used)
        if not known.all():
            reflectance = _spread(reflectance, known, self._scene.middle)
        inner = self._inner
        return FilledView(reflectance[:, *inner], source[inner], known[inner], frozenset(used))

    def _fill(self, reflectance: NDArray[np.float32], source: NDArray[np.int16], *, of: int, least: int) -> set[int]:
        """Write pixels of other dates where nothing is known yet; which dates gave any."""
        used = set()
        for other in self._scene.nearest_first(of):
            unknown = source < 0
            if not unknown.any():
                break
            values, quality = self._pixels(other)
            fill = unknown & (quality >= least)
            if fill.any():
                reflectance[:, fill] = values[:, fill]
                source[fill] = other
                used.add(other)
        return used

    def _soften(
        self, index: int, reflectance: NDArray[np.float32], filled: Mask, used: set[int]
    ) -> NDArray[np.float32]:
        """Fade into what fills a hole over SOFT pixels around it, less around small ones: dates differ."""
        around = F.avg_pool2d(torch.from_numpy(filled).float()[None, None], 2 * SOFT + 1, stride=1, padding=SOFT)
        share = np.minimum(2 * around[0, 0].numpy(), 1)  # of the other dates: nearly 1 right beside a straight border
        beside = (share > 0) & ~filled
        other, source = reflectance.copy(), np.where(beside, -1, index).astype(np.int16)
        used |= self._fill(other, source, of=index, least=GOOD)
        still = source < 0  # no other date has anything there
        return np.where(beside & ~still, (1 - share) * reflectance + share * other, reflectance)

    def reference(self, offsets: Sequence[int]) -> NDArray[np.float32]:
        """What each pixel's own nearest acquisition shows, (C, h, w); acquisitions fade into each other over SOFT.

        Args:
            offsets: days from the target date to each acquisition.
        """
        order = sorted(range(len(offsets)), key=lambda i: (abs(offsets[i]), offsets[i]))
        nearest, source = np.zeros_like(self._pixels(order[0])[0]), np.full(self._shape, -1, np.int16)
        blended, rest = np.zeros_like(nearest), np.ones(self._shape, np.float32)
        for least in (GOOD, DOUBTFUL):
            for index in order:
                if (source >= 0).all() and (least == DOUBTFUL or not rest.any()):
                    break
                values, quality = self._pixels(index)
                valid = quality >= least
                fill = (source < 0) & valid
                nearest[:, fill], source[fill] = values[:, fill], index
                if least == GOOD and (rest * valid).any():
                    share = rest * _faded(valid)
                    blended += share * values
                    rest -= share
        result = _spread(blended + rest * nearest, source >= 0, self._scene.middle)
        return result[:, *self._inner]

    @property
    def _shape(self) -> tuple[int, int]:
        return len(self._rows), len(self._columns)

    def _pixels(self, index: int) -> tuple[NDArray[np.float32], Quality]:
        if index not in self._seen:
            spans = [(int(axis.min()), int(axis.max()) + 1) for axis in (self._rows, self._columns)]
            box = Box(*(Span(*span) for span in spans))
            reflectance, quality = self._scene.pixels(index, box)
            rows, columns = self._rows - box.rows.start, self._columns - box.columns.start
            self._seen[index] = reflectance[:, rows][:, :, columns], quality[rows][:, columns]
        return self._seen[index]


def _faded(valid: Mask) -> NDArray[np.float32]:
    """1 where a mask is set, falling to 0 over SOFT pixels inside its borders."""
    half = SOFT // 2
    inside = torch.from_numpy(grow(valid, -half)).float()[None, None]
    faded = F.avg_pool2d(inside, 2 * half + 1, stride=1, padding=half, count_include_pad=False)[0, 0]
    return faded.numpy() * valid


def _spread(values: NDArray[np.float32], known: Mask, middle: NDArray[np.float32]) -> NDArray[np.float32]:
    """Values (C, h, w), unknown ones as the mean of known ones within SPREAD, else ``middle``: no cliff."""
    weight = torch.from_numpy(known).float()[None, None]  # (1, 1, h, w)
    held = torch.from_numpy(values * known)[:, None]  # (C, 1, h, w)
    side = 2 * SPREAD + 1
    sums, counts = (F.avg_pool2d(x, side, stride=1, padding=SPREAD) for x in (held, weight))
    around = torch.where(counts > 0, sums / counts.clamp(min=1e-6), torch.from_numpy(middle)[:, None])
    return np.where(known, values, around[:, 0].numpy())
