"""Small charts as SVG text: histograms, lines with intervals, rows of differences.

They stand in a page, or by themselves with `standalone`. Colours are classes, so that a page can have a dark mode.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

WIDTH, HEIGHT = 380, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 26, 40
_ROW, _PANEL, _HEAD = 18, 300, 30  # of differences: height of a row, width of a panel, height of its heading
# The colours of methods and samplers by class, light and dark: the colour-blind tell them apart.
COLOURS = {
    "result": ("#1f66c1", "#6ea8ff"),
    "backbone": ("#2a8a76", "#58c9b0"),
    "bicubic": ("#d0761b", "#f2a65a"),
    "truth": ("#202124", "#e8eaed"),
    "ddpm": ("#202124", "#e8eaed"),
    "ddim": ("#d0761b", "#f2a65a"),
    "dpmpp_2m": ("#1f66c1", "#6ea8ff"),
    "better": ("#1f66c1", "#6ea8ff"),
    "worse": ("#d0761b", "#f2a65a"),
    "unclear": ("#80868b", "#9aa0a6"),
}


class Axis(NamedTuple):
    """A direction of a chart. ``texts``: labels at given positions, in place of numbers."""

    label: str
    low: float
    high: float
    logarithmic: bool = False  # the values are powers of ten already: ticks are written as such
    texts: Mapping[float, str] | None = None
    whole: bool = False  # ticks are whole numbers


class Line(NamedTuple):
    """Points of one method, with intervals where there are any (NaN: none)."""

    name: str  # a key of COLOURS
    x: ArrayLike
    y: ArrayLike
    low: ArrayLike | None = None
    high: ArrayLike | None = None


class Row(NamedTuple):
    """A difference with its interval (NaN: not shown)."""

    mean: float
    low: float
    high: float
    kind: str  # better, worse, unclear: a key of COLOURS


def histogram(values: Mapping[str, ArrayLike], *, label: str, bins: int | None = None) -> str:
    """How many patches have which value, one method above the other, with a line at the mean.

    Values that are not finite are left out. ``bins``: else a few for few patches, at most 24.
    """
    finite = {name: _finite(column) for name, column in values.items()}
    everything = np.concatenate(list(finite.values())) if finite else np.zeros(0)
    if not len(everything):
        return empty("no finite values")
    low, high = _padded(everything.min(), everything.max(), share=0.0)
    most = max(len(column) for column in finite.values())
    edges = np.linspace(low, high, (bins or min(24, 2 + math.ceil(2 * math.sqrt(most)))) + 1)
    counts = {name: np.histogram(column, edges)[0] for name, column in finite.items()}
    tallest = max(1, max(int(count.max()) for count in counts.values()))
    band = tallest * 1.15  # the height of one method, in patches
    numbers = [value for value, _ in ticks(Axis("", 0, tallest, whole=True), 6 // len(counts))]
    texts = {i * band + value: f"{value:.0f}" for i in range(len(counts)) for value in numbers}
    axes = Axis(label, low, high), Axis("patches", 0, band * len(counts), texts=texts)

    def body(px: Callable[[float], float], py: Callable[[float], float]) -> str:
        parts = []
        for i, (name, count) in enumerate(reversed(counts.items())):  # the first one on top
            ground = i * band
            points = [(edges[0], ground)]
            for bin_, height in enumerate(count):
                points += [(edges[bin_], ground + height), (edges[bin_ + 1], ground + height)]
            points.append((edges[-1], ground))
            path = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in points)
            parts.append(f'<polygon class="area {escape(name)}" points="{path}"/>')
            if len(finite[name]):
                mean = px(float(finite[name].mean()))
                parts.append(
                    f'<path class="bar {escape(name)}" d="M{mean:.1f} {py(ground):.1f}V{py(ground + tallest):.1f}"/>'
                )
        return "".join(parts)

    return _chart(*axes, body, names=list(finite))


def lines(
    series: Sequence[Line],
    *,
    x: str,
    y: str,
    log: bool = False,
    texts: Mapping[float, str] | None = None,
    mark: float | None = None,
    whole: bool = False,
) -> str:
    """Values against x, with intervals as bars.

    ``log``: both axes are logarithmic, positions are powers of ten. ``texts``: labels at positions of x, in place of
    numbers. ``mark``: a position of x with a dashed line. ``whole``: positions of x are whole numbers.
    """
    ready: list[tuple[str, list[np.ndarray]]] = []
    for line in series:
        columns = [np.asarray(line.x, dtype=float), np.asarray(line.y, dtype=float)]
        bounds = [np.asarray(columns[1] if side is None else side, dtype=float) for side in (line.low, line.high)]
        columns += [np.where(np.isfinite(bound), bound, columns[1]) for bound in bounds]
        if log:
            with np.errstate(divide="ignore", invalid="ignore"):
                columns = [np.log10(column) for column in columns]
        keep = np.isfinite(columns).all(axis=0)
        ready.append((line.name, [column[keep] for column in columns]))
    if not any(len(columns[0]) for _, columns in ready):
        return empty("no finite values")
    xs, lows, highs = (np.concatenate([columns[i] for _, columns in ready]) for i in (0, 2, 3))
    axes = Axis(x, *_padded(xs.min(), xs.max()), log, texts, whole), Axis(y, *_padded(lows.min(), highs.max()), log)

    def body(px: Callable[[float], float], py: Callable[[float], float]) -> str:
        parts = [] if mark is None else [f'<path class="zero" d="M{px(mark):.1f} {_TOP}V{HEIGHT - _BOTTOM}"/>']
        for index, (name, (at, mean, low, high)) in enumerate(ready):
            shift = 0 if log else 3 * (index - (len(ready) - 1) / 2)  # bars beside each other
            points = [(px(a) + shift, py(m)) for a, m in zip(at, mean, strict=True)]
            path = " ".join(f"{a:.1f},{m:.1f}" for a, m in points)
            parts.append(f'<polyline class="line {escape(name)}" points="{path}"/>')
            if len(points) <= 30:
                for (a, m), bottom, top in zip(points, low, high, strict=True):
                    parts.append(f'<path class="bar {escape(name)}" d="M{a:.1f} {py(bottom):.1f}V{py(top):.1f}"/>')
                    parts.append(f'<circle class="dot {escape(name)}" cx="{a:.1f}" cy="{m:.1f}" r="3"/>')
        return "".join(parts)

    return _chart(*axes, body, names=[row[0] for row in ready])


def differences(names: Sequence[str], panels: Mapping[str, Sequence[Row]], *, label: str, columns: int = 3) -> str:
    """Rows of differences by ``names``, in panels side by side, each with an axis and a line at 0 of its own."""
    if not any(np.isfinite(row[:3]).all() for rows in panels.values() for row in rows):
        return empty("no finite values")
    indent = 7 * max(map(len, names)) + 20
    top, step = _TOP + 6, _HEAD + _ROW * len(names) + _BOTTOM  # of the first panel; from one to the next below
    parts = [f'<text x="8" y="16">{escape(label)}</text>']
    for i, (heading, rows) in enumerate(panels.items()):
        x, y = indent + i % columns * _PANEL, top + i // columns * step
        parts.append(f'<text x="{x + 10}" y="{y + 18}" font-weight="600">{escape(heading)}</text>')
        if i % columns == 0:
            for number, name in enumerate(names):
                at = y + _HEAD + _ROW * number + _ROW // 2 + 4
                parts.append(f'<text x="{indent - 8}" y="{at}" text-anchor="end">{escape(name)}</text>')
        parts.append(_differences_panel(rows, x=x, y=y + _HEAD))
    width = indent + min(columns, len(panels)) * _PANEL
    return _svg("".join(parts), width=width, height=top + -(-len(panels) // columns) * step, title=label)


def _differences_panel(rows: Sequence[Row], *, x: int, y: int) -> str:
    """One panel, its rows from ``y`` downwards."""
    shown = [(number, row) for number, row in enumerate(rows) if np.isfinite(row[:3]).all()]
    low = min([0.0, *(row.low for _, row in shown)])
    high = max([0.0, *(row.high for _, row in shown)])
    low, high = _padded(low, high)
    bottom = y + _ROW * len(rows)

    def px(value: float) -> float:
        return x + 10 + (value - low) / (high - low) * (_PANEL - 24)

    parts = []
    for value, text in ticks(Axis("", low, high), 5):
        parts.append(f'<path class="grid" d="M{px(value):.1f} {y}V{bottom}"/>')
        parts.append(f'<text x="{px(value):.1f}" y="{bottom + 16}" text-anchor="middle">{escape(text)}</text>')
    parts.append(f'<path class="zero" d="M{px(0):.1f} {y}V{bottom}"/>')
    for number, row in shown:
        at, kind = y + _ROW * number + _ROW // 2, escape(row.kind)
        parts.append(f'<path class="bar {kind}" d="M{px(row.low):.1f} {at}H{px(row.high):.1f}"/>')
        parts.append(f'<circle class="dot {kind}" cx="{px(row.mean):.1f}" cy="{at}" r="4"/>')
    return "".join(parts)


def empty(message: str) -> str:
    """In the place of a chart without data."""
    text = f'<text x="{WIDTH / 2}" y="{HEIGHT / 2}" text-anchor="middle">{escape(message)}</text>'
    return _svg(text, height=HEIGHT, title=message)


def standalone(svg: str) -> str:
    """A chart as a file of its own, on white."""
    width = svg.split('viewBox="0 0 ', 1)[1].split(" ", 1)[0]
    shown = max(2 * WIDTH, int(width))  # small ones are enlarged
    return svg.replace("<svg ", f'<svg xmlns="http://www.w3.org/2000/svg" width="{shown}" ', 1).replace(
        "</title>", f'</title><style>{style()}</style><rect width="100%" height="100%" fill="#fff"/>', 1
    )


def style(*, dark: bool = False) -> str:
    """The charts' style sheet."""
    ink, faint = ("#e8eaed", "#3c4043") if dark else ("#3c4043", "#dadce0")
    rules = [
        f".chart text{{font:12px system-ui,sans-serif;fill:{ink}}}",
        f".chart .grid{{stroke:{faint};fill:none}}.chart .zero{{stroke:{ink};stroke-dasharray:4 3}}",
        ".chart .area{fill-opacity:.18;stroke-width:1.6}.chart .line{stroke-width:1.8}.chart .bar{stroke-width:2.4}",
    ]
    for name, colours in COLOURS.items():
        colour = colours[dark]
        rules.append(f".chart .{name}{{stroke:{colour};fill:{colour}}}")
    return "".join(rules) + ".chart .line{fill:none}.chart .dot,.chart .key{stroke:none}"


def _chart(x: Axis, y: Axis, body: Callable[..., str], *, names: Sequence[str]) -> str:
    def px(value: float) -> float:
        return _LEFT + (value - x.low) / (x.high - x.low) * (WIDTH - _LEFT - _RIGHT)

    def py(value: float) -> float:
        return HEIGHT - _BOTTOM - (value - y.low) / (y.high - y.low) * (HEIGHT - _TOP - _BOTTOM)

    parts = [_ticks_x(x, px)]
    for value, text in ticks(y):
        parts.append(f'<path class="grid" d="M{_LEFT} {py(value):.1f}H{WIDTH - _RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{py(value) + 4:.1f}" text-anchor="end">{text}</text>')
    parts.append(f'<text x="4" y="14">{escape(y.label)}</text>')
    left: float = WIDTH - _RIGHT
    for name in reversed(names):
        left -= 6.5 * len(name) + 23
        parts.append(f'<rect class="key {escape(name)}" x="{left:.1f}" y="6" width="10" height="10" rx="2"/>')
        parts.append(f'<text x="{left + 14:.1f}" y="15">{escape(name)}</text>')
    return _svg("".join(parts) + body(px, py), height=HEIGHT, title=f"{y.label} against {x.label}")


def _ticks_x(axis: Axis, px: Callable[[float], float]) -> str:
    parts = []
    for value, text in ticks(axis):
        parts.append(f'<path class="grid" d="M{px(value):.1f} {_TOP}V{HEIGHT - _BOTTOM}"/>')
        parts.append(
            f'<text x="{px(value):.1f}" y="{HEIGHT - _BOTTOM + 16}" text-anchor="middle">{escape(text)}</text>'
        )
    half = 3.1 * len(axis.label) + 4
    middle = max(half, min((px(axis.low) + px(axis.high)) / 2, WIDTH - half))  # long labels stay inside
    parts.append(f'<text x="{middle:.1f}" y="{HEIGHT - 6}" text-anchor="middle">{escape(axis.label)}</text>')
    return "".join(parts)


def ticks(axis: Axis, count: int = 6) -> list[tuple[float, str]]:
    """Round numbers between the ends of an axis, and how they are written."""
    if axis.texts is not None:
        return [(value, text) for value, text in axis.texts.items() if axis.low <= value <= axis.high]
    span = axis.high - axis.low
    rough = span / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    if axis.logarithmic or axis.whole:
        step = max(1.0, round(step))
    first = math.ceil(axis.low / step - 1e-9)
    values = [step * i for i in range(first, first + 2 * count + 2) if step * i <= axis.high + 1e-9 * span]
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return [(v, f"1e{v:.0f}" if axis.logarithmic else f"{v:.{decimals}f}".replace("-", "−")) for v in values]


def _padded(low: float, high: float, *, share: float = 0.06) -> tuple[float, float]:
    """Ends a little outside the data, and never equal."""
    margin = (high - low) * share or (0.0 if high > low else max(abs(low) * 0.05, 0.5))
    return low - margin, high + margin


def _finite(values: ArrayLike) -> np.ndarray:
    numbers = np.asarray(values, dtype=float)
    return numbers[np.isfinite(numbers)]


def _svg(content: str, *, height: int, title: str, width: int = WIDTH) -> str:
    return (
        f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{content}</svg>"
    )
