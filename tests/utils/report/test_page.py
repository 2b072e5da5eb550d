"""What the page says, that it is one safe file, and that it copes with whatever an evaluation lacks."""

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.utils.report.evaluation_data import page, pictures, rows
from utils.errors import DataError
from utils.images import Attention
from utils.report.page import Example, choose_examples

VOID = {"meta", "link", "img", "input", "br"}


class Reader(HTMLParser):
    """Checks that every element is closed, and collects what text people read and what addresses are named."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        named = ("src", "href", "xlink:href", "srcset", "action")
        self.addresses += [value or "" for name, value in attributes if name in named]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """An element of SVG that closes itself."""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.texts.append(data)


def read(html: str) -> str:
    """What people read, in one line."""
    parsed = Reader()
    parsed.feed(html)
    assert parsed.open == []
    assert all(address.startswith(("data:", "#")) for address in parsed.addresses)
    return " ".join(" ".join(parsed.texts).split())


def test_one_file_that_names_no_other(tmp_path: Path) -> None:
    html = page(tmp_path / "report.html")
    read(html)
    assert "http" not in re.sub(r"http-equiv|base64,[^\"]*", "", html)
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    names = re.findall(r' id="([^"]+)"', html)
    assert len(names) == len(set(names))


def test_says_which_is_better_by_how_much_and_how_sure(tmp_path: Path) -> None:
    text = read(page(tmp_path / "report.html"))
    values = rows()
    gain = np.mean([row["psnr"] - row["bicubic_psnr"] for row in values])
    assert f"misr/trial is better than bicubic: PSNR +{gain:.2f} dB on average (95% interval +" in text
    assert "better on 12 of 12 patches" in text
    assert "Of 2 metrics against bicubic: better in 2 (PSNR, SSIM)" in text
    assert "PSNR is clearly worse where the distance in days" in text
    worst = sorted(values, key=lambda row: row["psnr"])[:3]
    assert "furthest from the truth on the patches {}, {} and {}".format(*(row["key"] for row in worst)) in text
    assert f"{np.mean([row['psnr'] for row in values]):.2f} dB" in text
    assert text.count("LPIPS") == 1 and "LPIPS was not measured" in text


def test_says_where_bicubic_is_better(tmp_path: Path) -> None:
    text = read(page(tmp_path / "report.html", rows=rows(gain=-1.0)))
    assert "misr/trial is worse than bicubic: PSNR −" in text
    assert "Bicubic is nearer to the truth on 12 of 12 patches (100, 101, " in text
    assert "better on 0 of 12 patches" in text


def test_the_worst_patches_lead_to_their_pictures(tmp_path: Path) -> None:
    html = page(tmp_path / "report.html")
    failures = html.split("Where does it fail?")[1].split("<h2>")[0]
    assert failures.count("<tr>") == 1 + 6  # half of 12
    linked = re.findall(r'href="#(patch-\d+)">(\d+)<', failures)
    assert linked
    for place, key in linked:
        assert f"patch {key}<" in html.split(f'id="{place}"')[1].split("</article>")[0]


def test_maps_and_samples_have_units(tmp_path: Path) -> None:
    text = read(page(tmp_path / "report.html"))
    assert "from 0 (black) to 64 DN" in text  # the error
    assert "from 0 (black) to 32 DN" in text  # the spread
    assert "several samples, which spread by 5.10 DN" in text  # 0.04 of a range of 2, in 255
    assert "spread 5.10 DN on average" in text
    without = [{**row, "spread": None} for row in rows()]
    assert "samples" not in read(page(tmp_path / "report.html", rows=without, examples=[Example("best", 0, {})]))


def test_a_factor_that_is_the_same_for_all_is_said_not_drawn(tmp_path: Path) -> None:
    drawn = page(tmp_path / "report.html")
    same = page(tmp_path / "report.html", rows=[row | {"valid_dates": 8, "days_to_nearest": 1.0} for row in rows()])
    text = read(same)
    assert "All patches have 8 valid dates." in text
    assert "The nearest acquisition of all patches is 1 day from the truth." in text
    assert drawn.count("<figure><svg") == 2 * 3 + 1  # of each metric, and the spectrum
    assert same.count("<figure><svg") == 2 + 1
    assert "All patches have" not in drawn


def test_facts(tmp_path: Path) -> None:
    html = page(tmp_path / "report.html")
    assert "checkpoint" in html.split("<body>")[1].split('class="summary"')[0]
    assert "device" not in html.split("<body>")[1].split('class="summary"')[0]
    assert "<dt>device</dt><dd>CPU</dd>" in html and "<dt>hidden_size</dt><dd>64</dd>" in html


def test_everything_is_escaped(tmp_path: Path) -> None:
    evil = "<script>alert('{{ title }}')</script>&\""
    html = page(
        tmp_path / "report.html",
        name=evil,
        facts={evil: evil},
        settings={evil: evil},
        rows=[row | {"key": f"{evil}{row['key']}"} for row in rows()],
        examples=[Example(evil, 0, {**pictures(), evil: pictures()["truth"]})],
    )
    assert html.count("<script>") == 1
    assert evil in read(html)


def test_pictures_are_lossless_and_large_ones_show_the_same_middle(tmp_path: Path) -> None:
    def shown(**given: np.ndarray) -> list[np.ndarray]:
        html = page(tmp_path / "report.html", examples=[Example("best", 0, given)])
        found = re.findall(r"data:image/webp;base64,([^\"]+)", html)
        return [np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))) for text in found]

    noise = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    result, truth = shown(result=noise, truth=noise[::-1])
    assert (result == noise).all() and (truth == noise[::-1]).all()
    coarse = (np.arange(256)[:, None, None] * np.ones((1, 256, 3))).astype(np.uint8)
    small, large = shown(input=coarse, truth=coarse.repeat(4, axis=0).repeat(4, axis=1))
    assert large.shape == (400, 400, 3)
    assert (small.repeat(4, axis=0).repeat(4, axis=1) == large).all()
    assert 70 < small[0, 0, 0] < 80  # the middle


@pytest.mark.parametrize("number", [1, 2, 3])
def test_few_patches(tmp_path: Path, number: int) -> None:
    text = read(page(tmp_path / "report.html", rows=rows(number), examples=[]))
    assert f"better on {number} of {number} patches" in text
    assert f"{number} patches are too few to tell misr/trial from bicubic" in text
    assert ("95% interval not known" in text) == (number == 1)


def test_identical_images_and_lost_values(tmp_path: Path) -> None:
    values = rows()
    values[0] |= {"psnr": np.inf, "bicubic_psnr": np.inf}
    values[1]["psnr"] = np.inf
    values[2] |= {"ssim": None, "days_to_nearest": None, "valid_dates": None}
    text = read(page(tmp_path / "report.html", rows=values))
    assert "left out of means: PSNR on 2, SSIM on 1." in text
    assert not re.search(r"\bnan\b|\binf\b", text)


def test_metrics_alone(tmp_path: Path) -> None:
    """An evaluation without bicubic, dates, pictures, spectra."""
    few = [{"key": i, "mae": float(i)} for i in range(4)]
    text = read(page(tmp_path / "report.html", rows=few, examples=[], spectra={}))
    assert "misr/trial reaches a mean MAE of 1.50 DN" in text
    assert "No pictures were kept." in text and "No spectra were computed." in text


def test_nothing_to_report_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no patch"):
        page(tmp_path / "report.html", rows=[])
    with pytest.raises(DataError, match="no metric"):
        page(tmp_path / "report.html", rows=[{"key": 1}])
    assert list(tmp_path.iterdir()) == []


def test_examples_are_the_best_the_middle_and_the_worst() -> None:
    values = [3.0, 9.0, float("nan"), 1.0, 5.0, 7.0, float("inf")]
    assert choose_examples(values, number=1) == [("best", 6), ("median", 4), ("worst", 3)]
    assert choose_examples(values, metric="mae", number=1) == [("best", 3), ("median", 5), ("worst", 6)]
    assert sorted(position for _, position in choose_examples(values, number=9)) == [0, 1, 3, 4, 5, 6]  # each once
    assert choose_examples([2.0, 3.0]) == [("best", 1), ("worst", 0)]
    assert choose_examples([2.0], number=2) == [("best", 0)]
    assert choose_examples([]) == []


def test_what_can_be_trusted(tmp_path: Path) -> None:
    stated = {"coverage_50": 0.3, "coverage_68": 0.45, "coverage_90": 0.7, "spread_to_error": 0.61, "crps": 3.25}
    right = {"coverage_50": 0.51, "coverage_68": 0.69, "coverage_90": 0.901, "spread_to_error": 0.98, "crps": 3.0}
    trust = {
        "correctness_settings": "crop 16 px",
        "resolution": {"result": {"frc_resolution": 4.12, "frc_half": 6.0}, "bicubic": {"frc_resolution": 8.0}},
        "uncertainty": {"before": stated, "after": right, "rank_histogram": [0.5, 0.1, 0.4]},
    }
    inputs = [np.full((6, 6, 3), level, np.uint8) for level in (10, 200)]
    maps = {**pictures(), "hallucination": pictures()["error"]}
    html = page(
        tmp_path / "report.html",
        rows=[{**row, "hallucination": 0.125} for row in rows()],
        examples=[Example("best", 3, maps, Attention(inputs, [-12.0, 3.0], [0.25, 0.75]))],
        rings={"result": ([0.1, 0.3, 0.5], [1, 0.6, 0.1])},
        trust=trust,
    )
    text = read(html)
    assert "down to 4.1 m in the result, 8.0 m in the bicubic image." in text
    assert "as the model states it 30.0% 45.0% 70.0% 0.61 3.25" in text
    assert "calibrated 51.0% 69.0% 90.1% 0.98 3.00" in text
    assert "among the 2 samples" in text and "50%, 10%, 40%." in text
    assert "hallucination 0.125" in text and "crop 16 px" in text
    bars = html.split('class="attention"')[1].split("</figure>")[0]
    assert ">-12<" in bars.replace("\N{MINUS SIGN}", "-") and ">+3<" in bars
    assert bars.count("<image") == 2
    untold = read(page(tmp_path / "report.html"))
    assert "The model states no uncertainty" in untold
