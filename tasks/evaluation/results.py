"""What an evaluation leaves behind: test_results.csv, metrics.csv, summary.json, comparison.png, report.html."""

import csv
import json
import math
import shlex
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from tasks.base import Task
from tasks.evaluation.measure import EvaluatedPatch, Figures, Spectra, Trust, mean
from utils.cli import code_version
from utils.config.parse import flatten
from utils.config.settings import Settings
from utils.files import atomic_write, write_text
from utils.geo.bands import RGB, false_colours
from utils.images import save_png, sheet
from utils.metrics.registry import METRICS

RESULT_COLUMNS = ("psnr", "ssim", "lpips", "mae", "mse", "shift_mae", "key")  # of test_results.csv


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation was of."""

    experiment: str
    folder: Path  # where the results go
    checkpoint: str  # empty: nothing is trained
    global_step: int
    averaged: bool
    split: str
    bands: tuple[str, ...] = RGB


def write_evaluation(
    evaluated: Evaluated,
    patches: list[EvaluatedPatch],
    *,
    shown: list[EvaluatedPatch],
    examples: list[tuple[str, int]],
    spectra: Spectra | None,
    trust: Trust | None,
    task: Task,
    settings: Settings,
    seconds_per_image: float,
) -> dict[str, Any]:
    """Write all tables, pictures and the page of an evaluation.

    Args:
        shown: patches with pictures, for comparison.png and later comparisons.
        examples: patches of the page, as (best, median or worst, position in patches); they have pictures.
        seconds_per_image: of the prediction alone.

    Returns:
        What summary.json holds.
    """
    from utils.report.comparison import save_pictures  # with pandas, scipy and matplotlib: only needed here, and slow
    from utils.report.page import Example, write_report

    figures = [patch.figures for patch in patches]
    summary = summarise_split(figures, evaluated, task=task, seconds_per_image=seconds_per_image)
    if trust is not None:
        summary |= trust.summary(scale=settings.data.sr_scale)
    folder = evaluated.folder
    write_figures(folder / "test_results.csv", figures, columns=RESULT_COLUMNS)
    columns = tuple(dict.fromkeys(name for patch_figures in figures for name in patch_figures))
    write_figures(folder / "metrics.csv", figures, columns=columns)
    write_text(folder / "summary.json", json.dumps(summary, indent=1) + "\n")
    titles = ("bicubic", "backbone", "result", "truth")
    save_png(picture_sheet(shown, titles, note=false_colours(evaluated.bands)), folder / "comparison.png")
    for patch in shown:
        save_pictures(folder, patch.figures["key"], patch.pictures)
    facts = {
        "checkpoint": evaluated.checkpoint or "none: nothing is trained",
        "step": evaluated.global_step,
        "averaged weights": "yes" if evaluated.averaged else "no",
        "split": evaluated.split,
        "sampler": f"{task.sampler_name}, {task.sampler_steps} steps" if task.sampler_name else "none",
        "seconds per image": f"{seconds_per_image:.3g}",
        **({} if evaluated.bands == RGB else {"bands": ", ".join(evaluated.bands)}),
        **({"pictures": false_colours(evaluated.bands)} if false_colours(evaluated.bands) else {}),
        **device_of(task),
        "evaluated": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "code": code_version(),
        "command": shlex.join(["python", *sys.argv]),
    }
    write_report(
        folder / "report.html",
        name=evaluated.experiment,
        facts=facts,
        settings=flatten(settings),
        rows=figures,
        examples=[
            Example(title, position, patches[position].pictures, patches[position].attention)
            for title, position in examples
        ],
        spectra=_mean_spectra(spectra) if spectra else {},
        rings={
            method: (sums.frequencies.numpy(), sums.correlation[0].numpy())
            for method, sums in (trust.rings if trust else {}).items()
        },
        trust=summary,
        scale=settings.data.sr_scale,
    )
    return summary


def device_of(task: Task) -> dict[str, str]:
    """Where the model is; empty for one without weights."""
    held = next(chain(task.parameters(), task.buffers()), None)
    if held is None:
        return {}
    threads = f"CPU (threads: {torch.get_num_threads()})"
    return {"device": torch.cuda.get_device_name(held.device) if held.is_cuda else threads}


def _mean_spectra(spectra: Spectra) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Frequencies and mean power of a patch, by method."""
    frequencies = spectra.frequencies.numpy()
    return {name: (frequencies, (total / spectra.patches).numpy()) for name, total in spectra.power.items()}


def summarise_split(
    figures: list[Figures], evaluated: Evaluated, *, task: Task, seconds_per_image: float
) -> dict[str, Any]:
    """Means and standard deviations (over n - 1); what could not be had, or is not finite, is null and never 0."""

    def describe_method(prefix: str) -> dict[str, dict[str, float | None]]:
        found = {}
        for name in METRICS:
            if name == "ndvi_error" and not any(name in row for row in figures):  # the bands it needs are not there
                continue
            values = [patch[prefix + name] for patch in figures if patch.get(prefix + name) is not None]
            finite = bool(values) and all(map(math.isfinite, values))
            found[name] = {
                "mean": mean(values) if finite else None,
                "std": statistics.stdev(values) if finite and len(values) > 1 else None,
            }
        return found

    summary: dict[str, Any] = {
        "experiment": evaluated.experiment,
        "checkpoint": evaluated.checkpoint,
        "global_step": evaluated.global_step,
        "averaged_weights": evaluated.averaged,
        "split": evaluated.split,
        "n": len(figures),
        "sampler": task.sampler_name,
        "steps": task.sampler_steps,
        "seconds_per_image": seconds_per_image,
        "metrics": describe_method(""),
        "bicubic": describe_method("bicubic_"),
    }
    if figures and "backbone_psnr" in figures[0]:
        summary["backbone"] = describe_method("backbone_")
    return summary


def write_figures(path: Path, figures: list[Figures], *, columns: Sequence[str]) -> None:
    """A CSV file, separated by ;, with an unnamed column of row numbers."""
    with atomic_write(path) as aside, aside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=";", lineterminator="\n")
        writer.writerow(["", *columns])
        for number, patch in enumerate(figures):
            writer.writerow([number, *("" if patch.get(name) is None else patch[name] for name in columns)])


def picture_sheet(patches: list[EvaluatedPatch], titles: Sequence[str], *, note: str = "") -> Image.Image:
    """A sheet: a row a patch, its pictures side by side with their PSNR; a ``note`` stands below each truth."""
    present = [title for title in titles if any(title in patch.pictures for patch in patches)]
    prefixes = {"bicubic": "bicubic_", "backbone": "backbone_", "result": ""}

    def caption(patch: EvaluatedPatch, title: str) -> str:
        if title not in prefixes:
            return note or str(patch.figures["key"])
        return f"{patch.figures[prefixes[title] + 'psnr']:.2f} dB"

    return sheet(
        [[patch.pictures.get(title) for title in present] for patch in patches],
        present,
        [[caption(patch, title) for title in present] for patch in patches],
    )
