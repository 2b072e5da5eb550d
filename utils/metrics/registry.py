"""What every metric is called, which way is better, and what it says, for all tables and pages."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import yaml


class Metric(NamedTuple):
    """A metric as people read it; metrics.yaml says what the fields mean."""

    label: str
    higher_is_better: bool
    decimals: int
    meaning: str
    unit: str = ""  # a pure number
    judged: bool = True

    def format(self, value: float, *, sign: bool = False) -> str:
        """The number as text, without its unit."""
        if not math.isfinite(value):
            return "–" if math.isnan(value) else "∞" if value > 0 else "\N{MINUS SIGN}∞"
        return f"{value:{'+' if sign else ''}.{self.decimals}f}".replace("-", "\N{MINUS SIGN}")

    def amount(self, value: float, *, sign: bool = False) -> str:
        """The number as text, with its unit."""
        text = self.format(value, sign=sign)
        return f"{text} {self.unit}" if self.unit else text

    def interval(self, low: float, high: float, *, sign: bool = False) -> str:
        """An interval as text, without its unit."""
        if not (math.isfinite(low) and math.isfinite(high)):
            return "not known"
        return f"{self.format(low, sign=sign)} to {self.format(high, sign=sign)}"

    @property
    def axis(self) -> str:
        """Label and unit."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    @property
    def heading(self) -> str:
        """Label, unit and the way that is better, of a table's row or column."""
        return self.axis + ({True: " ↑", False: " ↓"}[self.higher_is_better] if self.judged else "")


METRICS = {
    name: Metric(**entry)
    for name, entry in yaml.safe_load(Path(__file__).with_name("metrics.yaml").read_text(encoding="utf-8")).items()
}
# The column prefixes of metrics.csv: what was measured, by the name that people read.
METHODS = {"": "result", "backbone_": "backbone", "bicubic_": "bicubic"}


def known(columns: Iterable[str], *, prefix: str = "") -> list[str]:
    """The metrics among columns, in the order of the table above."""
    present = set(columns)
    return [name for name in METRICS if f"{prefix}{name}" in present]
