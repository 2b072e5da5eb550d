"""Training steps of the reference implementation, replayed: the same losses and the same weights after Adam."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.base import RandomKey, Task, series_of
from tasks.build import build_task
from tasks.srdiff import SRDiffTask
from tests.golden.large import Golden, names
from utils.checkpoint import load_weights, read_training
from utils.config.parse import read_file, settings_from, translate
from utils.dataloader import Batch

EXPERIMENTS = sorted({name.split("/")[0] for name in names("12_*/replay.pt")})


def batch_of(raw: dict[str, Any], *, dtype: torch.dtype = torch.float32) -> Batch:
    lr = raw["img_lr"].to(dtype)
    lr = lr if lr.dim() == 5 else lr[:, None]  # (B, T, C, h, w)
    shape = lr.shape[:2]
    dates = raw["dates_encoding"].to(dtype) if "dates_encoding" in raw else torch.zeros(shape, dtype=dtype)
    mask = raw["alphas"].bool() if "alphas" in raw else torch.ones(shape, dtype=torch.bool)
    base, hr = raw["img_lr_up"].to(dtype), raw["img_hr"].to(dtype)
    indices = torch.arange(len(lr))
    return Batch(lr, dates, mask, base, hr, keys=indices.tolist(), indices=indices, near=dates.abs().argmin(dim=1))


def task_of(folder: Path, state: dict[str, torch.Tensor]) -> tuple[Task, float]:
    settings = settings_from(translate(read_file(folder / "config.yaml"), source=folder.name), source=folder.name)
    task = build_task(settings)
    load_weights(task.model, state, source=folder)
    for module in task.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return task.train(), settings.training.lr


def losses_of(task: Task, replay: dict[str, Any], step: int, *, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    batch = batch_of(replay["inputs"]["batches"][step], dtype=dtype)
    if isinstance(task, SRDiffTask):
        terms = task.model.training_losses(
            series_of(batch),
            batch.hr,
            t=replay["inputs"]["t"][step],
            noise=replay["inputs"]["noise"][step].to(dtype),
            loss_type=task.loss_type,
        )
    else:
        terms = task(batch, RandomKey(0, step, batch.indices))
    return torch.stack(list(terms.values())).sum()


def replayed(golden: Golden, name: str, *, dtype: torch.dtype = torch.float32) -> tuple[Task, list[float], dict]:
    replay = golden.load(f"{name}/replay.pt")
    task, lr = task_of(golden.path(name), replay["state_dict"])
    task.to(dtype)
    optimizer = torch.optim.Adam(task.trainable(), lr=lr, fused=True)
    losses, first_gradients = [], {}
    for step in range(len(replay["outputs"]["losses"])):
        for group in optimizer.param_groups:
            group["lr"] = lr * task.decay.decay_factor ** (step // task.decay.decay_steps)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(replay["outputs"]["lr_after"][step])
        optimizer.zero_grad()
        loss = losses_of(task, replay, step, dtype=dtype)
        loss.backward()
        losses.append(loss.item())
        first_gradients = first_gradients or {
            n: p.grad.norm().item() for n, p in task.model.named_parameters() if p.grad is not None
        }
        optimizer.step()
    return task, losses, first_gradients


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_losses_and_weights(golden: Golden, name: str) -> None:
    outputs = golden.load(f"{name}/replay.pt")["outputs"]
    task, losses, _ = replayed(golden, name)
    sharp = "NOT comparable" not in golden.index[f"{name}/replay.pt"]["tolerance"]
    assert losses[0] == pytest.approx(outputs["losses"][0], rel=1e-5)
    assert losses == pytest.approx(outputs["losses"], rel=1e-5 if sharp else 1e-3)
    if not sharp:
        return
    saved = read_training(next(golden.path(name).glob("model_ckpt_steps_*.ckpt")))["state_dict"]["model"]
    ours = task.model.state_dict()
    differences = torch.cat([(ours[n].double() - saved[n].double()).abs().flatten() for n in saved])
    assert differences.max() < 2e-6
    assert differences.mean() < 1e-8


@pytest.mark.parametrize("name", sorted({name.split("/")[0] for name in names("12_*/replay64.pt")}))
def test_replay_in_double_precision(golden: Golden, name: str) -> None:
    outputs = golden.load(f"{name}/replay64.pt")["outputs"]
    task, losses, gradients = replayed(golden, name, dtype=torch.float64)
    assert losses == pytest.approx(outputs["losses"], rel=1e-8)
    zero = set(outputs["zero_grad"])
    for parameter, norm in outputs["grad_norms"].items():
        if parameter not in zero:
            assert gradients[parameter] == pytest.approx(norm, rel=1e-6), parameter
    state = task.model.state_dict()
    compared = 0
    for parameter, expected in outputs["after"].items():
        if parameter in zero or not state[parameter].is_floating_point():
            continue
        value, first = state[parameter].flatten(), torch.as_tensor(expected["first"], dtype=torch.float64)
        torch.testing.assert_close(value[: len(first)], first, rtol=1e-5, atol=1e-12, msg=parameter)
        assert value.norm().item() == pytest.approx(float(expected["norm"]), rel=1e-5)
        assert value.sum().item() == pytest.approx(float(expected["sum"]), rel=1e-5, abs=1e-8)
        compared += 1
    assert compared
