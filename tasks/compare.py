"""Compare experiments on the same test set: python tasks/compare.py checkpoints/A checkpoints/B ... [--output DIR]

Writes a table with intervals, paired differences and tests (comparison.md, .tex, .csv), a plot (.svg), and the same
patches side by side (.png, --patches N of them).
"""

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pandas as pd
from PIL import Image

from utils.cli import Parser, run
from utils.errors import ConfigError, DataError
from utils.files import write_text
from utils.images import Picture, save_png, sheet
from utils.report import comparison as report
from utils.report.comparison import column, compare, load_pictures, read_results, short_names

PATCHES_SHOWN = 8  # rows of the picture
WIDTH, SMALLEST_CELL, LARGEST_CELL = 1050, 120, 222  # of the picture, about; of one patch in it; pixels


def names_of(folders: list[Path]) -> dict[str, Path]:
    """Experiments by name: their path below checkpoints/, or else their last part where that tells them apart."""
    if len(folders) < 2:
        raise ConfigError("a comparison needs at least two experiments: tasks/compare.py checkpoints/A checkpoints/B")
    for folder in folders:
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder; give experiments, such as checkpoints/sisr/rrdb_ckpt")
        if folders.count(folder) > 1:
            raise ConfigError(f"{folder} is given twice")
    names = [_name(folder.resolve()) for folder in folders]
    return dict(zip(names if len(set(names)) == len(names) else map(str, folders), folders, strict=True))


def _name(folder: Path) -> str:
    below = folder.parts[folder.parts.index("checkpoints") + 1 :] if "checkpoints" in folder.parts else ()
    return "/".join(below) or folder.name


class Sheet(NamedTuple):
    """Patches side by side, and in words which they are."""

    image: Image.Image
    note: str


def side_by_side(
    folders: Mapping[str, Path], tables: Mapping[str, pd.DataFrame], *, patches: int = PATCHES_SHOWN
) -> Sheet | None:
    """Input, bicubic, results and truth of patches on which PSNR differs most; None where none has all pictures."""
    kept = {name: load_pictures(folder) for name, folder in folders.items()}
    first = next(iter(kept))
    shared = [key for key in tables[first]["key"] if all(key in pictures for pictures in kept.values())]
    if not shared:
        return None
    psnr = {name: dict(zip(table["key"], column(table, "psnr"), strict=True)) for name, table in tables.items()}
    chosen = sorted(shared, key=lambda key: -_range([of[key] for of in psnr.values()]))[:patches]
    common = {title: [kept[first][key].get(title) for key in chosen] for title in ("nearest input", "bicubic", "truth")}
    results = [[kept[name][key].get("result") for key in chosen] for name in folders]
    before = [common["nearest input"]]
    if not any(_same(common["bicubic"], of) for of in results):  # an experiment may be bicubic interpolation itself
        before.append(common["bicubic"])
    short = short_names(list(folders))
    titles = [*("nearest input", "bicubic")[: len(before)], *(short[name] for name in folders), "truth"]
    rows = [list(row) for row in zip(*before, *results, common["truth"], strict=True)]
    captions = [
        [f"patch {key}", ""][: len(before)] + [f"{psnr[name][key]:.2f} dB" for name in folders] + [""] for key in chosen
    ]
    cell = max(SMALLEST_CELL, min(LARGEST_CELL, WIDTH // len(titles)))
    image = sheet(rows, titles, captions, cell=cell)
    return Sheet(image, f"the {len(chosen)} of {len(shared)} patches with pictures on which PSNR differs most")


def _range(values: Sequence[float]) -> float:
    """From the least to the largest value; infinite ones (identical images) come first, NaN last."""
    known = [value for value in values if not math.isnan(value)]
    return max(known) - min(known) if known and min(known) < math.inf else -math.inf


def _same(a: Sequence[Picture | None], b: Sequence[Picture | None]) -> bool:
    return all(x is not None and y is not None and np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def main(options: argparse.Namespace) -> None:
    folders = names_of(options.experiments)
    tables = {name: read_results(folder) for name, folder in folders.items()}
    comparison = compare(tables)
    if options.patches < 1:
        raise ConfigError(f"--patches must be at least 1, not {options.patches}")
    pictures = side_by_side(folders, tables, patches=options.patches)
    texts = {
        "md": report.to_markdown(comparison),
        "tex": report.to_latex(comparison),
        "csv": report.to_csv(comparison),
        "svg": report.to_svg(comparison),
    }
    try:
        for ending, text in texts.items():
            write_text(options.output / f"comparison.{ending}", text)
        if pictures:
            save_png(pictures.image, options.output / "comparison.png")
    except OSError as error:
        raise ConfigError(f"--output {options.output} can't be written: {error.strerror}") from error
    for sentence in report.sentences(comparison):
        sys.stdout.write(f"{sentence}\n")
    sys.stdout.write(f"\n{report.overview(comparison)}\n")
    shown = f"; comparison.png: {pictures.note}" if pictures else "; no pictures: the experiments kept none of the same"
    sys.stdout.write(f"{options.output}: comparison.{{{','.join([*texts, *(['png'] if pictures else [])])}}}{shown}\n")


if __name__ == "__main__":
    parser = Parser(description="Compare experiments on the same test set, patch by patch.")
    parser.add_argument("experiments", nargs="+", type=Path, metavar="FOLDER", help="evaluated experiments (--infer)")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("comparison"),
        metavar="DIR",
        help="where tables and pictures go (comparison)",
    )
    parser.add_argument(
        "--patches", type=int, default=PATCHES_SHOWN, metavar="N", help=f"rows of the picture ({PATCHES_SHOWN})"
    )
    run(main, parser)
