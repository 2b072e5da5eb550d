"""What is said of several experiments: pairs by key, tests, tables; and when they can't be compared."""

import csv
import io
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tests.utils.comparison_data import ROWS, experiment, table
from utils.errors import DataError
from utils.report.comparison import compare
from utils.report.comparison_tables import as_csv, latex, markdown, plot, sentences, short_names
from utils.report.page_pictures import load_pictures
from utils.report.patch_table import read_table


def test_patches_are_paired_by_key() -> None:
    a, b = table(gain=2), table(seed=5)
    shuffled = b.sample(frac=1, random_state=0)
    pairs = {pair.metric: pair for pair in compare({"a": a, "b": shuffled}).pairs}
    psnr = pairs["psnr"].difference
    assert psnr.mean == pytest.approx((a["psnr"] - b["psnr"]).mean())
    assert psnr.wilcoxon_p == pytest.approx(stats.wilcoxon(a["psnr"], b["psnr"]).pvalue)
    assert psnr.low < psnr.mean < psnr.high
    assert pairs["psnr"].adjusted_p == psnr.wilcoxon_p  # the only pair in this metric


def test_tables() -> None:
    comparison = compare({"misr/a_b": table(gain=2), "sisr/b": table(seed=5)})
    mean = table(gain=2)["psnr"].mean()
    said = sentences(comparison)
    assert said[0].startswith("misr/a_b is better than sisr/b: PSNR +")
    assert said[1] == "Of 2 metrics against sisr/b: better in 2 (PSNR, LPIPS)."
    text = markdown(comparison)
    assert f"| PSNR (dB) ↑ | **{mean:.2f} [" in text
    assert "misr/a\\_b" in text
    assert text.index("- misr/a\\_b is better") < text.index("## Means") < text.index("### misr/a\\_b − sisr/b")
    rows_of_psnr = [line for line in text.splitlines() if line.startswith("| PSNR")]
    assert [line.count("|") for line in rows_of_psnr] == [4, 9]
    paper = latex(comparison)
    assert f"misr/a\\_b & $\\mathbf{{{mean:.2f}}} \\pm " in paper
    assert paper.count("{") == paper.count("}")
    assert paper.count(r"\begin{tabular}{lrr}") == paper.count(r"\end{tabular}") == 2
    assert r"PSNR (dB) $\uparrow$ & LPIPS $\downarrow$ \\" in paper
    assert r"misr/a\_b $-$ sisr/b & $2." in paper
    assert "misr/a_b − sisr/b" in plot(comparison)

    rows = list(csv.DictReader(io.StringIO(as_csv(comparison)), delimiter=";"))
    (lpips,) = [row for row in rows if row["metric"] == "lpips" and row["second"]]
    assert float(lpips["mean"]) < 0
    assert (int(lpips["better"]), int(lpips["worse"])) == (ROWS, 0)  # less is better
    (alone,) = [row for row in rows if row["metric"] == "psnr" and row["first"] == "misr/a_b" and not row["second"]]
    assert float(alone["mean"]) == pytest.approx(mean)


def test_every_pair_of_three() -> None:
    comparison = compare({"a": table(), "b": table(), "c": table(gain=1)})
    assert [(pair.first, pair.second) for pair in comparison.pairs[:3]] == [("a", "b"), ("a", "c"), ("b", "c")]
    said = " ".join(sentences(comparison))
    assert "a shows no clear difference to b" in said
    assert "b is worse than c" in said
    psnr = [pair for pair in comparison.pairs if pair.metric == "psnr"]
    certain = [pair for pair in psnr if pair.second == "c"]
    assert [pair.adjusted_p for pair in certain] == pytest.approx([3 * pair.difference.wilcoxon_p for pair in certain])


def test_few_patches_and_many_pairs_can_not_be_clear_after_adjustment() -> None:
    tables = {name: table(gain=gain).iloc[:8] for gain, name in enumerate("abcde")}
    text = markdown(compare(tables))
    assert "so the least of 10 adjusted ones is at least 0.078: none can be below 0.05" in text
    assert "none can be" not in markdown(compare({name: table(gain=i) for i, name in enumerate("abcde")}))
    assert "With 5 patches p is at least 0.062: no difference can be clear." in markdown(
        compare({"a": table(gain=1).iloc[:5], "b": table().iloc[:5]})
    )


def test_consistency_only_describes() -> None:
    comparison = compare({"a": table().assign(consistency=1.0), "b": table(gain=1).assign(consistency=2.0)})
    text = markdown(comparison)
    assert "| consistency (DN) | 1.00 [" in text
    assert "| not judged | – |" in text
    assert "Of 2 metrics against b: worse in 2" in text


def test_names_without_what_they_share() -> None:
    assert short_names(["demo/a", "demo/b"]) == {"demo/a": "a", "demo/b": "b"}
    assert short_names(["x/demo/a", "y/demo/a"]) == {"x/demo/a": "x/demo/a", "y/demo/a": "y/demo/a"}
    assert short_names(["demo", "demo/b"]) == {"demo": "demo", "demo/b": "demo/b"}


def test_identical_images_and_lost_metrics() -> None:
    comparison = compare({"a": table().assign(psnr=math.inf), "b": table().assign(lpips=np.nan)})
    assert comparison.metrics == ["psnr"]
    assert sentences(comparison)[-1] == "LPIPS is left out: it was not measured for b."
    assert comparison.pairs[0].difference.more == ROWS
    for text in (markdown(comparison), latex(comparison), plot(comparison)):
        assert "nan" not in text
    with pytest.raises(DataError, match="no metric in common"):
        compare({"a": table()[["psnr", "key"]], "b": table()[["lpips", "key"]]})


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (table().iloc[1:], "1 patches are missing, 0 are new"),
        (table().assign(key=[f"x{i}" for i in range(ROWS)]), f"{ROWS} patches are missing, {ROWS} are new"),
        (table().assign(bicubic_psnr=lambda rows: rows["bicubic_psnr"] + 0.1), "same keys but other truths"),
        (pd.concat([table(), table()]), "occurs twice"),
    ],
)
def test_differing_test_sets_are_an_error(other: pd.DataFrame, message: str) -> None:
    with pytest.raises(DataError, match=message):
        compare({"a": table(), "b": other})


def test_folders(tmp_path: Path) -> None:
    folder = experiment(tmp_path, "a", table(), pictures=True)
    assert read_table(folder)["key"].tolist() == table()["key"].tolist()  # 000 stays text
    assert list(load_pictures(folder)) == ["000", "001"]
    assert list(load_pictures(folder)["001"]) == ["bicubic", "nearest input", "result", "truth"]
    assert (load_pictures(folder)["001"]["truth"] == 60).all()
    damaged = next(folder.glob("report_pictures/*/result.png"))
    damaged.write_bytes(damaged.read_bytes()[:40])
    with pytest.raises(DataError, match="not a picture"):
        load_pictures(folder)
    (folder / "metrics.csv").write_text(";psnr;key\n0;high;1\n")
    with pytest.raises(DataError, match=r"metrics\.csv: not a table"):
        read_table(folder)
    (folder / "metrics.csv").write_text(";key\n0;1\n")
    with pytest.raises(DataError, match="no metric"):
        read_table(folder)
    (folder / "metrics.csv").unlink()
    with pytest.raises(DataError, match="evaluate the experiment first"):
        read_table(folder)
