"""Command: look at a raw or prepared data set, and say whether training on it would go wrong.

python data_gen/check.py ROOT [--sample 200] [--json FILE.json] [--sheet FILE.png]

Exit code 0: it can be trained on; 1: training would go wrong; 3: it can't be read. docs/data.md explains the findings.
"""

import sys
from argparse import Namespace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.cli import Parser, run
from utils.errors import ConfigError
from utils.geo.bands import parse_bands


def _parser() -> Parser:
    parser = Parser(description="Check a raw or prepared data set. Exit code 1 where training on it would go wrong.")
    add = parser.add_argument
    # fmt: off
    add("root", type=Path, metavar="ROOT", help="a raw data set or a prepared folder")
    add("--sample", type=int, default=200, metavar="N",
        help="patches whose acquisitions are read too (default 200, 0: all); truths and dates are always all looked at")
    add("--bands", metavar="B,B,...", help="of a raw data set whose rasters don't describe them, e.g. B04,B03,B02,B08")
    add("--json", type=Path, metavar="FILE", help="write everything that was found")
    add("--sheet", type=Path, metavar="FILE", help="write the contact sheet, a PNG (default: beside --json, if given)")
    # fmt: on
    return parser


def _main(options: Namespace) -> None:
    from data_gen.checks.report import contact_sheet, findings_summary, table, write_json  # late: --help needs no torch
    from data_gen.checks.rules import check_data_set
    from data_gen.workers import quiet
    from utils.images import save_png

    if options.sample < 0:
        raise ConfigError("--sample must be 0 or more")
    picture = options.sheet
    if options.json:
        if options.json.suffix == ".png" or not options.json.name:
            raise ConfigError(f"--json {options.json}: must be the name of a JSON file")
        picture = picture or options.json.with_suffix(".png")
    quiet()
    bands = parse_bands(options.bands, source="--bands") if options.bands else None
    data, findings = check_data_set(options.root, sample=options.sample, bands=bands)
    content = findings_summary(data, findings)
    try:
        if options.json:
            write_json(options.json, content)
        if picture:
            save_png(contact_sheet(data), picture)
    except OSError as error:
        raise ConfigError(f"{error.filename or options.json or picture}: can't be written: {error.strerror}") from None
    sys.stdout.write(table(content))
    if picture:
        sys.stdout.write(f"pictures of {len(data.rows)} patches: {picture}\n")
    sys.exit(1 if content["errors"] else 0)


if __name__ == "__main__":
    run(_main, _parser())
