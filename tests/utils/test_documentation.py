"""docs/training.md says what there is: every key, and a Slurm script that does what it says."""

import dataclasses
import os
import re
import signal
import subprocess
import time
import types
import typing
from pathlib import Path

import pytest

from tests.golden.large import ROOT
from utils.cli import VERSION
from utils.config.settings import ARCHITECTURE, KEYS, SECTIONS

DOCUMENT = ROOT / "docs" / "training.md"
BEFORE = "<!-- keys: `python -m tests.utils.test_documentation` writes this table -->\n"
AFTER = "<!-- end of keys -->\n"


def values(kind: object) -> str:
    """What a key may hold."""
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        return ", ".join(values(part) for part in typing.get_args(kind) if part is not type(None))
    if typing.get_origin(kind) is tuple:
        return "list"
    if typing.get_origin(kind) is typing.Literal:
        return ", ".join(f"`{choice}`" for choice in typing.get_args(kind))
    return {int: "integer", float: "number", bool: "`true`, `false`", str: "text"}[kind]  # type: ignore[index]


def default(value: object) -> str:
    if value is None or value in ("", ()):
        return ""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return f"`{text}`".replace("|", "\\|")


def table() -> str:
    lines = []
    for name, section in SECTIONS.items():
        hints = typing.get_type_hints(section)
        lines += [
            f"\n**{name}**: {(section.__doc__ or '').splitlines()[0]}\n",
            "| key | default | values | meaning |",
            "|---|---|---|---|",
        ]
        for field in dataclasses.fields(section):
            item = KEYS[field.name][1]
            star = "\\*" if field.name in ARCHITECTURE else ""
            meaning = (item.description or "").replace("|", "\\|")
            lines.append(
                f"| `{field.name}`{star} | {default(item.default)} | {values(hints[field.name])} | {meaning} |"
            )
    return "\n".join(lines) + "\n\n"


def parts() -> tuple[str, str, str]:
    text = DOCUMENT.read_text()
    start, end = text.index(BEFORE) + len(BEFORE), text.index(AFTER)
    return text[:start], text[start:end], text[end:]


def test_every_key_is_there_and_says_something() -> None:
    assert parts()[1] == table(), "run `python -m tests.utils.test_documentation`"
    for name, (_, item) in KEYS.items():
        assert 8 < len(item.description or "") < 120 and "\n" not in (item.description or ""), name


SLURM = {
    "srun": """echo "srun $*" >> calls
trap 'echo asked >> calls; sleep 0.5; echo saved >> calls; exit 1' TERM
echo $$ > training.pid
while :; do sleep 0.05; done""",
    "scancel": 'echo "scancel $*" >> calls\nkill -TERM "$(cat training.pid)"',
    "scontrol": '[ "$1" = show ] && echo node1 && exit\necho "scontrol $*" >> calls',
}


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_the_job_saves_and_queues_itself_once(tmp_path: Path, number: signal.Signals) -> None:
    """Its time is over: it asks for the save, then queues itself. Preempted: Slurm signals both, and queues it."""
    text = re.search(r"```bash\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert text is not None
    (tmp_path / "job.sh").write_text(text[1])
    for name, script in SLURM.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{script}\n")
        (tmp_path / name).chmod(0o755)
    environment = {"SLURM_JOB_ID": "7", "SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "node[1-2]"}
    environment["PATH"] = f"{tmp_path}:{os.environ['PATH']}"
    with subprocess.Popen(["bash", "job.sh"], cwd=tmp_path, env=environment) as job:
        deadline = time.monotonic() + 30
        while not (tmp_path / "training.pid").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(0.3)
        job.send_signal(number)
        if number == signal.SIGTERM:
            os.kill(int((tmp_path / "training.pid").read_text()), signal.SIGTERM)
        code = job.wait(30)
    first, *calls = (tmp_path / "calls").read_text().splitlines()
    assert first.startswith("srun torchrun --nnodes 2 --nproc_per_node 4 ") and "--reset" not in first
    assert "--rdzv_endpoint node1:29500 --rdzv_id 7 tasks/trainer.py" in first
    if number == signal.SIGTERM:
        assert calls == ["asked", "saved"]
    else:
        assert code == 0 and calls == ["scancel --signal=TERM 7", "asked", "saved", "scontrol requeue 7"]


def test_the_change_log_is_of_this_version() -> None:
    headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert headings[0] == VERSION


if __name__ == "__main__":
    before, _, after = parts()
    DOCUMENT.write_text(before + table() + after)
