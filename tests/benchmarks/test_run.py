"""The benchmark command runs; nothing here looks at times."""

import json
from pathlib import Path

from tests.command import run, succeed


def test_one_item(tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    document.write_text("before\n<!-- bench:begin -->\nold\n<!-- bench:end -->\nafter\n")
    done = succeed(
        "benchmarks/run.py", "--quick", "--only", "metrics", "--json", "f.json", "--write", document, cwd=tmp_path
    )
    rows = json.loads((tmp_path / "f.json").read_text())["rows"]
    assert [(row["what"], row["mode"]) for row in rows] == [
        ("measure an image", "plain"),
        ("measure an image", "batches of 8"),
    ]
    for row in rows:
        assert 0 < row["timing"]["low"] <= row["timing"]["median"] <= row["timing"]["high"]
        assert f"| {row['what']} | {row['mode']} [" in done.stdout
    written = document.read_text()
    assert written.startswith("before\n<!-- bench:begin -->\n")
    assert written.endswith("\n<!-- bench:end -->\nafter\n")
    assert done.stdout.strip() in written
    assert "old" not in written


def test_what_it_does_not_know(tmp_path: Path) -> None:
    done = run("benchmarks/run.py", "--only", "sleep", cwd=tmp_path)
    assert done.returncode == 2
    assert "invalid choice: 'sleep'" in done.stderr
    done = run("benchmarks/run.py", "--quick", "--only", "metrics", "--write", tmp_path / "none.md", cwd=tmp_path)
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1].endswith("none.md can't be read: No such file or directory")
