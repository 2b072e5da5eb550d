"""A comparison of experiments as people take it away: words, Markdown, LaTeX, CSV, a plot."""

import csv
import io
from collections.abc import Sequence
from itertools import combinations

import numpy as np

from utils.metrics.registry import METRICS
from utils.report import plots, verdict
from utils.report.comparison import Comparison, Pair
from utils.report.statistics import Summary, least_p

DIFFERENCE_COLUMNS = (
    *("Metric", "Difference", "95% interval", "First is", "Better on"),
    *("Sign test p", "Wilcoxon p", "adjusted (Holm)"),
)
OVERVIEW = ("psnr", "ssim", "lpips", "mae", "shift_mae", "sharpness_error")


def sentences(comparison: Comparison) -> list[str]:
    """Each pair of experiments by PSNR (or the first metric there is), and in how many metrics the first is better."""
    main = "psnr" if "psnr" in comparison.metrics else comparison.metrics[0]
    said = []
    for first, second in combinations(comparison.names, 2):
        of = {pair.metric: pair.difference for pair in _of(comparison, first, second)}
        said.append(verdict.difference_sentence(main, of[main], name=first, reference=second))
        tally = verdict.tally_sentence(of, reference=second)
        said += [tally] if tally else []
    for metric, without in comparison.lacking.items():
        said.append(f"{METRICS[metric].label} is left out: it was not measured for {verdict.join(without)}.")
    return said


def overview(comparison: Comparison) -> str:
    """Mean metrics for a terminal: a row an experiment, a column a metric."""
    metrics = [metric for metric in OVERVIEW if metric in comparison.metrics]
    width = max(len(name) for name in comparison.names)
    lines = [" " * width + "".join(f"{METRICS[metric].label:>17}" for metric in metrics)]
    for name in comparison.names:
        means = [(METRICS[metric], comparison.summaries[name][metric]) for metric in metrics]
        cells = [how.format(of.mean) if of.number else "-" for how, of in means]
        lines.append(f"{name:<{width}}" + "".join(f"{cell:>17}" for cell in cells))
    return "\n".join(lines) + "\n"


def _mean(metric: str, summary: Summary) -> str:
    """Mean and interval as text."""
    how = METRICS[metric]
    return f"{how.format(summary.mean)} [{verdict.interval(metric, summary.low, summary.high)}]"


def best(comparison: Comparison, metric: str) -> str | None:
    """The experiment of the best mean; None where the metric only describes."""
    if not METRICS[metric].judged:
        return None
    means = {name: of[metric].mean for name, of in comparison.summaries.items() if of[metric].number}
    choose = max if METRICS[metric].higher_is_better else min
    return choose(means, key=means.__getitem__) if means else None


def markdown(comparison: Comparison) -> str:
    """What is said in words, means with intervals, and the paired differences of each pair."""
    lines = ["# Comparison", ""]
    lines += [f"- {_markdown_text(sentence)}" for sentence in sentences(comparison)]
    lines += ["", "## Means", "", f"Over {comparison.patches} patches with 95% intervals; the best in bold.", ""]
    lines += _markdown_row(["Metric", *map(_markdown_text, comparison.names)])
    lines += ["|:--|" + "--:|" * len(comparison.names)]
    for metric in comparison.metrics:
        cells = [_mean(metric, comparison.summaries[name][metric]) for name in comparison.names]
        winner = best(comparison, metric)
        marked = [f"**{cell}**" if name == winner else cell for name, cell in zip(comparison.names, cells, strict=True)]
        lines += _markdown_row([METRICS[metric].heading, *marked])
    lines += ["", "## Differences", "", requirements(comparison)]
    for first, second in combinations(comparison.names, 2):
        lines += ["", f"### {_markdown_text(f'{first} − {second}')}", ""]
        lines += _markdown_row(DIFFERENCE_COLUMNS)
        lines += ["|:--|--:|--:|:--|--:|--:|--:|--:|"]
        lines += [row for pair in _of(comparison, first, second) for row in _difference_row(pair)]
    return "\n".join([*lines, ""])


def requirements(comparison: Comparison) -> str:
    """What "better" needs, and what so few patches can't show."""
    pairs = len(list(combinations(comparison.names, 2)))
    said = [
        "Patch by patch. The first is better where the 95% interval of the mean difference leaves out 0 and Wilcoxon's "
        "test has p below 0.05."
    ]
    if pairs > 1:
        said.append(
            "That is not adjusted for the number of pairs; the last column is: by Holm's method, over the "
            f"{pairs} pairs in the same metric."
        )
    least = least_p(comparison.patches)
    if least >= 0.05:
        said.append(f"With {comparison.patches} patches p is at least {least:.2g}: no difference can be clear.")
    elif pairs * least >= 0.05:
        said.append(
            f"With {comparison.patches} patches p is at least {least:.2g}, so the least of {pairs} adjusted ones is at "
            f"least {min(1.0, pairs * least):.2g}: none can be below 0.05, however large the differences are."
        )
    return " ".join(said)


def _of(comparison: Comparison, first: str, second: str) -> list[Pair]:
    return [pair for pair in comparison.pairs if (pair.first, pair.second) == (first, second)]


def _difference_row(pair: Pair) -> list[str]:
    how, of = METRICS[pair.metric], pair.difference
    return _markdown_row(
        [
            how.heading,
            how.format(of.mean, sign=True),
            verdict.interval(pair.metric, of.low, of.high, sign=True),
            verdict.judgement(pair.metric, of),
            f"{verdict.wins(pair.metric, of)} of {of.pairs}" if how.judged else "–",
            *(f"{p:.2g}" for p in (of.sign_p, of.wilcoxon_p, pair.adjusted_p)),
        ]
    )


def _markdown_row(cells: Sequence[str]) -> list[str]:
    return [f"| {' | '.join(cells)} |"]


def _markdown_text(text: str) -> str:
    return "".join(f"\\{c}" if c in "\\`*_[]<>|" else c for c in text)


def latex(comparison: Comparison) -> str:
    """Two tabulars for a paper (need booktabs): means, an experiment a row, the best bold; and paired differences."""
    heads = [_latex_heading(metric) for metric in comparison.metrics]
    means = []
    for name in comparison.names:
        cells = []
        for metric in comparison.metrics:
            of = comparison.summaries[name][metric]
            cells.append(_latex_number(metric, of.mean, of.low, of.high, bold=name == best(comparison, metric)))
        means.append([_latex_text(name), *cells])
    differences = []
    for first, second in combinations(comparison.names, 2):
        pairs = _of(comparison, first, second)
        cells = [_latex_number(p.metric, p.difference.mean, p.difference.low, p.difference.high) for p in pairs]
        marks = [r"\,$^{*}$" if pair.difference.direction else "" for pair in pairs]
        named = f"{_latex_text(first)} $-$ {_latex_text(second)}"
        differences.append([named, *(cell + mark for cell, mark in zip(cells, marks, strict=True))])
    lines = [f"% means over {comparison.patches} patches with half the width of their 95% intervals"]
    lines += _tabular(["Method", *heads], means)
    lines += ["", "% paired differences, likewise; *: the interval leaves out 0 and Wilcoxon's test has p < 0.05"]
    lines += _tabular(["Difference", *heads], differences)
    return "\n".join([*lines, ""])


def _tabular(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    body = [" & ".join(cells) + r" \\" for cells in (head, *rows)]
    columns = "l" + "r" * (len(head) - 1)
    start = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", body[0], r"\midrule"]
    return [*start, *body[1:], r"\bottomrule", r"\end{tabular}"]


def _latex_heading(metric: str) -> str:
    how = METRICS[metric]
    unit = {"": "", "DN²": " (DN$^2$)", "°": r" ($^\circ$)", "%": r" (\%)"}.get(how.unit, f" ({how.unit})")
    arrow = {True: r" $\uparrow$", False: r" $\downarrow$"}[how.higher_is_better] if how.judged else ""
    return f"{_latex_text(how.label)}{unit}{arrow}"


def _latex_number(metric: str, mean: float, low: float, high: float, *, bold: bool = False) -> str:
    """A mean with half the width of its interval."""
    decimals, half = METRICS[metric].decimals, (high - low) / 2
    number = f"{mean:.{decimals}f}" if np.isfinite(mean) else r"\text{--}"
    if bold:
        number = rf"\mathbf{{{number}}}"
    spread = "" if np.isnan(half) else rf" \pm {half:.{decimals}f}"
    return f"${number}{spread}$"


def _latex_text(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(special.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in text)


def as_csv(comparison: Comparison) -> str:
    """All numbers, one row a metric and experiment or pair of experiments, separated by ; and unrounded."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter=";", lineterminator="\n")
    head = ["metric", "first", "second", "mean", "std", "low", "high", "patches"]
    writer.writerow([*head, "better", "worse", "equal", "sign_p", "wilcoxon_p", "wilcoxon_p_holm"])
    for name in comparison.names:
        for metric in comparison.metrics:
            of = comparison.summaries[name][metric]
            writer.writerow([metric, name, "", of.mean, of.std, of.low, of.high, of.number, *[""] * 6])
    for pair in comparison.pairs:
        d = pair.difference
        better = verdict.wins(pair.metric, d)
        counts = [d.pairs, better, d.more + d.less - better, d.equal]
        tests = [d.sign_p, d.wilcoxon_p, pair.adjusted_p]
        writer.writerow([pair.metric, pair.first, pair.second, d.mean, "", d.low, d.high, *counts, *tests])
    return buffer.getvalue()


def plot(comparison: Comparison) -> str:
    """The paired differences, a panel a metric with an axis of its own, as SVG."""
    short = short_names(comparison.names)
    names = [f"{short[a]} − {short[b]}" for a, b in combinations(comparison.names, 2)]
    panels = {
        METRICS[metric].heading: [
            plots.Row(*pair.difference[:3], _kind(pair)) for pair in comparison.pairs if pair.metric == metric
        ]
        for metric in comparison.metrics
    }
    label = "Mean paired differences with 95% intervals. Blue: the first is better; orange: worse; grey: not clear."
    return plots.standalone(plots.differences(names, panels, label=label))


def _kind(pair: Pair) -> str:
    words = verdict.judgement(pair.metric, pair.difference)
    return words if words in ("better", "worse") else "unclear"


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Names without the folders that all of them share."""
    parts = {name: name.split("/") for name in names}
    shared = 0
    while all(len(p) > shared + 1 for p in parts.values()) and len({p[shared] for p in parts.values()}) == 1:
        shared += 1
    return {name: "/".join(p[shared:]) for name, p in parts.items()}
