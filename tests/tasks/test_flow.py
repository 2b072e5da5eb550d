"""A straight flow through the command line: it trains, goes on, shares work and is evaluated like everything else."""

from typing import Any

import pytest
import torch

from tasks.base import RandomKey
from tasks.build import build_task
from tasks.srdiff import SRDiffTask
from tests.trainings import Experiments, same
from utils.config.parse import settings_from
from utils.errors import ConfigError

TRAINING: dict[str, object] = {"max_updates": 8, "tb_log_interval": 1, "val_check_interval": 4, "ema_decay": 0.9}


def flow_task(**keys: object) -> SRDiffTask:
    flow = {"trainer_cls": "srdiff", "process": "flow", "hidden_size": 8, "unet_dim_mults": "1|2", "timesteps": 100}
    sampling = {"sampler": "ddim", "sampler_steps": 4, "backbone": {"trainer_cls": "bicubic"}}
    task = build_task(settings_from({**flow, **sampling, **keys}, source="test"))
    assert isinstance(task, SRDiffTask)
    return task


@pytest.fixture
def flow(unstopped: Experiments) -> dict[str, object]:
    """Keys of a flow's training, whose conditioner is trained once."""
    if not unstopped.folder("backbone").exists():
        unstopped.train("backbone", "rrdb", max_updates=2).succeeded()
    return {**TRAINING, "rrdb_ckpt": unstopped.folder("backbone")}


@pytest.mark.parametrize("keys", [{}, {"shortcut": True, "amp": "auto"}, {"flow_base": "backbone", "source_std": 0.4}])
def test_it_goes_on_to_the_last_bit(experiments: Experiments, flow: dict[str, object], keys: dict[str, Any]) -> None:
    options = {**flow, **keys, "batch_size": 4}
    experiments.train("whole", "flow", **options).succeeded()
    experiments.train("parts", "flow", **{**options, "max_updates": 4}).succeeded()
    experiments.train("parts", "flow", **options).succeeded()
    assert same(experiments.checkpoint("parts", 8), experiments.checkpoint("whole", 8))
    for name in ("train_loss.csv", "val_res.csv"):
        assert len({(experiments.folder(folder) / name).read_text() for folder in ("whole", "parts")}) == 1
    experiments.infer("whole", "flow", **options, samples=2)
    assert (experiments.folder("whole") / "test_results.csv").read_text().count("\n") == 4


def test_weights_of_a_diffusion_start_a_flow(experiments: Experiments, flow: dict[str, object]) -> None:
    del flow["ema_decay"]
    experiments.train("diffusion", "srdiff", **{**flow, "max_updates": 2}).succeeded()
    start = experiments.folder("diffusion")
    done = experiments.train("flow", "flow", **{**flow, "max_updates": 0}, init_from=start).succeeded()
    assert "new: none" in done.stderr
    before = experiments.checkpoint("diffusion", 2)["state_dict"]["model"]
    after = experiments.checkpoint("flow", 0)["state_dict"]["model"]
    assert after and all(torch.equal(value, before[name]) for name, value in after.items())


@pytest.mark.parametrize("count", [4, 8, 30])
def test_times_lie_in_strata(count: int) -> None:
    """Whatever the number of samples, each part of (0, 1] gets its share of them."""
    task = flow_task()
    for step in range(20):
        t, sizes = task.draw_times(RandomKey(1, step, torch.arange(count)))
        assert sizes is None
        assert t.min() > 0 and t.max() <= 100
        gaps = t.sort().values.diff(prepend=t.min()[None] - 1)
        assert gaps.max() < 2.7 * 100 / count


def test_shortcuts_are_drawn_for_a_share_of_the_batch() -> None:
    task = flow_task(shortcut=True)
    t, sizes = task.draw_times(RandomKey(1, 0, torch.arange(400)))
    assert sizes is not None
    learned = sizes > 0
    assert learned.sum() == 100
    assert set(sizes[learned].tolist()) == {100, 50, 25, 12.5}
    assert (t[learned] % sizes[learned] == 0).all()  # whole numbers of steps from the clean image
    assert (t[learned] >= sizes[learned]).all()


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"process": "diffusion", "shortcut": True}, "shortcut"),
        ({"process": "diffusion", "source_std": 0.5}, "source_std"),
        ({"sampler": "midpoint", "sampler_steps": 3}, "even"),
        ({"sample_from": "backbone", "sample_start": 100}, "sample_start"),
        ({"sampler_steps": 101}, "1 to 100"),
    ],
)
def test_what_does_not_go_together(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        flow_task(**keys)


def test_steps_of_learned_sizes_are_taken_as_shortcuts() -> None:
    assert flow_task(shortcut=True, sampler_steps=1).step_size == 100
    assert flow_task(shortcut=True, sampler_steps=4).step_size == 25
    for keys in ({"sampler_steps": 3}, {"sampler": "midpoint"}, {"sample_from": "backbone", "sample_start": 40}):
        assert flow_task(shortcut=True, **keys).step_size == 0
    assert flow_task().step_size == 0
