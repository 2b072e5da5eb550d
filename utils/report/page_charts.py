"""The charts of the report: how a metric spreads over patches, what it depends on, and which details images hold."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from utils.metrics.registry import METRICS
from utils.report import plots
from utils.report.patch_table import column, methods
from utils.report.statistics import mean_interval

FACTORS = {"days_to_nearest": "days to the nearest acquisition", "valid_dates": "valid dates"}
SAME = {
    "days_to_nearest": "The nearest acquisition of all patches is {:g} day{} from the truth.",
    "valid_dates": "All patches have {:g} valid date{}.",
}
GROUPS = 8  # of patches, against a factor
FEWEST_IN_GROUP = 5  # patches: the interval of fewer is wider than the chart


class Spectrum(NamedTuple):
    """Mean radial power (K,) of one kind of image at frequencies (K,) in cycles a pixel (utils.spectrum)."""

    frequencies: ArrayLike
    power: ArrayLike


def panel(table: pd.DataFrame, metric: str, *, hidden: bool) -> str:
    """Everything that is drawn of one metric, as HTML."""
    how = METRICS[metric]
    axis = how.label + (f" ({how.unit})" if how.unit else "")
    columns = methods(table, metric)
    figures = [plots.histogram(columns, label=axis)]
    for factor, label in FACTORS.items():
        values = np.abs(column(table, factor))
        groups = group(values)
        if len(groups) > 1:
            figures.append(_factor_chart(columns, values, groups, axis=axis, label=label))
    content = "".join(f"<figure>{figure}</figure>" for figure in figures)
    return f'<div class="charts" data-metric="{metric}"{" hidden" if hidden else ""}>{content}</div>'


def note(table: pd.DataFrame) -> str:
    """How the panels are to be read, and what is the same for all patches."""
    factors = {factor: np.abs(column(table, factor)) for factor in FACTORS}
    groups = {factor: group(values) for factor, values in factors.items()}
    said = ["On the left, how many patches have which value; the line is the mean."]
    if any(len(found) > 1 for found in groups.values()):
        said.append(
            "Beside it, means over groups of patches, with 95% intervals where a group has at least "
            f"{FEWEST_IN_GROUP} patches."
        )
    for factor, found in groups.items():
        if len(found) == 1:
            value = factors[factor][found[0][0]]
            said.append(SAME[factor].format(value, "" if value == 1 else "s"))
    return escape(" ".join(said))


def group(factor: np.ndarray) -> list[np.ndarray]:
    """Positions of patches in up to GROUPS groups of growing factor, about equally many."""
    finite = factor[np.isfinite(factor)]
    starts = np.unique(finite)
    if len(starts) > GROUPS:
        starts = np.unique(np.quantile(finite, np.linspace(0, 1, GROUPS + 1)[:-1], method="higher"))
    number = np.searchsorted(starts, factor, side="right") - 1
    return [np.flatnonzero((number == i) & np.isfinite(factor)) for i in range(len(starts))]


def spectrum_chart(spectra: Mapping[str, Spectrum], *, scale: int) -> str:
    """Power against the size of details; a dashed line at the finest ones that the input holds."""
    series = [plots.Line(name, spectrum.frequencies, spectrum.power) for name, spectrum in spectra.items()]
    sizes = {float(np.log10(1 / period)): str(period) for period in (256, 128, 64, 32, 16, 8, 4, 2)}
    mark = float(np.log10(1 / (2 * scale)))
    return plots.lines(
        series, x="size of details (pixels of the result)", y="power (DN²·px²)", log=True, texts=sizes, mark=mark
    )


def _factor_chart(
    columns: Mapping[str, np.ndarray], factor: np.ndarray, groups: Sequence[np.ndarray], *, axis: str, label: str
) -> str:
    """Group means at the groups' mean factor, with their intervals."""
    at = [factor[members].mean() for members in groups]
    series = []
    for name, values in columns.items():
        finite = [values[members][np.isfinite(values[members])] for members in groups]
        means = [numbers.mean() if len(numbers) else np.nan for numbers in finite]
        known = [numbers if len(numbers) >= FEWEST_IN_GROUP else np.zeros(0) for numbers in finite]
        bounds = np.array([mean_interval(numbers) for numbers in known])
        series.append(plots.Line(name, at, means, bounds[:, 0], bounds[:, 1]))
    return plots.lines(series, x=label, y=axis, whole=bool((factor[np.isfinite(factor)] % 1 == 0).all()))
