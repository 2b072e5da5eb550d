"""What is timed: steps of training and of sampling, preparing, loading and measuring."""

import contextlib
import copy
import functools
import io
import itertools
import multiprocessing
import resource
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import rasterio
import torch
from numpy.typing import NDArray
from skimage.exposure import match_histograms
from skimage.metrics import structural_similarity
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.timing import BF16, FP32, MEMORY, Row, Timing, timed
from data_gen.prepare import prepare
from data_gen.synthetic.dataset import SampleSet, write_sample_set
from models.samplers import ddpm
from tasks.build import build_task
from tasks.evaluation.measure import super_resolve
from tasks.srdiff import SRDiffTask
from tasks.training.state import TrainState
from utils.config.parse import load_chain, settings_from
from utils.config.settings import Settings
from utils.dataloader import BreizhSRDataset, Raw, collate, training_loader
from utils.distributed import World, world
from utils.metrics.pixel import measure, to_uint8
from utils.radiometry import PUBLISHED_MAXIMA

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
STEPS = {  # a published configuration, with a batch that fits a small machine
    "rrdb": ("rrdb/rrdb.yaml", 4),
    "misr": ("misr/misr_pretrain.yaml", 4),
    "diffsr": ("diffsr_hr_ltae.yaml", 2),
    "highresnet": ("misr/highresnet.yaml", 2),
    "rrdb_ltae": ("misr/rrdb_ltae.yaml", 1),
    "rrdb_highresnet": ("misr/rrdb_highresnet.yaml", 1),
}
SAMPLED = [("ddpm", 15, "bf16"), ("ddpm", 15, "off"), ("ddim", 4, "bf16"), ("ddim", 1, "bf16")]  # name, steps, amp
_TIMED = 3  # steps of the plain mode
BORDER = 3  # pixels of shift
Calls = dict[str, Callable[[], object]]
Module = TypeVar("Module", bound=nn.Module)


@dataclass
class BenchmarkRun:
    """A run: a folder for its files, whether it is to be quick, and for how long all ways to do a thing are timed."""

    folder: Path
    quick: bool
    world: World
    seconds: float

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
        self.prepare(self.folder / "prepared")
        return self.folder / "prepared"

    def prepare(self, output: Path) -> None:
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
            prepare(self.raw, output=output, workers=1)


def nchw(module: Module) -> Module:
    """A copy in torch's default memory format."""
    return copy.deepcopy(module).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def published(config: str, **training: Any) -> Settings:
    """A published configuration with other keys of training; a diffusion model's conditioner is the published one."""
    settings = settings_from(load_chain(CONFIGS / config), source=config)
    if settings.model.trainer_cls == "srdiff":
        settings = replace(settings, backbone=published("misr/misr_pretrain.yaml").model)
    return replace(settings, training=replace(settings.training, **training))


def training_step(bench: BenchmarkRun, name: str) -> list[Row]:
    """One optimiser step in float32 and bfloat16, everything that the training loop does in it."""
    config, batch = STEPS[name][0], 1 if bench.quick else STEPS[name][1]
    modes = ("plain", "float32", "bfloat16")
    calls = {mode: step_call(bench.prepared, config, batch, mode, bench.world) for mode in modes}
    rows = _computed(bench, f"train {name}, batch {batch}", calls, counted="float32")
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), max_tasks_per_child=1) as executor:
        threads = torch.get_num_threads()
        peaks = executor.map(functools.partial(_peak, bench.prepared, config, batch, threads), modes)
        return [replace(row, memory=peak) for row, peak in zip(rows, peaks, strict=True)]


def step_call(prepared: Path, config: str, batch: int, mode: str, here: World) -> Callable[[], object]:
    """A call makes one training step, always on the same patches."""
    amp = "bf16" if mode == "bfloat16" else "off"
    settings = published(config, batch_size=batch, amp=amp, channels_last=mode != "plain")
    torch.manual_seed(0)
    task = build_task(settings)
    data = BreizhSRDataset(prepared, "train", sen2_amount=settings.data.sen2_amount)
    (raw,) = training_loader(data, batch_size=batch, seed=0, stop_step=1)
    learner = TrainState(nchw(task) if mode == "plain" else task, settings, data=data, world=here)
    batches = itertools.repeat(raw)
    return lambda: learner.train_step(batches)


def _peak(prepared: Path, config: str, batch: int, threads: int, mode: str) -> int:
    """Peak memory of this process, which makes two training steps and nothing else."""
    torch.set_num_threads(threads)
    with world("cpu") as here:
        call = step_call(prepared, config, batch, mode, here)
        call()
        call()
    status = Path("/proc/self/status")
    if status.exists():  # getrusage's peak begins with that of its parent
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _computed(bench: BenchmarkRun, what: str, calls: Calls, *, counted: str) -> list[Row]:
    """Rows of the ways to compute a network, the plain one among them, held against the machine's matrix products."""
    with FlopCounterMode(display=False) as counter:
        calls[counted]()
    flops = counter.get_total_flops()
    times, rates = timed(calls, limits=[FP32, BF16], seconds=bench.seconds)
    rows = []
    for mode, timing in times.items():
        rate = flops / timing.median
        share = rate / rates[BF16 if mode == "bfloat16" else FP32]
        gain = None if mode == "plain" else times["plain"].median / timing.median
        rows.append(Row(what, mode, timing, rate / 1e9, "GFLOP/s", share, gain))
    return rows


def _srdiff(settings: Settings) -> SRDiffTask:
    """With random weights: times don't depend on them."""
    torch.manual_seed(0)
    return cast(SRDiffTask, build_task(settings).eval())


def reverse_step(bench: BenchmarkRun) -> list[Row]:
    """One pass of the noise predictor over an image of the published size."""
    size = 144 if bench.quick else 296
    unet = _srdiff(published("diffsr_hr_ltae.yaml")).model.denoise_fn
    last = copy.deepcopy(unet)
    bench.world.place(last)
    x, t, condition = torch.randn(1, 3, size, size), torch.tensor([250]), torch.randn(1, unet.dim, size, size)

    x_last, condition_last = (image.contiguous(memory_format=torch.channels_last) for image in (x, condition))

    def step(network: nn.Module, x: Tensor, condition: Tensor, amp: str = "off") -> None:
        with torch.inference_mode(), bench.world.autocast(amp):
            network(x, t, condition)

    calls: Calls = {
        "plain": functools.partial(step, nchw(unet), x, condition),
        "float32, NCHW": functools.partial(step, unet, x, condition),
        "float32": functools.partial(step, last, x_last, condition_last),
        "bfloat16": functools.partial(step, last, x_last, condition_last, "bf16"),
    }
    return _computed(bench, f"reverse step, {size}×{size}", calls, counted="plain")


def whole_image(bench: BenchmarkRun) -> list[Row]:
    """An image by sampler, as evaluation makes it: conditioner, noise, all steps."""
    settings = published("diffsr_hr_ltae.yaml")
    data = BreizhSRDataset(bench.prepared, "test", sen2_amount=settings.data.sen2_amount)
    batch = data.to_batch(collate([data.raw(0)]))
    timesteps = settings.diffusion.timesteps
    task = _srdiff(settings)
    plain = nchw(task)
    bench.world.place(task)

    def predict(task: SRDiffTask, amp: str) -> Callable[[], object]:
        chosen = replace(settings, training=replace(settings.training, amp=cast(Any, amp)))
        return functools.partial(super_resolve, task, batch, settings=chosen, world=bench.world, samples=1)

    calls: Calls = {}
    for steps in (1, 1 + _TIMED):  # the first ones of a full ddpm
        part = copy.copy(plain)
        part.sampler = functools.partial(ddpm, times=range(timesteps - 1, timesteps - 1 - steps, -1))
        calls[str(steps)] = predict(part, "off")
    for sampler, steps, amp in SAMPLED:
        sampled = copy.copy(task)
        sampled.choose_sampler(sampler, steps=steps)
        calls[f"{sampler}, {steps} steps, {'bfloat16' if amp == 'bf16' else 'float32'}"] = predict(sampled, amp)
    times, _ = timed(calls, limits=[], seconds=bench.seconds)
    one, more = times.pop("1").median, times.pop(str(1 + _TIMED)).median
    step = (more - one) / _TIMED
    extrapolated = Timing((one + (timesteps - 1) * step,))
    note = (
        f"extrapolated to {timesteps} steps: one step takes {step:.3f} s (runs of {1 + _TIMED} and of 1 step), all "
        f"else {max(one - step, 0):.3f} s; the others are measured in full"
    )
    what = f"an image, {data.lr_size} → {data.lr_size * data.scale} pixels"
    rows = [Row(what, f"plain: ddpm, {timesteps} steps, float32", extrapolated, note=note)]
    return rows + [Row(what, name, time, gain=extrapolated.median / time.median) for name, time in times.items()]


def preprocessing(bench: BenchmarkRun) -> list[Row]:
    """Raw rasters to the store, in one process; held against reading the rasters alone."""
    output = bench.folder / "prepared again"
    rasters = sorted(bench.raw.glob("s*/**/*.tif"))
    patches = sum(path.is_relative_to(bench.raw / "spot6") for path in rasters)

    def everything() -> None:
        shutil.rmtree(output, ignore_errors=True)
        bench.prepare(output)

    def reading() -> None:
        for path in rasters:
            with rasterio.open(path) as raster:
                raster.read()

    times, _ = timed({"prepare": everything, "read": reading}, limits=[], seconds=bench.seconds)
    note = "one process; the limit is reading the same rasters with rasterio and nothing else"
    share = times["read"].median / times["prepare"].median
    return [Row("prepare a patch", "one process", times["prepare"].scaled(1 / patches), share=share, note=note)]


def loader(bench: BenchmarkRun) -> list[Row]:
    """Samples matched and normalised on the device, from one process; plain: scikit-image, patch by patch."""
    rows = []
    for amount in (1, 8):
        data = BreizhSRDataset(bench.prepared, "train", sen2_amount=amount)
        size = min(32, len(data))
        patches = [plain_patch(data.raw(position)) for position in range(size)]

        def plainly(patches: list = patches) -> object:
            return collate([plain_item(patch) for patch in patches])

        def ours(data: BreizhSRDataset = data, size: int = size) -> object:
            (raw,) = training_loader(data, batch_size=size, seed=0, stop_step=1)
            return data.to_batch(raw)

        raw = collate([data.raw(0)])
        made = data.to_batch(raw)
        held = [raw["hr"], raw["lr"], raw["base"], raw["table"], made.hr, made.lr, made.base]
        rows += _moved(
            bench,
            "load a sample" if amount == 1 else f"load a series of {amount}",
            {"plain": plainly, f"batches of {size}, one process": ours},
            images=size,
            moved=size * sum(tensor.nbytes for tensor in held),
            notes={
                "plain": "histograms matched by scikit-image, and the bicubic image made, when a patch is loaded",
                "ours": "the limit is memory bandwidth: integers read once, the batch written once",
            },
        )
    return rows


def measuring(bench: BenchmarkRun) -> list[Row]:
    """All measuring but LPIPS."""
    torch.manual_seed(0)
    hr = torch.randn(8, 3, 296, 296).mul(0.3).clamp(-1, 1)
    integers = to_uint8((hr + torch.randn_like(hr) * 0.05).clamp(-1, 1)), to_uint8(hr)
    shifts = "PSNR, SSIM, MAE, MSE, shift-MAE; the limit is memory bandwidth for 49 shifts of both images as bytes"
    return _moved(
        bench,
        "measure an image",
        {
            "plain": lambda: [plain_metrics(x, y) for x, y in zip(*integers, strict=True)],
            "batches of 8": lambda: measure(*integers),
        },
        images=8,
        moved=2 * hr.numel() * 49,  # each shift compares both images once, a byte a value
        notes={"plain": "scikit-image, a loop over shifts", "ours": shifts},
    )


def _moved(
    bench: BenchmarkRun, what: str, calls: Calls, *, images: int, moved: int, notes: dict[str, str]
) -> list[Row]:
    """Rows of the plain way and of ours, of one of ``images``; ours is held against copying ``moved`` bytes."""
    times, rates = timed(calls, limits=[MEMORY], seconds=bench.seconds)
    plain, ours = times.values()
    share, gain = moved / ours.median / rates[MEMORY], plain.median / ours.median
    return [
        Row(what, "plain", plain.scaled(1 / images), note=notes["plain"]),
        Row(what, list(calls)[1], ours.scaled(1 / images), share=share, gain=gain, note=notes["ours"]),
    ]


# Plain execution: each thing done in the straightforward way, to hold the quick ways against.


def plain_patch(raw: Raw) -> dict[str, NDArray[np.float32]]:
    """A patch as a store of floats holds it: hr (H, W, C) in [0, 1], reflectance lr (T, h, w, C), near (h, w, C)."""
    lr = raw["lr"].permute(0, 2, 3, 1).numpy().astype(np.float32) / 10000
    hr = raw["hr"].permute(1, 2, 0).numpy().astype(np.float32) / 255
    return {"hr": hr, "lr": lr, "near": lr[raw["near"]]}


def plain_item(patch: dict[str, NDArray[np.float32]]) -> dict[str, Tensor]:
    """What a loader does with a patch of such a store: normalise, match, interpolate, make tensors."""
    maxima = np.asarray(PUBLISHED_MAXIMA, dtype=np.float32)

    def normalise(x: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.clip(x, 0, maxima) / maxima * 2 - 1

    hr = match_histograms(patch["hr"] * 2 - 1, normalise(patch["near"]), channel_axis=-1)
    near = torch.from_numpy(patch["near"]).permute(2, 0, 1)[None]
    base = F.interpolate(near, scale_factor=hr.shape[0] // near.shape[-1], mode="bicubic")[0].permute(1, 2, 0).numpy()
    images = {"base": normalise(base), "hr": hr, "lr": normalise(patch["lr"])}
    return {name: torch.from_numpy(image).movedim(-1, -3).float().contiguous() for name, image in images.items()}


def plain_metrics(sr: Tensor, hr: Tensor) -> dict[str, float]:
    """The metrics of one image (C, H, W) uint8, by scikit-image and a loop over shifts."""
    x, y = (image.permute(1, 2, 0).numpy() for image in (sr, hr))
    error = x.astype(np.float64) - y
    mse = float((error**2).mean())
    height, width = (size - 2 * BORDER for size in x.shape[:2])
    centre = x[BORDER:-BORDER, BORDER:-BORDER].astype(np.float64)
    shifts = itertools.product(range(2 * BORDER + 1), repeat=2)
    return {
        "psnr": float(10 * np.log10(255**2 / mse)),
        "ssim": float(structural_similarity(x, y, channel_axis=-1, data_range=255)),
        "mae": float(np.abs(error).mean()),
        "mse": mse,
        "shift_mae": min(float(np.abs(centre - y[dy : dy + height, dx : dx + width]).mean()) for dy, dx in shifts),
    }
