"""Errors of commands: one plain line, the documented exit code, a traceback only with --debug."""

import argparse

import pytest

from utils.cli import Parser, run
from utils.errors import DataError


def _fail(options: argparse.Namespace) -> None:
    raise DataError("row 1\n\x1b[31mred\x1b[0m\u202e " + "x" * 100_000)


def test_an_error_is_one_plain_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Files put words into errors; none of them steers or fills a terminal."""
    with pytest.raises(SystemExit) as ending:
        run(_fail, Parser(description="a test"), [])
    said = capsys.readouterr().err
    assert ending.value.code == 3
    assert "error: row 1 ?[31mred?[0m? xxx" in said and said.endswith("x ...\n")
    assert said.count("\n") == 1 and len(said) < 3000


def test_debug_shows_the_traceback() -> None:
    with pytest.raises(DataError):
        run(_fail, Parser(description="a test"), ["--debug"])
