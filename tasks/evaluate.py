"""A split of the data, super-resolved and measured: for any task and for the bicubic image beside it."""

import csv
import json
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from tasks.task import Address, Result, Task, sampling_noise, series_of
from utils.dataloader import Batch, BreizhSRDataset, evaluation_loader
from utils.distributed import World
from utils.files import write_text, written_aside
from utils.images import Picture, picture, save_png, sheet, spread_map
from utils.lpips import LPIPS
from utils.metrics import measure, to_integers
from utils.randomness import word
from utils.settings import Settings

METRICS = ("psnr", "ssim", "lpips", "mae", "mse", "shift_mae")
CSV_COLUMNS = (*METRICS, "key")
INTERMEDIATE_PICTURES = 20
KEPT_PICTURES = 64  # patches of each process whose pictures stay in memory for the sheets

Row = dict[str, Any]


@dataclass
class Patch:
    """One patch's figures and, while there is room, its pictures."""

    position: int
    row: Row
    pictures: dict[str, Picture] = field(default_factory=dict)


def image_keys(keys: Sequence[object], device: torch.device) -> Tensor:
    """What a sample's noise depends on, (B,)."""
    return torch.tensor([word(str(key)) for key in keys], device=device)


def super_resolve(task: Task, batch: Batch, *, settings: Settings, world: World, **options: Any) -> Result:
    """Predict a batch; noise is a function of (seed, sample key)."""
    samples = options.pop("samples", settings.diffusion.samples)
    noise = sampling_noise(image_keys(batch.keys, world.device), seed=settings.training.seed, samples=samples)
    with torch.inference_mode(), world.autocast(settings.training.amp):
        return task.predict(series_of(batch), noise=noise, samples=samples, **options)


def measured(result: Result, batch: Batch, *, lpips: LPIPS | None) -> dict[str, dict[str, Tensor]]:
    """The metrics of the result, the conditioner's own output and the bicubic image, each (B,)."""
    images = {"": result.sr, "bicubic_": batch.base.float()}
    if result.backbone is not None:
        images["backbone_"] = result.backbone
    truth = to_integers(batch.hr)
    figures = {}
    for prefix, image in images.items():
        integers = to_integers(image)
        figures[prefix] = measure(integers, truth)
        if lpips is not None:
            with torch.inference_mode():
                figures[prefix]["lpips"] = lpips(integers.float(), truth.float())
    return figures


def rows_of(result: Result, batch: Batch, *, lpips: LPIPS | None) -> list[Row]:
    """One row a patch: key, metrics, what series it came from."""
    figures = measured(result, batch, lpips=lpips)
    columns = {f"{prefix}{name}": values.tolist() for prefix, of in figures.items() for name, values in of.items()}
    nearest = batch.dates.abs().masked_fill(~batch.mask, math.inf).amin(dim=1).tolist()
    valid = batch.mask.sum(dim=1).tolist()
    spread = None if result.samples is None else result.samples.std(dim=1, correction=0).mean(dim=(1, 2, 3)).tolist()
    rows = []
    for i, key in enumerate(batch.keys):
        row = {name: values[i] for name, values in columns.items()}
        row |= {"days_to_nearest": nearest[i], "valid_dates": valid[i], "key": key}
        if spread is not None:
            row["spread"] = spread[i]
        rows.append(row)
    return rows


def pictures_of(result: Result, batch: Batch, i: int) -> dict[str, Picture]:
    """The pictures of one patch of a batch, by what they show."""
    shown = {"nearest input": picture(batch.lr[i, int(batch.near[i])]), "bicubic": picture(batch.base[i])}
    if result.backbone is not None:
        shown["backbone"] = picture(result.backbone[i])
    shown |= {"result": picture(result.sr[i]), "truth": picture(batch.hr[i])}
    if result.samples is not None:
        shown["spread"] = spread_map(result.samples[i])
    return shown


class Validation:
    """The whole validation split by few sampling steps: means of its figures, and pictures of its first patches."""

    def __init__(self, dataset: BreizhSRDataset, *, settings: Settings, world: World, shown: int = 3) -> None:
        self.dataset, self.settings, self.world, self.shown = dataset, settings, world, shown

    def run(self, task: Task) -> tuple[dict[str, float], Picture | None]:
        """Figures (the same on every process) and, on the main one, a sheet bicubic | prediction | truth."""
        task.eval()
        patches: list[Patch] = []
        loader = evaluation_loader(
            self.dataset,
            batch_size=max(1, self.settings.evaluation.eval_batch_size // self.world.size),
            rank=self.world.rank,
            world_size=self.world.size,
            workers=self.settings.data.num_workers,
            pin_memory=self.world.pins_memory,
        )
        for raw in loader:
            batch = self.dataset.to_batch(raw, self.world.device)
            loss = self._loss(task, batch)
            result = super_resolve(task, batch, settings=self.settings, world=self.world, samples=1, quick=True)
            for i, row in enumerate(rows_of(result, batch, lpips=None)):
                kept = pictures_of(result, batch, i) if len(patches) < self.shown else {}
                patches.append(Patch(int(batch.indices[i]), {**row, "val_loss": loss}, kept))
        patches = sorted(self.world.gather(patches), key=lambda patch: patch.position)
        names = ("val_loss", "psnr", "ssim", "mae", "mse", "shift_mae")
        figures = {name: _mean([patch.row[name] for patch in patches]) for name in names}
        first = [patch for patch in patches if patch.pictures][: self.shown]
        return figures, np.asarray(_sheet(first, ("bicubic", "result", "truth"))) if first else None

    def _loss(self, task: Task, batch: Batch) -> float:
        with torch.inference_mode(), self.world.autocast(self.settings.training.amp):
            terms = task(batch, Address(self.settings.training.seed, -1, batch.indices.to(self.world.device)))
        return float(torch.stack([term.float() for term in terms.values()]).sum())


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation was of."""

    experiment: str
    folder: Path
    checkpoint: str
    global_step: int
    averaged: bool
    split: str


def evaluate(
    task: Task,
    dataset: BreizhSRDataset,
    evaluated: Evaluated,
    *,
    settings: Settings,
    world: World,
    lpips: LPIPS | None,
    limit: int | None = None,
) -> dict[str, Any] | None:
    """Evaluate and write test_results.csv, metrics.csv, summary.json and pictures; the summary, on the main process."""
    task.to(world.device).eval()
    saver = _PictureSaver(evaluated, settings=settings)
    patches: list[Patch] = []
    seconds = 0.0
    total = min(len(dataset), limit or len(dataset))
    loader = evaluation_loader(
        dataset,
        batch_size=settings.evaluation.test_batch_size,
        rank=world.rank,
        world_size=world.size,
        workers=settings.data.num_workers,
        limit=limit,
        pin_memory=world.pins_memory,
    )
    with tqdm(total=-(-total // world.size), desc=evaluated.experiment, unit="image", disable=not world.is_main) as bar:
        for raw in loader:
            batch = dataset.to_batch(raw, world.device)
            first = world.is_main and not patches
            options = saver.intermediate(task, batch) if first and settings.evaluation.save_intermediate else {}
            started = _now(world)
            result = super_resolve(task, batch, settings=settings, world=world, **options)
            seconds += _now(world) - started
            saver.save(result, batch)
            for i, row in enumerate(rows_of(result, batch, lpips=lpips)):
                kept = pictures_of(result, batch, i) if len(patches) < KEPT_PICTURES else {}
                patches.append(Patch(int(batch.indices[i]), row, kept))
            bar.update(len(batch.keys))
    seconds_per_image = seconds / max(1, len(patches))
    # Pictures stay with the process that has them; the main one's are enough for the sheets.
    pictures = {patch.position: patch.pictures for patch in patches if patch.pictures} if world.is_main else {}
    gathered = world.gather([Patch(patch.position, patch.row) for patch in patches])
    if not world.is_main:
        return None
    ordered = sorted(gathered, key=lambda patch: patch.position)
    for patch in ordered:
        patch.pictures = pictures.get(patch.position, {})
    rows = [patch.row for patch in ordered]
    summary = summarise(rows, evaluated, task=task, seconds_per_image=seconds_per_image)
    write_rows(evaluated.folder / "test_results.csv", rows, columns=CSV_COLUMNS)
    write_rows(evaluated.folder / "metrics.csv", rows, columns=tuple(dict.fromkeys(n for row in rows for n in row)))
    write_text(evaluated.folder / "summary.json", json.dumps(summary, indent=1) + "\n")
    shown = [patch for patch in ordered if patch.pictures][:6]
    if shown:
        save_png(_sheet(shown, ("bicubic", "backbone", "result", "truth")), evaluated.folder / "comparison.png")
    return summary


def summarise(rows: list[Row], evaluated: Evaluated, *, task: Task, seconds_per_image: float) -> dict[str, Any]:
    """Means and standard deviations; a metric that could not be had is null, never 0."""

    def figures(prefix: str) -> dict[str, dict[str, float | None]]:
        return {
            name: {"mean": _finite(_mean(values)), "std": _finite(statistics.pstdev(values)) if values else None}
            for name in METRICS
            if (values := [row[prefix + name] for row in rows if row.get(prefix + name) is not None]) or name == "lpips"
        }

    summary: dict[str, Any] = {
        "experiment": evaluated.experiment,
        "checkpoint": evaluated.checkpoint,
        "global_step": evaluated.global_step,
        "averaged_weights": evaluated.averaged,
        "split": evaluated.split,
        "n": len(rows),
        "sampler": task.sampler_name,
        "steps": task.sampler_steps,
        "seconds_per_image": seconds_per_image,
        "metrics": figures(""),
        "bicubic": figures("bicubic_"),
    }
    if rows and "backbone_psnr" in rows[0]:
        summary["backbone"] = figures("backbone_")
    return summary


def write_rows(path: Path, rows: list[Row], *, columns: Sequence[str]) -> None:
    """A CSV file, separated by ;, with an unnamed column of row numbers."""
    with written_aside(path) as aside, aside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=";", lineterminator="\n")
        writer.writerow(["", *columns])
        for number, row in enumerate(rows):
            writer.writerow([number, *(_text(row.get(name)) for name in columns)])


def _text(value: object) -> str:
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values) if values and all(map(math.isfinite, values)) else _limit(values)


def _limit(values: list[float]) -> float:
    """The mean where it is not finite: infinite as soon as one value is (identical images)."""
    return math.inf if any(value == math.inf for value in values) else math.nan


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _now(world: World) -> float:
    if world.device.type == "cuda":
        torch.cuda.synchronize(world.device)
    return time.perf_counter()


def _sheet(patches: list[Patch], titles: Sequence[str]) -> Any:
    """Rows of pictures with their PSNR."""
    present = [title for title in titles if any(title in patch.pictures for patch in patches)]
    prefixes = {"bicubic": "bicubic_", "backbone": "backbone_", "result": ""}

    def caption(patch: Patch, title: str) -> str:
        if title not in prefixes:
            return str(patch.row["key"])
        value = patch.row.get(prefixes[title] + "psnr")
        return "" if value is None else f"{value:.2f} dB"

    return sheet(
        [[patch.pictures.get(title) for title in present] for patch in patches],
        present,
        [[caption(patch, title) for title in present] for patch in patches],
    )


class _PictureSaver:
    """The pictures that `test_save_png` and `save_intermediate` ask for."""

    def __init__(self, evaluated: Evaluated, *, settings: Settings) -> None:
        self.wanted = settings.evaluation.test_save_png
        self.folder = evaluated.folder / f"results_{evaluated.global_step}_{settings.evaluation.gen_dir_name}"

    def save(self, result: Result, batch: Batch) -> None:
        if not self.wanted:
            return
        for i, key in enumerate(batch.keys):
            shown = {"SR": result.sr[i], "HR": batch.hr[i], "UP": batch.base[i]}
            if result.backbone is not None:
                shown["RRDB"] = result.backbone[i]
            for name, image in shown.items():
                save_png(picture(image), self.folder / name / f"{key}.png")
            views = batch.lr[i]  # (T, C, h, w)
            for number, view in enumerate(views):
                file = f"{key}.png" if len(views) == 1 else f"{key}_{number}.png"
                save_png(picture(view), self.folder / "LR" / file)

    def intermediate(self, task: Task, batch: Batch) -> dict[str, Any]:
        """A callback that saves x0 of the first patch at 20 moments of the sampling."""
        if not task.sampler_steps:
            return {}
        kept = set(np.linspace(0, task.sampler_steps - 1, INTERMEDIATE_PICTURES).round().astype(int).tolist())

        def save(step: int, time: int, x: Tensor, x0: Tensor) -> None:
            if step in kept:
                image = task.model.image(x0[:1].float(), batch.base[:1].float())[0]  # type: ignore[operator]
                save_png(picture(image), self.folder / "intermediate" / f"{step:04d}_t{time}.png")

        return {"callback": save}
