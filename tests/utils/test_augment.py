"""Augmentation: the same change for all images of a sample, decided by its address."""

import itertools

import pytest
import torch
from torch import Tensor

from models.series import Series
from utils.augment import augment
from utils.dataloader import Batch

SAMPLES, DATES, SIDE, SCALE = 256, 5, 4, 4


def batch_of(samples: int = SAMPLES, *, acquired: int = DATES) -> Batch:
    """Every pixel of the input has its own value; base and truth repeat the view nearest to the target date."""
    lr = torch.arange(samples * DATES * 3 * SIDE * SIDE).float().view(samples, DATES, 3, SIDE, SIDE)
    mask = (torch.arange(DATES) < acquired).expand(samples, -1).clone()
    dates = torch.tensor([-40.0, 5.0, 17.0, 60.0, 60.0]).expand(samples, -1).clone()
    fine = lr[:, 1].repeat_interleave(SCALE, -1).repeat_interleave(SCALE, -2)
    near = torch.ones(samples, dtype=torch.int64)
    return Batch(lr, dates, mask, fine.clone(), fine.clone(), list(range(samples)), torch.arange(samples), near)


def augmented(batch: Batch, *names: str, step: int = 0, first: int = 0) -> Batch:
    positions = torch.arange(first, first + len(batch.lr))
    return augment(batch, names, seed=1, step=step, positions=positions)


def coarse(x: Tensor) -> Tensor:
    return x[..., ::SCALE, ::SCALE]


def check_consistent(batch: Batch) -> None:
    """Base, truth, near and the views still belong together."""
    rows = torch.arange(len(batch.lr))
    nearest = batch.lr[rows, batch.near]
    assert torch.equal(coarse(batch.hr), nearest)
    assert torch.equal(coarse(batch.base), nearest)
    assert torch.equal(Series(batch.lr, batch.dates, batch.mask, batch.base).nearest(), nearest)
    assert (batch.dates[rows, batch.near] == 5).all()
    assert batch.mask[rows, batch.near].all()
    assert not (batch.mask[:, 1:] & ~batch.mask[:, :-1]).any(), "padding is last"


def test_nothing_is_asked_nothing_is_done() -> None:
    batch = batch_of()
    assert all(a is b for a, b in zip(augmented(batch), batch, strict=True))


@pytest.mark.parametrize(
    ("names", "variants"), [(("flips",), 4), (("turns",), 4), (("flips", "turns"), 8)], ids=["flips", "turns", "both"]
)
def test_flips_and_quarter_turns(names: tuple[str, ...], variants: int) -> None:
    """All variants of the square occur, about equally often, and nothing else."""
    batch = batch_of()
    out = augmented(batch, *names)
    check_consistent(out)
    assert torch.equal(out.dates, batch.dates)
    quarters = range(4) if "turns" in names else (0, 2)
    mirrored = (False, True) if "flips" in names else (False,)
    counts = []
    for quarter, mirror in itertools.product(quarters, mirrored):
        image = batch.lr.flip(-1) if mirror else batch.lr
        counts.append(int((out.lr == image.rot90(quarter, (-2, -1))).flatten(1).all(dim=1).sum()))
    assert len(counts) == variants
    assert sum(counts) == SAMPLES
    assert min(counts) > SAMPLES / variants / 2


def test_dropped_dates_become_padding() -> None:
    batch = batch_of(acquired=4)
    out = augmented(batch, "drop_dates")
    check_consistent(out)
    kept = out.mask.sum(dim=1)
    assert kept.min() >= 1
    assert abs(float((kept - 1).sum()) / (3 * SAMPLES) - 0.75) < 5 * (0.75 * 0.25 / (3 * SAMPLES)) ** 0.5
    for i in range(SAMPLES):
        n = int(kept[i])
        assert (out.lr[i, n:] == out.lr[i, n - 1]).all(), "padding repeats the last acquisition"
        assert (out.dates[i, n:] == out.dates[i, n - 1]).all()
        values = out.lr[i, :n, 0, 0, 0]
        assert (values.diff() > 0).all(), "the others stay in order"


def test_shuffled_dates() -> None:
    batch = batch_of(acquired=4)
    out = augmented(batch, "shuffle_dates")
    check_consistent(out)
    orders = {tuple((out.lr[i, :4, 0, 0, 0] - batch.lr[i, 0, 0, 0, 0]).int().tolist()) for i in range(SAMPLES)}
    assert len(orders) == 24, "every order of four acquisitions occurs"
    assert torch.equal(out.lr[:, 4], batch.lr[:, 4])
    lookup = {float(batch.lr[0, t, 0, 0, 0]): float(batch.dates[0, t]) for t in range(DATES)}
    assert [lookup[float(x)] for x in out.lr[0, :, 0, 0, 0]] == out.dates[0].tolist(), "dates go with their images"


def test_all_at_once_and_one_date() -> None:
    check_consistent(augmented(batch_of(acquired=4), "flips", "turns", "drop_dates", "shuffle_dates"))
    batch = batch_of()
    one = batch._replace(
        lr=batch.lr[:, 1:2], dates=batch.dates[:, 1:2], mask=batch.mask[:, 1:2], near=torch.zeros_like(batch.near)
    )
    out = augmented(one, "drop_dates", "shuffle_dates")
    assert torch.equal(out.lr, one.lr)
    assert out.mask.all()


def test_the_address_decides() -> None:
    names = ("flips", "turns", "drop_dates", "shuffle_dates")
    batch = batch_of()
    whole = augmented(batch, *names, step=3)
    half = Batch(*(part[64:128] for part in batch))  # type: ignore[arg-type]
    part = augmented(half, *names, step=3, first=64)
    assert torch.equal(part.lr, whole.lr[64:128]), "another number of processes changes nothing"
    assert torch.equal(part.mask, whole.mask[64:128])
    assert not torch.equal(augmented(batch, *names, step=4).lr, whole.lr)
    assert torch.equal(augmented(batch, *names, step=3).lr, whole.lr)


def test_varied_dates_keep_the_nearest_and_others_by_chance() -> None:
    batch = batch_of(16, acquired=4)
    lengths, kept = [], torch.zeros(DATES)
    for step in range(200):
        out = augmented(batch, "vary_dates", step=step)
        check_consistent(out)
        assert torch.equal(coarse(out.hr), coarse(batch.hr))
        lengths.append(out.lr.shape[1])
        values = (out.lr[:, :, 0, 0, 0] - batch.lr[:, :1, 0, 0, 0]) / (3 * SIDE * SIDE)  # which acquisitions
        assert all(len(set(row)) == len(row) for row in values.tolist())
        if out.lr.shape[1] < 4:
            kept += torch.bincount(values.flatten().int(), minlength=DATES)
    assert set(lengths) == {1, 2, 3, 4, 5}
    assert lengths.count(1) > lengths.count(5)
    assert kept[4] == 0, "padding comes last"
    others = kept[[0, 2, 3]]
    assert others.min() > 0.8 * others.max()
