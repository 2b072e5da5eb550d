"""CONTRIBUTING.md's examples work: its blocks are applied to a copy of the project, its commands run there."""

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.golden.large import ROOT

DOCUMENT = (ROOT / "CONTRIBUTING.md").read_text()
SECTIONS = {part.splitlines()[0]: part for part in DOCUMENT.split("\n## ") if "```" in part}
BLOCK = re.compile(r"^ *```(\w+)\n(.*?)^ *```$", re.M | re.S)


def apply(block: str, *, kind: str, root: Path) -> None:
    """Write the file that a block's first line names, or change it: lines with + enter, lines with - leave."""
    header, _, content = textwrap.dedent(block).partition("\n")
    path = root / header.removeprefix("# ")
    if kind != "diff":
        path.write_text(content)
        return
    lines = [line for line in content.splitlines(keepends=True) if line.strip()]
    before, after = ("".join(line[1:] for line in lines if line[0] in (" ", sign)) for sign in "-+")
    text = path.read_text()
    assert text.count(before) == 1, f"{path.name} has not one\n{before}"
    path.write_text(text.replace(before, after))


@pytest.mark.slow
@pytest.mark.parametrize("title", [title for title in SECTIONS if title.startswith("Add a")])
def test_examples(title: str, tmp_path: Path, tiny_data: Path) -> None:
    for name in ("configs", "data_gen", "models", "tasks", "utils"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "sample").symlink_to(tiny_data)
    blocks = BLOCK.findall(SECTIONS[title])
    assert {"bash"} < {kind for kind, _ in blocks}
    environment = {
        **{key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    for kind, block in blocks:
        if kind == "bash":
            done = subprocess.run(["bash", "-ec", block], cwd=tmp_path, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
        else:
            apply(block, kind=kind, root=tmp_path)
