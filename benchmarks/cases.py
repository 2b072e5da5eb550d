"""What is timed: steps of training and of sampling, preparing, loading and measuring."""

import contextlib
import copy
import functools
import io
import itertools
import multiprocessing
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, cast

import rasterio
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import baseline
from benchmarks.baseline import nchw
from benchmarks.limits import BF16, FP32, MEMORY, timed
from benchmarks.timing import BenchmarkRun, Precision, Row, SamplerName, Timing, published, task_of
from data_gen.prepare import prepare
from models.samplers import ddpm
from tasks.evaluation.measure import super_resolve
from tasks.srdiff import SRDiffTask
from tasks.training.state import TrainState
from utils.config.settings import Settings
from utils.dataloader import Batch, BreizhSRDataset, collate, training_loader
from utils.distributed import World, world
from utils.metrics.pixel import measure, to_uint8


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
    times, rates = timed(calls, limits=[FP32, BF16], patience=bench.patience)
    rows = []
    for way, timing in times.items():
        rate = flops / timing.median
        limit = BF16 if WAYS[way].amp == "bf16" else FP32
        rows.append(
            Row(
                f"train {name}, batch {step.batch}",
                way,
                timing,
                rate=rate / 1e9,
                unit="GFLOP/s",
                share=rate / rates[limit],
                gain=None if way == "plain" else times["plain"].median / timing.median,
                memory=_peak(bench, step, WAYS[way]),
            )
        )
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
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        return executor.submit(_peak_here, bench.prepared, step, way, torch.get_num_threads()).result()


def _peak_here(prepared: Path, step: Step, way: Way, threads: int) -> int:
    torch.set_num_threads(threads)
    with world("cpu") as here:
        call = step_call(prepared, step, way, here)
        call()
        call()
    status = Path("/proc/self/status")
    if status.exists():  # the peak of this process; getrusage's begins with that of its parent
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


CONFIG = "diffsr_hr_ltae.yaml"
SAMPLER_STEPS = 15  # of every quick sampler: as many as a trained model needed (benchmarks/quality.py)
_TIMED = 3  # steps of the plain mode


def _task(settings: Settings) -> SRDiffTask:
    return cast(SRDiffTask, task_of(settings).eval())


def reverse_step(bench: BenchmarkRun) -> list[Row]:
    """One pass of the noise predictor over an image of the published size."""
    size = 144 if bench.quick else 296
    torch.manual_seed(0)
    unet = _task(published(CONFIG)).model.denoise_fn
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

    times, rates = timed({mode: call(mode) for mode in networks}, limits=[FP32, BF16], patience=bench.patience)
    rows = []
    for mode, timing in times.items():
        rate = flops / timing.median
        share = rate / rates[BF16 if mode == "bfloat16" else FP32]
        gain = None if mode == "plain" else times["plain"].median / timing.median
        rows.append(Row(f"reverse step, {size}×{size}", mode, timing, rate / 1e9, "GFLOP/s", share, gain))
    return rows


def whole_image(bench: BenchmarkRun) -> list[Row]:
    """An image by sampler, as evaluation makes it: conditioner, noise, all steps."""
    settings = published(CONFIG)
    data = BreizhSRDataset(bench.prepared, "test", sen2_amount=settings.data.sen2_amount)
    batch = data.to_batch(collate([data.raw(0)]))
    timesteps = settings.diffusion.timesteps
    task = _task(settings)
    plain = nchw(task)
    few, more = (_steps_of_ddpm(plain, count) for count in (1, 1 + _TIMED))
    calls = {
        "one step": lambda: _predict(bench, few, batch, settings),
        "more steps": lambda: _predict(bench, more, batch, settings),
    }
    bench.world.place(task)
    wanted: list[tuple[SamplerName, Precision]] = [("ddpm", "bf16"), ("ddpm", "off")]
    if not bench.quick:
        wanted += [("ddim", "bf16"), ("dpmpp_2m", "bf16")]
    for sampler, amp in wanted:
        diffusion = replace(settings.diffusion, sampler=sampler, sampler_steps=SAMPLER_STEPS)
        chosen = replace(settings, diffusion=diffusion, training=replace(settings.training, amp=amp))
        named = _named(sampler, amp)
        calls[named] = functools.partial(_predict, bench, _with_sampler(task, chosen), batch, chosen)
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
    for name in [_named(*pair) for pair in wanted]:
        rows.append(Row(what, name, times[name], gain=extrapolated.median / times[name].median))
    return rows


def _named(sampler: SamplerName, amp: Precision) -> str:
    return f"{sampler}, {SAMPLER_STEPS} steps, {'bfloat16' if amp == 'bf16' else 'float32'}"


def _with_sampler(task: SRDiffTask, settings: Settings) -> SRDiffTask:
    """The same weights, sampled as the settings say."""
    other = _task(settings)
    other.model = task.model
    return other


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
    return [
        Row(
            "prepare a patch",
            "one process",
            times["prepare"].scaled(1 / patches),
            share=times["read"].median / times["prepare"].median,
            note=note,
        )
    ]


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
        times, rates = timed({"plain": plainly, "loader": batch}, limits=[MEMORY], patience=bench.patience)
        what = "load a sample" if amount == 1 else f"load a series of {amount}"
        per_sample = {name: timing.scaled(1 / size) for name, timing in times.items()}
        rows += [
            Row(what, "plain", per_sample["plain"], note=_PLAIN_LOADER),
            Row(
                what,
                f"batches of {size}, one process",
                per_sample["loader"],
                share=moved / times["loader"].median / rates[MEMORY],
                gain=times["plain"].median / times["loader"].median,
                note="the limit is memory bandwidth: integers read once, the batch written once",
            ),
        ]
    return rows


_PLAIN_LOADER = "histograms matched by scikit-image, and the bicubic image made, when a patch is loaded"


def measuring(bench: BenchmarkRun) -> list[Row]:
    """All measuring but LPIPS."""
    torch.manual_seed(0)
    size = 8
    hr = torch.randn(size, 3, 296, 296).mul(0.3).clamp(-1, 1)
    sr = (hr + torch.randn_like(hr) * 0.05).clamp(-1, 1)
    integers = to_uint8(sr), to_uint8(hr)

    def plainly() -> object:
        return [baseline.metrics(x, y) for x, y in zip(*integers, strict=True)]

    times, rates = timed(
        {"plain": plainly, "measure": lambda: measure(*integers)}, limits=[MEMORY], patience=bench.patience
    )
    moved = 2 * integers[0].numel() * 49  # each shift compares both images once, a byte a value
    return [
        Row("measure an image", "plain", times["plain"].scaled(1 / size), note="scikit-image, a loop over shifts"),
        Row(
            "measure an image",
            f"batches of {size}",
            times["measure"].scaled(1 / size),
            share=moved / times["measure"].median / rates[MEMORY],
            gain=times["plain"].median / times["measure"].median,
            note="PSNR, SSIM, MAE, MSE, shift-MAE; the limit is memory bandwidth for 49 shifts of both images as bytes",
        ),
    ]
