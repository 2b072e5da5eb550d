"""The page in a real browser: no error, no request, its parts move. Skips where chromium is not installed."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.utils.report.evaluation_data import page

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed (requirements-dev.txt)")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="no chromium here (apt-get install chromium chromium-driver)"
)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync"
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    page(path)
    return path


@pytest.fixture
def opened(browser: Any, report: Path) -> Any:
    browser.get("about:blank")
    browser.get_log("performance")  # what the browser's own pages did
    browser.get(report.as_uri())
    return browser


def colour(browser: Any, *, x: float) -> list[int]:
    """What the first slider shows at a share of its width: the colour of the picture that is seen there."""
    return browser.execute_script(
        """
        const slider = document.querySelector(".slider"), [left, right] = slider.querySelectorAll("img");
        const at = parseFloat(getComputedStyle(slider).getPropertyValue("--at")) / 100;
        const seen = arguments[0] < at ? left : right;
        const canvas = document.createElement("canvas").getContext("2d");
        canvas.drawImage(seen, 0, 0);
        return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
        """,
        x,
    )


def labels(browser: Any) -> list[str]:
    """The names on the first slider that are seen."""
    found = browser.find_element("css selector", ".slider").find_elements("tag name", "span")
    return [label.text for label in found if label.is_displayed()]


def test_no_error_and_no_request(opened: Any, report: Path) -> None:
    asked = []
    for entry in opened.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            asked.append(message["params"]["request"]["url"])
    assert report.as_uri() in asked
    assert [url for url in asked if not url.startswith(("data:", report.as_uri()))] == []
    assert [entry for entry in opened.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    loaded = opened.execute_script("return [...document.images].every((image) => image.complete && image.naturalWidth)")
    assert loaded


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_sticks_out(opened: Any, width: int) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    assert opened.execute_script("return document.documentElement.scrollWidth") <= width
    opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_slider_and_flip(opened: Any) -> None:
    slider = opened.find_element("css selector", ".slider input")
    assert colour(opened, x=0.2) == [250, 0, 0]  # the result
    assert colour(opened, x=0.8) == [0, 250, 0]  # the truth
    for _ in range(45):
        slider.send_keys("\ue012")  # arrow left
    assert colour(opened, x=0.2) == [0, 250, 0]
    flip = opened.find_element("css selector", ".flip")
    flip.click()
    assert colour(opened, x=0.99) == [250, 0, 0]
    assert labels(opened) == ["result"]
    flip.click()
    assert colour(opened, x=0.01) == [0, 250, 0]
    assert labels(opened) == ["truth"]
    slider.send_keys("\ue014" * 30)  # arrow right
    assert labels(opened) == ["result", "truth"]


def test_choosing_a_picture_to_compare(opened: Any) -> None:
    example = opened.find_elements("css selector", ".example")[0]
    example.find_element("css selector", 'button[data-name="bicubic"]').click()
    assert colour(opened, x=0.2) == [0, 0, 250]
    assert example.find_element("css selector", ".slider span").text == "bicubic"
    pressed = example.find_elements("css selector", 'button[aria-pressed="true"]')
    assert [button.get_attribute("data-name") for button in pressed] == ["bicubic"]
    assert not example.find_element("css selector", 'button[data-name="truth"]').is_enabled()  # it is on the right
    other = opened.find_elements("css selector", ".example")[1]
    assert other.find_element("css selector", ".slider span").text == "result"  # each has its own


def test_choosing_a_metric(opened: Any) -> None:
    def shown() -> list[str]:
        panels = opened.find_elements("css selector", "[data-metric]")
        return [panel.get_attribute("data-metric") for panel in panels if panel.is_displayed()]

    assert shown() == ["psnr"]
    opened.find_element("css selector", '#metric option[value="ssim"]').click()
    assert shown() == ["ssim"]
    assert "SSIM" in opened.find_element("css selector", '[data-metric="ssim"]').text
