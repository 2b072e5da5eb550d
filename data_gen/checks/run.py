"""Look at a data set: open, measure, judge."""

import warnings
from pathlib import Path
from typing import Any

import rasterio
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning

from data_gen.checks import rules
from data_gen.checks.measure import Evidence, Truth, gather
from data_gen.checks.overlap import Read
from data_gen.checks.rules import Finding
from data_gen.checks.sources import PreparedSource, Progress, RawSource, Source
from data_gen.dataset import GDAL_OPTIONS
from utils.errors import DataError
from utils.store import MANIFEST, prepared_folder

_FIRST = (rules.splits, rules.files, rules.store, rules.labels, rules.sizes, rules.pairs, rules.dates)
_LAST = (rules.scaling, rules.nodata, rules.clipping, rules.registration, rules.place, rules.bands)


def look(root: Path, *, sample: int, progress: Progress) -> tuple[Evidence, list[Finding]]:
    """What there is and what is wrong with it. ``sample``: patches whose acquisitions are read, 0 for all.

    ``progress(items, what)`` gives the items back as they are asked for. Raises DataError where ROOT can't be read.
    """
    with rasterio.Env(**GDAL_OPTIONS), warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        source = open_source(root)
        evidence = gather(source, sample=sample, progress=progress)

        def read(truth: Truth) -> NDArray[Any]:
            return source.truth(truth.ref)[0]

        return evidence, judge(evidence, read)


def open_source(root: Path) -> Source:
    """A raw root, or a prepared folder. A raw root that was prepared is looked at as raw. Raises DataError."""
    if (root / MANIFEST).is_file():
        return PreparedSource(root)
    try:
        return RawSource(root)
    except DataError:
        if root.is_dir() and not any(root.glob("dataset_*.pkl")) and (root / "preprocessed" / MANIFEST).is_file():
            return PreparedSource(prepared_folder(root))
        raise


def judge(evidence: Evidence, read: Read) -> list[Finding]:
    """All verdicts, in the order to read them in. ``read`` gives the pixels of a truth."""
    findings = [finding for check in _FIRST for finding in check(evidence)]
    findings += rules.duplicates(evidence, read)
    return findings + [finding for check in _LAST for finding in check(evidence)]
