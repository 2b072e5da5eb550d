"""A place at several dates: what can be used of each acquisition, which ones a tile is made from, holes filled."""

import contextlib
import logging
from collections.abc import Sequence
from datetime import date
from types import TracebackType
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from tasks.scenes.date_selection import CELL, FEATHER, DateChoice, feathered
from utils.geo.clouds import DOUBTFUL, GOOD, Mask, Quality
from utils.geo.raster import AlignedReader, Grid, gdal_memory, grid_of_acquisition, rated_pixels
from utils.geo.sources import Acquisition, short_name
from utils.geo.windows import Box, Span, mirrored

logger = logging.getLogger(__name__)

SPREAD = 8  # pixels that colours run into places which no acquisition saw
SOFT = 4  # pixels over which an acquisition fades into what fills its holes


class Scene:
    """Acquisitions on the grid of the first one. A context manager.

    Args:
        acquisitions: in order of their dates.
        target: the date asked for; None where the only acquisition has none.
        num_dates: how many acquisitions the network looks at.
        min_valid: see ``DateChoice``.
        clouds: leave out clouds: by scene classification where there is one, else by brightness.
        middle: a reflectance for each band, used where no acquisition has data within SPREAD pixels.
    """

    def __init__(
        self,
        acquisitions: Sequence[Acquisition],
        *,
        target: date | None,
        num_dates: int,
        min_valid: float,
        clouds: bool,
        middle: Sequence[float],
    ) -> None:
        self.acquisitions = tuple(acquisitions)
        self.middle = np.array(middle, np.float32).reshape(-1, 1, 1)
        self.offsets = [(a.day - target).days if a.day and target else 0 for a in acquisitions]
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
                    logger.info(f"{short_name(path)}: lies on another grid; resampled onto the first image's")
        except BaseException:
            self._files.close()
            raise
        bare = [a.name for a in acquisitions if a.classes is None]
        if clouds and bare and len(acquisitions) > 1:
            logger.info(
                f"{len(bare)} of {len(acquisitions)} images have no scene classification: clouds are "
                + ("told by brightness" if self._readers[0].tells_brightness else "left in, as red or blue is missing")
            )
        self.choice = DateChoice(
            quality=lambda index, box: self.pixels(index, box)[1],
            offsets=self.offsets,
            num_dates=num_dates,
            min_valid=min_valid,
            height=self.grid.height,
            width=self.grid.width,
        )

    def __enter__(self) -> "Scene":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files.close()

    def pixels(self, index: int, box: Box) -> tuple[NDArray[np.float32], Quality]:
        """Reflectance (C, h, w) of an acquisition in a box inside the scene, and what it is worth (h, w)."""
        return rated_pixels(self._readers[index], self.grid, box, clouds=self._clouds)

    def nearest_first(self, index: int) -> list[int]:
        """The other acquisitions, nearest in time to one first; of two as near, the earlier."""
        own = self.offsets[index]
        others = [i for i in range(len(self.offsets)) if i != index]
        return sorted(others, key=lambda i: (abs(self.offsets[i] - own), self.offsets[i]))


class FilledView(NamedTuple):
    """An acquisition in a window, without holes."""

    reflectance: NDArray[np.float32]  # (C, h, w)
    observed: Mask  # (h, w): its own pixels; the others come from other dates
    known: Mask  # (h, w): pixels that any acquisition has


class SceneWindow:
    """A window on a scene; it may reach beyond the scene, which is mirrored there."""

    def __init__(self, scene: Scene, box: Box) -> None:
        self._scene = scene
        self._box = box
        around = box.grown(max(SPREAD, FEATHER + 1))
        self._rows = mirrored(around.rows, scene.grid.height)
        self._columns = mirrored(around.columns, scene.grid.width)
        self._inner = box.slices(around)
        self._seen: dict[int, tuple[NDArray[np.float32], Quality]] = {}
        self.used: set[int] = set()  # acquisitions that pixels were taken from

    def choices(self) -> tuple[list[tuple[int, ...]], NDArray[np.int64], NDArray[np.float32]]:
        """The sets of acquisitions chosen, which one each pixel's cell has (h, w), -1: none, and weights (n, h+2, w+2).

        The weights have a margin of one pixel, for interpolation. They sum to one wherever a set has any.
        """
        rows, cell_rows = np.unique(self._rows // CELL, return_inverse=True)
        columns, cell_columns = np.unique(self._columns // CELL, return_inverse=True)
        found = [[self._scene.choice.cell(int(i), int(j)) for j in columns] for i in rows]
        sets = sorted({choice for row in found for choice in row if choice})
        numbers = np.array([[sets.index(choice) if choice else -1 for choice in row] for row in found])
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
        own, quality = self._pixels(index)
        reflectance, known, observed = own.copy(), quality == GOOD, quality == GOOD
        for least in (GOOD, DOUBTFUL):
            mine = ~known & (quality >= least)
            known, observed = known | mine, observed | mine
            known = self._fill(reflectance, known, of=index, least=least)
        self.used.add(index)
        filled = known & ~observed
        if filled.any():
            reflectance = self._soften(index, reflectance, filled)
        if not known.all():
            reflectance = _spread(reflectance, known, self._scene.middle)
        return FilledView(reflectance[:, *self._inner], observed[self._inner], known[self._inner])

    def _fill(self, reflectance: NDArray[np.float32], known: Mask, *, of: int, least: int) -> Mask:
        """Write pixels of other dates where nothing is known yet; what is known now."""
        for other in self._scene.nearest_first(of):
            if known.all():
                break
            values, quality = self._pixels(other)
            fill = ~known & (quality >= least)
            if fill.any():
                reflectance[:, fill] = values[:, fill]
                known = known | fill
                self.used.add(other)
        return known

    def _soften(self, index: int, reflectance: NDArray[np.float32], filled: Mask) -> NDArray[np.float32]:
        """Fade into what fills a hole over SOFT pixels around it, less around small ones: dates differ."""
        around = F.avg_pool2d(torch.from_numpy(filled).float()[None, None], 2 * SOFT + 1, stride=1, padding=SOFT)
        share = np.minimum(2 * around[0, 0].numpy(), 1)  # of the other dates: nearly 1 right beside a straight border
        beside = (share > 0) & ~filled
        other = reflectance.copy()
        still = ~self._fill(other, ~beside, of=index, least=GOOD)  # no other date has anything there
        return np.where(beside & ~still, (1 - share) * reflectance + share * other, reflectance)

    def _pixels(self, index: int) -> tuple[NDArray[np.float32], Quality]:
        if index not in self._seen:
            spans = [(int(axis.min()), int(axis.max()) + 1) for axis in (self._rows, self._columns)]
            box = Box(*(Span(*span) for span in spans))
            reflectance, quality = self._scene.pixels(index, box)
            rows, columns = self._rows - box.rows.start, self._columns - box.columns.start
            self._seen[index] = reflectance[:, rows][:, :, columns], quality[rows][:, columns]
        return self._seen[index]


def _spread(values: NDArray[np.float32], known: Mask, middle: NDArray[np.float32]) -> NDArray[np.float32]:
    """Values (C, h, w), unknown ones as the mean of known ones within SPREAD, else ``middle``: no cliff."""
    weight = torch.from_numpy(known).float()[None, None]  # (1, 1, h, w)
    held = torch.from_numpy(values * known)[:, None]  # (C, 1, h, w)
    side = 2 * SPREAD + 1
    sums, counts = (F.avg_pool2d(x, side, stride=1, padding=SPREAD) for x in (held, weight))
    around = torch.where(counts > 0, sums / counts.clamp(min=1e-6), torch.from_numpy(middle)[:, None])
    return np.where(known, values, around[:, 0].numpy())
