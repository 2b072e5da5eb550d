"""The demo: artificial data, three small models, their evaluation and a map, each by a command that is shown."""

import argparse
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple, TextIO

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from utils.cli import Parser, run
from utils.errors import UserError

ROOT = Path("checkpoints/demo")
DATA = Path("data/sample")
TRAINED = {
    "rrdb": ("RRDB, on one image", 220),
    "hr_ltae": ("HighRes-net + L-TAE, on a series", 220),
    "flow_hr_ltae": ("a flow on it", 200),
}


class Stage(NamedTuple):
    """A command of the demo."""

    title: str
    gflop: float  # what its networks compute; 0: it computes with none
    seconds: float  # what it takes besides
    arguments: list[str]


def stages(lpips: str) -> list[Stage]:
    """All commands in order. ``lpips``: a file with the weights of LPIPS; empty: it is left out."""
    trainer = ["tasks/trainer.py", "--config"]
    sample = ["data_gen/sample.py", str(DATA)]
    found = [
        Stage("sample data", 0, 6, sample),
        Stage("preparing it", 0, 5, ["data_gen/preprocess_data.py", str(DATA)]),
    ]
    for name, (title, steps) in TRAINED.items():
        keys = f"data_root={DATA},max_updates={steps},lr=0.001,decay_steps={steps // 4}"
        if name.startswith("flow"):
            # A flow trained so briefly leaves noise. From the backbone's image it adds detail in two steps.
            keys += f",rrdb_ckpt={ROOT / 'hr_ltae'},sample_from=backbone,sample_start=20,sampler_steps=2"
        found.append(
            Stage(
                f"training {title}", 6000, 8, [*trainer, _config(name), "--exp_name", f"demo/{name}", "--hparams", keys]
            )
        )
    for name in ("bicubic", *TRAINED):
        keys = f"data_root={DATA},lpips_weights={lpips or 'none'}"
        infer = [*trainer, _config(name), "--exp_name", f"demo/{name}", "--infer", "--hparams", keys]
        found.append(Stage(f"evaluating {name}", 200, 8, infer))
    folders = [str(ROOT / name) for name in ("bicubic", *TRAINED)]
    compare = ["tasks/compare.py", "--patches", "3", "--output", str(ROOT / "comparison"), *folders]
    return [*found, Stage("comparing them", 0, 4, compare)]


def _config(name: str) -> str:
    return f"configs/sample/{name}.yaml"


def float32_product() -> float:
    """GFLOP/s of float32 matrix products here, in a trial of a second."""
    import torch

    a = torch.randn(1024, 1024)
    a @ a  # the first one sets up threads
    started, rounds = time.perf_counter(), 0
    while time.perf_counter() - started < 1:
        a @ a
        rounds += 1
    return rounds * 2 * 1024**3 / (time.perf_counter() - started) / 1e9


def _map_stage() -> Stage:
    series = sorted((DATA / "sen2" / "test").iterdir())[0]
    model = ROOT / "hr_ltae" / "config.yaml"
    arguments = ["tasks/trainer.py", "--config", str(model), "--exp_name", "demo/hr_ltae"]
    output = ["--predict", str(series), "--output", str(ROOT / "map.tif"), "--overwrite"]
    return Stage("a map of one place", 100, 8, [*arguments, *output])


def main(options: argparse.Namespace) -> None:
    """Run all stages. Raises UserError where one fails; what it said stands in checkpoints/demo/demo.log."""
    os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count()))
    speed = float32_product()
    planned = stages(options.lpips)
    total = sum(stage.seconds + stage.gflop / (0.5 * speed) for stage in planned)
    models = ", ".join(title for title, _ in TRAINED.values())
    sys.stdout.write(
        f"The demo makes artificial data, trains small models ({models}), compares them with bicubic interpolation "
        f"and makes a map.\nHere ({speed:.0f} GFLOP/s in float32) it takes about {total / 60:.0f} minutes.\n"
    )
    ROOT.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    with (ROOT / "demo.log").open("w", encoding="utf-8") as log:
        for stage in planned:
            said = _done(stage, log)
        sys.stdout.write(said)
        _done(_map_stage(), log)
    minutes = (time.perf_counter() - started) / 60
    sys.stdout.write(
        f"Done in {minutes:.1f} minutes. Look at {ROOT / 'comparison' / 'comparison.png'}, {ROOT / 'map_preview.png'} "
        f"and {ROOT / 'hr_ltae' / 'report.html'}; the commands and what they said: {ROOT / 'demo.log'}.\n"
    )


def _done(stage: Stage, log: TextIO) -> str:
    """Run a stage; what it wrote to stdout."""
    sys.stdout.write(f"{stage.title} ... ")
    sys.stdout.flush()
    started = time.perf_counter()
    log.write(f"\n$ python {shlex.join(stage.arguments)}\n")
    log.flush()
    done = subprocess.run([sys.executable, *stage.arguments], stdout=subprocess.PIPE, stderr=log, text=True)
    log.write(done.stdout)
    sys.stdout.write(f"{time.perf_counter() - started:.0f} s\n")
    if done.returncode:
        raise UserError(f"the demo stopped at: {stage.title}; {ROOT / 'demo.log'} says why")
    return done.stdout


if __name__ == "__main__":
    parser = Parser(description=__doc__ or "")
    parser.add_argument("--lpips", default="", help="file with LPIPS weights (default: LPIPS is left out)")
    run(main, parser)
