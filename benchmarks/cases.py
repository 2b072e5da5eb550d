"""What is timed: steps of training and of sampling, preparing, loading and measuring."""

import contextlib
import copy
import functools
import io
import itertools
import multiprocessing
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple, cast

import rasterio
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import baseline
from benchmarks.baseline import nchw
from benchmarks.timing import BF16, FP32, MEMORY, Patience, Row, Timing, timed
from data_gen.prepare import prepare
from data_gen.synthetic.dataset import SampleSet, write_sample_set
from models.samplers import ddpm
from tasks.base import Task
from tasks.build import build_task
from tasks.evaluation.measure import super_resolve
from tasks.srdiff import SRDiffTask
from tasks.training.state import TrainState
from utils.config.parse import load_chain, settings_from
from utils.config.settings import Settings
from utils.dataloader import Batch, BreizhSRDataset, collate, training_loader
from utils.distributed import World, world
from utils.metrics.pixel import measure, to_uint8

Precision = Literal["off", "bf16"]
SamplerName = Literal["ddpm", "ddim"]
CONFIGS = Path(__file__).resolve().parents[1] / "configs"


class BenchmarkRun:
    """A run: ``folder`` for its files, and whether it is to be quick."""

    def __init__(self, folder: Path, *, quick: bool, world: World) -> None:
        self.folder, self.quick, self.world = folder, quick, world
        self.patience = Patience(rounds=2, most=3, seconds=1) if quick else Patience(rounds=3, most=9, seconds=12)

    @cached_property
    def raw(self) -> Path:
        """A raw sample data set, of patches as large as BreizhSR's."""
        root = self.folder / "raw"
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
            write_sample_set(root, SampleSet(train=8 if self.quick else 32, val=1, test=1))
        return root

    @cached_property
    def prepared(self) -> Path:
        """The same, prepared."""
        with contextlib.redirect_stderr(io.StringIO()):
            prepare(self.raw, output=self.folder / "prepared", workers=1)
        return self.folder / "prepared"


def published(config: str) -> Settings:
    """A published configuration; a diffusion model's conditioner is the published one."""
    settings = settings_from(load_chain(CONFIGS / config), source=config)
    if settings.model.trainer_cls == "srdiff":
        conditioner = settings_from(load_chain(CONFIGS / "misr/misr_pretrain.yaml"), source="misr_pretrain.yaml")
        settings = replace(settings, backbone=conditioner.model)
    return settings


def task_of(settings: Settings) -> Task:
    """Its task with random weights: times don't depend on them."""
    torch.manual_seed(0)
    return build_task(settings)


class Step(NamedTuple):
    """A published configuration, with a batch that fits a small machine."""

    config: str
    batch: int


class Way(NamedTuple):
    """How a step is computed."""

    amp: Precision
    channels_last: bool
    plain: bool = False


STEPS = {
    "rrdb": Step("rrdb/rrdb.yaml", 4),
    "misr": Step("misr/misr_pretrain.yaml", 4),
    "diffsr": Step("diffsr_hr_ltae.yaml", 2),
    "highresnet": Step("misr/highresnet.yaml", 2),
    "rrdb_ltae": Step("misr/rrdb_ltae.yaml", 1),
    "rrdb_highresnet": Step("misr/rrdb_highresnet.yaml", 1),
}
WAYS = {
    "plain": Way("off", channels_last=False, plain=True),
    "float32": Way("off", channels_last=True),
    "bfloat16": Way("bf16", channels_last=True),
}


def training_step(bench: BenchmarkRun, name: str) -> list[Row]:
    """One optimiser step in float32 and bfloat16, everything that the training loop does in it."""
    step = STEPS[name] if not bench.quick else STEPS[name]._replace(batch=1)
    calls = {way: step_call(bench.prepared, step, WAYS[way], bench.world) for way in WAYS}
    with FlopCounterMode(display=False) as counter:
        calls["float32"]()
    flops = counter.get_total_flops()
    rows = _computed(f"train {name}, batch {step.batch}", calls, flops=flops, patience=bench.patience)
    return [replace(row, memory=_peak(bench, step, WAYS[row.mode])) for row in rows]


def _computed(what: str, calls: Mapping[str, Callable[[], object]], *, flops: int, patience: Patience) -> list[Row]:
    """Rows of the ways to compute a network, the plain one among them, held against the machine's matrix products."""
    times, rates = timed(calls, limits=[FP32, BF16], patience=patience)
    rows = []
    for mode, timing in times.items():
        rate = flops / timing.median
        share = rate / rates[BF16 if mode == "bfloat16" else FP32]
        gain = None if mode == "plain" else times["plain"].median / timing.median
        rows.append(Row(what, mode, timing, rate / 1e9, "GFLOP/s", share, gain))
    return rows


def step_call(prepared: Path, step: Step, way: Way, here: World) -> Callable[[], object]:
    """A call makes one training step, always on the same patches."""
    settings = published(step.config)
    training = replace(settings.training, batch_size=step.batch, amp=way.amp, channels_last=way.channels_last)
    settings = replace(settings, training=training)
    task = task_of(settings)
    if way.plain:
        task = nchw(task)
    data = BreizhSRDataset(prepared, "train", sen2_amount=settings.data.sen2_amount)
    (raw,) = training_loader(data, batch_size=step.batch, seed=0, stop_step=1)
    learner = TrainState(task, settings, data=data, world=here)
    batches = itertools.repeat(raw)
    return lambda: learner.train_step(batches)


def _peak(bench: BenchmarkRun, step: Step, way: Way) -> int:
    """Peak memory of a process that makes two step_call and nothing else."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as executor:
        return executor.submit(_peak_here, bench.prepared, step, way, torch.get_num_threads()).result()


def _peak_here(prepared: Path, step: Step, way: Way, threads: int) -> int:
    torch.set_num_threads(threads)
    with world("cpu") as here:
        call = step_call(prepared, step, way, here)
        call()
        call()
    status = Path("/proc/self/status")
    if status.exists():  # the peak of this process; getrusage's begins with that of its parent
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


CONFIG = "diffsr_hr_ltae.yaml"
SAMPLER_STEPS = 15  # of ddpm: as many as a trained diffusion needed (benchmarks/quality.py)
_TIMED = 3  # steps of the plain mode


def _srdiff(settings: Settings) -> SRDiffTask:
    return cast(SRDiffTask, task_of(settings).eval())


def reverse_step(bench: BenchmarkRun) -> list[Row]:
    """One pass of the noise predictor over an image of the published size."""
    size = 144 if bench.quick else 296
    torch.manual_seed(0)
    unet = _srdiff(published(CONFIG)).model.denoise_fn
    last = copy.deepcopy(unet)
    bench.world.place(last)
    networks = {"plain": nchw(unet), "float32, NCHW": unet, "float32": last, "bfloat16": last}
    x, t, condition = torch.randn(1, 3, size, size), torch.tensor([250]), torch.randn(1, unet.dim, size, size)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        unet(x, t, condition)
    flops = counter.get_total_flops()

    def call(mode: str) -> Callable[[], object]:
        form = torch.channels_last if networks[mode] is last else torch.contiguous_format
        inputs = x.contiguous(memory_format=form), t, condition.contiguous(memory_format=form)

        def step() -> None:
            with torch.inference_mode(), bench.world.autocast("bf16" if mode == "bfloat16" else "off"):
                networks[mode](*inputs)

        return step

    calls = {mode: call(mode) for mode in networks}
    return _computed(f"reverse step, {size}×{size}", calls, flops=flops, patience=bench.patience)


def whole_image(bench: BenchmarkRun) -> list[Row]:
    """An image by sampler, as evaluation makes it: conditioner, noise, all steps."""
    settings = published(CONFIG)
    data = BreizhSRDataset(bench.prepared, "test", sen2_amount=settings.data.sen2_amount)
    batch = data.to_batch(collate([data.raw(0)]))
    timesteps = settings.diffusion.timesteps
    task = _srdiff(settings)
    plain = nchw(task)
    calls = {
        name: functools.partial(_predict, bench, _steps_of_ddpm(plain, steps), batch, settings)
        for name, steps in (("one step", 1), ("more steps", 1 + _TIMED))
    }
    bench.world.place(task)
    wanted: list[tuple[SamplerName, int, Precision]] = [
        ("ddpm", SAMPLER_STEPS, "bf16"),
        ("ddpm", SAMPLER_STEPS, "off"),
        ("ddim", 4, "bf16"),  # a flow's steps cost what a diffusion's do
        ("ddim", 1, "bf16"),
    ]
    for sampler, steps, amp in wanted:
        diffusion = replace(settings.diffusion, sampler=sampler, sampler_steps=steps)
        chosen = replace(settings, diffusion=diffusion, training=replace(settings.training, amp=amp))
        sampled = _srdiff(chosen)
        sampled.model = task.model
        calls[_named(sampler, steps, amp)] = functools.partial(_predict, bench, sampled, batch, chosen)
    times, _ = timed(calls, limits=[], patience=bench.patience)
    step = (times["more steps"].median - times["one step"].median) / _TIMED
    rest = times["one step"].median - step
    extrapolated = Timing((rest + timesteps * step,))
    note = (
        f"extrapolated to {timesteps} steps: one step takes {step:.3f} s (runs of {1 + _TIMED} and of 1 step), all "
        f"else {max(rest, 0):.3f} s; the others are measured in full"
    )
    what = f"an image, {data.lr_size} → {data.lr_size * data.scale} pixels"
    rows = [Row(what, f"plain: ddpm, {timesteps} steps, float32", extrapolated, note=note)]
    for name in [_named(*one) for one in wanted]:
        rows.append(Row(what, name, times[name], gain=extrapolated.median / times[name].median))
    return rows


def _named(sampler: SamplerName, steps: int, amp: Precision) -> str:
    return f"{sampler}, {steps} steps, {'bfloat16' if amp == 'bf16' else 'float32'}"


def _steps_of_ddpm(task: SRDiffTask, steps: int) -> SRDiffTask:
    """The first so many steps of a full ddpm."""
    timesteps = task.model.path.timesteps
    part = copy.copy(task)
    part.sampler = functools.partial(ddpm, times=range(timesteps - 1, timesteps - 1 - steps, -1))
    return part


def _predict(bench: BenchmarkRun, task: SRDiffTask, batch: Batch, settings: Settings) -> None:
    super_resolve(task, batch, settings=settings, world=bench.world, samples=1)


def preprocessing(bench: BenchmarkRun) -> list[Row]:
    """Raw rasters to the store, in one process; held against reading the rasters alone."""
    root, output = bench.raw, bench.folder / "prepared again"
    rasters = sorted(root.glob("s*/**/*.tif"))
    patches = sum(path.is_relative_to(root / "spot6") for path in rasters)

    def everything() -> None:
        shutil.rmtree(output, ignore_errors=True)
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
            prepare(root, output=output, workers=1)

    def reading() -> None:
        for path in rasters:
            with rasterio.open(path) as raster:
                raster.read()

    times, _ = timed({"prepare": everything, "read": reading}, limits=[], patience=bench.patience)
    note = "one process; the limit is reading the same rasters with rasterio and nothing else"
    share = times["read"].median / times["prepare"].median
    return [Row("prepare a patch", "one process", times["prepare"].scaled(1 / patches), share=share, note=note)]


def loader(bench: BenchmarkRun) -> list[Row]:
    """Samples matched and normalised on the device, from one process; plain: scikit-image, patch by patch."""
    rows = []
    for amount in (1, 8):
        data = BreizhSRDataset(bench.prepared, "train", sen2_amount=amount)
        size = min(32, len(data))

        def batch(data: BreizhSRDataset = data, size: int = size) -> object:
            (raw,) = training_loader(data, batch_size=size, seed=0, stop_step=1)
            return data.to_batch(raw)

        patches = [baseline.stored(data.raw(position)) for position in range(size)]

        def plainly(patches: list = patches) -> object:
            return collate([baseline.item(patch) for patch in patches])

        raw = collate([data.raw(0)])
        held = [raw[name] for name in ("hr", "lr", "base", "table")]
        made = data.to_batch(raw)
        held += [made.hr, made.lr, made.base]
        moved = size * sum(tensor.numel() * tensor.element_size() for tensor in held)
        what = "load a sample" if amount == 1 else f"load a series of {amount}"
        rows += _moved(
            what,
            {"plain": plainly, f"batches of {size}, one process": batch},
            images=size,
            moved=moved,
            patience=bench.patience,
            notes=(
                "histograms matched by scikit-image, and the bicubic image made, when a patch is loaded",
                "the limit is memory bandwidth: integers read once, the batch written once",
            ),
        )
    return rows


def measuring(bench: BenchmarkRun) -> list[Row]:
    """All measuring but LPIPS."""
    torch.manual_seed(0)
    size = 8
    hr = torch.randn(size, 3, 296, 296).mul(0.3).clamp(-1, 1)
    sr = (hr + torch.randn_like(hr) * 0.05).clamp(-1, 1)
    integers = to_uint8(sr), to_uint8(hr)

    def plainly() -> object:
        return [baseline.metrics(x, y) for x, y in zip(*integers, strict=True)]

    return _moved(
        "measure an image",
        {"plain": plainly, f"batches of {size}": lambda: measure(*integers)},
        images=size,
        moved=2 * integers[0].numel() * 49,  # each shift compares both images once, a byte a value
        patience=bench.patience,
        notes=(
            "scikit-image, a loop over shifts",
            "PSNR, SSIM, MAE, MSE, shift-MAE; the limit is memory bandwidth for 49 shifts of both images as bytes",
        ),
    )


def _moved(
    what: str,
    calls: dict[str, Callable[[], object]],
    *,
    images: int,
    moved: int,
    patience: Patience,
    notes: tuple[str, str],
) -> list[Row]:
    """Rows of the plain way and of ours, of one of ``images``; ours is held against copying ``moved`` bytes."""
    times, rates = timed(calls, limits=[MEMORY], patience=patience)
    plain, ours = times.values()
    share, gain = moved / ours.median / rates[MEMORY], plain.median / ours.median
    return [
        Row(what, "plain", plain.scaled(1 / images), note=notes[0]),
        Row(what, list(calls)[1], ours.scaled(1 / images), share=share, gain=gain, note=notes[1]),
    ]
