"""Which bands a picture shows, what it says of them, what descriptions name."""

import pytest

from utils.errors import ConfigError
from utils.geo.bands import RGB, described_bands, false_colours, listed, parse_bands, shown_positions


def test_pictures_show_red_green_blue_by_name() -> None:
    assert shown_positions(RGB) == (0, 1, 2)
    assert shown_positions(("B02", "B08", "B03", "B04")) == (3, 2, 0)
    assert false_colours(("B02", "B08", "B03", "B04")) == ""


@pytest.mark.parametrize(
    ("bands", "positions", "words"),
    [
        (("B08", "B04", "B03"), (0, 1, 2), "false colours: nir, red, green as red, green, blue"),
        (("B08", "B04"), (0, 1, 1), "false colours: nir, red, red as red, green, blue"),
        (("B08",), (0, 0, 0), "false colours: nir, nir, nir as red, green, blue"),
    ],
)
def test_false_colours_are_said(bands: tuple[str, ...], positions: tuple[int, ...], words: str) -> None:
    assert shown_positions(bands) == positions and false_colours(bands) == words


def test_descriptions() -> None:
    assert described_bands(["B04", "green", "b2", "B8A", "SWIR16"]) == ("B04", "B03", "B02", "B8A", "B11")
    for descriptions in (["B04", None, "B02"], ["B04", "red"], ["Band 1", "Band 2"], []):
        assert described_bands(descriptions) is None
    assert parse_bands(" red,nir", source="--bands") == ("B04", "B08")
    assert listed(("B04", "B08", "B8A")) == "red, nir, nir08"
    with pytest.raises(ConfigError, match="--bands: 'B99' is no band of Sentinel-2"):
        parse_bands("B04,B99", source="--bands")
