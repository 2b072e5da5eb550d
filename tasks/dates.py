"""Does the right date win? Each place of the split `dates` at each of its dates, against the truth of every date.

Writes dates.md (a table) and dates.png (the first place: input, result and truth by date) into the experiment's
folder.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tqdm import tqdm

from utils.cli import Parser, run
from utils.errors import DataError
from utils.files import write_text
from utils.geo.bands import shown_positions

if TYPE_CHECKING:  # --help needs no torch
    from torch import Tensor

    from utils.dataloader import BreizhSRDataset

SPLIT = "dates"


def parser() -> Parser:
    parsed = Parser(description=(__doc__ or "").splitlines()[0])
    parsed.add_argument("experiment", help="name below checkpoints/")
    parsed.add_argument("--hparams", default="", help="overrides, as for tasks/trainer.py")
    parsed.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: auto)")
    return parsed


def places(dataset: "BreizhSRDataset") -> dict[str, list[int]]:
    """Positions by place: keys are <place>_<YYYYMMDD>."""
    found: dict[str, list[int]] = {}
    for position in range(len(dataset)):
        place, _, day = str(dataset.key(position)).rpartition("_")
        if not place or len(day) != 8:
            raise DataError(f"split {SPLIT!r}: key {dataset.key(position)!r} is not <place>_<YYYYMMDD>")
        found.setdefault(place, []).append(position)
    numbers = {len(positions) for positions in found.values()}
    if len(numbers) != 1 or numbers == {1}:
        raise DataError(f"split {SPLIT!r} needs the same number of dates, two or more, for every place")
    return found


def errors(results: "Tensor", truths: "Tensor") -> "Tensor":
    """MAE in digital numbers of result i against truth j, (N, N), for images (N, C, H, W)."""
    import torch

    from utils.metrics.pixel import mean_of_image, to_uint8

    results, truths = to_uint8(results).float(), to_uint8(truths).float()
    return torch.stack([mean_of_image((result - truths).abs()) for result in results])


def error_table(matrix: "Tensor") -> str:
    """Markdown; the least error of each row in bold."""
    names = [f"truth {j + 1}" for j in range(len(matrix))]
    lines = ["| MAE of the result for | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
    for i, row in enumerate(matrix.tolist()):
        cells = [f"**{value:.2f}**" if value == min(row) else f"{value:.2f}" for value in row]
        lines.append(f"| date {i + 1} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main(options: argparse.Namespace) -> None:
    import torch

    from tasks import commands
    from tasks.evaluation.measure import super_resolve
    from tasks.experiment import open_experiment
    from utils.dataloader import collate
    from utils.distributed import world
    from utils.images import Picture, picture, save_png, sheet

    folder = Path("checkpoints") / options.experiment
    with world(options.device) as here:
        experiment = open_experiment(config=folder / "config.yaml", name=options.experiment, hparams=options.hparams)
        task = commands.trained_task(experiment)
        here.place(task, amp=experiment.settings.training.amp)
        task.eval()
        dataset = commands.dataset(experiment.settings, SPLIT)
        colours = shown_positions(dataset.bands)
        matrices: list[Tensor] = []
        pictures: list[list[Picture | None]] = []
        titles: list[str] = []
        for place, positions in tqdm(places(dataset).items(), unit="place"):
            batch = dataset.to_batch(collate([dataset.raw(position) for position in positions]), here.device)
            result = super_resolve(task, batch, settings=experiment.settings, world=here, samples=1)
            matrices.append(errors(result.sr, batch.hr))
            if not pictures:
                near = batch.lr[torch.arange(len(positions)), batch.near]
                pictures = [[picture(image, colours) for image in images] for images in (near, result.sr, batch.hr)]
                titles = [str(key).removeprefix(f"{place}_") for key in batch.keys]
        matrix = torch.stack(matrices).mean(dim=0)
        text = error_table(matrix)
        write_text(folder / "dates.md", text)
        captions = [[name] * len(titles) for name in ("nearest input", "result", "truth")]
        save_png(sheet(pictures, titles, captions), folder / "dates.png")
        sys.stdout.write(text)
        right = int((matrix.argmin(dim=1) == torch.arange(len(matrix))).sum())
        sys.stdout.write(f"the right date wins in {right} of {len(matrix)} rows; pictures: {folder / 'dates.png'}\n")


if __name__ == "__main__":
    run(main, parser())
