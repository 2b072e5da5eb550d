"""Right, missing and invented detail: the published package's own figures, and planted cases."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage.registration import phase_cross_correlation
from torch import Tensor

from tests.utils.metrics.planted import Place, enlarged, place, random_case, with_houses, without_houses
from utils.errors import DataError
from utils.metrics.correctness import CLASSES, correctness, phase_shift, translate

PUBLISHED = json.loads((Path(__file__).parent / "opensr_test.json").read_text())["cases"]


@pytest.fixture(scope="module")
def village() -> Place:
    return place(1)


def figures(result: Tensor, village: Place) -> dict[str, float]:
    return {name: float(x) for name, x in correctness(result, village.hr, lr_nearest=village.lr).figures.items()}


def checkerboard(village: Place, amplitude: int) -> Tensor:
    rows, columns = np.indices(village.hr.shape[-2:]) // 2
    board = torch.from_numpy((rows + columns) % 2 * 2 - 1)
    return (village.hr.int() + amplitude * board).clamp(0, 255).to(torch.uint8)


@pytest.mark.parametrize("number", range(10))
def test_figures_of_the_published_package(number: int) -> None:
    lr, sr, hr = (torch.from_numpy(x)[None] for x in random_case(number))
    ours = correctness(sr, hr, lr_nearest=lr).figures
    for name, theirs in PUBLISHED[number].items():
        assert float(ours[name]) == pytest.approx(theirs, abs=1e-5), name


def test_a_batch_is_its_images(village: Place) -> None:
    other = place(2)
    results = torch.cat([checkerboard(village, 8), enlarged(other.lr)])
    both = correctness(results, torch.cat([village.hr, other.hr]), lr_nearest=torch.cat([village.lr, other.lr]))
    one = correctness(results[1:], other.hr, lr_nearest=other.lr)
    assert {name: float(x[1]) for name, x in both.figures.items()} == {n: float(x) for n, x in one.figures.items()}
    assert torch.equal(both.maps[1:].nan_to_num(), one.maps.nan_to_num())


def test_shares_add_up_to_one(village: Place) -> None:
    found = correctness(checkerboard(village, 16), village.hr, lr_nearest=village.lr)
    total = found.maps.sum(dim=1)
    assert torch.allclose(total[~total.isnan()], torch.ones(()))
    assert sum(float(found.figures[name]) for name in CLASSES) == pytest.approx(1)


def test_the_truth_itself_is_all_improvement(village: Place) -> None:
    found = figures(village.hr, village)
    assert found["improvement"] > 0.96
    assert found["hallucination"] < 0.02


def test_bicubic_omits(village: Place) -> None:
    found = figures(enlarged(village.lr), village)
    assert found["omission"] > 0.5
    assert found["omission"] > 2 * max(found["hallucination"], found["improvement"])
    assert found["synthesis"] < figures(village.hr, village)["synthesis"]


def test_another_place_is_invented(village: Place) -> None:
    found = figures(place(2).hr, village)
    assert found["hallucination"] > 0.6
    assert np.isnan(found["shift_consistency"])


def test_the_stronger_the_checkerboard_the_more_is_invented(village: Place) -> None:
    found = [figures(checkerboard(village, amplitude), village) for amplitude in (0, 4, 8, 16, 32, 64)]
    assert_monotone([of["hallucination"] for of in found], rising=True)
    assert_monotone([of["improvement"] for of in found], rising=False)


def test_the_more_houses_are_added_the_more_is_invented(village: Place) -> None:
    free = village.corners[len(village.corners) // 2 :]
    found = [figures(with_houses(village.hr, free[:houses]), village) for houses in (0, 1, 2, 4, 8, 12)]
    assert_monotone([of["hallucination"] for of in found], rising=True)
    assert found[-1]["hallucination"] - found[0]["hallucination"] > 3 * (found[-1]["omission"] - found[0]["omission"])


def test_the_more_houses_are_missing_the_more_is_omitted(village: Place) -> None:
    built, blurred = village.corners[: len(village.corners) // 2], enlarged(village.lr)
    found = [figures(without_houses(village.hr, blurred, built[:houses]), village) for houses in (0, 1, 2, 4, 8, 12)]
    assert_monotone([of["omission"] for of in found], rising=True)
    assert found[-1]["omission"] - found[0]["omission"] > 3 * (found[-1]["hallucination"] - found[0]["hallucination"])


def test_an_added_house_is_seen_where_it_stands(village: Place) -> None:
    y, x = village.corners[-1]
    found = correctness(with_houses(village.hr, [(y, x)]), village.hr, lr_nearest=village.lr)
    invented = found.maps[0, CLASSES.index("hallucination")]
    inside = invented[y - found.crop + 1 : y - found.crop + 5, x - found.crop + 1 : x - found.crop + 5]
    assert float(inside.nanmean()) > 0.9
    assert float(invented.nanmean()) < 0.1


def test_what_another_date_shows_is_not_invented(village: Place) -> None:
    """A house that one date of the series has, and the truth's day no longer."""
    with_house = with_houses(village.hr, village.corners[-8:])
    earlier = torch.nn.functional.avg_pool2d(with_house.double(), 4).round().to(torch.uint8)
    series = torch.stack([village.lr, earlier], dim=1)
    found = correctness(
        with_house, village.hr, lr_nearest=village.lr, lr=series, mask=torch.tensor([[True, True]])
    ).figures
    masked = correctness(
        with_house, village.hr, lr_nearest=village.lr, lr=series, mask=torch.tensor([[True, False]])
    ).figures
    assert float(found["series_hallucination"]) < float(masked["series_hallucination"])
    assert float(masked["series_hallucination"]) == float(masked["hallucination"])


@pytest.mark.parametrize("shift", [(0.0, 0.0), (1.0, -2.0), (-0.5, 0.26), (3.14, 0.98)])
def test_phase_shift_is_scikit_image_s(village: Place, shift: tuple[float, float]) -> None:
    image = village.hr[0].double().mean(dim=0).numpy()
    moved = np.fft.ifft2(ndimage.fourier_shift(np.fft.fft2(image), shift)).real
    ours = phase_shift(torch.from_numpy(image).float(), torch.from_numpy(moved).float())
    theirs = phase_cross_correlation(moved, image, upsample_factor=50)[0]
    assert ours.tolist() == pytest.approx(theirs.tolist(), abs=1e-5)
    assert ours.tolist() == pytest.approx(shift, abs=0.02)


def test_translate_is_scipy_s() -> None:
    image = np.random.RandomState(0).rand(2, 12, 17)
    ours = translate(torch.from_numpy(image), torch.tensor([0.75, -1.4], dtype=torch.float64))
    theirs = [ndimage.shift(band, (0.75, -1.4), mode="nearest", order=1) for band in image]
    assert np.allclose(ours.numpy(), np.stack(theirs))


def test_images_that_are_too_small_or_do_not_fit() -> None:
    small, low = torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 8, 8)
    with pytest.raises(DataError, match="nothing is left of"):
        correctness(small, small, lr_nearest=low)
    with pytest.raises(DataError, match="a multiple of the input's"):
        correctness(torch.zeros(1, 3, 90, 90), torch.zeros(1, 3, 90, 90), lr_nearest=torch.zeros(1, 3, 20, 20))


def assert_monotone(values: list[float], *, rising: bool) -> None:
    steps = np.diff(values)
    assert ((steps > 0) if rising else (steps < 0)).all(), values
