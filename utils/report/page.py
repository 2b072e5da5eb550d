"""One page that shows what an experiment's results are worth: report.html, with no request to anywhere.

It is written from plain data only, and everything in it is escaped; the words that don't depend on results stand in
templates/report.html.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from markupsafe import Markup
from numpy.typing import ArrayLike
from PIL import Image

from utils.files import write_text
from utils.images import ERROR_MAXIMUM, SPREAD_MAXIMUM, Attention, Picture
from utils.metrics.correctness import CLASSES
from utils.metrics.frc import INPUT_PIXEL, THRESHOLDS
from utils.metrics.registry import METRICS, Metric, known
from utils.report import plots, statistics
from utils.report.comparison import by_method, column, environment, measured, results_table
from utils.report.statistics import Difference, Summary

HEADLINES = ("psnr", "ssim", "lpips", "shift_mae", "hallucination")  # the cards on top
REFERENCES = {"bicubic": "bicubic", "backbone": "its backbone"}  # methods, and as part of a sentence
FACTORS = {  # what a metric may depend on: the label of an axis, and as part of a sentence
    "days_to_nearest": (
        "days to the nearest acquisition",
        "the distance in days between the truth and its nearest acquisition",
    ),
    "valid_dates": ("valid dates", "the number of valid dates"),
}
GROUPS, FEWEST_IN_GROUP = 8, 5  # of patches, against a factor; the interval of fewer patches is wider than the chart
SHOWN_WORST = 10  # at most half of the patches
IN_SUBTITLE = ("checkpoint", "step", "split", "sampler", "evaluated")  # of the facts
LARGEST = 400  # pixels; of larger pictures the page shows the middle
DETAILS = (1, 1.2, 1.6, 2, 4, 8)  # pixels: ticks of the ring correlation
PERIODS = (256, 128, 64, 32, 16, 8, 4, 2)  # pixels: ticks of the spectrum


class MetricResult(NamedTuple):
    """What is shown of one metric."""

    metric: Metric
    summaries: dict[str, Summary]  # by method, the result first
    differences: dict[str, Difference]  # to the methods of REFERENCES, as far as there are any


class Example(NamedTuple):
    """A patch that the page shows."""

    title: str  # best, median, worst
    row: int  # its position in the rows
    pictures: Mapping[str, Picture]  # by name, in the order shown; the slider compares "result" and "truth"
    attention: Attention | None = None  # the dates that it was made from


def write_report(
    path: Path,
    *,
    name: str,
    facts: Mapping[str, object],
    settings: Mapping[str, object],
    rows: Sequence[Mapping[str, object]],
    examples: Sequence[Example],
    spectra: Mapping[str, tuple[ArrayLike, ArrayLike]],
    rings: Mapping[str, tuple[ArrayLike, ArrayLike]],
    trust: Mapping[str, Any],
    scale: int,
) -> None:
    """Write the page.

    Args:
        path: the file, written aside and renamed.
        name: of the experiment.
        facts: what was evaluated, how, when: shown as they are, those of IN_SUBTITLE below the title too.
        settings: all keys of the configuration.
        rows: one a patch: ``key``, metrics of the result (names of METRICS), the same with the prefixes of METHODS for
            other methods, ``days_to_nearest``, ``valid_dates``, ``spread``. What is missing or None is left out.
        examples: patches to show.
        spectra: by method (result, bicubic, backbone, truth): frequencies (K,) in cycles a pixel, mean radial power
            (K,).
        rings: by method: frequencies (K,) in cycles a pixel, Fourier ring correlation with the truth (K,).
        trust: ``resolution`` (metres by method and column), ``uncertainty`` (figures before and after calibration, and
            the ``rank_histogram``) and ``correctness_settings``, as far as there are any.
        scale: how much finer the result is than the input.

    Raises:
        DataError: there is no row, or no metric in them.
    """
    table = results_table(rows, source=str(path))
    results = {metric: _measured(table, metric) for metric in measured(table) or known(table)}
    main = "psnr" if "psnr" in results else next(iter(results))
    factors = {factor: np.abs(column(table, factor)) for factor in FACTORS}
    groups = {factor: _groups(values) for factor, values in factors.items()}
    shown_worst = min(SHOWN_WORST, max(1, len(table) // 2))
    html = (
        environment(autoescape=True)
        .get_template("report.html")
        .render(
            name=name,
            facts=facts,
            in_subtitle=[fact for fact in IN_SUBTITLE if fact in facts],
            settings=settings,
            sentences=_sentences(table, results, main=main, name=name),
            results=results,
            headlines=[results[metric] for metric in HEADLINES if metric in results],
            references={method: words for method, words in REFERENCES.items() if method in results[main].differences},
            metrics=METRICS,
            spread=statistics.summarise(_spread(table)),
            keys=list(table["key"]),
            factors={factor: values for factor, values in factors.items() if factor in table},
            constant={factor: factors[factor][found[0][0]] for factor, found in groups.items() if len(found) == 1},
            is_grouped=any(len(found) > 1 for found in groups.values()),
            charts={metric: _charts(table, metric, factors, groups) for metric in results},
            main=METRICS[main],
            main_values=by_method(table, main),
            lost=_lost(table, main),
            worst=statistics.worst_positions(METRICS[main], column(table, main), number=shown_worst),
            examples=[_shown(table, example, metric=main) for example in examples],
            example_rows=[example.row for example in examples],
            pictured={picture for example in examples for picture in example.pictures},
            is_cut=any(max(pixels.shape) > LARGEST for example in examples for pixels in example.pictures.values()),
            spectrum=_spectrum_chart(spectra, scale=scale) if spectra else None,
            ring_chart=_ring_chart(rings, scale=scale) if rings else None,
            trust=trust,
            scale=scale,
            constants={
                "largest": LARGEST,
                "fewest_in_group": FEWEST_IN_GROUP,
                "enough": statistics.ENOUGH,
                "error": ERROR_MAXIMUM,
                "spread": SPREAD_MAXIMUM,
            },
        )
    )
    write_text(path, html)


def choose_examples(values: Sequence[float], *, metric: str = "psnr", number: int = 2) -> list[tuple[str, int]]:
    """Up to ``number`` best, median and worst patches by their metric, as (title, position); each patch once."""
    worst_first = statistics.worst_positions(METRICS[metric], values, number=len(values))
    number = max(1, min(number, len(worst_first) // 3))
    middle = max(0, (len(worst_first) - number) // 2)
    groups = {
        "best": worst_first[::-1][:number],
        "median": worst_first[middle : middle + number],
        "worst": worst_first[:number],
    }
    taken: dict[int, str] = {}
    for title in ("best", "worst", "median"):  # of few patches, one may be in several groups
        for position in groups[title]:
            taken.setdefault(position, title)
    return [(title, position) for title, group in groups.items() for position in group if taken[position] == title]


def _measured(table: pd.DataFrame, metric: str) -> MetricResult:
    values = by_method(table, metric)
    differences = {
        method: statistics.compare_pairs(values["result"], values[method]) for method in REFERENCES if method in values
    }
    summaries = {method: statistics.summarise(numbers) for method, numbers in values.items()}
    return MetricResult(METRICS[metric], summaries, {name: of for name, of in differences.items() if of.pairs})


def _sentences(table: pd.DataFrame, results: Mapping[str, MetricResult], *, main: str, name: str) -> list[str]:
    """The sentences on top: which is better, by how much, how sure, where it fails."""
    values, metric = column(table, main), METRICS[main]
    said: list[str | None] = []
    for method, difference in results[main].differences.items():
        who, reference = "It" if said else name, REFERENCES[method]
        said.append(statistics.difference_sentence(metric, difference, name=who, reference=reference))
        tallied = [
            (found.metric, found.differences[method]) for found in results.values() if method in found.differences
        ]
        said.append(statistics.tally_sentence(tallied, reference=reference))
    if not said:
        summary = results[main].summaries["result"]
        mean, sure = metric.amount(summary.mean), metric.interval(summary.low, summary.high)
        said.append(f"{name} reaches a mean {metric.label} of {mean} (95% interval {sure}).")
    for factor, (_, words) in FACTORS.items():
        said.append(statistics.link_sentence(metric, values, np.abs(column(table, factor)), factor_name=words))
    worst = statistics.worst_positions(metric, values, number=3)
    if len(table) > len(worst) > 0:
        said.append(f"It is furthest from the truth on the patches {statistics.join(table['key'].iloc[worst])}.")
    return [sentence for sentence in said if sentence]


def _lost(table: pd.DataFrame, main: str) -> list[str] | None:
    """Keys of the patches on which bicubic is nearer to the truth; None where it was not measured."""
    values = by_method(table, main)
    if "bicubic" not in values:
        return None
    nearer = (values["result"] < values["bicubic"]) == METRICS[main].higher_is_better
    return table["key"][nearer & (values["result"] != values["bicubic"])].tolist()


# Charts


def _charts(
    table: pd.DataFrame, metric: str, factors: Mapping[str, np.ndarray], groups: Mapping[str, list[np.ndarray]]
) -> list[Markup]:
    """How a metric spreads over patches, and means over groups of patches at each group's mean factor."""
    label, axis = METRICS[metric].label, METRICS[metric].axis
    values = by_method(table, metric)
    drawn = {f"patches by {label}": plots.histogram(values, label=axis)}
    for factor, found in groups.items():
        if len(found) < 2:
            continue
        at = factors[factor]
        centres = [at[members].mean() for members in found]
        series = []
        for method, numbers in values.items():
            finite = [numbers[members][np.isfinite(numbers[members])] for members in found]
            means = [group.mean() if len(group) else np.nan for group in finite]
            bounds = [statistics.mean_interval(group if len(group) >= FEWEST_IN_GROUP else ()) for group in finite]
            series.append(plots.Line(method, centres, means, *np.transpose(bounds)))
        whole = bool((at[np.isfinite(at)] % 1 == 0).all())
        drawn[f"{label} by {FACTORS[factor][0]}"] = plots.lines(series, x=FACTORS[factor][0], y=axis, whole=whole)
    return [Markup(plots.inline(figure, label=title)) for title, figure in drawn.items()]


def _groups(factor: np.ndarray) -> list[np.ndarray]:
    """Positions of patches in up to GROUPS groups of growing factor, about equally many."""
    finite = factor[np.isfinite(factor)]
    starts = np.unique(finite)
    if len(starts) > GROUPS:
        starts = np.unique(np.quantile(finite, np.linspace(0, 1, GROUPS + 1)[:-1], method="higher"))
    number = np.searchsorted(starts, factor, side="right") - 1
    return [np.flatnonzero((number == i) & np.isfinite(factor)) for i in range(len(starts))]


def _ring_chart(rings: Mapping[str, tuple[ArrayLike, ArrayLike]], *, scale: int) -> Markup:
    """Correlation with the truth against the size of details, as half of their period in metres."""
    pixel = INPUT_PIXEL / scale
    figure = plots.lines(
        [plots.Line(name, frequencies, correlation) for name, (frequencies, correlation) in rings.items()],
        x="size of details (m)",
        y="correlation with the truth",
        texts={1 / (2 * pixels): f"{pixels * pixel:g}" for pixels in DETAILS},
        levels=THRESHOLDS.values(),
    )
    return Markup(plots.inline(figure, label="Fourier ring correlation"))


def _spectrum_chart(spectra: Mapping[str, tuple[ArrayLike, ArrayLike]], *, scale: int) -> Markup:
    """Power against the size of details; a dashed line at the finest ones that the input holds."""
    figure = plots.lines(
        [plots.Line(name, frequencies, power) for name, (frequencies, power) in spectra.items()],
        x="size of details (pixels of the result)",
        y="power (DN²·px²)",
        log=True,
        texts={1 / period: str(period) for period in PERIODS},
        mark=1 / (2 * scale),
    )
    return Markup(plots.inline(figure, label="power by size of details"))


# Pictures


def _spread(table: pd.DataFrame) -> np.ndarray:
    """The mean standard deviation of each patch's samples in digital numbers, (n,); NaN where there is none."""
    return column(table, "spread") * 127.5  # the table has it in the networks' range of [-1, 1]


def _shown(table: pd.DataFrame, example: Example, *, metric: str) -> dict[str, object]:
    """A patch with its pictures and their numbers."""
    row = example.row
    numbers = {method: METRICS[metric].amount(values[row]) for method, values in by_method(table, metric).items()}
    for name, values in (("error", column(table, "mae")), ("spread", _spread(table))):
        if np.isfinite(values[row]):
            numbers[name] = f"{METRICS['mae'].amount(values[row])} on average"
    for name in CLASSES:
        if np.isfinite(share := column(table, name)[row]):
            numbers[name] = METRICS[name].amount(share)
    pictures = [(name, _data_url(pixels), numbers.get(name)) for name, pixels in _middle(example.pictures).items()]
    bars = None
    if example.attention is not None:
        label = f"attention of patch {table['key'].iloc[row]} ({row})"
        bars = Markup(plots.inline(plots.attention_bars(example.attention), label=label))
    return {"title": example.title, "row": row, "pictures": pictures, "attention": bars}


def _middle(pictures: Mapping[str, Picture]) -> dict[str, Picture]:
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
