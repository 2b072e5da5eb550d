"""Look at a data set: open, measure, judge."""

from pathlib import Path

from data_gen.checks import rules
from data_gen.checks.measure import Measurements, measure_source
from data_gen.checks.overlap import ReadTruth
from data_gen.checks.rules import Finding
from data_gen.checks.sources import PreparedSource, RawSource, Source
from data_gen.dataset import patch_rasters
from utils.errors import DataError
from utils.store import MANIFEST, prepared_folder

_FIRST = (rules.splits, rules.files, rules.store, rules.labels, rules.sizes, rules.pairs, rules.dates)
_LAST = (rules.scaling, rules.nodata, rules.clipping, rules.registration, rules.place, rules.bands)


@patch_rasters()
def check_data_set(
    root: Path, *, sample: int, bands: tuple[str, ...] | None = None
) -> tuple[Measurements, list[Finding]]:
    """Measure a data set and say what is wrong with it.

    Args:
        root: a raw data set or a prepared folder.
        bands: of a raw data set; by default those that its rasters describe.
        sample: patches whose acquisitions are read, 0 for all. Truths and dates are always all looked at.

    Raises:
        DataError: it can't be read.
    """
    source = open_source(root, bands=bands)
    data = measure_source(source, sample=sample)
    return data, judge(data, lambda truth: source.truth(truth.ref)[0])


def open_source(root: Path, *, bands: tuple[str, ...] | None = None) -> Source:
    """A raw root, or a prepared folder. A raw root that was prepared is looked at as raw. Raises DataError."""
    if (root / MANIFEST).is_file():
        return PreparedSource(root)
    try:
        return RawSource(root, bands=bands)
    except DataError:
        if root.is_dir() and not any(root.glob("dataset_*.pkl")) and (root / "preprocessed" / MANIFEST).is_file():
            return PreparedSource(prepared_folder(root))
        raise


def judge(data: Measurements, read: ReadTruth) -> list[Finding]:
    """All findings, in the order to read them in. ``read`` gives the pixels of a truth."""
    findings = [finding for check in _FIRST for finding in check(data)]
    findings += rules.duplicates(data, read)
    return findings + [finding for check in _LAST for finding in check(data)]
