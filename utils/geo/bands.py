"""The names of Sentinel-2's bands, which of them a picture shows, and what an acquisition has of them."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from utils.errors import ConfigError

RED, GREEN, BLUE, NIR = "B04", "B03", "B02", "B08"
RGB = (RED, GREEN, BLUE)
ALIASES = {
    "red": RED, "green": GREEN, "blue": BLUE, "nir": NIR, "coastal": "B01", "rededge1": "B05", "rededge2": "B06",
    "rededge3": "B07", "nir08": "B8A", "nir09": "B09", "cirrus": "B10", "swir16": "B11", "swir22": "B12",
}  # fmt: skip
SENTINEL2_BANDS = (*(f"B{number:02}" for number in range(1, 13)), "B8A")
METRES = {"B02": 10, "B03": 10, "B04": 10, "B08": 10, "B01": 60, "B09": 60, "B10": 60}  # a pixel; the others have 20

Band = tuple[Path, int]  # a file, by the name that GDAL gives it, and the number of the band in it, from 1
Meaning = tuple[float, float]  # gain and offset: reflectance = value · gain + offset


@dataclass(frozen=True)
class Acquisition:
    """One image."""

    name: str
    day: date | None  # None only where it is the only one
    names: tuple[str, ...]  # Sentinel-2's, of its bands
    bands: tuple[Band, ...]
    meanings: tuple[Meaning, ...]
    classes: Band | None = None  # scene classification

    @property
    def files(self) -> list[Path]:
        """Each of its files once."""
        return list(dict.fromkeys(path for path, _ in (*self.bands, *([self.classes] if self.classes else []))))


def band_name(text: str) -> str | None:
    """Sentinel-2's name of a band that is called B04, B4, b04 or red; None for what is no band's name."""
    plain = text.strip().lower()
    number = re.fullmatch(r"b0?(\d{1,2}|8a)", plain)
    name = f"B{number[1].upper().zfill(2)}" if number else ALIASES.get(plain)
    return name if name in SENTINEL2_BANDS else None


def band_names(texts: Sequence[str]) -> tuple[str, ...]:
    """Sentinel-2's names of bands. Raises ValueError for what is no band's name, and for a band that comes twice."""
    names = []
    for text in texts:
        name = band_name(text)
        if name is None:
            raise ValueError(f"{text!r} is no band of Sentinel-2: {', '.join([*SENTINEL2_BANDS, *ALIASES])}")
        names.append(name)
    if len(set(names)) < len(names) or not names:
        raise ValueError(f"{', '.join(texts) or 'no band'}: name each band once")
    return tuple(names)


def described_bands(texts: Iterable[str | None]) -> tuple[str, ...] | None:
    """The bands that the descriptions of a raster name; None where they are no different bands' names."""
    try:
        return band_names([text or "" for text in texts])
    except ValueError:
        return None


def parse_bands(text: str, *, source: str) -> tuple[str, ...]:
    """Bands from a list such as B04,B03,B02,B08 or red,green,blue,nir. Raises ConfigError."""
    try:
        return band_names(text.split(","))
    except ValueError as error:
        raise ConfigError(f"{source}: {error}") from None


def common_name(band: str) -> str:
    """red for B04, and so on; the band's own name where it has no other."""
    return next((alias for alias, name in ALIASES.items() if name == band), band)


def map_name(band: str) -> str:
    """What a band of a result is called: red, green, blue, nir, else Sentinel-2's name."""
    return common_name(band) if band in (*RGB, NIR) else band


def listed(bands: Iterable[str]) -> str:
    """For messages: red, green, blue."""
    return ", ".join(map(common_name, bands))


def shown_positions(bands: Sequence[str]) -> tuple[int, int, int]:
    """Which channels a picture shows as red, green, blue: those of that name, else the first three."""
    wanted = RGB if set(RGB) <= set(bands) else [bands[min(i, len(bands) - 1)] for i in range(3)]
    red, green, blue = map(list(bands).index, wanted)
    return red, green, blue


def false_colours(bands: Sequence[str]) -> str:
    """What a caption says of a picture's colours; empty where they are the true ones."""
    if set(RGB) <= set(bands):
        return ""
    return f"false colours: {listed(bands[i] for i in shown_positions(bands))} as red, green, blue"
