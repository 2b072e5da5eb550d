"""How the project is built: imports run one way, one name for one thing, rooms that stay small."""

import ast
import collections
import graphlib
import subprocess
from collections.abc import Iterator

import pytest

from tests.golden.large import ROOT

PACKAGES = {
    "models": set[str](),
    "utils": set[str](),
    "data_gen": {"utils"},
    "tasks": {"models", "utils"},
    "benchmarks": {"models", "utils", "data_gen", "tasks"},
    "tests": {"models", "utils", "data_gen", "tasks", "benchmarks"},
}
# A room imports from rooms that stand in a line above it, never from one beside it.
LAYERS = {
    "utils": """
        errors
        files randomness cli
        config distributed radiometry
        checkpoint store
        stores
        dataloader
        augment
        metrics
        images
        report""",
    "tasks": """
        receptive_field
        base
        backbone srdiff training evaluation scenes
        build
        experiment
        super_resolver
        commands
        trainer dates calibrate export compare demo""",
}
ONLY = {"utils.geo": {"utils.errors", "utils.files"}}  # what a room may import of the project, whatever stands above
LEAVES = {"utils.geo.bands"}  # names alone, which every room may import
MAY_REPEAT = {"main", "parser"}  # of a command
MOST_FILES, MOST_LINES = 14, 400
# What is still to be mended; nothing may be added.
OPEN_NAMES = set(
    "Row fingerprint markdown metrics note ssim summarise summary translate".split()  # noqa: SIM905
)


LISTED = subprocess.check_output(["git", "ls-files", "*.py"], cwd=ROOT, text=True).split()
FILES = [name for name in LISTED if name.split("/")[0] in PACKAGES and (ROOT / name).exists()]
SOURCE = [name for name in FILES if not name.startswith("tests/")]
TREES = {name: ast.parse((ROOT / name).read_text(encoding="utf-8")) for name in FILES}


def module_name(file: str) -> str:
    return file.removesuffix(".py").replace("/", ".")


MODULES = {module_name(file) for file in FILES if not file.endswith("__init__.py")}


def room(module: str) -> str:
    """The package, in utils and tasks its part, that a module belongs to."""
    parts = module.split(".")
    return ".".join(parts[:2]) if parts[0] in LAYERS else parts[0]


def imports(tree: ast.AST) -> set[str]:
    """The modules of the project that a module imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute, from the root"
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found & MODULES


def level(name: str) -> int | None:
    """The line of LAYERS that a room stands in."""
    package, _, part = name.partition(".")
    return next((i for i, line in enumerate(LAYERS[package].strip().splitlines()) if part in line.split()), None)


def is_allowed(importing: str, imported: str) -> bool:
    """Whether one room may import another."""
    packages = importing.split(".")[0], imported.split(".")[0]
    if packages[0] != packages[1]:
        return packages[1] in PACKAGES[packages[0]]
    if importing in ONLY:
        return imported in ONLY[importing]
    if imported in ONLY:
        return False
    here, there = level(importing), level(imported)
    return here is not None and there is not None and there < here


@pytest.mark.parametrize(
    ("importing", "imported", "allowed"),
    [
        ("utils.store", "utils.errors", True), ("utils.errors", "utils.store", False),
        ("utils.checkpoint", "utils.store", False), ("utils.geo", "utils.files", True),
        ("utils.geo", "utils.images", False), ("utils.images", "utils.geo", False),
        ("tasks.training", "tasks.evaluation", False), ("tasks.scenes", "tasks.base", True),
        ("tasks.base", "models", True), ("models", "utils.randomness", False),
        ("tasks.training", "data_gen", False), ("tasks.build", "tasks.commands", False),
    ],
)  # fmt: skip
def test_the_rules(importing: str, imported: str, allowed: bool) -> None:
    assert is_allowed(importing, imported) == allowed


def test_imports_run_one_way() -> None:
    refused = []
    for file in SOURCE:
        here = room(module_name(file))
        above = {room(module) for module in imports(TREES[file]) - LEAVES} - {here}
        refused += [f"{file}: {other}" for other in above if not is_allowed(here, other)]
    assert refused == []
    rooms = {room(module) for module in MODULES} - {*LAYERS, *ONLY}
    assert [name for name in rooms if name.split(".")[0] in LAYERS and level(name) is None] == [], "without a place"


def test_no_module_imports_itself_through_others() -> None:
    graphlib.TopologicalSorter({module_name(file): imports(TREES[file]) for file in SOURCE}).prepare()


def test_packages_are_empty() -> None:
    assert [file for file in SOURCE if file.endswith("__init__.py") and (ROOT / file).stat().st_size] == []


def test_no_name_means_two_things() -> None:
    """Classes and public functions."""
    places = collections.defaultdict(list)
    for file in SOURCE:
        for node in TREES[file].body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                places[node.name].append(file)
    double = {name: files for name, files in places.items() if len(files) > 1}
    assert {name: files for name, files in double.items() if name not in MAY_REPEAT | OPEN_NAMES} == {}


def calls() -> Iterator[tuple[str, ast.Call, str]]:
    """What is called by a plain name in the library, and where."""
    for file in SOURCE:
        for node in ast.walk(TREES[file]):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                yield node.func.id, node, f"{file}:{node.lineno}"


def test_nobody_asks_for_the_class_of_a_model_and_the_library_is_silent() -> None:
    """Only the registry knows classes; messages go through logging; nothing looks into a caller's variables."""
    for name, node, place in calls():
        assert name not in ("print", "locals"), place
        asked = [part.id for part in ast.walk(node) if isinstance(part, ast.Name)] if name == "isinstance" else []
        known = [other for other in asked if other.endswith(("Task", "SRDiff", "Backbone"))]
        assert not known or place.startswith("tasks/build.py"), place


def test_rooms_and_files_stay_small() -> None:
    rooms = collections.Counter(file.rpartition("/")[0] for file in SOURCE if not file.endswith("__init__.py"))
    assert {name: count for name, count in rooms.items() if count > MOST_FILES} == {}
    lengths = {file: len((ROOT / file).read_text().splitlines()) for file in SOURCE}
    assert {file: length for file, length in lengths.items() if length > MOST_LINES} == {}
