"""Small scenes for tests: series of GeoTIFFs, miniature .SAFE products, networks that are no networks."""

import json
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
import torch.nn.functional as F
from affine import Affine
from numpy.typing import NDArray

from models.samplers import Noise
from models.series import Series
from tasks.base import Result
from tasks.scenes.predict import Request, predict_scene
from utils.distributed import World
from utils.geo.acquisitions import find_acquisitions
from utils.geo.bands import METRES, RGB, common_name
from utils.radiometry import PUBLISHED_MAXIMA

TRANSFORM = Affine(10, 0, 399960, 0, -10, 5300040)
CRS = "EPSG:32630"
START = date(2023, 6, 1)


def ground(height: int, width: int, *, seed: int = 0) -> NDArray[np.float64]:
    """Reflectance (3, height, width) with fields, texture and a few bright roofs."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    fields = rng.uniform(0.03, 0.12, (40, 40, 3))[y // 9 % 40, x // 13 % 40].transpose(2, 0, 1)
    image = fields + rng.normal(0, 0.004, (3, height, width))
    image[:, height // 3 : height // 3 + 2, width // 4 : width // 4 + 2] = 0.45
    return image.clip(0.005, 1)


def write_tif(
    path: Path,
    pixels: NDArray,
    *,
    transform: Affine = TRANSFORM,
    crs: str | None = CRS,
    nodata: float | None = None,
    names: Sequence[str] = ("B04", "B03", "B02"),
    **profile: Any,
) -> Path:
    """Pixels (bands, height, width)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = {"count": len(pixels), "height": pixels.shape[1], "width": pixels.shape[2], "dtype": pixels.dtype}
    place = {"crs": crs, "transform": transform, "nodata": nodata}
    with rasterio.open(path, "w", **{"driver": "GTiff", **profile}, **shape, **place) as target:
        target.write(pixels)
        for index, name in enumerate(names[: len(pixels)], 1):
            target.set_band_description(index, name)
    return path


def write_series(folder: Path, *, height: int, width: int, dates: int = 4, step: int = 5) -> list[date]:
    """GeoTIFFs of a place every ``step`` days; each date is a little brighter than the one before."""
    days = [START + timedelta(days=step * i) for i in range(dates)]
    place = ground(height, width)
    for i, day in enumerate(days):
        view = place * (1 + 0.03 * i) + np.random.default_rng(100 + i).normal(0, 0.001, place.shape)
        write_tif(folder / f"{day}.tif", (view * 10000).round().clip(1, 60000).astype(np.uint16))
    return days


METADATA_2A = """<?xml version="1.0" encoding="UTF-8"?>
<n1:Level-2A_User_Product xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/User_Product_Level-2A.xsd">
<n1:General_Info><Product_Info><PRODUCT_START_TIME>{day}T10:50:31.024Z</PRODUCT_START_TIME></Product_Info>
<Product_Image_Characteristics><QUANTIFICATION_VALUES_LIST>
<BOA_QUANTIFICATION_VALUE unit="none">10000</BOA_QUANTIFICATION_VALUE>
<AOT_QUANTIFICATION_VALUE unit="none">1000.0</AOT_QUANTIFICATION_VALUE></QUANTIFICATION_VALUES_LIST>
{offsets}</Product_Image_Characteristics></n1:General_Info></n1:Level-2A_User_Product>
"""
METADATA_1C = """<?xml version="1.0" encoding="UTF-8"?>
<n1:Level-1C_User_Product xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/User_Product_Level-1C.xsd">
<n1:General_Info><Product_Info><PRODUCT_START_TIME>{day}T10:50:31.024Z</PRODUCT_START_TIME></Product_Info>
<Product_Image_Characteristics><QUANTIFICATION_VALUE unit="none">10000</QUANTIFICATION_VALUE>
{offsets}</Product_Image_Characteristics></n1:General_Info></n1:Level-1C_User_Product>
"""


def write_safe(
    folder: Path,
    reflectance: NDArray,
    *,
    day: date,
    level: str = "2A",
    offset: int = 0,
    classes: NDArray[np.uint8] | None = None,
    suffix: str = ".jp2",
) -> Path:
    """A miniature product of the tile that ``reflectance`` (3, h, w) shows. ``classes``: (h / 2, w / 2) at 20 m."""
    stamp = day.strftime("%Y%m%d")
    product = folder / f"S2B_MSIL{level}_{stamp}T105031_N0510_R051_T30TXT_{stamp}T140000.SAFE"
    images = product / "GRANULE" / f"L{level}_T30TXT_A000001_{stamp}T105031" / "IMG_DATA"
    jp2 = {"driver": "JP2OpenJPEG", "QUALITY": "100", "REVERSIBLE": "YES"}
    profile: dict[str, Any] = dict(jp2) if suffix == ".jp2" else {}
    for band, values in zip(("B04", "B03", "B02"), reflectance, strict=True):
        name = f"T30TXT_{stamp}T105031_{band}" + ("_10m" if level == "2A" else "") + suffix
        numbers = (values * 10000).round() - offset
        where = images / "R10m" if level == "2A" else images
        write_tif(where / name, numbers[None].clip(0, 65535).astype(np.uint16), names=(), **profile)
    if classes is not None:
        half = TRANSFORM @ Affine.scale(2)
        write_tif(
            images / "R20m" / f"T30TXT_{stamp}T105031_SCL_20m{suffix}",
            classes[None],
            transform=half,
            names=(),
            **profile,
        )
    kind, tag = ("BOA", METADATA_2A) if level == "2A" else ("RADIO", METADATA_1C)
    listed = "".join(f'<{kind}_ADD_OFFSET band_id="{i}">{offset}</{kind}_ADD_OFFSET>' for i in range(13) if offset)
    (product / f"MTD_MSIL{level}.xml").write_text(
        tag.format(day=day, offsets=f"<List>{listed}</List>" if offset else "")
    )
    return product


def write_band_files(
    folder: Path, numbers: NDArray, *, prefix: str = "", names: Sequence[str] = RGB, **profile: Any
) -> None:
    """A file a band; the 20 m bands on their own grid, from every other pixel."""
    for name, values in zip(names, numbers, strict=True):
        coarse = METRES.get(name, 20) == 20
        pixels, transform = (values[::2, ::2], TRANSFORM @ Affine.scale(2)) if coarse else (values, TRANSFORM)
        write_tif(folder / f"{prefix}{name}.tif", pixels[None], transform=transform, names=(), **profile)


def write_item(
    path: Path, *, day: date, hrefs: dict[str, str], properties: Mapping[str, Any] | None = None, **asset: Any
) -> Path:
    """A STAC item: what ``hrefs`` say by Sentinel-2's names of bands, as Earth Search writes it."""
    assets: dict[str, Any] = {}
    for band, href in hrefs.items():
        key = common_name(band)
        described = {"eo:bands": [{"name": key, "common_name": key}]} if band != "scl" else {}
        assets[key] = {"href": href, "type": "image/tiff; application=geotiff", "roles": ["data"], **described, **asset}
    item = {
        "type": "Feature", "stac_version": "1.0.0", "id": f"S2B_30TXT_{day:%Y%m%d}_0_L2A", "assets": assets,
        "properties": {"datetime": f"{day}T10:50:31Z", **(properties or {})},
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(item))
    return path


def zipped(folder: Path, archive: Path) -> Path:
    """A folder in a zip file, and no longer beside it."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(folder.rglob("*")):
            file.write(path, path.relative_to(folder.parent))
    shutil.rmtree(folder)
    return archive


class Network:
    """The bicubic image and the mean of the views' detail: looks ``halo`` pixels far, in space and at all dates."""

    scale = 4
    bands: tuple[str, ...] = RGB
    maxima: tuple[float, ...] = PUBLISHED_MAXIMA
    stochastic = False
    about = ""
    states_uncertainty = False
    calibration: tuple[float, ...] | None = None
    halo = 4

    def __init__(self, *, num_dates: int = 3) -> None:
        self.num_dates = num_dates
        self.passes = 0

    def __call__(self, series: Series, noise: Noise) -> Result:
        self.passes += len(series.lr)
        views = series.lr * (1 + series.dates[..., None, None, None] / 100)
        mean = views.mean(dim=1)  # (B, C, h, w)
        detail = mean - F.avg_pool2d(mean, 5, stride=1, padding=2)  # reaches 2 pixels; bicubic 2 more
        return Result(sr=series.base + 0.5 * F.interpolate(detail, scale_factor=self.scale, mode="bicubic"))


class Sampler(Network):
    """Adds noise to it, as a diffusion model's sampling does."""

    stochastic = True

    def seconds_by_steps(self, size: int) -> dict[int, float]:
        return {1: 1.0, 4: 3.0}

    def __call__(self, series: Series, noise: Noise) -> Result:
        return Result(sr=super().__call__(series, noise).sr + 0.1 * noise(7, series.base.shape))


def predict(
    network: Network,
    inputs: Sequence[Path],
    output: Path,
    *,
    days: Sequence[date] = (),
    masks: Path | None = None,
    world: World | None = None,
    **request: Any,
) -> NDArray:
    """Run ``predict_scene`` for a date and read the result, (bands, H, W)."""
    acquisitions = find_acquisitions(inputs, days=days, masks=masks)
    targets = (request.pop("target"),) if "target" in request else ()
    asked = Request(output=output, targets=targets, **{"overwrite": True, "match_lr": "off", **request})
    place = world or World(torch.device("cpu"))
    predict_scene(network, acquisitions, asked, world=place, tags={"CHECKPOINT": "test", "COMMAND": "test"})
    with rasterio.open(output) as result:
        return result.read()
