"""How fast data are prepared, loaded and measured."""

import contextlib
import io
import shutil

import rasterio
import torch

from benchmarks import plain
from benchmarks.bench import Bench
from benchmarks.limits import MEMORY, timed
from benchmarks.table import Row
from data_gen.prepare import prepare
from utils.dataloader import BreizhSRDataset, collate, training_loader
from utils.metrics.pixel import measure, to_uint8


def preprocessing(bench: Bench) -> list[Row]:
    """Raw rasters to the store, in one process; held against reading the rasters alone."""
    root, output = bench.raw, bench.folder / "prepared again"
    rasters = sorted(root.glob("s*/**/*.tif"))
    patches = sum(path.is_relative_to(root / "spot6") for path in rasters)

    def everything() -> None:
        shutil.rmtree(output, ignore_errors=True)
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
            prepare(root, output=output, workers=1)

    def reading() -> None:
        for path in rasters:
            with rasterio.open(path) as raster:
                raster.read()

    times, _ = timed({"prepare": everything, "read": reading}, limits=[], patience=bench.patience)
    note = "one process; the limit is reading the same rasters with rasterio and nothing else"
    return [
        Row(
            "prepare a patch",
            "one process",
            times["prepare"].scaled(1 / patches),
            share=times["read"].median / times["prepare"].median,
            note=note,
        )
    ]


def loader(bench: Bench) -> list[Row]:
    """Samples matched and normalised on the device, from one process; plain: scikit-image, patch by patch."""
    rows = []
    for amount in (1, 8):
        data = BreizhSRDataset(bench.prepared, "train", sen2_amount=amount)
        size = min(32, len(data))

        def batch(data: BreizhSRDataset = data, size: int = size) -> object:
            (raw,) = training_loader(data, batch_size=size, seed=0, stop_step=1)
            return data.to_batch(raw)

        patches = [plain.stored(data.raw(position)) for position in range(size)]

        def plainly(patches: list = patches) -> object:
            return collate([plain.item(patch) for patch in patches])

        raw = collate([data.raw(0)])
        held = [raw[name] for name in ("hr", "lr", "base", "table")]
        made = data.to_batch(raw)
        held += [made.hr, made.lr, made.base]
        moved = size * sum(tensor.numel() * tensor.element_size() for tensor in held)
        times, rates = timed({"plain": plainly, "loader": batch}, limits=[MEMORY], patience=bench.patience)
        what = "load a sample" if amount == 1 else f"load a series of {amount}"
        per_sample = {name: timing.scaled(1 / size) for name, timing in times.items()}
        rows += [
            Row(what, "plain", per_sample["plain"], note=_PLAIN_LOADER),
            Row(
                what,
                f"batches of {size}, one process",
                per_sample["loader"],
                share=moved / times["loader"].median / rates[MEMORY],
                gain=times["plain"].median / times["loader"].median,
                note="the limit is memory bandwidth: integers read once, the batch written once",
            ),
        ]
    return rows


_PLAIN_LOADER = "histograms matched by scikit-image, and the bicubic image made, when a patch is loaded"


def metrics(bench: Bench) -> list[Row]:
    """All metrics but LPIPS."""
    torch.manual_seed(0)
    size = 8
    hr = torch.randn(size, 3, 296, 296).mul(0.3).clamp(-1, 1)
    sr = (hr + torch.randn_like(hr) * 0.05).clamp(-1, 1)
    integers = to_uint8(sr), to_uint8(hr)

    def plainly() -> object:
        return [plain.metrics(x, y) for x, y in zip(*integers, strict=True)]

    times, rates = timed(
        {"plain": plainly, "measure": lambda: measure(*integers)}, limits=[MEMORY], patience=bench.patience
    )
    moved = 2 * integers[0].numel() * 49  # each shift compares both images once, a byte a value
    return [
        Row("measure an image", "plain", times["plain"].scaled(1 / size), note="scikit-image, a loop over shifts"),
        Row(
            "measure an image",
            f"batches of {size}",
            times["measure"].scaled(1 / size),
            share=moved / times["measure"].median / rates[MEMORY],
            gain=times["plain"].median / times["measure"].median,
            note="PSNR, SSIM, MAE, MSE, shift-MAE; the limit is memory bandwidth for 49 shifts of both images as bytes",
        ),
    ]
