"""A split of the data through any task: validation while training, and the evaluation of --infer."""

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from tasks.base import RandomKey, Result, Task
from tasks.evaluation.measure import Patch, Spectra, batch_pictures, mean, measure_batch, measure_spectra, super_resolve
from tasks.evaluation.results import Evaluated, comparison, write_results
from utils.config.settings import Settings
from utils.dataloader import Batch, BreizhSRDataset, collate, evaluation_loader
from utils.distributed import World
from utils.files import quoted
from utils.images import Picture, picture, save_png
from utils.metrics.lpips import LPIPS
from utils.radiometry import normalise_hr
from utils.report.page_pictures import choose_examples

INTERMEDIATE_PICTURES = 20
SHEET_ROWS = 6
VALIDATION_FIGURES = ("val_loss", "psnr", "ssim", "mae", "mse", "shift_mae")  # columns of val_res.csv


class Validation:
    """The whole validation split by few sampling steps: means of its figures, and pictures of its first patches."""

    def __init__(self, dataset: BreizhSRDataset, *, settings: Settings, world: World, shown: int = 3) -> None:
        self.dataset, self.settings, self.world, self.shown = dataset, settings, world, shown

    def run(
        self, task: Task, *, asked_to_stop: Callable[[], bool] = lambda: False
    ) -> tuple[dict[str, float], Picture | None] | None:
        """Figures (the same on every process) and a sheet bicubic | prediction | truth; None if it was cut short."""
        task.eval()
        patches: list[Patch] = []
        batch_size = max(1, self.settings.evaluation.eval_batch_size // self.world.size)
        loader = evaluation_loader(
            self.dataset,
            batch_size=batch_size,
            rank=self.world.rank,
            world_size=self.world.size,
            workers=self.settings.data.num_workers,
            pin_memory=self.world.pins_memory,
        )
        batches = iter(loader)
        for _ in range(0, -(-len(self.dataset) // self.world.size), batch_size):  # so many on the busiest process
            if self.world.any(asked_to_stop()):
                return None
            raw = next(batches, None)
            if raw is None:
                continue
            batch = self.dataset.to_batch(raw, self.world.device)
            loss = self._loss(task, batch)
            result = super_resolve(task, batch, settings=self.settings, world=self.world, samples=1, preview=True)
            for i, row in enumerate(measure_batch(result, batch)):
                kept = batch_pictures(result, batch, i) if len(patches) < self.shown else {}
                patches.append(Patch(int(batch.indices[i]), {**row, "val_loss": loss}, kept))
        patches = sorted(self.world.gather(patches), key=lambda patch: patch.position)
        figures = {name: mean([patch.row[name] for patch in patches]) for name in VALIDATION_FIGURES}
        first = [patch for patch in patches if patch.pictures][: self.shown]
        return figures, np.asarray(comparison(first, ("bicubic", "result", "truth"))) if first else None

    def _loss(self, task: Task, batch: Batch) -> float:
        key = RandomKey(self.settings.training.seed, -1, batch.indices.to(self.world.device))
        with torch.inference_mode(), self.world.autocast(self.settings.training.amp):
            terms = task(batch, key)
        return float(torch.stack([term.float() for term in terms.values()]).sum())


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
    """Evaluate, and write what results.py writes; the summary, on the main process."""
    world.place(task)
    task.eval()
    saver = PictureSaver(evaluated.folder, evaluated.global_step, settings=settings)
    samples = settings.diffusion.samples
    patches: list[Patch] = []
    spectra: list[Spectra] = []
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
            callback = None
            if settings.evaluation.save_intermediate and world.is_main and not patches:
                callback = saver.intermediate(task, batch, samples=samples)
            started = _now(world)
            result = super_resolve(task, batch, settings=settings, world=world, samples=samples, callback=callback)
            seconds += _now(world) - started
            saver.save(result, batch)
            sensor_truth = normalise_hr(raw["hr"].to(world.device))
            rows = measure_batch(result, batch, lpips=lpips, sensor_truth=sensor_truth)
            patches += [Patch(int(batch.indices[i]), row) for i, row in enumerate(rows)]
            spectra.append(measure_spectra(result, batch))
            bar.update(len(batch.keys))
    seconds_per_image = seconds / max(1, len(patches))
    patches = sorted(world.gather(patches), key=lambda patch: patch.position)
    spectra = world.gather(spectra)
    if not world.is_main:
        return None

    def draw(patch: Patch) -> None:
        """Predicted once more, as every number has its address: pictures of all patches would not fit in memory."""
        if not patch.pictures:
            batch = dataset.to_batch(collate([dataset.raw(patch.position)]), world.device)
            result = super_resolve(task, batch, settings=settings, world=world, samples=samples)
            patch.pictures = batch_pictures(result, batch, 0)

    examples = choose_examples([patch.row["psnr"] for patch in patches])
    shown = patches[:SHEET_ROWS]
    for patch in tqdm([*shown, *(patches[position] for _, position in examples)], desc="pictures", unit="image"):
        draw(patch)
    return write_results(
        evaluated,
        patches,
        shown=shown,
        examples=examples,
        spectra=functools.reduce(Spectra.plus, spectra) if spectra else None,
        task=task,
        settings=settings,
        seconds_per_image=seconds_per_image,
    )


def _now(world: World) -> float:
    if world.device.type == "cuda":
        torch.cuda.synchronize(world.device)
    return time.perf_counter()


class PictureSaver:
    """The pictures that `test_save_png` and `save_intermediate` ask for."""

    def __init__(self, folder: Path, step: int, *, settings: Settings) -> None:
        self.wanted = settings.evaluation.test_save_png
        self.folder = folder / f"results_{step}_{settings.evaluation.gen_dir_name}"

    def save(self, result: Result, batch: Batch) -> None:
        if not self.wanted:
            return
        for i, key in enumerate(batch.keys):
            shown = {"SR": result.sr[i], "HR": batch.hr[i], "UP": batch.base[i]}
            if result.backbone is not None:
                shown["RRDB"] = result.backbone[i]
            for name, image in shown.items():
                save_png(picture(image), self.folder / name / f"{quoted(key)}.png")
            views = batch.lr[i]  # (T, C, h, w)
            for number, view in enumerate(views):
                file = f"{quoted(key)}.png" if len(views) == 1 else f"{quoted(key)}_{number}.png"
                save_png(picture(view), self.folder / "LR" / file)

    def intermediate(self, task: Task, batch: Batch, *, samples: int) -> Any:
        """A callback that saves x0 of the first patch at 20 moments of the sampling; None where nothing is sampled."""
        if not task.sampler_steps:
            return None
        kept = set(np.linspace(0, task.sampler_steps - 1, INTERMEDIATE_PICTURES).round().astype(int).tolist())

        def save(step: int, time: float, x: Tensor, x0: Tensor) -> None:
            if step in kept:
                save_png(picture(x0[0].float()), self.folder / "intermediate" / f"{step:04d}_t{time:g}.png")

        return save
