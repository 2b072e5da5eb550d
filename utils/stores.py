"""One split of one or several prepared stores, and which of its samples training sees."""

import bisect
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from utils.errors import ConfigError
from utils.randomness import Stream, bits, integers
from utils.store import Geometry, Shard, Store, prepared_folder


class Stores:
    """The samples of several stores in a row. Patches may differ in size, normalisation and scale may not.

    Args:
        roots: prepared folders, or raw ones with `preprocessed/` in them.
        split: that all of them have.
        weights: the share of each in a training batch, in any unit; none: equal ones.

    Raises:
        ConfigError: they can't be mixed.
        DataError: one is missing or damaged.
    """

    def __init__(self, roots: Sequence[Path | str], split: str, *, weights: Sequence[float] = ()) -> None:
        self.parts = [Store(prepared_folder(Path(root)), split) for root in roots]
        self.starts = list(itertools.accumulate(map(len, self.parts), initial=0))
        self.folder = self.parts[0].folder
        self.manifest = self.parts[0].manifest
        self._weights = list(weights) or [1.0] * len(roots)
        if len(self._weights) != len(roots) or min(self._weights) < 0 or not sum(self._weights) > 0:
            raise ConfigError(f"data_weights must be {len(roots)} numbers from 0, one for each data_root")
        for other in self.parts[1:]:
            mine, its = self.manifest.geometry, other.manifest.geometry
            if (self.manifest.maxima, mine.scale, mine.bands) != (other.manifest.maxima, its.scale, its.bands):
                raise ConfigError(
                    f"{other.folder} has other maxima, bands or another scale than {self.folder}: "
                    f"prepare both with the same, e.g. --maxima {' '.join(f'{top:g}' for top in self.manifest.maxima)}"
                )

    def __len__(self) -> int:
        return self.starts[-1]

    @property
    def scale(self) -> int:
        return self.manifest.geometry.scale

    @property
    def geometries(self) -> list[Geometry]:
        return [part.manifest.geometry for part in self.parts]

    def locate(self, position: int) -> tuple[Shard, int]:
        """The shard that holds a sample, and the sample's row in it."""
        if not 0 <= position < len(self):
            raise IndexError(f"position {position} of a split with {len(self)} samples")
        number = bisect.bisect_right(self.starts, position) - 1
        return self.parts[number].locate(position - self.starts[number])

    def training_positions(self, samples: Iterable[int], *, batch_size: int, seed: int) -> Iterator[int]:
        """The positions of these samples of training, counted from its start.

        Of one store training sees one permutation after another. Of several, each has its share of every batch.
        """
        sizes = [len(part) for part in self.parts]
        if len(sizes) == 1:
            yield from _permuted(sizes[0], samples, seed=seed)
            return
        ends = torch.tensor(self._weights, dtype=torch.float64).cumsum(0)
        for sample in samples:
            step, index = divmod(sample, batch_size)
            offset = int(integers(Stream.MIX, seed, step, high=1 << 30)) / (1 << 30)
            number = int((ends / ends[-1] <= (index + offset) / batch_size).sum())
            yield self.starts[number] + int(integers(Stream.MIX, seed, step, index, high=sizes[number]))


def permutation(size: int, *, seed: int, epoch: int) -> Tensor:
    """The order of the samples in one epoch, (size,)."""
    return bits(Stream.ORDER, seed, epoch, torch.arange(size)).argsort(stable=True)


def _permuted(size: int, samples: Iterable[int], *, seed: int) -> Iterator[int]:
    epoch, order = -1, torch.empty(0)
    for sample in samples:
        if sample // size != epoch:
            epoch = sample // size
            order = permutation(size, seed=seed, epoch=epoch)
        yield int(order[sample % size])
