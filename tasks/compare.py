"""Compare experiments on the same test set: python tasks/compare.py checkpoints/A checkpoints/B ... [--output DIR]

Writes a table with intervals, paired differences and tests (comparison.md, .tex, .csv), a plot (.svg), and the same
patches side by side (.png).
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pandas as pd
from PIL import Image

from utils import comparison_tables
from utils.cli import Parser, run
from utils.comparison import compare
from utils.errors import ConfigError, DataError
from utils.files import write_text
from utils.images import save_png, sheet
from utils.patch_table import column, read_table
from utils.report_pictures import load_pictures

PATCHES_SHOWN = 8


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


def side_by_side(folders: Mapping[str, Path], tables: Mapping[str, pd.DataFrame]) -> Image.Image | None:
    """The patches of which all kept pictures: input, bicubic, results, truth; None where there is no such patch."""
    kept = {name: load_pictures(folder) for name, folder in folders.items()}
    first = next(iter(kept))
    shared = [key for key in tables[first]["key"] if all(key in pictures for pictures in kept.values())][:PATCHES_SHOWN]
    if not shared:
        return None
    psnr = {name: dict(zip(table["key"], column(table, "psnr"), strict=True)) for name, table in tables.items()}
    titles = ["nearest input", "bicubic", *folders, "truth"]
    rows, captions = [], []
    for key in shared:
        common = kept[first][key]
        results = [kept[name][key].get("result") for name in folders]
        rows.append([common.get("nearest input"), common.get("bicubic"), *results, common.get("truth")])
        captions.append([f"patch {key}", "", *(f"{psnr[name][key]:.2f} dB" for name in folders), ""])
    return sheet(rows, titles, captions)


def main(options: argparse.Namespace) -> None:
    folders = names_of(options.experiments)
    tables = {name: read_table(folder) for name, folder in folders.items()}
    comparison = compare(tables)
    pictures = side_by_side(folders, tables)
    texts = {
        "md": comparison_tables.markdown(comparison),
        "tex": comparison_tables.latex(comparison),
        "csv": comparison_tables.as_csv(comparison),
        "svg": comparison_tables.plot(comparison),
    }
    try:
        for ending, text in texts.items():
            write_text(options.output / f"comparison.{ending}", text)
        if pictures:
            save_png(pictures, options.output / "comparison.png")
    except OSError as error:
        raise ConfigError(f"--output {options.output} can't be written: {error.strerror}") from error
    for sentence in comparison_tables.sentences(comparison):
        sys.stdout.write(f"{sentence}\n")
    sys.stdout.write(f"\n{comparison_tables.overview(comparison)}\n")
    shown = "" if pictures else "; no pictures: the experiments kept none of the same patches"
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
    run(main, parser)
