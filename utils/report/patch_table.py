"""The table of an evaluation: one row a patch, its key, metrics of several methods, and where it comes from."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from utils.errors import DataError
from utils.metrics.registry import METHODS, METRICS, known


def from_rows(rows: Sequence[Mapping[str, object]], *, source: str) -> pd.DataFrame:
    """Rows as a table with a ``key`` as text. DataError where there is no row or no metric."""
    table = pd.DataFrame([dict(row) for row in rows])
    if not len(table):
        raise DataError(f"{source}: no patch was evaluated")
    if "key" not in table:
        raise DataError(f"{source}: there is no column key; evaluate again")
    if not known(table):
        raise DataError(f"{source}: there is no metric among its columns; known: {', '.join(METRICS)}")
    table["key"] = table["key"].astype(str)
    return table


def read_table(folder: Path) -> pd.DataFrame:
    """metrics.csv of an experiment, or where that is missing test_results.csv. DataError where neither can be read."""
    files = [file for file in (folder / "metrics.csv", folder / "test_results.csv") if file.is_file()]
    if not files:
        raise DataError(f"{folder}: no metrics.csv or test_results.csv; evaluate the experiment first (--infer)")
    try:
        frame = pd.read_csv(files[0], sep=";", index_col=0, dtype={"key": str}, keep_default_na=False, na_values=[""])
        for name in frame.columns:
            if name != "key":
                frame[name] = pd.to_numeric(frame[name])
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise DataError(f"{files[0]}: not a table of results separated by ;: {error}") from error
    return from_rows(frame.to_dict("records"), source=str(files[0]))


def column(table: pd.DataFrame, name: str) -> np.ndarray:
    """A column (n,) as float64; NaN where there is none or a value is missing."""
    if name not in table:
        return np.full(len(table), np.nan)
    return pd.to_numeric(table[name], errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)


def methods(table: pd.DataFrame, metric: str) -> dict[str, np.ndarray]:
    """The columns of a metric by method: result, backbone, bicubic, as far as there are any."""
    return {method: column(table, prefix + metric) for prefix, method in METHODS.items() if prefix + metric in table}
