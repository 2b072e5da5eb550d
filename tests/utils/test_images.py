"""Pictures: what pixels they hold, that files are whole, that sheets have every picture in its place."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from utils.images import error_map, heat, picture, save_png, sheet, spread_map


def test_picture_is_the_integers_of_the_metrics() -> None:
    x = torch.tensor([-2.0, 0.0, 1.0]).view(3, 1, 1).expand(3, 4, 5)
    assert picture(x).shape == (4, 5, 3)
    assert picture(x).dtype == np.uint8
    assert picture(x)[2, 3].tolist() == [0, 128, 255]


def test_heat_rises_in_brightness_and_stops_at_the_maximum() -> None:
    colours = heat(torch.linspace(0, 12, 13)[None], maximum=10.0)[0].astype(float)
    brightness = colours @ [0.299, 0.587, 0.114]
    assert (np.diff(brightness[:11]) > 0).all()
    assert (colours[10:] == colours[10]).all()
    assert heat(torch.zeros(2, 2), maximum=0.0).max() <= 4  # nothing to show is black, not an error


def test_error_and_spread_maps() -> None:
    black, white = torch.full((3, 2, 2), -1.0), torch.full((3, 2, 2), 1.0)
    assert (error_map(black, black) == heat(torch.zeros(2, 2), maximum=1)).all()
    assert (error_map(black, white) == heat(torch.ones(2, 2), maximum=1)).all()
    assert (spread_map(torch.stack([black, white]), maximum=127.5) == heat(torch.ones(2, 2), maximum=1)).all()
    assert (spread_map(black[None]) == heat(torch.zeros(2, 2), maximum=1)).all()


def test_png_is_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    target = tmp_path / "new" / "a.png"
    save_png(pixels, target)
    assert (np.asarray(Image.open(target)) == pixels).all()

    def half(self: Image.Image, path: Path, **_: object) -> None:
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", half)
    with pytest.raises(OSError, match="disk full"):
        save_png(pixels[::-1], target)
    monkeypatch.undo()
    assert (np.asarray(Image.open(target)) == pixels).all()
    assert [file.name for file in target.parent.iterdir()] == ["a.png"]


def test_sheet_has_every_picture_in_its_cell() -> None:
    def flat(colour: tuple[int, int, int], height: int, width: int) -> np.ndarray:
        return np.full((height, width, 3), colour, dtype=np.uint8)

    red, green, blue = (200, 0, 0), (0, 200, 0), (0, 0, 200)
    rows: list[list[np.ndarray | None]] = [[flat(red, 10, 10), flat(green, 400, 400)], [flat(blue, 20, 10), None]]
    drawn = np.asarray(sheet(rows, ["input", "truth"], [["24.1 dB", ""], ["", ""]], cell=240))
    for colour, pixels in ((red, 240 * 240), (green, 240 * 240), (blue, 240 * 120)):
        ys, xs = np.nonzero((drawn == colour).all(axis=-1))
        assert len(ys) == pixels
        assert (np.ptp(ys) + 1) * (np.ptp(xs) + 1) == pixels  # one rectangle
    text = (drawn.sum(axis=-1) < 300) & (np.ptp(drawn, axis=-1) < 8)  # grey and dark: letters only
    assert text.any()
    without = np.asarray(sheet(rows, ["", ""], cell=240))
    assert without.shape[0] < drawn.shape[0]
    assert not ((without.sum(axis=-1) < 300) & (np.ptp(without, axis=-1) < 8)).any()
