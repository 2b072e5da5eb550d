"""A comparison of experiments as people take it away: words, Markdown, LaTeX, CSV, a plot."""

import csv
import io
from collections.abc import Sequence
from itertools import combinations

import numpy as np

from utils import charts, verdict
from utils.comparison import Comparison
from utils.metric_table import METRICS
from utils.statistics import Summary


def sentences(comparison: Comparison) -> list[str]:
    """Each pair of experiments by PSNR (or the first metric there is), and in how many metrics the first is better."""
    main = "psnr" if "psnr" in comparison.metrics else comparison.metrics[0]
    said = []
    for first, second in combinations(comparison.names, 2):
        of = {pair.metric: pair.difference for pair in comparison.pairs if (pair.first, pair.second) == (first, second)}
        said.append(verdict.difference_sentence(main, of[main], name=first, reference=second))
        said.append(verdict.tally_sentence(of, reference=second))
    return said


OVERVIEW = ("psnr", "ssim", "lpips", "mae", "shift_mae", "sharpness_error")


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


def _heading(metric: str) -> str:
    how = METRICS[metric]
    return f"{how.label}{f' ({how.unit})' if how.unit else ''} {'↑' if how.higher_is_better else '↓'}"


def best(comparison: Comparison, metric: str) -> str | None:
    """The experiment of the best mean."""
    means = {name: of[metric].mean for name, of in comparison.summaries.items() if of[metric].number}
    choose = max if METRICS[metric].higher_is_better else min
    return choose(means, key=means.__getitem__) if means else None


def markdown(comparison: Comparison) -> str:
    """Means with intervals, paired differences, and both in words."""
    lines = [f"Means over {comparison.patches} patches with 95% intervals; the best in bold.", ""]
    lines += _markdown_row(["Metric", *map(_markdown_text, comparison.names)])
    lines += ["|:--|" + "--:|" * len(comparison.names)]
    for metric in comparison.metrics:
        cells = [_mean(metric, comparison.summaries[name][metric]) for name in comparison.names]
        winner = best(comparison, metric)
        marked = [f"**{cell}**" if name == winner else cell for name, cell in zip(comparison.names, cells, strict=True)]
        lines += _markdown_row([_heading(metric), *marked])
    lines += ["", "Paired differences (first − second), patch by patch.", ""]
    head = ["Metric", "First", "Second", "Difference", "95% interval", "First is", "Better on", "Sign test p"]
    lines += _markdown_row([*head, "Wilcoxon p", "adjusted (Holm)"])
    lines += ["|:--|:--|:--|--:|--:|:--|--:|--:|--:|--:|"]
    for pair in comparison.pairs:
        how, of = METRICS[pair.metric], pair.difference
        lines += _markdown_row(
            [
                _heading(pair.metric),
                _markdown_text(pair.first),
                _markdown_text(pair.second),
                how.format(of.mean, sign=True),
                verdict.interval(pair.metric, of.low, of.high, sign=True),
                verdict.judgement(pair.metric, of),
                f"{verdict.wins(pair.metric, of)} of {of.pairs}",
                *(f"{p:.2g}" for p in (of.sign_p, of.wilcoxon_p, pair.adjusted_p)),
            ]
        )
    return "\n".join([*lines, "", *(_markdown_text(sentence) for sentence in sentences(comparison)), ""])


def _markdown_row(cells: Sequence[str]) -> list[str]:
    return [f"| {' | '.join(cells)} |"]


def _markdown_text(text: str) -> str:
    return "".join(f"\\{c}" if c in "\\`*_[]<>|" else c for c in text)


def latex(comparison: Comparison) -> str:
    """The means as a tabular for a paper (needs booktabs), an experiment a row, the best in bold."""
    columns = "l" + "r" * len(comparison.metrics)
    arrows = {True: r"$\uparrow$", False: r"$\downarrow$"}
    heads = [f"{_latex_text(METRICS[m].label)} {arrows[METRICS[m].higher_is_better]}" for m in comparison.metrics]
    lines = [f"% means over {comparison.patches} patches with half the width of their 95% intervals"]
    lines += [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", " & ".join(["Method", *heads]) + r" \\", r"\midrule"]
    for name in comparison.names:
        cells = []
        for metric in comparison.metrics:
            how, summary = METRICS[metric], comparison.summaries[name][metric]
            number = f"{summary.mean:.{how.decimals}f}" if summary.number else "--"
            if name == best(comparison, metric):
                number = rf"\mathbf{{{number}}}"
            half = (summary.high - summary.low) / 2
            spread = "" if np.isnan(half) else rf" \pm {half:.{how.decimals}f}"
            cells.append(f"${number}{spread}$")
        lines.append(" & ".join([_latex_text(name), *cells]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


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
    """The paired differences of all metrics on one axis, as SVG; right of 0 the first is better."""
    sections: dict[str, list[tuple[str, float, float, float]]] = {}
    for pair in comparison.pairs:
        how, of = METRICS[pair.metric], pair.difference
        stds = [comparison.summaries[name][pair.metric].std for name in (pair.first, pair.second)]
        spread = float(np.sqrt(np.mean(np.square(stds))))
        scale = (1 if how.higher_is_better else -1) / spread if spread else np.nan
        low, high = sorted((of.low * scale, of.high * scale))
        sections.setdefault(f"{pair.first} against {pair.second}", []).append((how.label, of.mean * scale, low, high))
    label = "in standard deviations over patches; right: the first is better"
    return charts.standalone(charts.differences(sections, label=label))
