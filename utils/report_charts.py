"""The charts of the report: how a metric spreads over patches, what it depends on, and which details images hold."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from utils import charts
from utils.metric_table import METRICS
from utils.patch_table import column, methods
from utils.statistics import bootstrap_interval

FACTORS = {"days_to_nearest": "days to the nearest acquisition", "valid_dates": "valid dates"}
GROUPS = 8  # of patches, against a factor


class Spectrum(NamedTuple):
    """Mean radial power (K,) of one kind of image at frequencies (K,) in cycles a pixel (utils.spectrum)."""

    frequencies: ArrayLike
    power: ArrayLike


def panel(table: pd.DataFrame, metric: str, *, hidden: bool) -> str:
    """Everything that is drawn of one metric, as HTML."""
    how = METRICS[metric]
    axis = how.label + (f" ({how.unit})" if how.unit else "")
    columns = methods(table, metric)
    figures = [charts.histogram(columns, label=axis)]
    for factor, label in FACTORS.items():
        groups = group(np.abs(column(table, factor)))
        if groups:
            figures.append(_factor_chart(columns, groups, axis=axis, label=label))
    content = "".join(f"<figure>{figure}</figure>" for figure in figures)
    return f'<div class="charts" data-metric="{metric}"{" hidden" if hidden else ""}>{content}</div>'


def group(factor: np.ndarray) -> dict[str, np.ndarray]:
    """Positions of patches in up to GROUPS groups of growing factor, about equally many, by the name of their range."""
    finite = factor[np.isfinite(factor)]
    starts = np.unique(finite)
    if len(starts) > GROUPS:
        starts = np.unique(np.quantile(finite, np.linspace(0, 1, GROUPS + 1)[:-1], method="higher"))
    number = np.searchsorted(starts, factor, side="right") - 1
    named = {}
    for i in range(len(starts)):
        members = np.flatnonzero((number == i) & np.isfinite(factor))
        low, high = factor[members].min(), factor[members].max()
        named[f"{low:g}" if low == high else f"{low:g}–{high:g}"] = members
    return named


def spectrum_chart(spectra: Mapping[str, Spectrum], *, scale: int) -> str:
    """Power against the size of details; a dashed line at the finest ones that the input holds."""
    series = [charts.Line(name, spectrum.frequencies, spectrum.power) for name, spectrum in spectra.items()]
    sizes = {float(np.log10(1 / period)): str(period) for period in (256, 128, 64, 32, 16, 8, 4, 2)}
    mark = float(np.log10(1 / (2 * scale)))
    return charts.lines(series, x="size of details in pixels", y="power", log=True, texts=sizes, mark=mark)


def _factor_chart(columns: Mapping[str, np.ndarray], groups: Mapping[str, np.ndarray], *, axis: str, label: str) -> str:
    """Group means with their intervals."""
    series = []
    for name, values in columns.items():
        finite = [values[members][np.isfinite(values[members])] for members in groups.values()]
        means = [numbers.mean() if len(numbers) else np.nan for numbers in finite]
        bounds = np.array([bootstrap_interval(numbers) for numbers in finite])
        series.append(charts.Line(name, np.arange(len(groups)), means, bounds[:, 0], bounds[:, 1]))
    return charts.lines(series, x=label, y=axis, texts={float(i): name for i, name in enumerate(groups)})
