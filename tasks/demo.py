"""The demo: artificial data, three small models, their evaluation and a map, each by a command that is shown."""

import argparse
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

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

GFLOP, SECONDS = 18_900, 80  # of all commands together: what their networks compute, and what they take besides


def stages(lpips: str) -> Iterator[tuple[str, str]]:
    """Titles and commands in order. ``lpips``: a file with the weights of LPIPS; empty: it is left out."""
    yield "sample data", f"data_gen/sample.py {DATA}"
    yield "preparing it", f"data_gen/preprocess_data.py {DATA}"
    trainer = "tasks/trainer.py --config configs/sample/{0}.yaml --exp_name demo/{0} --hparams {1}"
    for name, (title, steps) in TRAINED.items():
        keys = f"data_root={DATA},max_updates={steps},lr=0.001,decay_steps={steps // 4}"
        yield f"training {title}", trainer.format(name, keys + (OF_THE_FLOW if name.startswith("flow") else ""))
    for name in EVALUATED:
        keys = shlex.quote(f"data_root={DATA},lpips_weights={lpips or 'none'}")
        yield f"evaluating {name}", trainer.format(name, keys) + " --infer"
    place = f"--predict {DATA}/sen2/test/300000 --output {ROOT}/map.tif --overwrite"
    yield "a map of one place", f"tasks/trainer.py --config {ROOT}/hr_ltae/config.yaml --exp_name demo/hr_ltae {place}"
    folders = " ".join(f"{ROOT}/{name}" for name in EVALUATED)
    yield "comparing them", f"tasks/compare.py --patches 3 --output {ROOT}/comparison {folders}"


def main(options: argparse.Namespace) -> None:
    """Run all stages. Raises UserError where one fails; what it said stands in checkpoints/demo/demo.log."""
    os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count()))
    from torch import get_num_threads  # late: --help needs no torch
    from torch.utils.benchmark import Timer

    product = Timer("a @ a", "import torch; a = torch.randn(1024, 1024)", num_threads=get_num_threads())
    speed = 2 * 1024**3 / product.blocked_autorange(min_run_time=1).median / 1e9
    minutes = (SECONDS + GFLOP / (0.5 * speed)) / 60
    models = ", ".join(title for title, _ in TRAINED.values())
    sys.stdout.write(
        f"The demo makes artificial data, trains small models ({models}), compares them with bicubic interpolation "
        f"and makes a map.\nHere ({speed:.0f} GFLOP/s in float32) it takes about {minutes:.0f} minutes.\n"
    )
    Path(ROOT).mkdir(parents=True, exist_ok=True)
    began, said = time.perf_counter(), ""
    with Path(ROOT, "demo.log").open("w", encoding="utf-8") as log:
        for title, command in stages(options.lpips):
            sys.stdout.write(f"{title} ... ")
            sys.stdout.flush()
            started = time.perf_counter()
            log.write(f"\n$ python {command}\n")
            log.flush()
            arguments = [sys.executable, *shlex.split(command)]
            done = subprocess.run(arguments, stdout=subprocess.PIPE, stderr=log, text=True)
            said = done.stdout
            log.write(said)
            sys.stdout.write(f"{time.perf_counter() - started:.0f} s\n")
            if done.returncode:
                raise UserError(f"the demo stopped at: {title}; {ROOT}/demo.log says why")
    sys.stdout.write(
        f"{said}Done in {(time.perf_counter() - began) / 60:.1f} minutes. Look at {ROOT}/comparison/comparison.png, "
        f"{ROOT}/map_preview.png and {ROOT}/hr_ltae/report.html; the commands and what they said: {ROOT}/demo.log.\n"
    )


if __name__ == "__main__":
    parser = Parser(description=__doc__ or "")
    parser.add_argument("--lpips", default="", help="file with LPIPS weights (default: LPIPS is left out)")
    run(main, parser)
