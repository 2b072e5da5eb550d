"""Charts: valid SVG, points in their places, ticks that are round."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from utils.report import plots
from utils.report.plots import Axis, Line, Row

SVG = "{http://www.w3.org/2000/svg}"


def elements(svg: str, kind: str, tag: str) -> list[dict[str, str]]:
    root = ElementTree.fromstring(svg)
    return [e.attrib for e in root.iter(tag) if kind in e.attrib.get("class", "").split()]


def test_histogram_counts() -> None:
    svg = plots.histogram({"result": [0, 0, 0, 1, np.inf], "bicubic": [1, np.nan]}, label="PSNR (dB)", bins=2)
    areas = elements(svg, "area", "polygon")
    assert [area["class"] for area in areas] == ["area bicubic", "area result"]
    heights = [[float(point.split(",")[1]) for point in area["points"].split()] for area in areas]
    drawn = {area["class"].split()[1]: [of[0] - y for y in of] for area, of in zip(areas, heights, strict=True)}
    assert drawn["result"][1] == pytest.approx(3 * drawn["result"][3], abs=0.2)
    assert drawn["bicubic"][3] == pytest.approx(drawn["result"][3], abs=0.2)
    assert min(heights[0]) > max(heights[1]) - 0.2 or min(heights[1]) > max(heights[0]) - 0.2  # none covers another
    assert len(elements(svg, "bar", "path")) == 2  # the means
    counted = [text for text in re.findall(r">([^<>]+)</text>", svg) if text.isdigit()]
    assert counted.count("0") == 2
    assert counted.count("2") == 2


def test_lines_have_intervals_where_there_are_any() -> None:
    svg = plots.lines([Line("result", [0, 1, 2], [5, 6, np.nan], [4, np.nan, 1], [6, np.nan, 2])], x="days", y="dB")
    assert len(elements(svg, "dot", "circle")) == 2  # the third has no value
    first, second = (re.fullmatch(r"M\S+ (\S+)V(\S+)", bar["d"]) for bar in elements(svg, "bar", "path"))
    assert first and second
    assert float(first[1]) > float(first[2])
    assert second[1] == second[2]


def test_logarithmic_axes() -> None:
    svg = plots.lines([Line("truth", [0.01, 0.1, 1], [1, 10, 100])], x="f", y="power", log=True, mark=-1.0)
    points = [tuple(map(float, p.split(","))) for p in elements(svg, "line", "polyline")[0]["points"].split()]
    assert points[1][0] - points[0][0] == pytest.approx(points[2][0] - points[1][0], abs=0.2)
    (mark,) = elements(svg, "zero", "path")
    assert mark["d"].startswith(f"M{points[1][0]:.1f} ")
    without_zero = plots.lines([Line("truth", [0, 0.1], [0, 10])], x="f", y="power", log=True)
    assert len(elements(without_zero, "dot", "circle")) == 1


def test_differences_stand_beside_zero() -> None:
    rows = [Row(1.0, 0.5, 1.5, "better"), Row(-1.0, -1.5, -0.5, "worse"), Row(np.nan, 0, 0, "unclear")]
    small = [row._replace(mean=row.mean / 1000, low=row.low / 1000, high=row.high / 1000) for row in rows]
    panels = {"PSNR <b>": rows, "LPIPS": small, "MAE": rows, "MSE": rows}
    svg = plots.differences(["a − b", "a − c", "b − c"], panels, label="differences", columns=3)
    zeros = elements(svg, "zero", "path")
    dots = elements(svg, "dot", "circle")
    assert [dot["class"] for dot in dots] == ["dot better", "dot worse"] * 4
    for i, zero in enumerate(zeros):
        middle = float(re.match(r"M(\S+)", zero["d"])[1])  # type: ignore[index]
        assert float(dots[2 * i + 1]["cx"]) < middle < float(dots[2 * i]["cx"])
    first, second = ([float(dot["cx"]) for dot in dots[i : i + 2]] for i in (0, 2))
    assert first[0] - first[1] == pytest.approx(second[0] - second[1], abs=0.2)  # each has an axis of its own
    assert float(dots[6]["cy"]) > float(dots[3]["cy"])  # the fourth panel is below
    assert svg.count(">a − c</text>") == 2  # once a line of panels


@pytest.mark.parametrize("values", [[], [np.nan], [3.0], [3.0, 3.0], [0.0], [-1e-9, 1e9]])
def test_any_values_give_a_chart(values: list[float]) -> None:
    position = list(range(len(values)))
    for svg in (
        plots.histogram({"result": values}, label="x"),
        plots.lines([Line("result", position, values)], x="x", y="y"),
        plots.lines([Line("result", position, values)], x="x", y="y", log=True),
        plots.differences(
            [""] * len(values), {"s": [Row(value, value, value, "worse") for value in values]}, label="x"
        ),
    ):
        text = ElementTree.tostring(ElementTree.fromstring(svg), encoding="unicode")
        assert "nan" not in text
        assert "inf" not in text.replace("finite", "")


def test_standalone_is_a_file_of_its_own() -> None:
    svg = plots.standalone(plots.differences(["a"], {"": [Row(1, 0, 2, "better")]}, label="dB"))
    root = ElementTree.fromstring(svg)
    assert root.tag == f"{SVG}svg"
    assert root.find(f"{SVG}style") is not None


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        (-10.1, 9, ["−10", "−5", "0", "5"]),
        (21.2, 33, ["22", "24", "26", "28", "30", "32"]),
    ],
)
def test_ticks_are_round(low: float, high: float, expected: list[str]) -> None:
    assert [text for _, text in plots.ticks(Axis("", low, high))] == expected


def test_whole_ticks() -> None:
    assert [text for _, text in plots.ticks(Axis("", 0, 2.1, whole=True))] == ["0", "1", "2"]
    assert [text for _, text in plots.ticks(Axis("", 0, 100, whole=True))] == ["0", "20", "40", "60", "80", "100"]
