"""The commands of docs/scenes.md, on inputs of the names that it gives."""

import re
import shlex
from datetime import date
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch

from tasks.scenes.options import add_arguments
from tasks.scenes.predict import predict_from_options
from tests.golden.large import ROOT
from tests.scenes import Network, Sampler, ground, write_band_files, write_item, write_safe, write_series, zipped
from utils.cli import Parser
from utils.distributed import World
from utils.geo.bands import RGB

TEXT = (ROOT / "docs" / "scenes.md").read_text()
COMMANDS = re.findall(r"python tasks/trainer\.py .*--predict .*", re.sub(r"\\\n\s*", "", TEXT))


def options_of(command: str) -> list[str]:
    words = shlex.split(command)[2:]
    return words[words.index("--predict") :]


def inputs(folder: Path) -> None:
    """What the commands name: products of one tile, the sample's place, items."""
    for day in (date(2023, 8, 2), date(2023, 8, 7)):
        product = write_safe(folder / "s2", ground(64, 80), day=day, offset=-1000, suffix=".tif")
        zipped(product, product.with_name(product.name + ".zip"))
    write_series(folder / "data" / "sample" / "sen2" / "test" / "300007", height=75, width=75, dates=3)
    write_band_files(folder / "bands", (ground(64, 80) * 10000).astype(np.uint16))
    write_item(folder / "items.json", day=date(2023, 8, 7), hrefs={band: f"bands/{band}.tif" for band in RGB})


def test_there_are_commands() -> None:
    assert len(COMMANDS) >= 6
    assert sum("--dates_every" in command for command in COMMANDS) == 1


@pytest.mark.parametrize("command", [command for command in COMMANDS if "torchrun" not in command])
def test_commands_of_the_document(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    inputs(tmp_path)
    parser = Parser(description="test")
    add_arguments(parser)
    words = options_of(command)
    if "--window" in words:  # of whole products: a part that small ones have
        at = words.index("--window")
        words[at + 1 : at + 5] = ["10", "10", "30", "30"]
    if "--bbox" in words:  # likewise
        at = words.index("--bbox")
        del words[at : at + 5]
    network = Sampler() if "--samples" in words else Network()
    maps = predict_from_options(parser.parse_args(words), network, World(torch.device("cpu")), checkpoint="test")
    for path in maps:
        with rasterio.open(path) as file:
            assert file.read(1).any()
