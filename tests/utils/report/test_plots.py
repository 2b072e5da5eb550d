"""Charts: valid SVG that says what it shows, in a page and as a file, whatever the values."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from utils.report import plots
from utils.report.plots import Interval, Line

SVG = "{http://www.w3.org/2000/svg}"


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_text_is_text_that_says_what_is_shown() -> None:
    methods = {"result": [0, 0, 0, 1, np.inf], "bicubic": [1, np.nan]}
    assert {"PSNR (dB)", "patches", "result", "bicubic"} <= set(
        texts(plots.standalone(plots.histogram(methods, label="PSNR (dB)")))
    )
    series = [Line("result", [0, 1, 2], [5, 6, np.nan], [4, np.nan, 1], [6, np.nan, 2])]
    assert {"days", "dB", "result"} <= set(texts(plots.standalone(plots.lines(series, x="days", y="dB", whole=True))))


def test_whole_numbers_and_labels_at_positions() -> None:
    drawn = texts(plots.standalone(plots.histogram({"result": [1.0, 2.0]}, label="x")))
    assert not [text for text in drawn if re.fullmatch(r"0\.\d", text)]  # patches are counted
    series = [Line("truth", [0.01, 0.1, 1], [1, 10, 100])]
    labelled = texts(
        plots.standalone(plots.lines(series, x="size", y="power", log=True, texts={0.1: "ten", 9: "out"}, mark=0.1))
    )
    assert "ten" in labelled and "out" not in labelled


def test_differences_name_each_pair_once_a_row_of_panels() -> None:
    rows = [Interval(1.0, 0.5, 1.5, "better"), Interval(-1.0, -1.5, -0.5, "worse"), Interval(np.nan, 0, 0, "unclear")]
    names = ["a − $b", "<a> − c", "b − c"]
    svg = plots.standalone(plots.differences(names, {f"M{i}": rows for i in range(4)}, label="differences"))
    drawn = texts(svg)
    assert [drawn.count(name) for name in names] == [2, 2, 2]
    assert {"M0", "M1", "M2", "M3", "differences"} <= set(drawn)
    assert plots.COLOURS["better"] in svg and plots.COLOURS["worse"] in svg
    assert plots.COLOURS["unclear"] not in svg


@pytest.mark.parametrize("values", [[], [np.nan], [3.0], [3.0, 3.0], [0.0], [-1e-9, 1e9]])
def test_any_values_give_a_chart(values: list[float]) -> None:
    position = list(range(len(values)))
    for figure in (
        plots.histogram({"result": values}, label="x"),
        plots.lines([Line("result", position, values, values, values)], x="x", y="y"),
        plots.lines([Line("result", position, values)], x="x", y="y", log=True),
        plots.differences(["a"], {"s": [Interval(v, v, v, "worse") for v in values[:1]]}, label="x"),
    ):
        assert "nan" not in plots.standalone(figure)


def test_in_a_page_it_takes_colours_size_and_letters_from_the_page() -> None:
    methods = {"result": [0.0, 1.0], "backbone": [0.0], "bicubic": [1.0], "truth": [2.0]}
    first, second = (plots.inline(plots.histogram(methods, label="x"), label=label) for label in ("one <", "two"))
    assert first.startswith("<svg ") and ' aria-label="one &lt;"' in first
    assert not re.search(r"#[0-9a-f]{6}\b", re.sub(r"url\(#\w+\)|href=\"#\w+\"", "", first))  # no colour of its own
    assert {"result", "backbone", "bicubic", "truth", "ink", "grid"} == set(re.findall(r"var\(--(\w+)\)", first))
    assert not re.search(r"http|font-family|<style|<svg[^>]* width", first)
    identifiers = [set(re.findall(r' id="(\w+)"', svg)) for svg in (first, second)]
    assert identifiers[0] and not identifiers[0] & identifiers[1]  # both can stand in one page


def test_the_same_chart_is_the_same_file() -> None:
    first, second = (plots.standalone(plots.histogram({"result": [1, 2]}, label="x")) for _ in range(2))
    assert first == second
