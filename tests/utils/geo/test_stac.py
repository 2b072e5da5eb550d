"""STAC items: which file holds a band, what its numbers mean, files on the network; what is hostile gives one line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.scenes import write_band_files, write_item, write_tif
from tests.utils.geo.server import serving
from tests.utils.geo.test_acquisitions import DAY, NUMBERS, one, says, values
from utils.errors import DataError
from utils.geo import stac
from utils.geo.acquisitions import find_acquisitions
from utils.geo.bands import RGB

ITEM = {"type": "Feature", "assets": {}, "properties": {"datetime": "2023-08-07T10:50:31Z"}}


def test_bands_are_found_wherever_they_are(tmp_path: Path) -> None:
    """By the asset's key, by what its only band is called, by one of several bands; GeoTIFFs before JPEG 2000."""
    write_band_files(tmp_path, NUMBERS)
    write_tif(tmp_path / "two.tif", NUMBERS[1:], names=())
    red: dict[str, Any] = {"red-jp2": {"href": "none.jp2", "type": "image/jp2"}, "red": {"href": "B04.tif"}}
    several = {"href": "two.tif", "bands": [{"name": "x", "eo:common_name": "green"}, {"name": "B02", "scale": 1e-3}]}
    picture = {"href": "none.tif", "roles": ["visual"], "eo:bands": [{"name": "red"}, {"name": "B02"}]}
    named = {"x": {"href": "B03.tif", "eo:bands": [{"name": "B03"}], "raster:scale": 1e-3}}
    first = {**ITEM, "id": "a", "assets": {"visual": picture, "preview": picture, **red, "data": several}}
    second = {**ITEM, "id": "b", "assets": {**red, "data": several, **named}}
    path = tmp_path / "items.json"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": [first, second]}))
    a, b = find_acquisitions([path])
    assert a.bands == ((tmp_path / "B04.tif", 1), (tmp_path / "two.tif", 1), (tmp_path / "two.tif", 2))
    assert a.meanings == ((1e-4, 0.0), (1e-4, 0.0), (1e-3, 0.0))
    assert b.bands[1] == (tmp_path / "B03.tif", 1) and b.meanings[1] == (1e-3, 0.0)


@pytest.mark.parametrize("way", ["plain", "busy"])
def test_items_over_the_network(tmp_path: Path, way: str) -> None:
    write_band_files(tmp_path / "server", NUMBERS, driver="COG")
    log: list[str] = []
    with serving(tmp_path / "server", log=log) as address:
        hrefs = {band: f"{address}/{way}/{band}.tif?key=secret" for band in RGB}
        item = write_item(tmp_path / "a.json", day=DAY, hrefs=hrefs)
        with pytest.raises(DataError, match=r"on 127\.0\.0\.1; give --remote"):
            one(item)
        assert log == []
        reflectance, _ = values(one(item, remote=True))
    np.testing.assert_allclose(reflectance, NUMBERS / 10000, rtol=1e-6)


@pytest.mark.parametrize(
    ("way", "said"),
    [("away", "redirects elsewhere"), ("secret", "status 403"), ("cut", "can't be read"),
     ("text", "no Cloud-Optimized"), ("slow", r"B04\.tif can't be read: timed out"), ("plain", "not cloud-optimized")],
)  # fmt: skip
def test_servers_that_do_not_serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, said: str) -> None:
    monkeypatch.setattr(stac, "SECONDS", 0.2)
    numbers = NUMBERS if way != "plain" else NUMBERS.repeat(8, 2)  # wider than a tile
    write_band_files(tmp_path / "server", numbers, driver="GTiff" if way == "plain" else "COG")
    if way == "text":
        (tmp_path / "server" / "B04.tif").write_text("no image")
    with serving(tmp_path / "server") as address:
        hrefs = {band: f"{address}/{way}/{band}.tif?key=hidden" for band in RGB}
        item = write_item(tmp_path / "a.json", day=DAY, hrefs=hrefs)
        with pytest.raises(DataError, match=said) as caught:
            values(one(item, remote=True))
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    "href", ["../../../etc/passwd", "/etc/passwd", "file:///etc/passwd", "http://example.com/a.tif", "s3://a/b.tif",
             "/vsicurl/http://example.com/a.tif", "https:///a.tif", "..%2f..%2fa.tif", "http://[", "a\0b"],
)  # fmt: skip
def test_items_that_point_elsewhere(tmp_path: Path, href: str) -> None:
    (tmp_path / "in").mkdir()
    item = write_item(tmp_path / "in" / "a.json", day=DAY, hrefs=dict.fromkeys(RGB, href))
    says(r"a\.json: item", item, remote=True)


@pytest.mark.parametrize(
    "content",
    [
        "", "[]", "null", "{", "[" * 100_000, '{"type": "FeatureCollection", "features": []}', '{"a": NaN}',
        '{"type": "FeatureCollection", "features": 7}', '{"type": "Feature", "assets": {}, "properties": {}}',
        '{"type": "Feature", "assets": [], "properties": {}}', '{"type": "Catalog"}', "\x00\x01",
        json.dumps({**ITEM, "assets": {"B04": {"href": 3}}}), json.dumps(ITEM),
        json.dumps({**ITEM, "properties": {"datetime": "9" * 999}}),
        json.dumps({"type": "FeatureCollection", "features": [ITEM] * 6000}),
    ],
)  # fmt: skip
def test_files_that_are_no_items(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    says(r"a\.json", path)


@pytest.mark.parametrize("field", [{"offset": 1e999}, {"scale": "much"}, {"scale": 0}, {"scale": -1}, {"scale": None}])
def test_scales_of_items(tmp_path: Path, field: dict[str, Any]) -> None:
    write_band_files(tmp_path, NUMBERS)
    stated: dict[str, Any] = {"raster:bands": [field]}
    item = write_item(tmp_path / "a.json", day=DAY, hrefs={band: f"{band}.tif" for band in RGB}, **stated)
    if field == {"scale": None}:
        assert one(item).meanings == ((1e-4, 0.0),) * 3
    else:
        says(r"a\.json: .*raster:bands", item)
