"""The demo: artificial data, three small models, their evaluation and a map, each by a command that is shown."""

import argparse
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.cli import Parser, run
from utils.errors import UserError

ROOT, DATA = "checkpoints/demo", "data/sample"
TRAINED = {
    "rrdb": ("RRDB, on one image", 220),
    "hr_ltae": ("HighRes-net + L-TAE, on a series", 220),
    "flow_hr_ltae": ("a flow on it", 200),
}
EVALUATED = ("bicubic", *TRAINED)
# A flow trained so briefly leaves noise. From the backbone's image it adds detail in two steps.
OF_THE_FLOW = f",rrdb_ckpt={ROOT}/hr_ltae,sample_from=backbone,sample_start=20,sampler_steps=2"


class Stage(NamedTuple):
    """A command of the demo."""

    title: str
    gflop: float  # what its networks compute
    seconds: float  # what it takes besides
    command: str


def stages(lpips: str) -> Iterator[Stage]:
    """All commands in order. ``lpips``: a file with the weights of LPIPS; empty: it is left out."""
    yield Stage("sample data", 0, 6, f"data_gen/sample.py {DATA}")
    yield Stage("preparing it", 0, 5, f"data_gen/preprocess_data.py {DATA}")
    trainer = "tasks/trainer.py --config configs/sample/{0}.yaml --exp_name demo/{0} --hparams {1}"
    for name, (title, steps) in TRAINED.items():
        keys = f"data_root={DATA},max_updates={steps},lr=0.001,decay_steps={steps // 4}"
        keys += OF_THE_FLOW if name.startswith("flow") else ""
        yield Stage(f"training {title}", 6000, 8, trainer.format(name, keys))
    for name in EVALUATED:
        keys = shlex.quote(f"data_root={DATA},lpips_weights={lpips or 'none'}")
        yield Stage(f"evaluating {name}", 200, 8, trainer.format(name, keys) + " --infer")
    place = f"--predict {DATA}/sen2/test/300000 --output {ROOT}/map.tif --overwrite"
    model = f"--config {ROOT}/hr_ltae/config.yaml --exp_name demo/hr_ltae"
    yield Stage("a map of one place", 100, 8, f"tasks/trainer.py {model} {place}")
    folders = " ".join(f"{ROOT}/{name}" for name in EVALUATED)
    yield Stage("comparing them", 0, 4, f"tasks/compare.py --patches 3 --output {ROOT}/comparison {folders}")


def main(options: argparse.Namespace) -> None:
    """Run all stages. Raises UserError where one fails; what it said stands in checkpoints/demo/demo.log."""
    from torch.utils.benchmark import Timer  # late: --help needs no torch

    cores = os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count()))
    product = Timer("a @ a", "a = torch.randn(1024, 1024)", num_threads=int(cores))
    speed = 2 * 1024**3 / product.blocked_autorange(min_run_time=1).median / 1e9
    planned = list(stages(options.lpips))
    total = sum(stage.seconds + stage.gflop / (0.5 * speed) for stage in planned)
    models = ", ".join(title for title, _ in TRAINED.values())
    sys.stdout.write(
        f"The demo makes artificial data, trains small models ({models}), compares them with bicubic interpolation "
        f"and makes a map.\nHere ({speed:.0f} GFLOP/s in float32) it takes about {total / 60:.0f} minutes.\n"
    )
    Path(ROOT).mkdir(parents=True, exist_ok=True)
    began, said = time.perf_counter(), ""
    with Path(ROOT, "demo.log").open("w", encoding="utf-8") as log:
        for stage in planned:
            sys.stdout.write(f"{stage.title} ... ")
            sys.stdout.flush()
            started = time.perf_counter()
            log.write(f"\n$ python {stage.command}\n")
            log.flush()
            command = [sys.executable, *shlex.split(stage.command)]
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=log, text=True)
            said = done.stdout
            log.write(said)
            sys.stdout.write(f"{time.perf_counter() - started:.0f} s\n")
            if done.returncode:
                raise UserError(f"the demo stopped at: {stage.title}; {ROOT}/demo.log says why")
    sys.stdout.write(
        f"{said}Done in {(time.perf_counter() - began) / 60:.1f} minutes. Look at {ROOT}/comparison/comparison.png, "
        f"{ROOT}/map_preview.png and {ROOT}/hr_ltae/report.html; the commands and what they said: {ROOT}/demo.log.\n"
    )


if __name__ == "__main__":
    parser = Parser(description=__doc__ or "")
    parser.add_argument("--lpips", default="", help="file with LPIPS weights (default: LPIPS is left out)")
    run(main, parser)
