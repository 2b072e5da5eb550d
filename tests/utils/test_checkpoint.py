"""Checkpoints: whole or not there, checked when read, and what of them is loaded."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.soak import examples
from tests.trainings import same
from utils import checkpoint
from utils.checkpoint import (
    BEST,
    DamagedCheckpoint,
    checkpoints,
    file_name,
    newest,
    open_saved,
    read_training,
    set_damaged_aside,
    write,
)
from utils.errors import CheckpointError


def content_of(step: int, **more: Any) -> dict[str, Any]:
    torch.manual_seed(step)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(2, 3, 5, 5)).sum().backward()
    optimizer.step()
    return {
        "format_version": 1,
        "global_step": step,
        "state_dict": {"model": model.state_dict()},
        "optimizer_states": [optimizer.state_dict()],
        **more,
    }


def folder_with(folder: Path, *numbers: int) -> Path:
    for step in numbers:
        write(folder / file_name(step), content_of(step))
    return folder


def test_what_is_written_is_read(tmp_path: Path) -> None:
    content = content_of(7, log={"names": ["l1"], "summed": torch.ones(3)})
    write(tmp_path / "new" / file_name(7), content)
    assert same(read_training(tmp_path / "new" / file_name(7)), content)
    assert [path.name for path in (tmp_path / "new").iterdir()] == [file_name(7)]
    again = tmp_path / "another name"
    write(again, content)
    assert again.read_bytes() == (tmp_path / "new" / file_name(7)).read_bytes(), "equal content gives equal files"


def test_the_newest_has_the_highest_step(tmp_path: Path) -> None:
    folder_with(tmp_path, 900, 1000, 99)
    (tmp_path / "model_ckpt_steps_5000.ckpt.damaged").touch()
    (tmp_path / "model_ckpt_steps_x.ckpt").touch()
    found = newest(tmp_path)
    assert found[0].name == file_name(1000)
    assert list(checkpoints(tmp_path)) == [99, 900, 1000]
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        newest(tmp_path / "nowhere")


@settings(max_examples=examples(50))
@given(data=st.data())
def test_damage_of_any_kind_is_noticed(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """A file that isn't what was written is refused, or says exactly the same (bytes that mean nothing)."""
    folder = tmp_path_factory.getbasetemp() / "damage"
    path = folder / file_name(3)
    expected = content_of(3)
    write(path, expected)
    content = bytearray(path.read_bytes())
    kind = data.draw(st.sampled_from(["truncated", "flipped", "overwritten"]))
    if kind == "truncated":
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    elif kind == "flipped":
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    else:
        start = data.draw(st.integers(0, len(content) - 1))
        content[start : start + 512] = b"\0" * len(content[start : start + 512])
    path.write_bytes(content)
    try:
        found = read_training(path)
    except CheckpointError as error:
        assert isinstance(error, DamagedCheckpoint), error
        assert "\n" not in str(error)
    else:
        assert kind != "truncated"
        assert same(found, expected)


def test_damaged_ones_are_reported_and_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder_with(tmp_path, 1, 2, 3, 4)
    (tmp_path / file_name(4)).write_bytes(b"")
    (tmp_path / file_name(3)).write_bytes((tmp_path / file_name(3)).read_bytes()[:2000])
    found = newest(tmp_path)
    assert found[1]["global_step"] == 2
    said = caplog.messages
    assert [file_name(4) in said[0], file_name(3) in said[1], len(said)] == [True, True, 2]
    assert list(checkpoints(tmp_path)) == [1, 2, 3, 4], "who only reads changes nothing"
    set_damaged_aside(tmp_path, after=2)
    assert list(checkpoints(tmp_path)) == [1, 2]


def test_a_damaged_newest_one_is_not_what_is_kept(tmp_path: Path) -> None:
    """With one to keep: a damaged one of a later step must not push out all that are whole."""
    folder_with(tmp_path, 10, 20, 30)
    (tmp_path / file_name(30)).write_bytes(b"")
    set_damaged_aside(tmp_path, after=newest(tmp_path)[1]["global_step"])
    write(tmp_path / file_name(25), content_of(25))
    checkpoint.prune(tmp_path, keep=1)
    assert list(checkpoints(tmp_path)) == [25]


def test_the_best_one_is_the_last_resort(tmp_path: Path) -> None:
    folder_with(tmp_path, 3)
    write(tmp_path / BEST, content_of(2))
    (tmp_path / file_name(3)).write_bytes(b"")
    found = newest(tmp_path)
    assert found[1]["global_step"] == 2
    assert not checkpoint.is_empty(tmp_path)


def test_nothing_is_whole(tmp_path: Path) -> None:
    folder_with(tmp_path, 3)
    (tmp_path / file_name(3)).write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"no checkpoint in (.+) is readable"):
        newest(tmp_path)
    assert (tmp_path / file_name(3)).exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"format_version": 2}, "has format 2, newer than this code"),
        ({"global_step": "3"}, "is no training checkpoint"),
        ({"state_dict": {"model": {"x": 1}}}, "is no training checkpoint"),
        ({"state_dict": {}}, "is no training checkpoint"),
    ],
)
def test_what_is_not_damaged_but_wrong_is_not_passed_over(tmp_path: Path, content: dict, message: str) -> None:
    """A newer version of the code wrote it: going back to an older checkpoint would lose what it did."""
    folder_with(tmp_path, 2)
    write(tmp_path / file_name(3), content_of(3, **content))
    with pytest.raises(CheckpointError, match=message):
        newest(tmp_path)


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder_with(tmp_path, 3) / file_name(3)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("utils.files.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write(path, content_of(4))
    assert path.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [file_name(3)]


def test_leftovers_of_a_killed_save_are_removed_and_nothing_else(tmp_path: Path) -> None:
    folder_with(tmp_path, 3)
    for name in (".model_ckpt_steps_4.ckpt.77.tmp", ".model_ckpt_best.ckpt.77.tmp", ".summary.json.77.tmp"):
        (tmp_path / name).touch()
    checkpoint.remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".summary.json.77.tmp", file_name(3)]


def test_the_oldest_go_first(tmp_path: Path) -> None:
    folder_with(tmp_path, 100, 9, 20)
    write(tmp_path / BEST, content_of(9))
    checkpoint.prune(tmp_path, keep=2)
    assert list(checkpoints(tmp_path)) == [20, 100]
    assert (tmp_path / BEST).exists()
    checkpoint.prune(tmp_path, keep=5)
    assert list(checkpoints(tmp_path)) == [20, 100]


def test_open_saved(tmp_path: Path) -> None:
    folder_with(tmp_path, 1, 2)
    average = OrderedDict((name, value + 1) for name, value in content_of(2)["state_dict"]["model"].items())
    write(tmp_path / BEST, content_of(1, ema=average))
    (tmp_path / "config.yaml").write_text("trainer_cls: rrdb\n")

    def opened(source: Path, which: str = "newest") -> checkpoint.Saved:
        return open_saved(source, which=which)

    assert opened(tmp_path).global_step == 2
    assert opened(tmp_path, "1").global_step == 1
    assert opened(tmp_path / file_name(1)).config == {"trainer_cls": "rrdb"}
    best = opened(tmp_path, "best")
    assert best.averaged
    assert same(dict(best.state), dict(average))
    assert not opened(tmp_path).averaged
    with pytest.raises(CheckpointError, match="holds no checkpoint '7'; steps there: 1, 2"):
        opened(tmp_path, "7")
    with pytest.raises(CheckpointError, match="doesn't exist"):
        opened(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        opened(tmp_path / "empty")


def test_weights_fit_or_the_error_names_them(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    state = nn.Linear(3, 2).state_dict()
    assert checkpoint.load_weights(model, state, source=tmp_path) == f"2 of 2 tensors from {tmp_path}"
    assert torch.equal(model.weight, state["weight"])
    wrong = {"weight": torch.zeros(2, 4), "other": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r"1 missing \(bias\); 1 unexpected \(other\); 1 of another shape") as e:
        checkpoint.load_weights(model, wrong, source=tmp_path)
    assert "weight (2, 4) for (2, 3)" in str(e.value)
    assert torch.equal(model.weight, state["weight"]), "nothing was loaded"


def test_what_fits_is_loaded_for_fine_tuning() -> None:
    model = nn.Linear(3, 2)
    bias = model.bias.detach().clone()
    other = {"weight": torch.ones(2, 3), "bias": torch.ones(5), "more": torch.ones(1)}
    assert checkpoint.load_matching(model, other) == (["weight"], ["bias"], ["bias", "more"])
    assert torch.equal(model.weight, torch.ones(2, 3))
    assert torch.equal(model.bias, bias)


@pytest.mark.parametrize(
    ("states", "message"),
    [
        (None, "holds no optimiser state"),
        ([], "holds no optimiser state"),
        ([{"state": {7: {}}}], "optimiser state for parameter 7, of 2"),
        ([{"state": {0: {"exp_avg": torch.zeros(4)}}}], "optimiser state of parameter 0 is not that of Adam"),
    ],
)
def test_optimiser_states_that_do_not_fit(tmp_path: Path, states: object, message: str) -> None:
    optimizer = torch.optim.Adam(nn.Linear(3, 2).parameters())
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load_optimizer(optimizer, {"optimizer_states": states}, source=tmp_path)


def test_a_checkpoint_is_read_as_often_as_wanted(tmp_path: Path) -> None:
    """Training on from it changes nothing in what was read."""
    content = content_of(3)
    before = content_of(3)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    checkpoint.load_optimizer(optimizer, content, source=tmp_path)
    model(torch.randn(2, 3, 5, 5)).sum().backward()
    optimizer.step()
    assert same(content, before)
