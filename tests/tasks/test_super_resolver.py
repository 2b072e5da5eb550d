"""One place at a chosen date, by library call; and the table that shows whether the right date wins."""

import re
from collections.abc import Callable
from datetime import date, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from tasks.build import build_task
from tasks.dates import error_table, errors
from tasks.super_resolver import SuperResolver
from tests.golden.large import ROOT
from utils.config.parse import settings_from
from utils.distributed import World
from utils.errors import ConfigError
from utils.geo.bands import RGB

DAYS = [date(2018, 3, 1) + timedelta(days=20 * i) for i in range(6)]


def resolver(**keys: object) -> SuperResolver:
    torch.manual_seed(0)
    settings = settings_from({"hidden_size": 16, "num_layers": 1, "sen2_amount": 3, **keys}, source="test")
    return SuperResolver(build_task(settings), settings, maxima=(0.2, 0.2, 0.1), world=World(torch.device("cpu")))


def images(count: int = 6) -> torch.Tensor:
    return torch.rand(count, 3, 10, 12, generator=torch.Generator().manual_seed(1)) * 0.05


def test_the_date_chooses_the_image() -> None:
    model = resolver(trainer_cls="bicubic")
    places = images()
    for i, day in enumerate(DAYS):
        up = torch.nn.functional.interpolate(places[i][None], scale_factor=4, mode="bicubic")[0].clamp(min=0)
        assert torch.allclose(model.at_date(places, DAYS, day + timedelta(days=3)), up, atol=1e-5)


def test_the_order_of_the_images_does_not_matter() -> None:
    model = resolver(trainer_cls="hr_ltae", misr_ref_image="closest")
    places, order = images(), [3, 0, 5, 1, 4, 2]
    one = model.at_date(places, DAYS, date(2018, 4, 15))
    other = model.at_date(places[order], [DAYS[i] for i in order], date(2018, 4, 15))
    assert one.shape == (3, 40, 48)
    assert torch.allclose(one, other, atol=1e-4)


def test_noise_belongs_to_the_place() -> None:
    model = resolver(trainer_cls="srdiff", backbone={"trainer_cls": "bicubic"}, timesteps=4, unet_dim_mults="1|2")
    day = DAYS[2]
    here = model.at_date(images(), DAYS, day, name="here")
    assert torch.equal(here, model.at_date(images(), DAYS, day, name="here"))
    assert not torch.equal(here, model.at_date(images(), DAYS, day, name="there"))


def test_what_steps_cost_is_tried() -> None:
    keys = {"trainer_cls": "srdiff", "backbone": {"trainer_cls": "bicubic"}, "timesteps": 12, "unet_dim_mults": "1|2"}
    model = resolver(**keys, sampler_steps=8)
    places, chosen = images(), model.at_date(images(), DAYS, DAYS[0])
    seconds = model.seconds_by_steps(16)
    assert list(seconds) == [1, 4, 8]
    assert seconds[8] > seconds[1] > 0
    assert torch.equal(model.at_date(places, DAYS, DAYS[0]), chosen)  # the trial changes nothing


@pytest.mark.parametrize(
    "write",
    [
        str,
        np.datetime64,
        pd.Timestamp,
        lambda day: datetime(day.year, day.month, day.day, 11),
        lambda day: f"{day}T11:00Z",
    ],
)
def test_arrays_and_any_kind_of_date(write: Callable[[date], Any]) -> None:
    model = resolver(trainer_cls="bicubic")
    expected = model.at_date(images(), DAYS, DAYS[3])
    for array in (images().numpy(), images().double().numpy()[..., ::-1].copy()[..., ::-1]):
        assert torch.equal(model.at_date(array, [write(day) for day in DAYS], write(DAYS[3])), expected)
    assert torch.equal(model.at_date(images().numpy(), np.array(DAYS, "datetime64[ns]"), DAYS[3]), expected)


@pytest.mark.parametrize("wrong", ["soon", np.datetime64("NaT"), pd.NaT, 20180301, None])
def test_what_is_no_date(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="is no date: give 2018-08-02"):
        resolver(trainer_cls="bicubic").at_date(images(), DAYS, wrong)


@pytest.mark.parametrize("factor", [1e4, float("nan")])
def test_digital_numbers_are_no_reflectance(factor: float) -> None:
    with pytest.raises(ConfigError, match="give surface reflectance, 0 to 1"):
        resolver(trainer_cls="bicubic").at_date(images() * factor, DAYS, DAYS[0])


@pytest.mark.parametrize("config", ["bicubic", "hr_ltae"])
def test_a_gap_stays_where_it_is(config: str) -> None:
    """It is filled by the next acquisition; where none has data the result has none, and nowhere else."""
    model = resolver(trainer_cls=config)
    whole, holed, lost = images(), images(), images()
    whole[0, :, 4, 5] = whole[1, :, 4, 5]
    holed[0, 1, 4, 5] = torch.nan
    lost[:, 2, 4, 5] = torch.nan
    assert torch.equal(model.at_date(holed, DAYS, DAYS[0]), model.at_date(whole, DAYS, DAYS[0]))
    where = model.at_date(lost, DAYS, DAYS[0]).isnan().all(dim=0).nonzero()
    assert where.tolist() == [[row, column] for row in range(16, 20) for column in range(20, 24)]


def test_the_example_of_the_library() -> None:
    """As docs/library.md has it, with the starter weights, on any device."""
    example = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "library.md").read_text(), re.S)
    assert example is not None
    names: dict[str, Any] = {}
    exec(example[1], names)
    model, sharp = names["model"], names["sharp"]
    assert model.bands == RGB and sharp.shape == (3, 96, 128)
    pooled = sharp.reshape(3, 24, 4, 32, 4).mean(axis=(2, 4))
    assert abs(pooled - names["images"][1]).mean() < 0.02


def test_images_without_dates_are_refused() -> None:
    model = resolver(trainer_cls="bicubic")
    with pytest.raises(ConfigError, match="5 dates"):
        model.at_date(images(), DAYS[:5], DAYS[0])
    with pytest.raises(ConfigError, match="no images"):
        model.at_date(images()[:, :2], DAYS, DAYS[0])


def test_the_matrix_of_errors() -> None:
    truths = torch.linspace(-1, 1, 4).view(4, 1, 1, 1).expand(4, 3, 8, 8)
    matrix = errors(truths, truths)
    assert matrix.argmin(dim=1).tolist() == [0, 1, 2, 3]
    assert matrix[0, 3] == 255 and matrix[1, 2] == 85
    assert error_table(matrix[:2, :2]).splitlines()[2] == "| date 1 | **0.00** | 85.00 |"
