"""How the project is built: imports run one way, one name for one thing, rooms that stay small."""

import ast
import collections
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


def project_files() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in listed.stdout.split() if name.split("/")[0] in PACKAGES and (ROOT / name).exists()]


FILES = project_files()
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
    lines = LAYERS.get(package, "").strip().splitlines()
    return next((number for number, line in enumerate(lines) if part in line.split()), None)


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
        ("utils.store", "utils.errors", True),
        ("utils.errors", "utils.store", False),
        ("utils.checkpoint", "utils.store", False),
        ("utils.geo", "utils.files", True),
        ("utils.geo", "utils.images", False),
        ("utils.images", "utils.geo", False),
        ("tasks.training", "tasks.evaluation", False),
        ("tasks.scenes", "tasks.base", True),
        ("tasks.base", "models", True),
        ("models", "utils.randomness", False),
        ("data_gen", "models", False),
        ("tasks.training", "data_gen", False),
        ("tasks.build", "tasks.commands", False),
    ],
)
def test_the_rules(importing: str, imported: str, allowed: bool) -> None:
    assert is_allowed(importing, imported) == allowed


@pytest.mark.parametrize("file", SOURCE)
def test_imports_run_one_way(file: str) -> None:
    here = room(module_name(file))
    above = {room(module) for module in imports(TREES[file]) - LEAVES} - {here}
    assert [other for other in sorted(above) if not is_allowed(here, other)] == []


def test_every_room_has_its_place() -> None:
    rooms = {room(module) for module in MODULES} - {*LAYERS, *ONLY}
    assert [name for name in sorted(rooms) if name.split(".")[0] in LAYERS and level(name) is None] == []


def test_no_module_imports_itself_through_others() -> None:
    graph = {module_name(file): imports(TREES[file]) for file in SOURCE}

    def reached(start: str) -> set[str]:
        found: set[str] = set()
        left = list(graph[start])
        while left:
            module = left.pop()
            if module not in found:
                found.add(module)
                left += graph.get(module, set())
        return found

    assert [module for module in sorted(graph) if module in reached(module)] == []


def test_packages_are_empty() -> None:
    assert [file for file in SOURCE if file.endswith("__init__.py") and (ROOT / file).stat().st_size] == []


def public_names() -> Iterator[tuple[str, str]]:
    """The classes and public functions of all modules, and where they are."""
    for file in SOURCE:
        for node in TREES[file].body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                yield node.name, file


def test_no_name_means_two_things() -> None:
    places = collections.defaultdict(list)
    for name, file in public_names():
        places[name].append(file)
    assert {
        name: files for name, files in places.items() if len(files) > 1 and name not in MAY_REPEAT | OPEN_NAMES
    } == {}


def test_nobody_asks_for_the_class_of_a_model() -> None:
    """Only the registry knows which tasks and models there are."""
    found = []
    for file in SOURCE:
        for node in ast.walk(TREES[file]):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
                asked = {part.id for part in ast.walk(node.args[1]) if isinstance(part, ast.Name)}
                if any(name.endswith(("Task", "SRDiff", "Backbone")) for name in asked) and file != "tasks/build.py":
                    found.append(f"{file}:{node.lineno}")
    assert found == []


def test_the_library_is_silent() -> None:
    """Messages go through logging, results to sys.stdout; nothing looks into a caller's variables."""
    called = [
        f"{file}:{node.lineno} {node.func.id}"
        for file in SOURCE
        for node in ast.walk(TREES[file])
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("print", "locals")
    ]
    assert called == []


def test_rooms_and_files_stay_small() -> None:
    rooms = collections.Counter(file.rpartition("/")[0] for file in SOURCE if not file.endswith("__init__.py"))
    assert {name: count for name, count in rooms.items() if count > MOST_FILES} == {}
    lengths = {file: len((ROOT / file).read_text().splitlines()) for file in SOURCE}
    assert {file: length for file, length in lengths.items() if length > MOST_LINES} == {}
