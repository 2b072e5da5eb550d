"""Errors of commands: one plain line, the documented exit code, a traceback only with --debug."""

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from tests.golden.large import ROOT
from utils.cli import Parser, run
from utils.errors import DataError


def _fail(options: argparse.Namespace) -> None:
    raise DataError("row 1\n\x1b[31mred\x1b[0m\u202e " + "x" * 100_000)


def test_an_error_is_one_plain_line_and_a_traceback_with_debug(capsys: pytest.CaptureFixture[str]) -> None:
    """Files put words into errors; none of them steers or fills a terminal."""
    with pytest.raises(SystemExit) as ending:
        run(_fail, Parser(description="a test"), [])
    said = capsys.readouterr().err
    assert ending.value.code == 3
    assert "error: row 1 ?[31mred?[0m? xxx" in said and said.endswith("x ...\n")
    assert said.count("\n") == 1 and len(said) < 3000
    with pytest.raises(DataError):
        run(_fail, Parser(description="a test"), ["--debug"])


COMMANDS = [
    path for room in ("data_gen", "tasks") for path in (ROOT / room).glob("*.py") if "__main__" in path.read_text()
]
AT_THE_END = "import atexit, sys; atexit.register(lambda: sys.stderr.write(' '.join(sys.modules)))"


@pytest.mark.parametrize("command", COMMANDS, ids=lambda path: path.name)
def test_help_imports_nothing_heavy(command: Path) -> None:
    """An answer to --help, or to an option that isn't known, comes at once."""
    asked = f"import runpy; sys.argv = [{str(command)!r}, '--help']; runpy.run_path(sys.argv[0], run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", f"{AT_THE_END}; {asked}"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("usage: ")
    heavy = {"torch", "rasterio", "pandas", "scipy", "skimage", "matplotlib", "pydantic"}
    assert heavy & set(done.stderr.split()) == set()
