"""One place at a chosen date, by library call; and the table that shows whether the right date wins."""

from datetime import date, timedelta

import pytest
import torch

from tasks.build import build_task
from tasks.dates import error_table, errors
from tasks.super_resolver import SuperResolver
from utils.config.parse import settings_from
from utils.distributed import World
from utils.errors import ConfigError

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
