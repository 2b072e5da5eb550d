"""Numbers of the reference implementation, where they are present.

The folder is named by the environment variable MISR_GOLDEN (default ../shared/golden beside the project). Tests run
over whatever its index.json lists, so another set of the same kind can be put there; where it is absent they skip and
say so.
"""

import fnmatch
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(os.environ.get("MISR_GOLDEN") or ROOT.parent / "shared" / "golden").resolve()
SHARED = FOLDER.parent  # real/ and weights/ lie beside golden/


def read_index() -> dict[str, Any]:
    index = FOLDER / "index.json"
    return json.loads(index.read_text()) if index.exists() else {}


def names(pattern: str) -> list[str]:
    """The entries of the index that match, e.g. "06_unet_*.pt"; empty where there is no golden folder."""
    return sorted(name for name in read_index() if fnmatch.fnmatch(name, pattern))


class Golden:
    """The folder of golden numbers."""

    def __init__(self) -> None:
        self.index = read_index()

    def path(self, name: str) -> Path:
        path = FOLDER / name
        if not path.exists():
            pytest.skip(f"no golden {name} in {FOLDER}")
        return path

    def load(self, name: str) -> Any:
        path = self.path(name)
        if path.suffix == ".json":
            return json.loads(path.read_text())
        return torch.load(path, map_location="cpu", weights_only=True)

    def deviates(self, name: str) -> dict[str, str]:
        """Outputs that ours does not reproduce on purpose, and why."""
        return self.index.get(name, {}).get("deviates", {})
