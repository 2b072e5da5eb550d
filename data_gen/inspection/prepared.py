"""A prepared store, looked at."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from data_gen.inspection.sources import Fault, Place, Progress, Ref, View, has_place
from utils.errors import DataError
from utils.radiometry import MATCHINGS, count_levels, matching_table, normalise_lr, reflectance
from utils.store import Manifest, Shard, checksum, open_shard, read_manifest

_SPOT_PIXEL = 2.5  # metres: the store doesn't say


class PreparedSource:
    """The prepared store."""

    kind = "prepared"

    def __init__(self, folder: Path) -> None:
        self.root = folder
        self.manifest: Manifest = read_manifest(folder)
        self.maxima = self.manifest.maxima
        self.faults: list[Fault] = []
        self.refs: list[Ref] = []
        self._shards: dict[tuple[str, int], Shard] = {}

    def begin(self, progress: Progress) -> None:
        files = [
            (split, number, info) for split, infos in self.manifest.splits.items() for number, info in enumerate(infos)
        ]
        for split, number, info in progress(files, "shards"):
            if checksum(self.root / info.file) != info.sha256:
                self.faults.append(
                    Fault("checksums", split, info.file, info.file, "isn't what was written: its checksum differs")
                )
            try:
                shard = open_shard(self.root, info, self.manifest.geometry)
            except DataError as error:
                self.faults.append(Fault("shards", split, info.file, info.file, str(error)))
                continue
            self._shards[split, number] = shard
            self.refs += [Ref(split, key, row, number) for row, key in enumerate(shard["key"])]

    def offsets(self, ref: Ref) -> list[int]:
        shard = self._shards[ref.split, ref.shard]
        acquired = shard["alphas"][ref.position]
        if not bool(acquired[0]) or bool((acquired[1:] & ~acquired[:-1]).any()):
            self._note("pairs", ref, "acquired views don't come before padded ones")
        return shard["dates"][ref.position][acquired].tolist()

    def truth(self, ref: Ref) -> tuple[NDArray[Any], Place | None]:
        shard = self._shards[ref.split, ref.shard]
        columns = shard.get("columns")
        here: dict[str, Any] = {}
        if isinstance(columns, dict):
            for name in ("x", "y"):
                values = columns.get(name)
                if isinstance(values, list) and len(values) > ref.position:
                    here[name] = values[ref.position]
        side = _SPOT_PIXEL * self.manifest.geometry.hr_size
        place = Place("", here["x"], here["y"], side) if has_place(here) else None
        return shard["hr"][ref.position].numpy(), place

    def views(self, ref: Ref) -> Iterator[View]:
        shard = self._shards[ref.split, ref.shard]
        for number in shard["alphas"][ref.position].nonzero().flatten().tolist():
            pixels = shard["lr"][ref.position, number].numpy()
            offset = int(shard["dates"][ref.position, number])
            yield View(f"view {number}", offset, pixels, (pixels == 0).all(axis=0))

    def verify(self, ref: Ref) -> None:
        """The tables of spectral matching must be those of the images."""
        shard = self._shards[ref.split, ref.shard]
        counts = count_levels(shard["hr"][ref.position])
        acquired = shard["alphas"][ref.position]
        if acquired.any():
            distance = shard["dates"][ref.position].int().abs().masked_fill(~acquired, torch.iinfo(torch.int32).max)
            self._compare(ref, "", ref.position, counts, shard["lr"][ref.position, int(distance.argmin())])
        single = int(shard["single"][ref.position])
        if single >= 0:
            self._compare(ref, "single_", single, counts, shard["single_lr"][single])

    def _compare(self, ref: Ref, prefix: str, row: int, counts: Tensor, lr: Tensor) -> None:
        shard, normalised = self._shards[ref.split, ref.shard], normalise_lr(reflectance(lr), self.maxima)
        for method in MATCHINGS:
            name = f"{prefix}matching" + ("" if method == "histogram" else f"_{method}")
            expected = matching_table(counts, normalised, method=method)
            if not torch.allclose(shard[name][row], expected, rtol=0, atol=1e-5):
                self._note("tables", ref, f"{name} is not that of its images")

    def _note(self, check: str, ref: Ref, what: str) -> None:
        file = self.manifest.splits[ref.split][ref.shard].file
        self.faults.append(Fault(check, ref.split, ref.key, file, what))
