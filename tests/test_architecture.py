"""Imports run downwards only, and models know no configuration."""

import ast

import pytest

from tests.golden import ROOT

# What each part of the project may import of the project, besides itself.
MAY_IMPORT: dict[str, set[str]] = {
    "tasks": {"data_gen", "models", "utils"},
    "data_gen": {"utils"},
    "models": set(),
    "utils": set(),
    "benchmarks": {"tasks", "data_gen", "models", "utils"},
}
PARTS = {*MAY_IMPORT, "tests"}


def imported(source: str) -> set[str]:
    """The top-level packages that a module imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute, from the root"
            found.add((node.module or "").split(".")[0])
    return found


def test_imported() -> None:
    source = "import os.path\nfrom utils.errors import DataError\ndef f():\n    import models.rrdb as m\n"
    assert imported(source) == {"os", "utils", "models"}


@pytest.mark.parametrize("part", list(MAY_IMPORT))
def test_imports_run_downwards(part: str) -> None:
    wrong = {}
    for path in sorted((ROOT / part).rglob("*.py")):
        forbidden = imported(path.read_text()) & (PARTS - MAY_IMPORT[part] - {part})
        if forbidden:
            wrong[str(path.relative_to(ROOT))] = sorted(forbidden)
    assert wrong == {}


def test_every_part_was_found() -> None:
    for part in ("tasks", "data_gen", "models", "utils"):
        assert list((ROOT / part).glob("*.py")), part
