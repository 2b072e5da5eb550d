"""What bands are called, which of them a picture shows, what it says of them."""

import pytest

from utils.errors import ConfigError
from utils.geo.bands import (
    RGB,
    band_name,
    described_bands,
    false_colours,
    listed,
    map_name,
    parse_bands,
    shown_positions,
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "name"),
    [("B4", "B04"), ("b04", "B04"), (" Red ", "B04"), ("B8A", "B8A"), ("B08A", "B8A"), ("B13", None), ("B00", None),
     ("nir", "B08"), ("swir16", "B11"), ("band 4", None), ("", None), ("B", None), ("1", None)],
)  # fmt: skip
def test_names_of_bands(text: str, name: str | None) -> None:
    assert band_name(text) == name


def test_lists_of_bands() -> None:
    assert described_bands(["B04", "green", "b2", "B8A", "SWIR16"]) == ("B04", "B03", "B02", "B8A", "B11")
    for descriptions in (["B04", None, "B02"], ["B04", "red"], ["Band 1", "Band 2"], []):
        assert described_bands(descriptions) is None
    assert parse_bands(" red,nir", source="--bands") == ("B04", "B08")
    assert listed(("B04", "B08", "B8A")) == "red, nir, nir08"
    assert [map_name(band) for band in ("B04", "B08", "B8A")] == ["red", "nir", "B8A"]
    for text in ("B04,B99", "red,B04", ""):
        with pytest.raises(ConfigError, match=r"--bands: .*band"):
            parse_bands(text, source="--bands")


@pytest.mark.parametrize(
    ("bands", "positions", "words"),
    [
        (RGB, (0, 1, 2), ""),
        (("B02", "B08", "B03", "B04"), (3, 2, 0), ""),
        (("B08", "B04", "B03"), (0, 1, 2), "false colours: nir, red, green as red, green, blue"),
        (("B08", "B04"), (0, 1, 1), "false colours: nir, red, red as red, green, blue"),
        (("B08",), (0, 0, 0), "false colours: nir, nir, nir as red, green, blue"),
    ],
)
def test_pictures_show_red_green_blue_else_say_what(bands: tuple[str, ...], positions: tuple, words: str) -> None:
    assert shown_positions(bands) == positions and false_colours(bands) == words
