"""Commands as users run them: a process of its own, in a working directory of the test's."""

import os
import subprocess
import sys
from pathlib import Path

from tests.golden.large import ROOT
from tests.trainings import Finished, Process


def run(script: str, *arguments: object, cwd: Path, timeout: float = 600, **environment: str) -> Finished:
    """Run a command of the project, e.g. run("tasks/trainer.py", "--config", file, cwd=folder)."""
    return Process(script, *arguments, cwd=cwd, environment={**os.environ, **environment}).wait(timeout)


def succeed(script: str, *arguments: object, cwd: Path, **environment: str) -> Finished:
    """The same; the test fails, showing what the command said, if it did."""
    return run(script, *arguments, cwd=cwd, **environment).succeeded()


def succeed_from_cold(script: str, *arguments: object, cwd: Path, **environment: str) -> Finished:
    """The same by an interpreter that has imported nothing yet."""
    done = subprocess.run(
        [sys.executable, str(ROOT / script), *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )
    return Finished(done.returncode, done.stdout, done.stderr).succeeded()
