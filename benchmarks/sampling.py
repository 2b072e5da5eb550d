"""How fast a diffusion model of the published size makes an image, and one step of it."""

import copy
import functools
from collections.abc import Callable
from dataclasses import replace
from typing import cast

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.bench import Bench, Precision, SamplerName, published, task_of
from benchmarks.limits import BF16, FP32, timed
from benchmarks.plain import plain_layers
from benchmarks.table import Row
from benchmarks.timing import Timing
from models.samplers import ddpm
from tasks.evaluation.measure import super_resolve
from tasks.srdiff import SRDiffTask
from utils.config.settings import Settings
from utils.dataloader import Batch, BreizhSRDataset, collate

CONFIG = "diffsr_hr_ltae.yaml"
STEPS = 15  # of every quick sampler: as many as a trained model needed (benchmarks/quality.py)
_TIMED = 3  # steps of the plain mode


def _task(settings: Settings) -> SRDiffTask:
    return cast(SRDiffTask, task_of(settings).eval())


def reverse_step(bench: Bench) -> list[Row]:
    """One pass of the noise predictor over an image of the published size."""
    size = 144 if bench.quick else 296
    torch.manual_seed(0)
    unet = _task(published(CONFIG)).model.denoise_fn
    last = copy.deepcopy(unet)
    bench.world.place(last)
    networks = {"plain": plain_layers(unet), "float32, NCHW": unet, "float32": last, "bfloat16": last}
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


def whole_image(bench: Bench) -> list[Row]:
    """An image by sampler, as evaluation makes it: conditioner, noise, all steps."""
    settings = published(CONFIG)
    data = BreizhSRDataset(bench.prepared, "test", sen2_amount=settings.data.sen2_amount)
    batch = data.to_batch(collate([data.raw(0)]))
    timesteps = settings.diffusion.timesteps
    task = _task(settings)
    plain = plain_layers(task)
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
        diffusion = replace(settings.diffusion, sampler=sampler, sampler_steps=STEPS)
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
    return f"{sampler}, {STEPS} steps, {'bfloat16' if amp == 'bf16' else 'float32'}"


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


def _predict(bench: Bench, task: SRDiffTask, batch: Batch, settings: Settings) -> None:
    super_resolve(task, batch, settings=settings, world=bench.world, samples=1)
