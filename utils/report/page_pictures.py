"""The pictures of the report: which patches are shown, and how they stand in the page."""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import numpy as np
import pandas as pd
from PIL import Image

from utils.errors import DataError
from utils.files import quoted
from utils.images import ERROR_MAXIMUM, SPREAD_MAXIMUM, Picture, save_png
from utils.metrics.registry import METRICS
from utils.report.patch_table import column, methods
from utils.report.verdict import worst

FOLDER = "report_pictures"
LARGEST = 400  # pixels; of larger pictures the page shows the middle


class Example(NamedTuple):
    """A patch that the page shows."""

    title: str  # best, median, worst
    row: int  # its position in the rows
    pictures: Mapping[str, Picture]  # by name, in the order shown; the slider compares "result" and "truth"


def choose_examples(values: Sequence[float], *, metric: str = "psnr", number: int = 2) -> list[tuple[str, int]]:
    """Up to ``number`` best, median and worst patches by their metric, as (title, position); each patch once."""
    worst_first = worst(metric, values, number=len(values))
    number = max(1, min(number, len(worst_first) // 3))
    middle = max(0, (len(worst_first) - number) // 2)
    groups = {"best": worst_first[::-1][:number], "worst": worst_first[:number]}
    groups["median"] = worst_first[middle : middle + number]
    taken: dict[int, str] = {}
    for title, positions in groups.items():
        for position in positions:
            taken.setdefault(position, title)
    order = ("best", "median", "worst")
    return sorted(((title, position) for position, title in taken.items()), key=lambda chosen: order.index(chosen[0]))


def save_pictures(folder: Path, key: object, pictures: Mapping[str, Picture]) -> None:
    """Keep the pictures of one patch for comparisons: report_pictures/<key>/<name>.png, quoted as in addresses."""
    for name, pixels in pictures.items():
        save_png(pixels, folder / FOLDER / quoted(key) / f"{quoted(name)}.png")


def load_pictures(folder: Path) -> dict[str, dict[str, Picture]]:
    """The kept pictures of an experiment by key, by name; empty where there are none. DataError for damaged ones."""
    found: dict[str, dict[str, Picture]] = {}
    for file in sorted((folder / FOLDER).glob("*/*.png")):
        try:
            pixels = np.asarray(Image.open(file).convert("RGB"))
        except (OSError, SyntaxError) as error:  # Pillow's word for damaged PNG files
            raise DataError(f"{file}: not a picture; evaluate again") from error
        found.setdefault(unquote(file.parent.name), {})[unquote(file.stem)] = pixels
    return found


def note(examples: Sequence[Example]) -> str:
    """What the maps show and in which units, and whether only a part is shown."""
    shown = {name for example in examples for name in example.pictures}
    sizes = [max(pixels.shape[:2]) for example in examples for pixels in example.pictures.values()]
    scale = "from 0 (black) to {maximum} DN and more (light yellow)"
    said = []
    if "error" in shown:
        how = scale.format(maximum=ERROR_MAXIMUM)
        said.append(f"Error: the absolute difference of result and truth, mean over the bands, {how}.")
    if "spread" in shown:
        how = scale.format(maximum=SPREAD_MAXIMUM)
        said.append(f"Spread: the standard deviation of the samples, mean over the bands, {how}.")
    if sizes and max(sizes) > LARGEST:
        said.append(f"Of each patch the middle {LARGEST} pixels.")
    return " ".join(said)


def spread_of(table: pd.DataFrame) -> np.ndarray:
    """The mean standard deviation of each patch's samples in digital numbers, (n,); NaN where there is none."""
    return column(table, "spread") * 127.5  # the table has it in the networks' range of [-1, 1]


def address(row: int) -> str:
    """The id of a patch's pictures in the page."""
    return f"patch-{row}"


def render(table: pd.DataFrame, example: Example, *, metric: str) -> str:
    """One patch as HTML: a slider between result and truth, and all of its pictures."""
    how, key = METRICS[metric], table["key"].iloc[example.row]
    numbers = {name: how.with_unit(how.format(of[example.row])) for name, of in methods(table, metric).items()}
    for name, of in (("error", column(table, "mae")), ("spread", spread_of(table))):
        if np.isfinite(of[example.row]):
            numbers[name] = f"{METRICS['mae'].with_unit(METRICS['mae'].format(of[example.row]))} on average"
    figures = []
    for name, pixels in middle(example.pictures).items():
        number = f"<br>{escape(numbers[name])}" if name in numbers else ""
        image = f'<img src="{_data_url(pixels)}" alt="{escape(f"{name} of patch {key}")}">'
        button = f'<button type="button" data-name="{escape(name)}" aria-pressed="false">{image}</button>'
        figures.append(f"<figure>{button}<figcaption>{escape(name)}{number}</figcaption></figure>")
    slider = (
        '<div><div class="slider" style="--at:50%" hidden><img alt=""><img alt=""><span></span><span></span>'
        '<input type="range" min="0" max="100" value="50" aria-label="where the truth begins"></div>'
        '<div class="controls" hidden><button type="button" class="flip">Flip</button></div></div>'
    )
    heading = f"<h3>{escape(f'{example.title}: patch {key}')}</h3>"
    row = f'<div class="row">{"".join(figures)}</div>'
    return f'<article class="example" id="{address(example.row)}">{heading}{slider}{row}</article>'


def middle(pictures: Mapping[str, Picture]) -> dict[str, Picture]:
    """The same middle part of all pictures of one patch, of at most LARGEST pixels in the largest of them."""
    sides = [side for pixels in pictures.values() for side in pixels.shape[:2]]
    if not sides or max(sides) <= LARGEST:
        return dict(pictures)
    coarsest = min(sides)
    kept = max(1, coarsest * LARGEST // max(sides)) / coarsest  # whole pixels of the coarsest picture

    def cut(side: int) -> slice:
        start = round((coarsest - round(kept * coarsest)) // 2 * side / coarsest)
        return slice(start, start + round(kept * side))

    return {name: pixels[cut(pixels.shape[0]), cut(pixels.shape[1])] for name, pixels in pictures.items()}


def _data_url(pixels: Picture) -> str:
    """A picture inside the page, lossless."""
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format="WEBP", lossless=True, quality=80, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
