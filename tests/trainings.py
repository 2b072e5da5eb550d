"""Trainings through the command line, as processes of their own that start quickly.

Most of a short training's time goes into importing torch. So a server process imports everything once, and each
training forks from it, then runs the script as `python tasks/trainer.py ...` would. It can be watched, signalled,
killed, and held to a largest file size, as any process.
"""

import csv
import multiprocessing
import os
import resource
import runpy
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tests.golden.large import ROOT
from utils.checkpoint import file_name

_CONTEXT = multiprocessing.get_context("forkserver")
_PRELOADED = """
    pytest tests.trainings tasks.commands tasks.training.loop tasks.scenes.predict utils.report.comparison torch._dynamo
    skimage.metrics data_gen.prepare data_gen.checks.rules data_gen.custom.build data_gen.synthetic.dataset
    utils.report.page matplotlib.backends.backend_svg PIL.ImageDraw PIL.PngImagePlugin""".split()  # noqa: SIM905


@dataclass(frozen=True)
class Finished:
    returncode: int
    stdout: str
    stderr: str

    def succeeded(self) -> "Finished":
        assert self.returncode == 0, self.stdout + self.stderr
        return self

    @property
    def error(self) -> str:
        """What went wrong: the last line, and no traceback."""
        assert "Traceback" not in self.stderr, self.stderr
        script, error, message = self.stderr.splitlines()[-1].partition(".py: error: ")
        assert script and error, self.stderr
        return message


class Process:
    """One command, running. It leads a process group of its own, as a shell's or a scheduler's jobs do.

    ``largest_file``: bytes that it may write to one file; ``more_memory``: bytes that it may take.
    """

    def __init__(
        self,
        script: str,
        *arguments: object,
        cwd: Path,
        environment: Mapping[str, str] | None = None,
        largest_file: int | None = None,
        more_memory: int | None = None,
    ) -> None:
        cwd.mkdir(parents=True, exist_ok=True)
        self._folder = tempfile.TemporaryDirectory(prefix="misr_")
        self._out, self._err = (Path(self._folder.name) / name for name in ("stdout", "stderr"))
        self._out.touch()
        variables = {**(environment or {}), "OMP_NUM_THREADS": "1"}
        limits = {"largest_file": largest_file, "more_memory": more_memory}
        command = ([script, *map(str, arguments)], cwd, variables, self._out, self._err)
        self._process = _CONTEXT.Process(target=_run, args=command, kwargs=limits)
        before = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = str(ROOT)  # for the server, when it starts
        try:
            _CONTEXT.set_forkserver_preload(_PRELOADED)
            self._process.start()
        finally:
            os.environ.pop("PYTHONPATH")
            if before is not None:
                os.environ["PYTHONPATH"] = before

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def stderr(self) -> str:
        return self._err.read_text() if self._err.exists() else ""

    @property
    def is_alive(self) -> bool:
        return self._process.is_alive()

    def wait(self, timeout: float = 300) -> Finished:
        self._process.join(timeout)
        if self._process.is_alive():
            self.send(signal.SIGKILL)
            self._process.join()
            raise AssertionError(f"still running after {timeout} s\n{self.stderr}")
        assert self._process.exitcode is not None
        return Finished(self._process.exitcode, self._out.read_text(), self.stderr)

    def send(self, number: int, *, group: bool = False) -> None:
        (os.killpg if group else os.kill)(self.pid, number)

    def wait_for(self, what: Path | str, *, timeout: float = 120) -> None:
        """Until a file exists, or stderr holds a text, or the process has ended."""
        deadline = time.monotonic() + timeout
        while self.is_alive and not (what.exists() if isinstance(what, Path) else what in self.stderr):
            assert time.monotonic() < deadline, f"waited in vain for {what}\n{self.stderr}"
            time.sleep(0.005)


def _run(
    arguments: list[str], cwd: Path, environment: dict[str, str], *outputs: Path,
    largest_file: int | None, more_memory: int | None,
) -> None:  # fmt: skip
    multiprocessing.set_start_method("fork", force=True)  # as in a process that was not forked
    os.setsid()
    os.chdir(cwd)
    os.environ.update(environment)
    for path, descriptor in zip(outputs, (1, 2), strict=True):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, descriptor)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
    torch.set_num_threads(1)
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    if more_memory is not None:
        now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + more_memory, now + more_memory))
    sys.argv = arguments
    runpy.run_path(str(ROOT / arguments[0]), run_name="__main__")


def run(script: str, *arguments: object, cwd: Path, **options: Any) -> Finished:
    return Process(script, *arguments, cwd=cwd, **options).wait()


def meeting(size: int) -> tuple[torch.distributed.TCPStore, list[dict[str, str]]]:
    """Where some processes meet, to be kept while they run, and the environment that torchrun gives each."""
    place = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = {
        **{"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(place.port)},
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    return place, [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(size)]


class Experiments:
    """Trainings of small models on one tiny data set, in a folder of the test's."""

    def __init__(self, root: Path, data: Path) -> None:
        self.root, self.data = root, data

    def folder(self, name: str) -> Path:
        return self.root / "checkpoints" / name

    def start(self, name: str, config: str = "rrdb", *, extra: tuple[object, ...] = (), **hparams: object) -> Process:
        """``hparams`` that name an option of Process are that."""
        own = ("environment", "largest_file", "more_memory")
        options: dict[str, Any] = {key: hparams.pop(key) for key in own if key in hparams}
        file, tiny = CONFIGS[config]
        values = {"data_root": self.data, **tiny, **hparams}
        return Process(
            "tasks/trainer.py",
            *("--config", ROOT / "configs" / file, "--exp_name", name, "--device", "cpu"),
            *("--hparams", ",".join(f"{key}={_text(value)}" for key, value in values.items()), *extra),
            cwd=self.root,
            **options,
        )

    def start_together(
        self, size: int, name: str, config: str = "rrdb", *, of_rank: Mapping[int, dict] | None = None, **options: Any
    ) -> list[Process]:
        """Processes that work together, with the environment that torchrun gives them; ``of_rank``: one's own keys."""
        self.meeting_place, environments = meeting(size)
        return [
            self.start(name, config, environment=environment, **{**options, **(of_rank or {}).get(rank, {})})
            for rank, environment in enumerate(environments)
        ]

    def train_together(self, size: int, name: str, config: str = "rrdb", **options: Any) -> list[Finished]:
        return [run.wait() for run in self.start_together(size, name, config, **options)]

    def train(self, name: str, config: str = "rrdb", **options: Any) -> Finished:
        return self.start(name, config, **options).wait()

    def infer(self, name: str, config: str = "rrdb", *, extra: tuple[object, ...] = (), **options: Any) -> Finished:
        options.setdefault("lpips_weights", self.data / "lpips.pt")
        return self.start(name, config, extra=("--infer", *extra), **options).wait().succeeded()

    def checkpoint(self, name: str, step: int) -> dict[str, Any]:
        return torch.load(self.folder(name) / file_name(step), weights_only=True)

    def column(self, name: str, column: str, table: str = "train_loss.csv") -> list[float]:
        """A figure in all rows of a log."""
        return [float(row[column]) for row in read_rows(self.folder(name) / table)]


# fmt: off
_TINY = {
    "batch_size": 2, "eval_batch_size": 2, "num_workers": 0, "max_updates": 12, "tb_log_interval": 4, "lr": 0.001,
    "val_check_interval": 6, "save_ckpt_interval": 5, "num_ckpt_keep": 3,
}
_SRDIFF = {**_TINY, "hidden_size": 8, "unet_dim_mults": "1|2", "timesteps": 10, "val_sampler_steps": 2}
_HR_LTAE = {**_TINY, "hidden_size": 16, "num_layers": 1, "sen2_amount": 3, "ltae_d_model": 32}
CONFIGS: dict[str, tuple[str, dict[str, object]]] = {
    "rrdb": ("rrdb/rrdb.yaml", {**_TINY, "hidden_size": 8, "num_block": 2}),
    "hr_ltae": ("misr/misr_pretrain.yaml", _HR_LTAE),
    "srdiff": ("diffsr_sat.yaml", _SRDIFF),
    "flow": ("flow_rrdb.yaml", {**_SRDIFF, "sampler_steps": 2}),
}
# fmt: on


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file, such as the project writes."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter=";"))


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def same(a: Any, b: Any) -> bool:
    """Whether two checkpoints, or parts of them, are the same to the last bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b
