"""A split of the data through any task: validation while training, and the evaluation of --infer."""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from models.samplers import Callback
from tasks.base import RandomKey, Result, Task
from tasks.evaluation.measure import (
    EvaluatedPatch,
    Spectra,
    Trust,
    attention_of,
    batch_pictures,
    detail_maps,
    images_by_method,
    mean,
    measure_batch,
    measure_spectra,
    measure_trust,
    super_resolve,
)
from tasks.evaluation.results import Evaluated, picture_sheet, write_evaluation
from utils.config.settings import Settings
from utils.dataloader import Batch, BreizhSRDataset, collate, evaluation_loader
from utils.distributed import World
from utils.files import quoted
from utils.geo.bands import shown_positions
from utils.images import Attention, Picture, picture, save_png
from utils.metrics.lpips import LPIPS
from utils.radiometry import normalise_hr

INTERMEDIATE_PICTURES = 20
SHEET_ROWS = 6
KEPT_BYTES = 1 << 27  # of pictures in memory, so that few patches are predicted a second time to be shown
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
        patches: list[EvaluatedPatch] = []
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
            measured = measure_batch(result, batch, bands=self.dataset.bands, maxima=self.dataset.maxima)
            for i, figures in enumerate(measured):
                kept = {}
                if len(patches) < self.shown:
                    kept = batch_pictures(result, batch, i, bands=self.dataset.bands)
                patches.append(EvaluatedPatch(int(batch.indices[i]), {**figures, "val_loss": loss}, kept))
        patches = sorted(self.world.gather(patches), key=lambda patch: patch.position)
        means = {name: mean([patch.figures[name] for patch in patches]) for name in VALIDATION_FIGURES}
        first = [patch for patch in patches if patch.pictures][: self.shown]
        return means, np.asarray(picture_sheet(first, ("bicubic", "result", "truth"))) if first else None

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
    calibration: Mapping[str, Any] | None = None,
) -> dict[str, Any] | None:
    """Predict and measure the first ``limit`` patches of a split, and write its results; `results.py` says which.

    ``calibration`` is what tasks/calibrate.py found: factors, one a band, and the family of distributions.

    Returns:
        What summary.json holds; None on all but the main process.
    """
    world.place(task, amp=settings.training.amp)
    task.eval()
    saver = PictureSaver(evaluated.folder, evaluated.global_step, bands=dataset.bands, settings=settings)
    samples = settings.diffusion.samples
    patches: list[EvaluatedPatch] = []
    pictures: dict[int, dict[str, Picture]] = {}  # by position
    picture_bytes = 0
    attention: dict[int, Attention | None] = {}
    spectra: list[Spectra] = []
    trust: list[Trust] = []
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
                callback = saver.intermediate(task, batch)
            started = _now(world)
            result = super_resolve(task, batch, settings=settings, world=world, samples=samples, callback=callback)
            seconds += _now(world) - started
            saver.save(result, batch)
            sensor_truth = normalise_hr(raw["hr"].to(world.device))
            measured = measure_batch(
                result,
                batch,
                bands=dataset.bands,
                maxima=dataset.maxima,
                lpips=lpips,
                sensor_truth=sensor_truth,
            )
            spectra.append(measure_spectra(result, batch))
            columns, sums = measure_trust(result, images_by_method(result, batch), batch, calibration=calibration)
            trust.append(sums)
            for i, figures in enumerate(measured):
                position = int(batch.indices[i])
                figures |= {name: values[i] for name, values in columns.items()}
                patches.append(EvaluatedPatch(position, figures))
                if world.is_main and picture_bytes < KEPT_BYTES:
                    pictures[position] = batch_pictures(result, batch, i, bands=dataset.bands) | detail_maps(
                        result, batch, i
                    )
                    attention[position] = attention_of(result, batch, i, bands=dataset.bands)
                    picture_bytes += sum(image.nbytes for image in pictures[position].values())
            bar.update(len(batch.keys))
    seconds_per_image = seconds / max(1, len(patches))
    patches = sorted(world.gather(patches), key=lambda patch: patch.position)
    spectra, trust = world.gather(spectra), world.gather(trust)
    if not world.is_main:
        return None

    from utils.report.page import choose_examples  # with pandas, scipy and matplotlib: only needed here, and slow

    examples = choose_examples([patch.figures["psnr"] for patch in patches])
    shown = patches[:SHEET_ROWS]
    for patch in [*shown, *(patches[position] for _, position in examples)]:
        if patch.position not in pictures:  # predicted once more: every random number has its address
            batch = dataset.to_batch(collate([dataset.raw(patch.position)]), world.device)
            result = super_resolve(task, batch, settings=settings, world=world, samples=samples)
            pictures[patch.position] = batch_pictures(result, batch, 0, bands=dataset.bands) | detail_maps(
                result, batch, 0
            )
            attention[patch.position] = attention_of(result, batch, 0, bands=dataset.bands)
        patch.pictures, patch.attention = pictures[patch.position], attention[patch.position]
    return write_evaluation(
        evaluated,
        patches,
        shown=shown,
        examples=examples,
        spectra=functools.reduce(Spectra.plus, spectra) if spectra else None,
        trust=functools.reduce(Trust.plus, trust) if trust else None,
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

    def __init__(self, folder: Path, step: int, *, bands: Sequence[str], settings: Settings) -> None:
        self.colours = shown_positions(bands)
        self.wanted = settings.evaluation.test_save_png
        self.folder = folder / f"results_{step}_{settings.evaluation.gen_dir_name}"

    def save(self, result: Result, batch: Batch) -> None:
        """Write results, truths and inputs of a batch, where `test_save_png` asks for them."""
        if not self.wanted:
            return
        for i, key in enumerate(batch.keys):
            shown = {"SR": result.sr[i], "HR": batch.hr[i], "UP": batch.base[i]}
            if result.backbone is not None:
                shown["RRDB"] = result.backbone[i]
            for name, image in shown.items():
                save_png(picture(image, self.colours), self.folder / name / f"{quoted(key)}.png")
            for number, acquired in enumerate(batch.lr[i]):  # (C, h, w) each
                file = f"{quoted(key)}.png" if len(batch.lr[i]) == 1 else f"{quoted(key)}_{number}.png"
                save_png(picture(acquired, self.colours), self.folder / "LR" / file)

    def intermediate(self, task: Task, batch: Batch) -> Callback | None:
        """A callback that saves x0 of the first patch at 20 moments of the sampling; None where nothing is sampled."""
        if not task.sampler_steps:
            return None
        kept = set(np.linspace(0, task.sampler_steps - 1, INTERMEDIATE_PICTURES).round().astype(int).tolist())

        def save(step: int, time: float, x: Tensor, x0: Tensor) -> None:
            if step in kept:
                path = self.folder / "intermediate" / f"{step:04d}_t{time:g}.png"
                save_png(picture(x0[0].float(), self.colours), path)

        return save
