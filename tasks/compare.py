"""Compare experiments on the same test set: python tasks/compare.py checkpoints/A checkpoints/B ... [--output DIR]

Writes a table with intervals, paired differences and tests (comparison.md, .tex, .csv), a plot (.svg), and the same
patches side by side (.png, --patches N of them).
"""

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.cli import Parser, run
from utils.errors import ConfigError, DataError
from utils.files import write_text


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


def main(options: argparse.Namespace) -> None:
    from utils.images import save_png  # late: --help needs none of it
    from utils.report import comparison as report

    folders = names_of(options.experiments)
    tables = {name: report.read_results(folder) for name, folder in folders.items()}
    comparison = report.compare(tables)
    if options.patches < 1:
        raise ConfigError(f"--patches must be at least 1, not {options.patches}")
    pictures = report.side_by_side(folders, tables, patches=options.patches)
    texts = {
        "md": report.to_markdown(comparison),
        "tex": report.to_latex(comparison),
        "csv": report.to_csv(comparison),
        "svg": report.to_svg(comparison),
    }
    around = os.path.commonpath([folder.absolute().parent for folder in options.experiments])
    output = options.output or Path(os.path.relpath(around), "comparison")
    try:
        for ending, text in texts.items():
            write_text(output / f"comparison.{ending}", text)
        if pictures:
            save_png(pictures.image, output / "comparison.png")
    except OSError as error:
        raise ConfigError(f"{output} can't be written: {error.strerror}") from error
    for sentence in report.sentences(comparison):
        sys.stdout.write(f"{sentence}\n")
    sys.stdout.write(f"\n{report.overview(comparison)}\n")
    shown = f"; comparison.png: {pictures.note}" if pictures else "; no pictures: the experiments kept none of the same"
    sys.stdout.write(f"{output}: comparison.{{{','.join([*texts, *(['png'] if pictures else [])])}}}{shown}\n")


if __name__ == "__main__":
    parser = Parser(description="Compare experiments on the same test set, patch by patch.")
    parser.add_argument("experiments", nargs="+", type=Path, metavar="FOLDER", help="evaluated experiments (--infer)")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="where tables and pictures go (default: the folder comparison beside the experiments)",
    )
    parser.add_argument("--patches", type=int, default=8, metavar="N", help="rows of the picture (8)")
    run(main, parser)
