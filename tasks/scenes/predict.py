"""Whole scenes: every tile goes through a network and is kept on disk; from all of them one map is written."""

import argparse
import logging
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from tqdm import tqdm

from tasks.scenes.mosaic import Mosaic, write_map
from tasks.scenes.options import NEAR, TILE, TRIAL
from tasks.scenes.outputs import (
    Outputs,
    animation_path,
    check_files,
    state_disk,
    store_folder,
    table_path,
    write_table,
)
from tasks.scenes.previews import save_animation
from tasks.scenes.scene import Scene, SceneDate
from tasks.scenes.sheet import save_sheet
from tasks.scenes.tile_store import TileStore
from tasks.scenes.tiles import Predictor, TileRunner
from tasks.scenes.tiling import Layout, overlap_for, plan
from utils.distributed import World
from utils.errors import ConfigError
from utils.geo.acquisitions import file_stamp, find_acquisitions
from utils.geo.bands import Acquisition
from utils.geo.raster import region_of

logger = logging.getLogger(__name__)

MOST_DATES = 500


class Request(NamedTuple):
    """What is asked of a scene; see ``add_arguments`` for the meaning of each."""

    output: Path
    targets: tuple[date, ...] = ()
    samples: int = 1
    uncertainty: Path | None = None
    explain: Path | None = None
    bbox: tuple[float, ...] | None = None
    window: tuple[int, ...] | None = None
    tile: int | None = None
    overlap: int | None = None
    clouds: bool = True
    min_valid: float = 0.5
    match_lr: Literal["auto", "on", "off"] = "auto"
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
) -> list[Path]:
    """Super-resolve a scene tile by tile. Finished tiles stay on disk until the maps do, so a stopped run goes on.

    Args:
        predictor: the trained network.
        acquisitions: in order of their dates.
        request: what is asked for.
        world: its processes share the tiles; the first one writes the maps.
        tags: written into the maps beside the date and the acquisitions used. Equal tags and input give equal files.

    Returns:
        The maps: uint16 reflectance × 10000 (0: no data), or uint8 for display; one a target date. Beside each:
        ``_flags.tif`` at the input's resolution (0 no data, 1 seen by the acquisition nearest to the date that the
        place is made from, 2 filled from another; days from the target date), ``_preview.png``. Of several dates also
        a table and an animation.

    Raises:
        ConfigError: what is asked for can't be, or doesn't fit the network.
        DataError: a file can't be read or written, or there is too little room.
    """
    _check(request, predictor)
    files = _outputs(request)
    last = max((a.day for a in acquisitions if a.day), default=None)
    if len(acquisitions) < predictor.num_dates:
        logger.info(
            f"the network looks at {predictor.num_dates} acquisitions; {len(acquisitions)} are there, so it is padded"
        )
    with Scene(acquisitions, clouds=request.clouds, middle=[top / 2 for top in predictor.maxima]) as scene:
        dates = [_scene_date(scene, target, predictor, request) for target in request.targets or (last,)]
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
            seed=request.seed,
            batch=batch,
        )
        order = layout.order()
        if world.is_main:
            pixels = region.rows.size * region.columns.size * predictor.scale**2
            state_disk(
                request.output.parent,
                tiles=len(dates) * len(order) * tiles.record.itemsize,
                results=pixels * files[0].bytes_a_pixel(len(predictor.bands)),
                maps=len(dates),
            )
        store = TileStore(
            store_folder(request.output),
            record=tiles.record,
            fingerprint=_fingerprint(
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
            logger.info(f"going on: {len(done)} of {len(dates) * len(order)} tiles are done")
        left = (len(dates) * len(order) - len(done)) * request.samples
        if world.is_main and predictor.stochastic and left >= TRIAL:
            passes = left / world.size / 60
            said = [f"{n} steps: about {max(1, t * passes):.0f}" for n, t in predictor.seconds_by_steps(tile).items()]
            logger.info(f"minutes for {left} windows, as a trial says: {'; '.join(said)} (sampler_steps)")
        # A chunk goes through the network together: results don't depend on where a run was stopped or on who computes.
        chunks = [range(start, min(start + batch, len(order))) for start in range(0, len(order), batch)]
        for chunk in tqdm(chunks[world.rank :: world.size], disable=not world.is_main, unit="batch", desc="tiles"):
            cells = [order[k] for k in chunk]
            windows = tiles.windows(cells)  # what is read for one date is there for the next
            for number, at in enumerate(dates):
                indexes = [number * len(order) + k for k in chunk]
                if not done.issuperset(indexes):
                    for index, record in zip(indexes, tiles.compute(cells, windows, at), strict=True):
                        store.write(index, record)
        world.barrier()
        if world.is_main:
            rows = []
            for number, (at, paths) in enumerate(zip(dates, files, strict=True)):
                mosaic = Mosaic(store, layout, first=number * len(order), scale=predictor.scale, bands=predictor.bands)
                rows.append(_write(mosaic, paths, scene, at, predictor, tags=tags))
            if len(dates) > 1:
                write_table(table_path(request.output), rows)
                titles = [str(at.target) for at in dates]
                save_animation(
                    animation_path(request.output), [paths.image for paths in files], titles, bands=predictor.bands
                )
            store.remove()
    return [paths.image for paths in files]


def _scene_date(scene: Scene, target: date | None, predictor: Predictor, request: Request) -> SceneDate:
    near = min(map(abs, scene.offsets(target))) <= NEAR
    return SceneDate(
        scene,
        target,
        num_dates=predictor.num_dates,
        min_valid=request.min_valid,
        match_lr=near if request.match_lr == "auto" else request.match_lr == "on",
    )


def _write(
    mosaic: Mosaic, files: Outputs, scene: Scene, at: SceneDate, predictor: Predictor, *, tags: Mapping[str, str]
) -> dict[str, object]:
    """Write the map of a date and say what it was made from; its row of the table."""
    used = mosaic.used()
    listed = [f"{a.day} {a.name}" if a.day else a.name for a in (scene.acquisitions[i] for i in used)]
    about = {**tags, "TARGET_DATE": str(at.target or "unknown"), "ACQUISITIONS": "; ".join(listed)}
    if files.spread is not None:
        about["CALIBRATION"] = _calibration(predictor)
    summary = write_map(mosaic, files, scene.grid, tags=about, maxima=predictor.maxima)
    summary.report(at.target, used=len(used), of=len(scene.acquisitions), match_lr=at.match_lr)
    return {
        "date": at.target,
        "map": files.image.name,
        "acquisitions": about["ACQUISITIONS"],
        "days": "; ".join(str(at.offsets[i]) for i in used),
        "nearest_days": summary.nearest,
        "valid_share": f"{summary.valid_share:.4f}",
        "other_dates_share": f"{summary.share_beyond(summary.nearest):.4f}",
    }


def _check(request: Request, predictor: Predictor) -> None:
    """Raises ConfigError for what can't be asked of a network."""
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
    if len(set(request.targets)) < len(request.targets):
        raise ConfigError("--date: names a date twice")


def _outputs(request: Request) -> list[Outputs]:
    """Where the maps go, one a date. Raises ConfigError or DataError for what can't be written."""
    asked = Outputs.beside(
        request.output, uncertainty=request.uncertainty, explain=request.explain, uint8=request.uint8
    )
    rasters = {"output": request.output, **({"explain": request.explain} if request.explain else {})}
    many = len(request.targets) > 1
    files = [asked.dated(target) for target in request.targets] if many else [asked]
    beside = [table_path(request.output), animation_path(request.output)] if many else []
    paths = [path for outputs in files for path in outputs.paths()]
    check_files(request.output, [*paths, *beside], rasters=rasters, overwrite=request.overwrite)
    return files


def _calibration(predictor: Predictor) -> str:
    """What the tag says of the standard deviations."""
    if predictor.calibration is None:
        logger.info("the uncertainty isn't calibrated: python tasks/calibrate.py EXPERIMENT fits its factors")
        return "none"
    return "factors " + ", ".join(f"{factor:.3f}" for factor in predictor.calibration)


def _fingerprint(
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
        "targets": [str(target) for target in request.targets],
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
) -> list[Path]:
    """Predict a scene as the options of ``add_arguments`` say.

    Args:
        checkpoint: what the result's tag CHECKPOINT says.
        seed: of a diffusion model's noise.

    Returns:
        The maps' paths.

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
        targets=_targets(options.date, options.dates_every),
        clouds=options.mask != "none",
        seed=seed,
        **{name: getattr(options, name) for name in same},
    )
    if options.sheet is not None and options.uint8:
        raise ConfigError("--sheet shows reflectance: leave out --uint8")
    tags = {"CHECKPOINT": checkpoint, "COMMAND": shlex.join(["python", *sys.argv])}
    maps = predict_scene(predictor, acquisitions, request, world=world, tags=tags)
    if options.sheet is not None and world.is_main:
        dated = [acquisition for acquisition in acquisitions if acquisition.day] or list(acquisitions)
        last = max((acquisition.day for acquisition in dated if acquisition.day), default=None)
        target = request.targets[0] if request.targets else last
        nearest = min(dated, key=lambda one: abs((one.day - target).days) if one.day and target else 0)
        save_sheet(options.sheet, maps[0], nearest, scale=predictor.scale, bands=predictor.bands)
    return maps


def _targets(dates: Sequence[date], every: int | None) -> tuple[date, ...]:
    """The dates that maps are made for."""
    if every is None:
        return tuple(dates)
    if len(dates) != 2 or every < 1:
        raise ConfigError("--dates_every DAYS (from 1) goes with --date FIRST,LAST")
    first, last = sorted(dates)
    count = (last - first).days // every + 1
    if count > MOST_DATES:
        raise ConfigError(f"--dates_every {every}: that would be {count} maps; {MOST_DATES} at most")
    return tuple(first + timedelta(days=every * i) for i in range(count))
