"""The data set as items and batches: which views, which colours, which samples; the same for any workers and ranks."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.exposure import match_histograms

from tests.data import RawBreizhSR, prepare_with, write_patch, write_prepared
from utils.dataloader import BreizhSRDataset, collate, evaluation_loader, training_loader
from utils.errors import ConfigError, DataError
from utils.radiometry import bicubic, normalise_hr, normalise_lr, reflectance
from utils.stores import permutation

PLAIN = [-60, -2, 30, 45]  # offsets of the series of `uneven`, in stored order
TIES = [-9, 5, -5, 9]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """7 patches to train on and 5 to test, 5 dates each, padded to 8."""
    return write_prepared(tmp_path_factory.mktemp("data"), train=7, test=5)


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two patches of known offsets, padded to 6."""
    root = tmp_path_factory.mktemp("uneven")
    rng = np.random.default_rng(1)
    rows = [write_patch(root, str(i), rng=rng, hr_size=48, offsets=offsets) for i, offsets in enumerate((PLAIN, TIES))]
    pd.DataFrame([{"split": "train", **row} for row in rows], index=["a", "b"]).to_pickle(root / "dataset_train.pkl")
    prepare_with(root, max_s2_images=6)
    return root


def views(root: Path, position: int) -> dict[int, torch.Tensor]:
    """Offset -> the normalised view, straight from the raw data."""
    raw = RawBreizhSR(root, "train", max_s2_images=8)
    maxima = BreizhSRDataset(root, "train").maxima
    return {view.offset: normalise_lr(reflectance(view.lr), maxima) for view in raw[position].views}


@pytest.mark.parametrize(
    ("position", "amount", "shift", "dates", "mask", "near"),
    [
        (0, 2, 0, [-2, 30], [1, 1], 0),
        (0, 4, 0, PLAIN, [1, 1, 1, 1], 1),
        (0, 6, 0, [*PLAIN, 45, 45], [1, 1, 1, 1, 0, 0], 1),
        (0, 5, 0, [*PLAIN, 45], [1, 1, 1, 1, 0], 1),
        (0, 3, 40, [-42, -10, 5], [1, 1, 1], 2),  # −60 is 100 away, its padded copies of 45 are no rivals
        (0, 1, 40, [5], [1], 0),
        (0, 2, -100, [40, 98], [1, 1], 0),
        (1, 1, 0, [5], [1], 0),
        (1, 2, 0, [5, -5], [1, 1], 0),
        (1, 3, 0, [-9, 5, -5], [1, 1, 1], 1),  # of −9 and 9 the first
        (1, 1, 7, [-2], [1], 0),  # of 5 and 9 the first
        (1, 2, -2, [-7, -3], [1, 1], 1),  # of −9 and 5 (7 away both) the first
    ],
)
def test_the_nearest_views_in_stored_order(
    uneven: Path, position: int, amount: int, shift: int, dates: list[int], mask: list[int], near: int
) -> None:
    dataset = BreizhSRDataset(uneven, "train", sen2_amount=amount, target_offset_days=shift)
    raw = dataset.raw(position)
    assert raw["dates"].tolist() == dates and raw["mask"].tolist() == list(map(bool, mask)) and raw["near"] == near
    batch = dataset.to_batch(collate([raw]))
    expected = views(uneven, position)
    for view, date in zip(batch.lr[0], dates, strict=True):
        assert torch.equal(view, expected[date + shift])
    stored = RawBreizhSR(uneven, "train")[position]
    source = next(view.lr for view in stored.views if view.offset == dates[near] + shift)
    base = normalise_lr(bicubic(reflectance(source), scale=4), dataset.maxima)
    torch.testing.assert_close(batch.base[0], base, rtol=0, atol=1e-6)


@pytest.mark.parametrize("amount", [1, 3])
@pytest.mark.parametrize("shift", [0, 40, -100])
def test_the_truth_has_the_colours_of_its_own_date(uneven: Path, amount: int, shift: int) -> None:
    """Wherever the target date moves to."""
    dataset = BreizhSRDataset(uneven, "train", sen2_amount=amount, target_offset_days=shift)
    hr = normalise_hr(RawBreizhSR(uneven, "train")[0].hr).numpy()
    expected = match_histograms(hr, views(uneven, 0)[-2].numpy(), channel_axis=0)
    assert np.array_equal(dataset[0]["img_hr"].numpy(), expected)


def test_other_matchings(uneven: Path) -> None:
    hr = normalise_hr(RawBreizhSR(uneven, "train")[0].hr)
    assert torch.equal(BreizhSRDataset(uneven, "train", spectral_matching="none")[0]["img_hr"], hr)
    reference = views(uneven, 0)[-2]
    found = BreizhSRDataset(uneven, "train", spectral_matching="moment")[0]["img_hr"]
    torch.testing.assert_close(found.mean((1, 2)), reference.mean((1, 2)), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.std((1, 2), correction=0), reference.std((1, 2), correction=0), rtol=0, atol=1e-5)


def test_items(root: Path) -> None:
    item = BreizhSRDataset(root, "train")[3]
    assert item.keys() == {"img_hr", "img_lr", "img_lr_up", "item_name"} and item["item_name"] == "3"
    assert item["img_hr"].shape == item["img_lr_up"].shape == (3, 80, 80) and item["img_lr"].shape == (3, 20, 20)
    assert all(item[name].dtype == torch.float32 for name in ("img_hr", "img_lr", "img_lr_up"))
    item = BreizhSRDataset(root, "test", sen2_amount=6)[2]
    assert item.keys() - {"img_hr", "img_lr", "img_lr_up"} == {
        "item_name",
        "dates_encoding",
        "alphas",
        "indices",
        "indexes",
    }
    assert item["img_lr"].shape == (6, 3, 20, 20)
    assert item["alphas"].tolist() == [1, 1, 1, 1, 1, 0] and item["dates_encoding"].dtype == torch.float32
    assert item["indexes"] == BreizhSRDataset(root, "test").key(2) == 177


def test_batches_are_stacked_items(root: Path) -> None:
    dataset = BreizhSRDataset(root, "train", sen2_amount=6)
    batch = dataset.to_batch(collate([dataset.raw(i) for i in (4, 0, 2)]))
    for row, position in enumerate((4, 0, 2)):
        item = dataset[position]
        assert torch.equal(batch.lr[row], item["img_lr"]) and torch.equal(batch.hr[row], item["img_hr"])
        assert torch.equal(batch.base[row], item["img_lr_up"]) and torch.equal(batch.dates[row], item["dates_encoding"])
        assert batch.near[row] == item["indices"] and torch.equal(batch.mask[row].float(), item["alphas"])
    assert batch.keys == [128, 100, 114] and batch.indices.tolist() == [4, 0, 2]
    assert batch.mask.dtype == torch.bool and batch.dates.dtype == torch.float32 and batch.near.dtype == torch.int64


@settings(max_examples=60, deadline=None)
@given(data=st.data(), amount=st.sampled_from([1, 3]), method=st.sampled_from(["histogram", "moment", "none"]))
def test_crops_are_parts_of_the_whole(root: Path, data: st.DataObject, amount: int, method: str) -> None:
    """Colours and base too: neither knows that it was cropped."""
    dataset = BreizhSRDataset(root, "train", sen2_amount=amount, spectral_matching=method)
    size = data.draw(st.integers(1, 20))
    top, left = data.draw(st.integers(0, 20 - size)), data.draw(st.integers(0, 20 - size))
    whole = dataset.to_batch(collate([dataset.raw(1)]))
    part = dataset.to_batch(collate([dataset.raw(1, (top, left, size))]))
    low = (..., slice(top, top + size), slice(left, left + size))
    high = (..., slice(4 * top, 4 * (top + size)), slice(4 * left, 4 * (left + size)))
    assert torch.equal(part.lr, whole.lr[low])
    assert torch.equal(part.hr, whole.hr[high])
    torch.testing.assert_close(part.base, whole.base[high], rtol=0, atol=1e-6)


def test_what_can_not_be_had(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"sen2_amount is 9, .* holds 8 acquisitions a patch"):
        BreizhSRDataset(root, "train", sen2_amount=9)
    with pytest.raises(ConfigError, match="spectral_matching is 'histo'; known: histogram, moment, none"):
        BreizhSRDataset(root, "train", spectral_matching="histo")
    with pytest.raises(DataError, match="preprocess_data"):
        BreizhSRDataset(tmp_path, "train")
    dataset = BreizhSRDataset(root, "train")
    with pytest.raises(ConfigError, match="train_crop is 21, the patches have 20"):
        training_loader(dataset, batch_size=2, seed=0, stop_step=1, train_crop=21)
    with pytest.raises(ConfigError, match="batch_size is 2, less than the 3 processes"):
        training_loader(dataset, batch_size=2, seed=0, stop_step=1, world_size=3)


# ---------------------------------------------------------------------------------------------------------------------


def seen(batches: Any) -> list[list[tuple[int, bytes]]]:
    """Of each batch the positions and pixels."""
    return [
        [(int(i), hr.numpy().tobytes()) for i, hr in zip(raw["indices"], raw["hr"], strict=True)] for raw in batches
    ]


def steps(dataset: BreizhSRDataset, **changes: Any) -> list[list[tuple[int, bytes]]]:
    return seen(training_loader(dataset, **{"batch_size": 4, "seed": 5, "stop_step": 6, "train_crop": 8, **changes}))


@pytest.mark.parametrize("workers", [1, 2])
def test_any_number_of_workers(root: Path, workers: int) -> None:
    dataset = BreizhSRDataset(root, "train", sen2_amount=2)
    assert steps(dataset, workers=workers) == steps(dataset)


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_any_number_of_ranks(root: Path, world_size: int) -> None:
    """Together they see the batch of one, in contiguous parts."""
    dataset = BreizhSRDataset(root, "train")
    parts = [steps(dataset, rank=rank, world_size=world_size) for rank in range(world_size)]
    together = [[sample for part in step for sample in part] for step in zip(*parts, strict=True)]
    assert together == steps(dataset)
    assert all(part for step in parts for part in step)


@pytest.mark.parametrize("start", [1, 3, 6])
def test_any_start(root: Path, start: int) -> None:
    dataset = BreizhSRDataset(root, "train")
    assert steps(dataset, start_step=start) == steps(dataset)[start:]


def test_samples_are_permutations_one_after_another(root: Path) -> None:
    dataset = BreizhSRDataset(root, "train")
    loader = training_loader(dataset, batch_size=4, seed=5, stop_step=14)
    positions = [position for batch in seen(loader) for position, _ in batch]
    assert len(positions) == 56
    epochs = [positions[start : start + 7] for start in range(0, 56, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len(set(map(tuple, epochs))) > 4
    assert epochs == [permutation(7, seed=5, epoch=epoch).tolist() for epoch in range(8)]
    assert len(loader) == 14  # type: ignore[arg-type]


def test_seeds_and_crops_differ(root: Path) -> None:
    dataset = BreizhSRDataset(root, "train")
    assert steps(dataset) != steps(dataset, seed=6)
    pixels = [hr for batch in steps(dataset, stop_step=14) for _, hr in batch]
    assert len(set(pixels)) > 50  # 56 crops of 7 patches
    batch = next(iter(training_loader(dataset, batch_size=2, seed=0, stop_step=1, train_crop=20)))
    assert torch.equal(batch["hr"][0], dataset.raw(int(batch["indices"][0]))["hr"])


def test_crops_reach_every_place(root: Path) -> None:
    """Including the last row and column, about equally often."""
    dataset = BreizhSRDataset(root, "train")
    found = []
    for raw in training_loader(dataset, batch_size=20, seed=0, stop_step=20, train_crop=18):
        for position, lr in zip(raw["indices"], raw["lr"][:, 0], strict=True):
            whole = dataset.raw(int(position))["lr"][0]  # (C, 20, 20)
            windows = whole.unfold(1, 18, 1).unfold(2, 18, 1)  # (C, 3, 3, 18, 18)
            same = (windows == lr[:, None, None]).all(dim=(0, 3, 4))  # (3, 3)
            found.append(tuple(same.nonzero()[0].tolist()))
    counts = [found.count((top, left)) for top in range(3) for left in range(3)]
    assert sum(counts) == 400
    assert min(counts) > 400 / 9 / 2 and max(counts) < 400 / 9 * 2


@settings(max_examples=50, deadline=None)
@given(
    world_size=st.integers(1, 7), batch_size=st.integers(1, 4), limit=st.none() | st.integers(0, 9), workers=st.just(0)
)
def test_evaluation_sees_each_sample_once(
    root: Path, world_size: int, batch_size: int, limit: int | None, workers: int
) -> None:
    dataset = BreizhSRDataset(root, "test")
    expected = list(range(5))[:limit]
    found = {}
    for rank in range(world_size):
        loader = evaluation_loader(
            dataset, batch_size=batch_size, rank=rank, world_size=world_size, workers=workers, limit=limit
        )
        positions = [position for batch in seen(loader) for position, _ in batch]
        assert positions == expected[rank::world_size]
        assert len(loader) == math.ceil(len(positions) / batch_size)  # type: ignore[arg-type]
        found.update(dict.fromkeys(positions))
    assert sorted(found) == expected


def test_nothing_is_drawn_from_the_global_generator(root: Path) -> None:
    dataset = BreizhSRDataset(root, "train")
    before = torch.get_rng_state()
    steps(dataset)
    seen(evaluation_loader(dataset, batch_size=2))
    assert torch.equal(torch.get_rng_state(), before)


# --- several data sets


@pytest.fixture(scope="module")
def smaller(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3 patches to train on, 2 to test, of another size than `root`'s."""
    return write_prepared(tmp_path_factory.mktemp("smaller"), train=3, test=2, hr_size=32)


def test_each_data_set_has_its_share_of_every_batch(root: Path, smaller: Path) -> None:
    both = BreizhSRDataset([root, smaller], "train", sen2_amount=2, weights=[3, 1])
    assert len(both) == 10
    loader = training_loader(both, batch_size=8, seed=0, stop_step=25, train_crop=4)
    batches = [batch["indices"] for batch in loader]
    assert {int((batch >= 7).sum()) for batch in batches} == {2}
    assert len(set(torch.cat(batches).tolist())) == 10
    uneven_shares = training_loader(both, batch_size=3, seed=0, stop_step=200, train_crop=4)
    second = torch.cat([batch["indices"] for batch in uneven_shares]) >= 7
    assert second.float().mean().item() == pytest.approx(0.25, abs=0.03)


def test_several_data_sets_give_the_samples_of_each(root: Path, smaller: Path) -> None:
    both = BreizhSRDataset([root, smaller], "test", sen2_amount=2)
    alone = [BreizhSRDataset(folder, "test", sen2_amount=2) for folder in (root, smaller)]
    expected = [dataset.raw(position) for dataset in alone for position in range(len(dataset))]
    seen = [raw for batch in evaluation_loader(both, batch_size=4) for raw in batch["hr"]]
    assert [both.key(position) for position in range(len(both))] == [raw["keys"] for raw in expected]
    assert all(torch.equal(hr, raw["hr"]) for hr, raw in zip(seen, expected, strict=True))


def test_ranks_share_the_samples_of_several_data_sets(root: Path, smaller: Path) -> None:
    both = BreizhSRDataset([root, smaller], "test")
    found = [
        int(position)
        for rank in range(3)
        for batch in evaluation_loader(both, batch_size=2, rank=rank, world_size=3)
        for position in batch["indices"]
    ]
    assert sorted(found) == list(range(7))
    split = training_loader(
        BreizhSRDataset([root, smaller], "train"), batch_size=4, seed=3, stop_step=5, train_crop=4, rank=1, world_size=2
    )
    whole = training_loader(BreizhSRDataset([root, smaller], "train"), batch_size=4, seed=3, stop_step=5, train_crop=4)
    for part, batch in zip(split, whole, strict=True):
        assert torch.equal(part["hr"], batch["hr"][2:])


def test_data_sets_that_can_not_be_mixed(root: Path, smaller: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="data_weights must be 2 numbers"):
        BreizhSRDataset([root, smaller], "train", weights=[1])
    with pytest.raises(ConfigError, match="set train_crop, to 8 at most"):
        training_loader(BreizhSRDataset([root, smaller], "train"), batch_size=2, seed=0, stop_step=1)
    prepare_with(smaller, output=tmp_path / "other", maxima=(0.5, 0.5, 0.5))
    with pytest.raises(ConfigError, match="has other maxima"):
        BreizhSRDataset([root, tmp_path / "other"], "train")
