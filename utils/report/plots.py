"""Charts: how a metric spreads over patches, what it depends on, and how methods differ. Drawn by matplotlib as SVG.

`inline` gives a chart for a page, whose style sheet has its colours; `standalone` gives a file of its own.
"""

import html
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from utils.images import Attention

# The colour-blind tell them apart. A page replaces each by the CSS variable of the first of its names.
COLOURS = {
    "result": "#1f66c1",
    "backbone": "#2a8a76",
    "bicubic": "#d0761b",
    "truth": "#202124",
    "ddpm": "#202124",
    "ddim": "#d0761b",
    "dpmpp_2m": "#1f66c1",
    "better": "#1f66c1",
    "worse": "#d0761b",
    "unclear": "#80868b",
    "ink": "#3c4043",
    "grid": "#dadce0",
}
SIZE = (5.4, 3.4)  # inches of 72 pixels
FEW = 30  # points: of so many each is marked
_STYLE: Any = {
    **{"font.size": 10.5, "axes.labelsize": 10.5, "axes.titlesize": 10.5, "axes.titlelocation": "left"},
    **{"text.parse_math": False, "svg.fonttype": "none", "svg.hashsalt": "", "legend.frameon": False},
    **{"axes.grid": True, "axes.axisbelow": True, "grid.color": COLOURS["grid"], "axes.edgecolor": COLOURS["grid"]},
    **{"text.color": COLOURS["ink"], "axes.labelcolor": COLOURS["ink"]},
    **{"xtick.color": COLOURS["ink"], "ytick.color": COLOURS["ink"]},
    **{"xtick.major.size": 0, "ytick.major.size": 0, "axes.spines.top": False, "axes.spines.right": False},
}


class Line(NamedTuple):
    """Points of one method, with intervals where there are any (NaN: none)."""

    name: str  # a key of COLOURS
    x: ArrayLike
    y: ArrayLike
    low: ArrayLike | None = None
    high: ArrayLike | None = None


class Interval(NamedTuple):
    """A difference with its interval (NaN: not shown)."""

    mean: float
    low: float
    high: float
    kind: str  # better, worse or unclear


@rc_context(_STYLE)
def histogram(values: Mapping[str, ArrayLike], *, label: str) -> Figure:
    """How many patches have which value of each method, with a dashed line at the mean; only finite values count."""
    finite = {name: np.asarray(column, dtype=float) for name, column in values.items()}
    finite = {name: column[np.isfinite(column)] for name, column in finite.items()}
    most = max(map(len, finite.values()), default=0)
    figure, axes = _chart(x=label, y="patches")
    if not most:
        return _empty(figure, axes)
    everything = np.concatenate(list(finite.values()))
    low, high = everything.min(), everything.max()
    margin = 0 if high > low else max(abs(low) * 0.05, 0.5)
    edges = np.linspace(low - margin, high + margin, min(24, 2 + math.ceil(2 * math.sqrt(most))) + 1)
    for name, column in finite.items():
        counts, _ = np.histogram(column, edges)
        axes.stairs(counts, edges, fill=True, color=COLOURS[name], alpha=0.15)
        axes.stairs(counts, edges, color=COLOURS[name], linewidth=1.6, label=name)
        if len(column):
            axes.axvline(column.mean(), color=COLOURS[name], linestyle="--", linewidth=1.4)
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    return _with_legend(figure, axes)


@rc_context(_STYLE)
def lines(
    series: Sequence[Line],
    *,
    x: str,
    y: str,
    log: bool = False,
    texts: Mapping[float, str] | None = None,
    mark: float | None = None,
    levels: Iterable[float] = (),
    whole: bool = False,
) -> Figure:
    """Values against x, with intervals as bars.

    Args:
        series: what is drawn; points that are not finite, or not positive on logarithmic axes, are left out.
        x: the label of the axis.
        y: likewise.
        log: whether both axes are logarithmic.
        texts: labels at positions of x, in place of numbers.
        mark: a position of x with a dashed line.
        levels: likewise of y.
        whole: whether positions of x are whole numbers.
    """
    figure, axes = _chart(x=x, y=y)
    if log:
        axes.loglog()
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
    spans = [np.ptp(line.x) for line in series if np.size(line.x)]
    for number, line in enumerate(series):
        middle, at = np.asarray(line.y, dtype=float), np.asarray(line.x, dtype=float)
        keep = np.isfinite(middle) & np.isfinite(at) & ((middle > 0) & (at > 0) if log else True)
        if not keep.any():
            continue
        bounds = [middle if bound is None else np.asarray(bound, dtype=float) for bound in (line.low, line.high)]
        low, high = (np.where(np.isfinite(bound), bound, middle)[keep] for bound in bounds)
        at, middle = at[keep], middle[keep]
        if not log:  # bars stand beside each other
            at = at + 0.01 * max(spans) * (number - (len(series) - 1) / 2)
        marker: dict[str, Any] = {"marker": "o", "markersize": 4} if len(at) <= FEW else {}
        errors = None if line.low is None else np.maximum(0, [middle - low, high - middle])
        axes.errorbar(at, middle, yerr=errors, color=COLOURS[line.name], label=line.name, linewidth=1.6, **marker)
    if not axes.lines:
        return _empty(figure, axes)
    if mark is not None:
        axes.axvline(mark, color=COLOURS["ink"], linestyle="--", linewidth=1)
    for level in levels:
        axes.axhline(level, color=COLOURS["ink"], linestyle="--", linewidth=1)
    if whole:
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    if texts:
        low, high = axes.get_xlim()
        shown = {at: text for at, text in texts.items() if low <= at <= high}
        axes.set_xticks(list(shown), labels=list(shown.values()))
    return _with_legend(figure, axes)


@rc_context(_STYLE)
def differences(
    names: Sequence[str], panels: Mapping[str, Sequence[Interval]], *, label: str, columns: int = 3
) -> Figure:
    """Rows of differences by ``names``, in panels side by side, each with an axis and a line at 0 of its own."""
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    indent = 0.09 * max(map(len, names))  # inches
    figure = Figure(figsize=(indent + 3.6 * columns, 0.5 + rows * (1 + 0.28 * len(names))), layout="constrained")
    figure.suptitle(label, fontsize=10.5, x=0.01, horizontalalignment="left")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    for axes, (heading, intervals) in zip(grid.flat, panels.items(), strict=False):
        axes.set_title(heading, weight="bold")
        axes.axvline(0, color=COLOURS["ink"], linestyle="--", linewidth=1)
        for row, interval in enumerate(intervals):
            if np.isfinite(interval[:3]).all():
                axes.plot([interval.low, interval.high], [row, row], color=COLOURS[interval.kind], linewidth=2)
                axes.plot(interval.mean, row, "o", color=COLOURS[interval.kind], markersize=6)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_yticks(range(len(names)), labels=names if axes.get_subplotspec().is_first_col() else [])
        axes.xaxis.set_major_locator(MaxNLocator(5))
    return figure


@rc_context(_STYLE)
def attention_bars(attention: Attention) -> Figure:
    """The inputs of a series in order of their dates, and below each its share of the attention."""
    number = len(attention.inputs)
    figure = Figure(figsize=(max(3.0, 0.75 * number), 1.9), layout="constrained")
    grid = figure.add_gridspec(2, number, height_ratios=(1, 1))
    for at, image in enumerate(attention.inputs):
        axes = figure.add_subplot(grid[0, at])
        axes.imshow(image, interpolation="nearest")
        axes.set_axis_off()
    axes = figure.add_subplot(grid[1, :])
    axes.bar(range(number), [100 * share for share in attention.shares], color=COLOURS["result"])
    axes.set_xlim(-0.5, number - 0.5)
    axes.set_xticks(range(number), labels=[f"{day:+.0f}" for day in attention.days])
    axes.set_ylabel("%")
    axes.grid(visible=False, axis="x")
    return figure


def inline(figure: Figure, *, label: str) -> str:
    """A chart as an element of a page: its text is the page's, its colours are CSS variables, its width is free.

    ``label`` says what it shows; it must be unique in the page.
    """
    svg = _saved(figure, salt=label)
    (shape,) = re.findall(r'viewBox="[^"]*"', svg)[:1]
    svg = re.sub(r"^.*?<svg [^>]*>", "", svg, count=1, flags=re.DOTALL)
    used = set(re.findall(r"#(\w+)", svg))  # clip paths and markers, unique by the salt; all else has no name
    svg = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", svg)
    svg = re.sub(r"font-family: [^;]*; ", "", svg)
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)  # it would rule the whole page
    for name, colour in COLOURS.items():
        svg = svg.replace(colour, f"var(--{name})")
    return f'<svg {shape} role="img" aria-label="{html.escape(label)}">{svg}'


def standalone(figure: Figure) -> str:
    """A chart as an SVG file, on white."""
    return _saved(figure, facecolor="white")


def _chart(*, x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=SIZE)
    axes = figure.add_axes((0.13, 0.15, 0.85, 0.73))
    axes.set_xlabel(x)
    figure.text(0.01, 0.96, y, verticalalignment="top")
    return figure, axes


def _with_legend(figure: Figure, axes: Axes) -> Figure:
    figure.legend(*axes.get_legend_handles_labels(), loc="upper right", ncols=4, handlelength=1, columnspacing=1)
    return figure


def _empty(figure: Figure, axes: Axes) -> Figure:
    """In the place of a chart without data."""
    axes.clear()
    axes.set_axis_off()
    axes.text(0.5, 0.5, "no finite values", horizontalalignment="center")
    return figure


def _saved(figure: Figure, *, salt: str = "chart", **options: Any) -> str:
    """The figure as SVG text, the same each time; ``salt``: identifiers are unique by it."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with rc_context({**_STYLE, "svg.hashsalt": salt}):
        figure.savefig(buffer, format="svg", metadata=nothing, **{"transparent": "facecolor" not in options, **options})
    return buffer.getvalue()
