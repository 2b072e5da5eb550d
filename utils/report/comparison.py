"""Several experiments on the same test set: which is better, by how much, how sure; as words, tables and a plot."""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from utils.errors import DataError
from utils.files import quoted
from utils.images import Picture, save_png, sheet
from utils.metrics.registry import METHODS, METRICS, known
from utils.report import plots, statistics
from utils.report.statistics import Difference, Summary

PICTURES = "report_pictures"  # the folder of kept pictures in an experiment's
_SHEET_WIDTH, _CELL = 1050, (120, 222)  # of the picture of patches, about; of one patch in it, from and to; pixels
OVERVIEW = ("psnr", "ssim", "lpips", "mae", "shift_mae", "sharpness_error")


# What an evaluation left behind


def results_table(rows: Sequence[Mapping[str, object]], *, source: str) -> pd.DataFrame:
    """Rows of an evaluation, one a patch, as a table whose ``key`` is text.

    Raises:
        DataError: there is no row, no key or no metric; the message names ``source``.
    """
    table = pd.DataFrame([dict(row) for row in rows])
    if not len(table):
        raise DataError(f"{source}: no patch was evaluated")
    if "key" not in table:
        raise DataError(f"{source}: there is no column key; evaluate again")
    if not known(table):
        raise DataError(f"{source}: there is no metric among its columns; known: {', '.join(METRICS)}")
    table["key"] = table["key"].astype(str)
    return table


def read_results(folder: Path) -> pd.DataFrame:
    """metrics.csv of an experiment, or where that is missing test_results.csv.

    Raises:
        DataError: neither is there, or it can't be read.
    """
    files = [file for file in (folder / "metrics.csv", folder / "test_results.csv") if file.is_file()]
    if not files:
        raise DataError(f"{folder}: no metrics.csv or test_results.csv; evaluate the experiment first (--infer)")
    try:
        frame = pd.read_csv(files[0], sep=";", index_col=0, dtype={"key": str}, keep_default_na=False, na_values=[""])
        for name in frame.columns.drop("key", errors="ignore"):
            frame[name] = pd.to_numeric(frame[name])
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise DataError(f"{files[0]}: not a table of results separated by ;: {error}") from error
    return results_table(frame.to_dict("records"), source=str(files[0]))


def column(table: pd.DataFrame, name: str) -> np.ndarray:
    """A column (n,) as float64; NaN where there is none or a value is missing."""
    if name not in table:
        return np.full(len(table), np.nan)
    return pd.to_numeric(table[name], errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)


def by_method(table: pd.DataFrame, metric: str) -> dict[str, np.ndarray]:
    """The columns of a metric by method: result, backbone, bicubic, as far as there are any."""
    return {method: column(table, prefix + metric) for prefix, method in METHODS.items() if prefix + metric in table}


def measured(table: pd.DataFrame) -> list[str]:
    """The metrics that have a value on at least one patch."""
    return [metric for metric in known(table) if not np.isnan(column(table, metric)).all()]


def save_pictures(folder: Path, key: object, pictures: Mapping[str, Picture]) -> None:
    """Keep the pictures of one patch for comparisons: report_pictures/<key>/<name>.png, quoted as in addresses."""
    for name, pixels in pictures.items():
        save_png(pixels, folder / PICTURES / quoted(key) / f"{quoted(name)}.png")


def load_pictures(folder: Path) -> dict[str, dict[str, Picture]]:
    """The kept pictures of an experiment by key, by name; empty where there are none. DataError for damaged ones."""
    found: dict[str, dict[str, Picture]] = {}
    for file in sorted((folder / PICTURES).glob("*/*.png")):
        try:
            pixels = np.asarray(Image.open(file).convert("RGB"))
        except (OSError, SyntaxError) as error:  # Pillow raises SyntaxError for damaged PNG files
            raise DataError(f"{file}: not a picture; evaluate again") from error
        found.setdefault(unquote(file.parent.name), {})[unquote(file.stem)] = pixels
    return found


# Comparing


class PairedComparison(NamedTuple):
    """One experiment against another in one metric."""

    metric: str
    first: str
    second: str
    difference: Difference  # first minus second
    adjusted_p: float  # Wilcoxon's, adjusted for all pairs in this metric (Holm)


class Comparison(NamedTuple):
    """Everything that is said of several experiments."""

    names: list[str]
    metrics: list[str]
    patches: int
    summaries: dict[str, dict[str, Summary]]  # by name, by metric
    pairs: list[PairedComparison]
    lacking: dict[str, list[str]]  # metrics that were left out, by metric: the experiments without them


def compare(tables: Mapping[str, pd.DataFrame]) -> Comparison:
    """Compare the results of experiments; patches are paired by key.

    Raises:
        DataError: the test sets differ: in keys, or in what bicubic interpolation reaches on them.
    """
    names = list(tables)
    aligned = _aligned(tables)
    has = {name: measured(table) for name, table in aligned.items()}
    everything = known({metric for metrics in has.values() for metric in metrics})
    lacking = {metric: [name for name in names if metric not in has[name]] for metric in everything}
    lacking = {metric: without for metric, without in lacking.items() if without}
    metrics = [metric for metric in everything if metric not in lacking]
    if not metrics:
        raise DataError(f"{statistics.join(names)} have no metric in common")
    summaries = {
        name: {metric: statistics.summarise(column(table, metric)) for metric in metrics}
        for name, table in aligned.items()
    }
    pairs = []
    for metric in metrics:
        values = {name: column(table, metric) for name, table in aligned.items()}
        found = [(a, b, statistics.compare_pairs(values[a], values[b])) for a, b in combinations(names, 2)]
        adjusted = statistics.holm([difference.wilcoxon_p for *_, difference in found])
        pairs += [PairedComparison(metric, *row, p) for row, p in zip(found, adjusted, strict=True)]
    return Comparison(names, metrics, len(aligned[names[0]]), summaries, pairs, lacking)


def _aligned(tables: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """The tables with their rows in the first one's order."""
    first, *others = tables
    for name, table in tables.items():
        repeated = table["key"][table["key"].duplicated()]
        if len(repeated):
            raise DataError(f"{name}: the key {repeated.iloc[0]} occurs twice; evaluate again")
    expected = set(tables[first]["key"])
    for name in others:
        missing, extra = expected - set(tables[name]["key"]), set(tables[name]["key"]) - expected
        if missing or extra:
            raise DataError(
                f"{name} was evaluated on another test set than {first}: {len(missing)} patches are missing, "
                f"{len(extra)} are new (e.g. key {sorted(missing or extra)[0]}); evaluate both on the same data"
            )
    aligned = {name: table.set_index("key").loc[tables[first]["key"]] for name, table in tables.items()}
    for name in others:
        # Bicubic interpolation knows no model, so its figures tell whether input and truth are the same.
        a, b = column(aligned[first], "bicubic_psnr"), column(aligned[name], "bicubic_psnr")
        is_known = not np.isnan(a).all() and not np.isnan(b).all()
        if is_known and not np.allclose(a, b, rtol=0, atol=1e-3, equal_nan=True):
            raise DataError(
                f"{name} and {first} have the same keys but other truths or inputs: bicubic interpolation reaches "
                "another PSNR on them; evaluate both with the same data, spectral_matching and target_offset_days"
            )
    return aligned


# In words


def sentences(comparison: Comparison) -> list[str]:
    """Each pair of experiments by PSNR (or the first metric there is), and in how many metrics the first is better."""
    main = "psnr" if "psnr" in comparison.metrics else comparison.metrics[0]
    said: list[str | None] = []
    for first, second in combinations(comparison.names, 2):
        found = {
            pair.metric: pair.difference for pair in comparison.pairs if (pair.first, pair.second) == (first, second)
        }
        said.append(statistics.difference_sentence(METRICS[main], found[main], name=first, reference=second))
        tallied = [(METRICS[metric], difference) for metric, difference in found.items()]
        said.append(statistics.tally_sentence(tallied, reference=second))
    for metric, without in comparison.lacking.items():
        said.append(f"{METRICS[metric].label} is left out: it was not measured for {statistics.join(without)}.")
    return [sentence for sentence in said if sentence]


def overview(comparison: Comparison) -> str:
    """Mean metrics for a terminal: a row an experiment, a column a metric."""
    metrics = [metric for metric in OVERVIEW if metric in comparison.metrics]
    width = max(len(name) for name in comparison.names)
    lines = [" " * width + "".join(f"{METRICS[metric].label:>17}" for metric in metrics)]
    for name in comparison.names:
        means = {metric: comparison.summaries[name][metric] for metric in metrics}
        cells = [METRICS[metric].format(mean.mean) if mean.number else "-" for metric, mean in means.items()]
        lines.append(f"{name:<{width}}" + "".join(f"{cell:>17}" for cell in cells))
    return "\n".join(lines) + "\n"


def best(comparison: Comparison, metric: str) -> str | None:
    """The experiment of the best mean; None where the metric only describes."""
    means = {name: of[metric].mean for name, of in comparison.summaries.items() if of[metric].number}
    if not METRICS[metric].judged or not means:
        return None
    return (max if METRICS[metric].higher_is_better else min)(means, key=means.__getitem__)


# As tables and a plot


def environment(*, autoescape: bool) -> Environment:
    """The templates of this room, with what they need to write numbers."""
    made = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.globals.update(judgement=statistics.judgement, wins=statistics.wins, format_p=statistics.format_p)
    made.filters.update(markdown=_escape_markdown, latex=_escape_latex)
    return made


def to_markdown(comparison: Comparison) -> str:
    """What is said in words, means with intervals, and the paired differences of each pair."""
    return _rendered("comparison.md", comparison)


def to_latex(comparison: Comparison) -> str:
    """Two tabulars for a paper (need booktabs): means, an experiment a row, the best bold; and paired differences."""
    return _rendered("comparison.tex", comparison)


def _rendered(template: str, comparison: Comparison) -> str:
    pairs = {
        (first, second): [pair for pair in comparison.pairs if (pair.first, pair.second) == (first, second)]
        for first, second in combinations(comparison.names, 2)
    }
    return (
        environment(autoescape=False)
        .get_template(template)
        .render(
            names=comparison.names,
            metrics={metric: METRICS[metric] for metric in comparison.metrics},
            summaries=comparison.summaries,
            patches=comparison.patches,
            pairs=pairs,
            best={metric: best(comparison, metric) for metric in comparison.metrics},
            sentences=sentences(comparison),
            least_p=statistics.least_p(comparison.patches),
        )
    )


def _escape_markdown(text: str) -> str:
    return "".join(f"\\{sign}" if sign in "\\`*_[]<>|" else sign for sign in text)


def _escape_latex(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {"²": "$^2$", "°": r"$^\circ$", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "−": "$-$"}
    return "".join(special.get(sign, f"\\{sign}" if sign in "&%$#_{}" else sign) for sign in text)


def to_csv(comparison: Comparison) -> str:
    """All numbers, one row a metric and experiment or pair of experiments, separated by ; and unrounded."""
    rows: list[dict[str, object]] = [
        {"metric": metric, "first": name, **summary._asdict(), "patches": summary.number}
        for name, summaries in comparison.summaries.items()
        for metric, summary in summaries.items()
    ]
    for pair in comparison.pairs:
        found, better = pair.difference, statistics.wins(METRICS[pair.metric], pair.difference)
        counts = {"patches": found.pairs, "better": better, "worse": found.more + found.less - better}
        rows.append({**pair._asdict(), **found._asdict(), **counts, "wilcoxon_p_holm": pair.adjusted_p})
    head = ["metric", "first", "second", "mean", "std", "low", "high", "patches"]
    head += ["better", "worse", "equal", "sign_p", "wilcoxon_p", "wilcoxon_p_holm"]
    return pd.DataFrame(rows, columns=head, dtype=object).to_csv(sep=";", index=False, lineterminator="\n")


def to_svg(comparison: Comparison) -> str:
    """The paired differences, a panel a metric with an axis of its own, as SVG."""
    short = short_names(comparison.names)
    names = [f"{short[a]} − {short[b]}" for a, b in combinations(comparison.names, 2)]
    panels: dict[str, list[plots.Interval]] = {METRICS[metric].heading: [] for metric in comparison.metrics}
    for pair in comparison.pairs:
        words = statistics.judgement(METRICS[pair.metric], pair.difference)
        kind = words if words in ("better", "worse") else "unclear"
        panels[METRICS[pair.metric].heading].append(plots.Interval(*pair.difference[:3], kind))
    label = "Mean paired differences with 95% intervals. Blue: the first is better; orange: worse; grey: not clear."
    return plots.standalone(plots.differences(names, panels, label=label))


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Names without the folders that all of them share."""
    parts = {name: name.split("/") for name in names}
    shared = 0
    while all(len(p) > shared + 1 for p in parts.values()) and len({p[shared] for p in parts.values()}) == 1:
        shared += 1
    return {name: "/".join(p[shared:]) for name, p in parts.items()}


# The same patches side by side


class PatchSheet(NamedTuple):
    """Patches side by side, and in words which they are."""

    image: Image.Image
    note: str


def side_by_side(folders: Mapping[str, Path], tables: Mapping[str, pd.DataFrame], *, patches: int) -> PatchSheet | None:
    """Input, bicubic, results and truth of patches on which PSNR differs most; None where none has all pictures."""
    kept = {name: load_pictures(folder) for name, folder in folders.items()}
    first = next(iter(kept))
    shared = [key for key in tables[first]["key"] if all(key in pictures for pictures in kept.values())]
    if not shared:
        return None
    psnr = {name: dict(zip(table["key"], column(table, "psnr"), strict=True)) for name, table in tables.items()}
    chosen = sorted(shared, key=lambda key: -_range([of[key] for of in psnr.values()]))[:patches]
    common = {title: [kept[first][key].get(title) for key in chosen] for title in ("nearest input", "bicubic", "truth")}
    results = [[kept[name][key].get("result") for key in chosen] for name in folders]
    before = [common["nearest input"]]
    if not any(_same(common["bicubic"], of) for of in results):  # an experiment may be bicubic interpolation itself
        before.append(common["bicubic"])
    short = short_names(list(folders))
    titles = [*("nearest input", "bicubic")[: len(before)], *(short[name] for name in folders), "truth"]
    rows = [list(row) for row in zip(*before, *results, common["truth"], strict=True)]
    captions = [
        [f"patch {key}", ""][: len(before)] + [f"{psnr[name][key]:.2f} dB" for name in folders] + [""] for key in chosen
    ]
    cell = max(_CELL[0], min(_CELL[1], _SHEET_WIDTH // len(titles)))
    image = sheet(rows, titles, captions, cell=cell)
    return PatchSheet(image, f"the {len(chosen)} of {len(shared)} patches with pictures on which PSNR differs most")


def _range(values: Sequence[float]) -> float:
    """From the least to the largest value; infinite ones (identical images) come first, NaN last."""
    known = [value for value in values if not math.isnan(value)]
    return max(known) - min(known) if known and min(known) < math.inf else -math.inf


def _same(a: Sequence[Picture | None], b: Sequence[Picture | None]) -> bool:
    return all(x is not None and y is not None and np.array_equal(x, y) for x, y in zip(a, b, strict=True))
