"""Saved after any step and restored, a training goes on to the last bit as if nothing had happened."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.build import build_task
from tasks.training.state import TrainState
from tests.trainings import CONFIGS, same
from utils.config.parse import load_chain, settings_from
from utils.config.settings import Model, Settings
from utils.dataloader import BreizhSRDataset, training_loader
from utils.distributed import World
from utils.errors import TrainingError

pytestmark = pytest.mark.slow

STEPS = 6  # of two samples, of seven: the second epoch starts within the fourth batch


def settings_of(config: str, **hparams: object) -> Settings:
    file, tiny = CONFIGS[config]
    settings = settings_from({**load_chain(Path("configs") / file), **tiny, **hparams}, source=file)
    if config == "srdiff":
        settings = replace(settings, backbone=Model(trainer_cls="rrdb", hidden_size=8, num_block=2))
    return settings


def train_state(settings: Settings, root: Path) -> TrainState:
    data = BreizhSRDataset(root, "train", sen2_amount=settings.data.sen2_amount)
    torch.manual_seed(settings.training.seed)
    world = World(torch.device("cpu"))
    return TrainState(build_task(settings), settings, data=data, world=world)


def trained(state: TrainState, steps: int) -> dict[str, Any]:
    training = state.settings.training
    loader = training_loader(
        state.data,
        batch_size=training.batch_size,
        seed=training.seed,
        start_step=state.step * training.accumulate_grad_batches,
        stop_step=STEPS * training.accumulate_grad_batches,
        train_crop=state.settings.data.train_crop,
    )
    batches = iter(loader)
    for _ in range(steps):
        state.train_step(batches)
    return saved_and_read(state)


def saved_and_read(state: TrainState) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state.content(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize(
    ("config", "hparams"),
    [
        ("rrdb", {"train_crop": 10, "augment": ["flips", "turns"], "ema_decay": 0.9}),
        ("rrdb", {"amp": "fp16", "channels_last": True, "warmup_steps": 4}),
        ("hr_ltae", {"augment": ["drop_dates", "shuffle_dates"], "ema_decay": 0.5}),  # with dropout and BatchNorm
        ("hr_ltae", {"amp": "bf16", "accumulate_grad_batches": 2, "clip_grad_norm": 0.1}),
        ("srdiff", {"ema_decay": 0.9, "amp": "bf16"}),
        ("srdiff", {"fix_rrdb": False, "aux_ssim_loss": True, "use_attn": True}),
    ],
)
def test_restored_after_any_step(tiny_data: Path, config: str, hparams: dict[str, object]) -> None:
    settings = settings_of(config, **hparams)
    unstopped = train_state(settings, tiny_data)
    contents = [saved_and_read(unstopped), *(trained(unstopped, 1) for _ in range(STEPS))]
    assert not same(contents[0]["state_dict"], contents[1]["state_dict"])
    for stop in range(STEPS):
        resumed = train_state(settings, tiny_data)
        resumed.restore(contents[stop], source=Path("there"))
        ahead = min(2, STEPS - stop)
        assert same(trained(resumed, ahead), contents[stop + ahead]), f"stopped after step {stop}"


@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
def test_what_is_not_finite_changes_no_weight(tiny_data: Path, amp: str) -> None:
    state = train_state(settings_of("rrdb", amp=amp, ema_decay=0.9), tiny_data)
    trained(state, 1)
    state.check_finite()
    before = saved_and_read(state)
    with torch.no_grad():
        state.parameters[0][0, 0, 0, 0] = torch.nan
    poisoned = [parameter.detach().clone() for parameter in state.parameters]
    trained(state, 2)
    for parameter, value in zip(state.parameters, poisoned, strict=True):
        torch.testing.assert_close(parameter, value, rtol=0, atol=0, equal_nan=True)
    for index, entry in before["optimizer_states"][0]["state"].items():
        now = state.optimizer.state_dict()["state"][index]
        assert torch.equal(now["exp_avg"], entry["exp_avg"]), "neither does the optimiser take it in"
        assert now["step"] == entry["step"]
    with pytest.raises(TrainingError, match=r"step 2 \(l1 nan, gradient norm nan\), samples \d+, \d+;"):
        state.check_finite()


def test_gradients_that_overflow_for_ever_stop_fp16(tiny_data: Path) -> None:
    state = train_state(settings_of("rrdb", amp="fp16"), tiny_data)
    state.guard.watch(0, torch.ones(1), torch.tensor(torch.inf))
    state.check_finite()  # the scaler's business
    for step in range(1, 30):
        state.guard.watch(step, torch.ones(1), torch.tensor(torch.inf))
    state.term_names = ["l1"]
    with pytest.raises(TrainingError, match=r"step 21 \(l1 1, gradient norm inf\)"):
        state.check_finite()


def test_batches_of_a_step_add_up(tiny_data: Path) -> None:
    """accumulate_grad_batches: an optimiser step sees batch_size times that many samples."""
    one = trained(train_state(settings_of("rrdb", batch_size=4), tiny_data), 3)
    parts = trained(train_state(settings_of("rrdb", batch_size=2, accumulate_grad_batches=2), tiny_data), 3)
    assert torch.allclose(one["log"]["summed"], parts["log"]["summed"], rtol=1e-4)
    for name, value in one["state_dict"]["model"].items():
        assert torch.allclose(value, parts["state_dict"]["model"][name], atol=1e-4), name


def test_averaged_weights_follow_the_weights(tiny_data: Path) -> None:
    state = train_state(settings_of("hr_ltae", ema_decay=0.6), tiny_data)
    expected = {name: value.double() for name, value in state.task.model.state_dict().items()}
    for step in range(1, 5):
        trained(state, 1)
        decay = min(0.6, (1 + step) / (10 + step))
        for name, value in state.task.model.state_dict().items():
            average = value.is_floating_point()
            expected[name] = decay * expected[name] + (1 - decay) * value if average else value.double()
    assert state.averaged is not None
    for name, value in state.averaged.state.items():
        assert torch.allclose(value.double(), expected[name], rtol=1e-5, atol=1e-7), name
    own = saved_and_read(state)
    with state.averaged_weights() as task:
        assert same(dict(task.model.state_dict()), dict(state.averaged.state))
    assert same(saved_and_read(state), own)


def test_losses_say_what_they_are_made_of(tiny_data: Path) -> None:
    state = train_state(settings_of("srdiff", fix_rrdb=False, aux_ssim_loss=True, warmup_steps=10), tiny_data)
    trained(state, 2)
    means = state.means()
    assert list(means) == ["loss", "q", "aux_l1", "aux_ssim", "grad_norm", "lr"]
    assert means["loss"] == pytest.approx(means["q"] + means["aux_l1"] + means["aux_ssim"])
    assert means["lr"] == pytest.approx(0.001 * 2 / 10)
    assert means["grad_norm"] > 0


def test_frozen_norms_keep_their_statistics(tiny_data: Path) -> None:
    states = [train_state(settings_of("hr_ltae", freeze_norm=frozen), tiny_data) for frozen in (False, True)]
    moved = []
    for state in states:
        before = {name: buffer.clone() for name, buffer in state.task.named_buffers() if "running" in name}
        trained(state, 2)
        moved.append([not torch.equal(before[name], dict(state.task.named_buffers())[name]) for name in before])
    assert all(moved[0]) and not any(moved[1])
