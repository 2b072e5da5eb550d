"""One page that shows what an experiment's results are worth: report.html, with no request to anywhere.

From plain data only; the page stands by itself in one file.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template

import numpy as np
import pandas as pd

from utils.files import write_text
from utils.metrics.registry import METHODS, METRICS, known
from utils.report import page_charts, page_pictures, plots, verdict
from utils.report.page_charts import FACTORS, Spectrum, panel, spectrum_chart
from utils.report.page_pictures import Example
from utils.report.patch_table import column, from_rows, methods
from utils.report.statistics import ENOUGH, Difference, Summary, compare_pairs, format_p, summarise

TEMPLATE = Path(__file__).with_name("report_template.html")
HEADLINES = ("psnr", "ssim", "lpips", "shift_mae")  # the cards on top
REFERENCES = {"bicubic_": "bicubic", "backbone_": "its backbone"}
FACTOR_WORDS = {
    "days_to_nearest": "the distance in days between the truth and its nearest acquisition",
    "valid_dates": "the number of valid dates",
}
SHOWN_WORST = 10  # at most half of the patches
IN_SUBTITLE = ("checkpoint", "step", "split", "sampler", "evaluated")  # of the facts

Differences = Mapping[str, Mapping[str, Difference]]  # by the reference's prefix, by metric


def write_report(
    path: Path,
    *,
    name: str,
    facts: Mapping[str, object],
    settings: Mapping[str, object],
    rows: Sequence[Mapping[str, object]],
    examples: Sequence[Example],
    spectra: Mapping[str, Spectrum],
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
        spectra: by method: result, bicubic, backbone, truth.
        scale: how much finer the result is than the input.

    Raises:
        DataError: there is no row, or no metric in them.
    """
    table = from_rows(rows, source=str(path))
    metrics = [metric for metric in known(table) if not np.isnan(column(table, metric)).all()] or known(table)
    differences = _differences(table, metrics)
    main = "psnr" if "psnr" in metrics else metrics[0]
    content = {
        "title": escape(name),
        "subtitle": escape(" · ".join([f"{len(table)} patches", *_shortly(facts)])),
        "verdict": _verdict(table, differences, main=main, name=name),
        "cards": "".join(_card(table, differences, metric) for metric in HEADLINES if metric in metrics),
        "table": _metrics_table(table, differences, metrics),
        "table_note": _table_note(table, metrics),
        "choices": "".join(f'<option value="{metric}">{escape(METRICS[metric].label)}</option>' for metric in metrics),
        "panels": "".join(panel(table, metric, hidden=metric != metrics[0]) for metric in metrics),
        "panels_note": page_charts.note(table),
        "failures": _failures(table, main, shown={example.row for example in examples}),
        "pictures_note": page_pictures.note(examples),
        "examples": "".join(page_pictures.render(table, example, metric=main) for example in examples)
        or "<p>No pictures were kept.</p>",
        "spectrum_note": _spectrum_note(scale) if spectra else "No spectra were computed.",
        "spectrum": spectrum_chart(spectra, scale=scale) if spectra else "",
        "facts": _definitions(facts),
        "settings": _definitions(settings),
        "enough": str(ENOUGH),
        "chart_style": plots.style(),
        "chart_style_dark": plots.style(dark=True),
    }
    write_text(path, Template(TEMPLATE.read_text(encoding="utf-8")).substitute(content))


def _shortly(facts: Mapping[str, object]) -> list[str]:
    return [f"{name} {facts[name]}" for name in IN_SUBTITLE if name in facts]


def _differences(table: pd.DataFrame, metrics: Sequence[str]) -> Differences:
    found = {
        prefix: {
            metric: compare_pairs(column(table, metric), column(table, prefix + metric))
            for metric in metrics
            if prefix + metric in table
        }
        for prefix in REFERENCES
    }
    return {prefix: of for prefix, of in found.items() if of}


def _verdict(table: pd.DataFrame, differences: Differences, *, main: str, name: str) -> str:
    """The sentences on top: which is better, by how much, how sure, where it fails."""
    values = column(table, main)
    sentences: list[str] = []
    for prefix, of in differences.items():
        if main in of and of[main].pairs:
            who = "It" if sentences else name
            sentences.append(verdict.difference_sentence(main, of[main], name=who, reference=REFERENCES[prefix]))
            tally = verdict.tally_sentence(of, reference=REFERENCES[prefix])
            sentences += [tally] if tally else []
    if not sentences:
        how, summary = METRICS[main], summarise(values)
        sure = verdict.interval(main, summary.low, summary.high)
        mean = how.with_unit(how.format(summary.mean))
        sentences.append(f"{name} reaches a mean {how.label} of {mean} (95% interval {sure}).")
    for factor, words in FACTOR_WORDS.items():
        link = verdict.link_sentence(main, values, np.abs(column(table, factor)), factor_name=words)
        if link:
            sentences.append(link)
    worst = verdict.worst(main, values, number=3)
    if len(table) > len(worst) > 0:
        sentences.append(f"It is furthest from the truth on the patches {verdict.join(table['key'].iloc[worst])}.")
    first, *others = map(escape, sentences)
    return f"<p><b>{first}</b></p>" + "".join(f"<p>{sentence}</p>" for sentence in others)


def _card(table: pd.DataFrame, differences: Differences, metric: str) -> str:
    how, summary = METRICS[metric], summarise(column(table, metric))
    lines = []
    for prefix, of in differences.items():
        if metric in of and of[metric].pairs:
            words = verdict.judgement(metric, of[metric])
            than = f"{words} {'to' if words == verdict.UNCLEAR else 'than'} {REFERENCES[prefix]}"
            amount = how.with_unit(how.format(of[metric].mean, sign=True))
            lines.append(f'<small class="{_tone(words)}">{escape(f"{than}: {amount}")}</small>')
    mean = how.with_unit(how.format(summary.mean)) if summary.number else "–"
    return f'<div class="card">{escape(how.label)}<b>{escape(mean)}</b>{"<br>".join(lines)}</div>'


def _tone(words: str) -> str:
    return {"better": "good", "worse": "bad"}.get(words, "soft")


def _table_note(table: pd.DataFrame, metrics: Sequence[str]) -> str:
    left_out = {metric: summarise(column(table, metric)).left_out for metric in metrics}
    parts = [f"{METRICS[metric].label} on {count}" for metric, count in left_out.items() if count]
    said = [f"Patches without a finite value are left out of means: {', '.join(parts)}."] if parts else []
    if "lpips" not in metrics:
        said.append("LPIPS was not measured: its weights were not at hand (lpips_weights).")
    spread = summarise(page_pictures.spread_of(table))
    if spread.number:
        of = METRICS["mae"]
        sure = verdict.interval("mae", spread.low, spread.high)
        mean = of.with_unit(of.format(spread.mean))
        said.append(
            f"The result is the mean of several samples, which spread by {mean} (standard deviation, mean over pixels "
            f"and patches; 95% interval {sure})."
        )
    return escape(" ".join(said))


def _spectrum_note(scale: int) -> str:
    return escape(
        "Power of the images by the size of details, large ones on the left; their mean over all frequencies is the "
        f"variance. A pixel of the result is 1/{scale} of the input's (of Sentinel-2's 10 m: {10 / scale:g} m). The "
        f"input holds nothing finer than {2 * scale} pixels of the result (the dashed line): the model has added what "
        "lies to the right of it. A result below the truth is too smooth, one above it too noisy. Equal power doesn't "
        "mean equal details."
    )


def _metrics_table(table: pd.DataFrame, differences: Differences, metrics: Sequence[str]) -> str:
    result, *others = [method for prefix, method in METHODS.items() if known(table, prefix=prefix)]
    head = ["Metric", result]
    for prefix in differences:
        head += [f"result − {METHODS[prefix]}", "better on"]
    head += others
    rows = []
    for metric in metrics:
        how = METRICS[metric]
        cells = [f"{escape(how.heading)}<small>{escape(how.meaning)}</small>"]
        of_methods = methods(table, metric)
        summaries = [_summary_cell(metric, summarise(of_methods.get(method, ()))) for method in (result, *others)]
        cells.append(summaries[0])
        for of in differences.values():
            cells += _difference_cells(metric, of[metric]) if metric in of else ["–", "–"]
        rows.append(cells + summaries[1:])
    return _html_table(map(escape, head), rows)


def _summary_cell(metric: str, summary: Summary) -> str:
    how = METRICS[metric]
    if not summary.number:
        return "–"
    std = "" if np.isnan(summary.std) else f"<small>± {how.format(summary.std)}</small>"
    return f"{how.format(summary.mean)}{std}<small>{verdict.interval(metric, summary.low, summary.high)}</small>"


def _difference_cells(metric: str, difference: Difference) -> list[str]:
    """By how much, and on how many patches."""
    how, words = METRICS[metric], verdict.judgement(metric, difference)
    if not difference.pairs:
        return ["–", "–"]
    sure = verdict.interval(metric, difference.low, difference.high, sign=True)
    amount = f'<span class="{_tone(words)}">{how.format(difference.mean, sign=True)}</span><small>{sure}</small>'
    if not how.judged:
        return [amount, "–"]
    won = f"{verdict.wins(metric, difference)} of {difference.pairs}"
    return [amount, f"{won}<small>{escape(format_p(difference.wilcoxon_p))}</small>"]


def _failures(table: pd.DataFrame, main: str, *, shown: Collection[int]) -> str:
    """Where bicubic was nearer, and the patches that are furthest from the truth; ``shown``: those with pictures."""
    how, columns = METRICS[main], methods(table, main)
    names = [factor for factor in FACTORS if factor in table]
    worst = verdict.worst(main, columns["result"], number=min(SHOWN_WORST, max(1, len(table) // 2)))
    text = f"The {len(worst)} patches of the worst {how.label}:" if len(worst) > 1 else f"The worst {how.label}:"
    if "bicubic" in columns:
        nearer = (columns["result"] < columns["bicubic"]) == how.higher_is_better
        lost = table["key"][nearer & (columns["result"] != columns["bicubic"])].tolist()
        listed = f" ({', '.join(lost[:20])}{', …' if len(lost) > 20 else ''})" if lost else ""
        text = f"Bicubic is nearer to the truth on {len(lost)} of {len(table)} patches{listed}. {text}"
    rows = [
        [_key_cell(table, row, shown=shown), *(escape(_plain(table[name].iloc[row])) for name in names)]
        + [escape(how.with_unit(how.format(values[row]))) for values in columns.values()]
        for row in worst
    ]
    head = ["key", *(name.replace("_", " ") for name in names), *columns]
    return f'<p>{escape(text)}</p><div class="wide">{_html_table(head, rows)}</div>'


def _key_cell(table: pd.DataFrame, row: int, *, shown: Collection[int]) -> str:
    key = escape(str(table["key"].iloc[row]))
    return f'<a href="#{page_pictures.address(row)}">{key}</a>' if row in shown else key


def _plain(value: object) -> str:
    if isinstance(value, float):
        return "–" if np.isnan(value) else f"{value:g}"
    return str(value)


def _html_table(head: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are HTML already."""
    header = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>" for cells in rows)
    return f"<table><thead><tr>{header}</tr></thead><tbody>{body}</tbody></table>"


def _definitions(values: Mapping[str, object]) -> str:
    return "".join(f"<dt>{escape(str(key))}</dt><dd>{escape(str(value))}</dd>" for key, value in values.items())
