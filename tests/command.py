"""Commands as users run them: a process of its own, in a working directory of the test's."""

import os
import subprocess
import sys
from pathlib import Path

from tests.golden import ROOT


def run(
    script: str, *arguments: object, cwd: Path, timeout: float = 600, **environment: str
) -> subprocess.CompletedProcess:
    """Run a command of the project, e.g. run("tasks/trainer.py", "--config", file, cwd=folder)."""
    return subprocess.run(
        [sys.executable, str(ROOT / script), *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def succeed(script: str, *arguments: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    """The same; the test fails, showing what the command said, if it did."""
    done = run(script, *arguments, cwd=cwd, **environment)
    assert done.returncode == 0, f"{script} {' '.join(map(str, arguments))}\n{done.stdout}\n{done.stderr}"
    return done
