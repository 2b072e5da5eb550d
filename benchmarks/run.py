"""Time everything on this machine: run.py [--only NAME]... [--quick] [--json F] [--write docs/performance.md]."""

import argparse
import functools
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import cases
from benchmarks.timing import Row, description, machine_limits, markdown, surroundings, write_between
from utils.cli import Parser, code_version, run
from utils.distributed import world
from utils.files import write_text

ITEMS: dict[str, Callable[[cases.BenchmarkRun], list[Row]]] = {
    "limits": lambda bench: machine_limits(bench.seconds),
    "preprocessing": cases.preprocessing,
    "loader": cases.loader,
    "metrics": cases.measuring,
    **{f"train-{name}": functools.partial(cases.training_step, name=name) for name in cases.STEPS},
    "reverse-step": cases.reverse_step,
    "image": cases.whole_image,
}
QUICK = ("limits", "loader", "metrics", "train-rrdb", "train-misr", "reverse-step", "image")


def main(options: argparse.Namespace) -> None:
    if options.write:
        surroundings(options.write, "bench")  # before anything takes its time
    names = options.only or (QUICK if options.quick else ITEMS)
    rows: list[Row] = []
    with world("cpu") as here, tempfile.TemporaryDirectory() as folder:
        bench = cases.BenchmarkRun(Path(folder), options.quick, here, seconds=1 if options.quick else 12)
        for name in names:
            sys.stderr.write(f"{name} ...\n")
            rows += ITEMS[name](bench)
    about = description() + ("; a quick run: few rounds, small sizes" if options.quick else "")
    text = f"{about}\n\n{markdown(rows)}"
    sys.stdout.write(text)
    if options.json:
        content = {"machine": about, "code": code_version(), "rows": [row.as_dict() for row in rows]}
        write_text(options.json, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    if options.write:
        write_between(options.write, "bench", text)


if __name__ == "__main__":
    parser = Parser(description="Time everything on this machine, in turns, beside its own limits.")
    parser.add_argument("--only", action="append", choices=ITEMS, metavar="NAME", help=f"one of {', '.join(ITEMS)}")
    parser.add_argument("--quick", action="store_true", help="fewer things, small sizes, few rounds")
    parser.add_argument("--json", type=Path, metavar="F", help="write all figures to this file")
    parser.add_argument("--write", type=Path, metavar="DOC", help="write the table between the marks of a document")
    run(main, parser)
