"""How fast the published configurations train, and the memory that a step needs."""

import itertools
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.bench import Bench, Precision, published, task_of
from benchmarks.limits import BF16, FP32, timed
from benchmarks.plain import plain_layers
from benchmarks.table import Row
from tasks.training.state import TrainState
from utils.dataloader import BreizhSRDataset, training_loader
from utils.distributed import World, world


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


def training_step(bench: Bench, name: str) -> list[Row]:
    """One optimiser step in float32 and bfloat16, everything that the training loop does in it."""
    step = STEPS[name] if not bench.quick else STEPS[name]._replace(batch=1)
    calls = {way: steps(bench.prepared, step, WAYS[way], bench.world) for way in WAYS}
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


def steps(prepared: Path, step: Step, way: Way, here: World) -> Callable[[], object]:
    """A call makes one training step, always on the same patches."""
    settings = published(step.config)
    training = replace(settings.training, batch_size=step.batch, amp=way.amp, channels_last=way.channels_last)
    settings = replace(settings, training=training)
    task = task_of(settings)
    if way.plain:
        task = plain_layers(task)
    data = BreizhSRDataset(prepared, "train", sen2_amount=settings.data.sen2_amount)
    (raw,) = training_loader(data, batch_size=step.batch, seed=0, stop_step=1)
    learner = TrainState(task, settings, data=data, world=here)
    batches = itertools.repeat(raw)
    return lambda: learner.train_step(batches)


def _peak(bench: Bench, step: Step, way: Way) -> int:
    """Peak memory of a process that makes two steps and nothing else."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        return executor.submit(_peak_here, bench.prepared, step, way, torch.get_num_threads()).result()


def _peak_here(prepared: Path, step: Step, way: Way, threads: int) -> int:
    torch.set_num_threads(threads)
    with world("cpu") as here:
        call = steps(prepared, step, way, here)
        call()
        call()
    status = Path("/proc/self/status")
    if status.exists():  # the peak of this process; getrusage's begins with that of its parent
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
