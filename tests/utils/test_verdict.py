"""What differences are said to mean."""

import numpy as np

from utils.report.statistics import Difference, compare_pairs
from utils.report.verdict import difference_sentence, judgement, link_sentence, tally_sentence, wins, worst


def test_better_depends_on_the_metric() -> None:
    up = Difference(1.0, 0.5, 1.5, more=9, less=1, equal=0, sign_p=0.02, wilcoxon_p=0.01)
    assert judgement("psnr", up) == "better"
    assert judgement("lpips", up) == "worse"
    assert (wins("psnr", up), wins("lpips", up)) == (9, 1)
    unclear = up._replace(low=-0.1)
    assert judgement("psnr", unclear) == judgement("lpips", unclear) == "no clear difference"


def test_sentences() -> None:
    a = np.linspace(0.2, 0.3, 20)
    sentence = difference_sentence("lpips", compare_pairs(a, a + 0.05), name="A", reference="B")
    assert sentence.startswith("A is better than B: LPIPS −0.0500 on average (95% interval −0.0500 to −0.0500;")
    assert sentence.endswith("better on 20 of 20 patches; Wilcoxon test p < 0.001).")
    none = difference_sentence("lpips", compare_pairs(a, a[::-1]), name="A", reference="B")
    assert none.startswith("A shows no clear difference to B: LPIPS ")
    few = difference_sentence("mae", compare_pairs(a[:5], a[:5] + 1), name="A", reference="B")
    assert few.startswith("5 patches are too few to tell A from B: MAE −1.00 DN on average (95% interval −1.00 ")
    assert difference_sentence("mae", compare_pairs(a[:6], a[:6] + 1), name="A", reference="B").startswith(
        "A is better"
    )
    tally = tally_sentence({"psnr": compare_pairs(a, a[::-1]), "mae": compare_pairs(a, a - 1)}, reference="B")
    assert tally == "Of 2 metrics against B: worse in 1 (MAE); no clear difference in 1 (PSNR)."


def test_what_only_describes_is_not_judged() -> None:
    a = np.linspace(0.2, 0.3, 20)
    less = compare_pairs(a, a + 1)
    assert judgement("consistency", less) == "not judged"
    assert (
        tally_sentence({"consistency": less, "mae": less}, reference="B")
        == "Of 1 metrics against B: better in 1 (MAE)."
    )
    assert tally_sentence({"consistency": less}, reference="B") is None
    assert difference_sentence("consistency", less, name="A", reference="B").startswith(
        "A against B: consistency −1.00"
    )


def test_links() -> None:
    days = np.arange(30.0)
    noise = np.random.default_rng(0).normal(size=30)
    assert "is clearly worse where the days is larger (Spearman ρ −1.00" in str(
        link_sentence("psnr", -days, days, factor_name="the days")
    )
    assert "is clearly better" in str(link_sentence("mae", -days, days, factor_name="the days"))
    assert str(link_sentence("psnr", noise, days, factor_name="days")).startswith("No clear link between PSNR and days")
    assert link_sentence("psnr", noise, np.ones(30), factor_name="days") is None
    assert link_sentence("psnr", noise[:4], days[:4], factor_name="days") is None


def test_worst_first() -> None:
    values = [2.0, np.nan, 1.0, np.inf]
    assert worst("psnr", values, number=9) == [2, 0, 3]
    assert worst("mae", values, number=2) == [3, 0]
