"""Whole scenes: every tile goes through a network and is kept on disk; from all of them one map is written."""

import argparse
import logging
import math
import os
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm

from tasks.scenes.mosaic import Mosaic, Outputs, write_map
from tasks.scenes.options import TILE
from tasks.scenes.scene import Scene
from tasks.scenes.tile_store import TileStore
from tasks.scenes.tiles import Predictor, TileRunner
from tasks.scenes.tiling import Layout, overlap_for, plan
from utils.distributed import World
from utils.errors import ConfigError, DataError
from utils.geo.acquisitions import find_acquisitions
from utils.geo.raster import region_of
from utils.geo.sources import Acquisition, file_stamp

logger = logging.getLogger(__name__)


class Request(NamedTuple):
    """What is asked of a scene; see ``add_arguments`` for the meaning of each."""

    output: Path
    target: date | None = None
    samples: int = 1
    uncertainty: Path | None = None
    explain: Path | None = None
    bbox: tuple[float, ...] | None = None
    window: tuple[int, ...] | None = None
    tile: int | None = None
    overlap: int | None = None
    clouds: bool = True
    min_valid: float = 0.5
    match_lr: bool = False
    uint8: bool = False
    overwrite: bool = False
    seed: int = 0
    batch: int | None = None


def predict_scene(
    predictor: Predictor,
    acquisitions: Sequence[Acquisition],
    request: Request,
    *,
    world: World,
    tags: Mapping[str, str],
) -> Path:
    """Super-resolve a scene tile by tile. Finished tiles stay on disk until the result does, so a stopped run goes on.

    Args:
        predictor: the trained network.
        acquisitions: in order of their dates.
        request: what is asked for.
        world: its processes share the tiles; the first one writes the result.
        tags: written into the result beside the date and the acquisitions used. Equal tags and input give equal files.

    Returns:
        The output's path: uint16 reflectance × 10000 (0: no data), or uint8 for display. Beside it: ``_flags.tif`` at
        the input's resolution (0 no data, 1 seen by the acquisition nearest to the date that the place is made from,
        2 filled from another), ``_preview.png``.

    Raises:
        ConfigError: what is asked for can't be, or doesn't fit the network.
        DataError: a file can't be read or written, or there is too little room.
    """
    files = _outputs(request, predictor)
    target = request.target or max((a.day for a in acquisitions if a.day), default=None)
    assert all(len(acquisition.bands) == len(predictor.bands) for acquisition in acquisitions)
    if len(acquisitions) < predictor.num_dates:
        logger.info(
            f"the network looks at {predictor.num_dates} acquisitions; {len(acquisitions)} are there, so it is padded"
        )
    with Scene(
        acquisitions,
        target=target,
        num_dates=predictor.num_dates,
        min_valid=request.min_valid,
        clouds=request.clouds,
        middle=[top / 2 for top in predictor.maxima],
    ) as scene:
        region = region_of(scene.grid, bbox=request.bbox, window=request.window)
        overlap = overlap_for(predictor.halo) if request.overlap is None else request.overlap
        tile = max(TILE, 4 * overlap) if request.tile is None else request.tile
        layout = plan(region, tile=tile, overlap=overlap, halo=predictor.halo)
        batch = request.batch or (1 if world.device.type == "cpu" else 16)
        tiles = TileRunner(
            predictor,
            scene,
            layout,
            device=world.device,
            samples=request.samples,
            spread=request.uncertainty is not None,
            explain=request.explain is not None,
            match_lr=request.match_lr,
            seed=request.seed,
            batch=batch,
        )
        about = {**tags, "TARGET_DATE": str(target or "unknown")}
        if request.uncertainty is not None:
            about["CALIBRATION"] = _calibration(predictor)
        if world.is_main:
            pixels = region.rows.size * region.columns.size * predictor.scale**2
            results = pixels * files.bytes_a_pixel(len(predictor.bands))
            _state_disk(
                request.output.parent,
                tiles=math.prod(layout.counts) * tiles.record.itemsize,
                results=results,
            )
        order = layout.order()
        store = TileStore(
            _store_folder(request.output),
            record=tiles.record,
            fingerprint=fingerprint(
                predictor,
                acquisitions,
                request,
                layout=layout,
                batch=batch,
                device=world.device,
                checkpoint=tags.get("CHECKPOINT", ""),
            ),
            first=world.is_main,
        )
        world.barrier()
        done = store.finished()
        world.barrier()  # nobody writes before all have looked
        if world.is_main and done:
            logger.info(f"going on: {len(done)} of {len(order)} tiles are done")
        # A chunk goes through the network together: results don't depend on where a run was stopped or on who computes.
        chunks = [range(start, min(start + batch, len(order))) for start in range(0, len(order), batch)]
        own = [chunks[i] for i in range(world.rank, len(chunks), world.size) if not done.issuperset(chunks[i])]
        for chunk in tqdm(own, disable=not world.is_main, unit="batch", desc="tiles"):
            for index, record in zip(chunk, tiles.compute([order[k] for k in chunk]), strict=True):
                store.write(index, record)
        world.barrier()
        if world.is_main:
            mosaic = Mosaic(store, layout, scale=predictor.scale, channels=len(predictor.bands))
            used = [acquisitions[i] for i in mosaic.used()]
            listed = "; ".join(f"{a.day} {a.name}" if a.day else a.name for a in used)
            write_map(mosaic, files, scene.grid, tags=about | {"ACQUISITIONS": listed}, maxima=predictor.maxima)
            store.remove()
    return request.output


def _store_folder(output: Path) -> Path:
    return output.with_name(f".{output.name}.tiles")


def _outputs(request: Request, predictor: Predictor) -> Outputs:
    """Where results go. Raises ConfigError or DataError for what can't be asked for or written."""
    if not 0 <= request.min_valid <= 1:
        raise ConfigError(f"--min_valid {request.min_valid:g}: must lie between 0 and 1")
    if request.samples < 1:
        raise ConfigError(f"--samples {request.samples}: must be at least 1")
    if request.samples > 1 and not predictor.stochastic:
        raise ConfigError("--samples: this checkpoint is no diffusion model, all its samples are the same")
    if request.uncertainty is not None and not predictor.states_uncertainty and request.samples < 2:
        raise ConfigError(
            "--uncertainty: a diffusion model needs --samples 2 or more, a backbone training with uncertainty=laplace"
        )
    files = Outputs.beside(
        request.output, uncertainty=request.uncertainty, explain=request.explain, uint8=request.uint8
    )
    for path in files.paths():
        for option, raster in (("output", request.output), ("explain", request.explain)):
            if path == raster and path.suffix.lower() not in (".tif", ".tiff"):
                raise ConfigError(f"--{option} {path}: must end in .tif")
        if not path.parent.is_dir():
            raise DataError(f"{path.parent}: no such folder; make it first")
        if not os.access(path.parent, os.W_OK):
            raise DataError(f"{path.parent}: can't be written to")
        mine = path != files.image and _store_folder(files.image).exists()  # a run that stopped while it wrote results
        if path.exists() and not request.overwrite and not mine:
            raise DataError(f"{path}: exists; give --overwrite to replace it")
    if len(set(files.paths())) < len(files.paths()):
        raise ConfigError("--output, --uncertainty and --explain must be different files")
    return files


def _calibration(predictor: Predictor) -> str:
    """What the tag says of the standard deviations."""
    if predictor.calibration is None:
        logger.info("the uncertainty isn't calibrated: python tasks/calibrate.py EXPERIMENT fits its factors")
        return "none"
    return "factors " + ", ".join(f"{factor:.3f}" for factor in predictor.calibration)


def _state_disk(folder: Path, *, tiles: int, results: int) -> None:
    """Say what room is needed at most. Raises DataError where even the tiles don't fit."""
    # A result: its pixels aside, then the file with its overviews (a third), which GDAL also keeps aside.
    needed = tiles + results * (1 + 4 / 3 + 1 / 3)
    free = shutil.disk_usage(folder).free
    said = f"needs at most {needed / 1e9:.2f} GB in {folder.resolve()}, {free / 1e9:.2f} GB are free"
    if free < tiles + results / 2:
        raise DataError(said)
    logger.info(said)


def fingerprint(
    predictor: Predictor,
    acquisitions: Sequence[Acquisition],
    request: Request,
    *,
    layout: Layout,
    batch: int,
    device: torch.device,
    checkpoint: str,
) -> dict[str, Any]:
    """Everything that a tile's pixels depend on: tiles on disk are used only where all of it is equal."""
    return {
        "acquisitions": [repr(acquisition) for acquisition in acquisitions],
        "files": [file_stamp(path) for path in sorted({path for a in acquisitions for path in a.files})],
        "checkpoint": checkpoint,
        "settings": predictor.about,
        "scale": predictor.scale,
        "bands": list(predictor.bands),
        "num_dates": predictor.num_dates,
        "maxima": list(predictor.maxima),
        "calibration": predictor.calibration and list(predictor.calibration),
        "halo": predictor.halo,
        "layout": repr(layout),
        "target": str(request.target),
        "samples": request.samples,
        "clouds": request.clouds,
        "min_valid": request.min_valid,
        "match_lr": request.match_lr,
        "seed": request.seed,
        "batch": batch,
        "device": device.type,
        "torch": torch.__version__,
    }


def predict_from_options(
    options: argparse.Namespace, predictor: Predictor, world: World, *, checkpoint: str, seed: int = 0
) -> Path:
    """Predict a scene as the options of ``add_arguments`` say.

    Args:
        checkpoint: what the result's tag CHECKPOINT says.
        seed: of a diffusion model's noise.

    Returns:
        The output's path.

    Raises:
        ConfigError: options that can't be.
        DataError: input that can't be read.
    """
    if options.output is None:
        raise ConfigError("--predict needs --output OUT.tif")

    masks = None if options.mask in ("auto", "none") else Path(options.mask)
    acquisitions = find_acquisitions(
        options.predict,
        bands=predictor.bands,
        numbers=options.bands,
        days=options.dates,
        scale=options.scale,
        masks=masks,
        remote=options.remote,
    )
    same = (
        "samples",
        "uncertainty",
        "explain",
        "bbox",
        "window",
        "tile",
        "overlap",
        "min_valid",
        "match_lr",
        "uint8",
        "overwrite",
    )
    request = Request(
        output=options.output,
        target=options.date,
        clouds=options.mask != "none",
        seed=seed,
        **{name: getattr(options, name) for name in same},
    )
    tags = {"CHECKPOINT": checkpoint, "COMMAND": shlex.join(["python", *sys.argv])}
    return predict_scene(predictor, acquisitions, request, world=world, tags=tags)
