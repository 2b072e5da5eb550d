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

import torch
from PIL import Image

from tasks.base import Task
from tasks.evaluation.measure import Patch, Row, Spectra, mean
from utils.cli import code_version
from utils.config.parse import flatten
from utils.config.settings import Settings
from utils.files import atomic_write, write_text
from utils.images import save_png, sheet
from utils.metrics.registry import METRICS
from utils.report.page import write_report
from utils.report.page_charts import Spectrum
from utils.report.page_pictures import Example, save_pictures

RESULT_COLUMNS = ("psnr", "ssim", "lpips", "mae", "mse", "shift_mae", "key")  # of test_results.csv


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation was of."""

    experiment: str
    folder: Path
    checkpoint: str
    global_step: int
    averaged: bool
    split: str


def write_results(
    evaluated: Evaluated,
    patches: list[Patch],
    *,
    shown: list[Patch],
    examples: list[tuple[str, int]],
    spectra: Spectra | None,
    task: Task,
    settings: Settings,
    seconds_per_image: float,
) -> dict[str, Any]:
    """Write everything; returns the summary. ``examples``: (best, median or worst, position in patches)."""
    rows = [patch.row for patch in patches]
    summary = summarise(rows, evaluated, task=task, seconds_per_image=seconds_per_image)
    folder = evaluated.folder
    write_rows(folder / "test_results.csv", rows, columns=RESULT_COLUMNS)
    write_rows(folder / "metrics.csv", rows, columns=tuple(dict.fromkeys(name for row in rows for name in row)))
    write_text(folder / "summary.json", json.dumps(summary, indent=1) + "\n")
    save_png(comparison(shown, ("bicubic", "backbone", "result", "truth")), folder / "comparison.png")
    for patch in shown:
        save_pictures(folder, patch.row["key"], patch.pictures)
    facts = {
        "checkpoint": evaluated.checkpoint or "none: nothing is trained",
        "step": evaluated.global_step,
        "averaged weights": "yes" if evaluated.averaged else "no",
        "split": evaluated.split,
        "sampler": f"{task.sampler_name}, {task.sampler_steps} steps" if task.sampler_name else "none",
        "seconds per image": f"{seconds_per_image:.3g}",
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
        rows=rows,
        examples=[Example(title, position, patches[position].pictures) for title, position in examples],
        spectra=_mean_spectra(spectra) if spectra else {},
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


def _mean_spectra(spectra: Spectra) -> dict[str, Spectrum]:
    frequencies = spectra.frequencies.numpy()
    return {name: Spectrum(frequencies, (power / spectra.patches).numpy()) for name, power in spectra.power.items()}


def summarise(rows: list[Row], evaluated: Evaluated, *, task: Task, seconds_per_image: float) -> dict[str, Any]:
    """Means and standard deviations (over n - 1); what could not be had, or is not finite, is null and never 0."""

    def figures(prefix: str) -> dict[str, dict[str, float | None]]:
        found = {}
        for name in METRICS:
            values = [row[prefix + name] for row in rows if row.get(prefix + name) is not None]
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
    with atomic_write(path) as aside, aside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=";", lineterminator="\n")
        writer.writerow(["", *columns])
        for number, row in enumerate(rows):
            writer.writerow([number, *("" if row.get(name) is None else row[name] for name in columns)])


def comparison(patches: list[Patch], titles: Sequence[str]) -> Image.Image:
    """A sheet: a row a patch, its pictures side by side with their PSNR."""
    present = [title for title in titles if any(title in patch.pictures for patch in patches)]
    prefixes = {"bicubic": "bicubic_", "backbone": "backbone_", "result": ""}

    def caption(patch: Patch, title: str) -> str:
        if title not in prefixes:
            return str(patch.row["key"])
        return f"{patch.row[prefixes[title] + 'psnr']:.2f} dB"

    return sheet(
        [[patch.pictures.get(title) for title in present] for patch in patches],
        present,
        [[caption(patch, title) for title in present] for patch in patches],
    )
