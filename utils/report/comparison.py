"""Several experiments on the same test set: which is better, by how much, how sure that is."""

from collections.abc import Mapping
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd

from utils.errors import DataError
from utils.metrics.registry import known
from utils.report import verdict
from utils.report.patch_table import column
from utils.report.statistics import Difference, Summary, compare_pairs, holm, summarise


class Pair(NamedTuple):
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
    pairs: list[Pair]
    lacking: dict[str, list[str]]  # metrics that were left out, by metric: the experiments without them


def compare(tables: Mapping[str, pd.DataFrame]) -> Comparison:
    """Compare tables of results (utils.patch_table) by experiment; patches are paired by key.

    Raises:
        DataError: the test sets differ: in keys, or in what bicubic interpolation reaches on them.
    """
    names = list(tables)
    aligned = _aligned(tables)
    measured = {name: {metric for metric in known(table) if _has(table, metric)} for name, table in aligned.items()}
    everything = known(set().union(*measured.values()))
    lacking = {metric: [name for name in names if metric not in measured[name]] for metric in everything}
    metrics = [metric for metric in everything if not lacking[metric]]
    if not metrics:
        raise DataError(f"{verdict.join(names)} have no metric in common")
    summaries = {
        name: {metric: summarise(column(table, metric)) for metric in metrics} for name, table in aligned.items()
    }
    pairs = []
    for metric in metrics:
        columns = {name: column(table, metric) for name, table in aligned.items()}
        found = [(a, b, compare_pairs(columns[a], columns[b])) for a, b in combinations(names, 2)]
        adjusted = holm([difference.wilcoxon_p for *_, difference in found])
        pairs += [Pair(metric, *row, p) for row, p in zip(found, adjusted, strict=True)]
    lacking = {metric: without for metric, without in lacking.items() if without}
    return Comparison(names, metrics, len(aligned[names[0]]), summaries, pairs, lacking)


def _has(table: pd.DataFrame, metric: str) -> bool:
    return not np.isnan(column(table, metric)).all()


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
        if not _same_truth(aligned[first], aligned[name]):
            raise DataError(
                f"{name} and {first} have the same keys but other truths or inputs: bicubic interpolation reaches "
                "another PSNR on them; evaluate both with the same data, spectral_matching and target_offset_days"
            )
    return aligned


def _same_truth(a: pd.DataFrame, b: pd.DataFrame) -> bool:
    """Bicubic interpolation knows no model, so its figures tell whether input and truth are the same."""
    left, right = column(a, "bicubic_psnr"), column(b, "bicubic_psnr")
    if np.isnan(left).all() or np.isnan(right).all():
        return True
    return np.allclose(left, right, rtol=0, atol=1e-3, equal_nan=True)
