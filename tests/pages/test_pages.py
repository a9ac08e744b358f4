"""Pages of all kinds: one header and width, colours that can be read, no network, and text that is never markup."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from browsers import show
from hostile_text import HOSTILE, Text
from hypothesis import given
from hypothesis import strategies as st
from page_samples import PAGES
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

import taco_ir
from taco_ir.core.processes import command_line
from taco_ir.pages import describe_code
from taco_ir.pages.plots import GAP, HEIGHT, Series, place_labels, plot_lines, round_values

PACKAGE = Path(taco_ir.__file__).parent
SMALLEST = 12  # pixels of a text


@pytest.fixture(params=PAGES)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# the file


def test_a_page_is_whole_and_needs_nothing_else(kind: str) -> None:
    """Its policy allows what is in it by hash, and nothing from elsewhere."""
    page = PAGES[kind]("plain")
    seen = Text(page)
    assert seen.links == ["data:,", "#main"]
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|url\(|@import|<img| style=", page)
    assert page.startswith("<!DOCTYPE html>") and page.rstrip().endswith("</html>")
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (style, *scripts)]
    assert re.findall(r"'sha256-(.*?)'", page) == hashes and "default-src 'none'" in page
    assert "script" not in seen.tags or kind == "board"


def test_text_is_never_markup(kind: str) -> None:
    page, plain = PAGES[kind](HOSTILE), PAGES[kind]("plain")
    assert Text(page).tags == Text(plain).tags and Text(page).links == Text(plain).links


def test_a_header_says_where_a_page_comes_from(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [str(PACKAGE / "train.py"), "--output", "a <b> & c"])
    page = PAGES[kind]("plain")
    header = page[page.index("<header>") : page.index("</header>")]
    assert "<code>python -m taco_ir.train --output &#39;a &lt;b&gt; &amp; c&#39;</code>" in header
    assert re.search(r"<span>\d{4}-\d\d-\d\d</span>", header) and f"taco_ir {taco_ir.__version__}" in header
    assert header.count("<h1>") == 1 == page.count("<h1>") and header.count('name="theme"') == 3


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([str(PACKAGE / "train.py"), "--tasks", "nq fever"], "python -m taco_ir.train --tasks 'nq fever'"),
        ([str(PACKAGE / "data" / "__main__.py"), "list"], "python -m taco_ir.data list"),
        ([str(PACKAGE / "__main__.py"), "mine"], "python -m taco_ir mine"),
        (["/usr/local/bin/taco-ir", "mine", "--seed", "1"], "taco-ir mine --seed 1"),
        (["/usr/lib/ipykernel_launcher.py", "-f", "kernel.json"], ""),
        ([""], ""),
        (["-c"], ""),
    ],
)
def test_a_command_is_said_as_one_types_it(argv: list[str], said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", argv)
    assert command_line() == said


def test_a_page_needs_no_git(kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A training draws its curves on machines that have none."""
    monkeypatch.setenv("PATH", str(tmp_path))
    describe_code.cache_clear()
    try:
        assert f"<span>taco_ir {taco_ir.__version__}</span>" in PAGES[kind]("plain")
    finally:
        describe_code.cache_clear()


def test_colours_have_contrast() -> None:
    """WCAG 2.2, 1.4.3 and 1.4.11: 4.5 for text, labels of lines as well, 3 for bars, in both themes."""
    style = (PACKAGE / "pages" / "page.css").read_text(encoding="utf-8")
    colours = dict(re.findall(r"--([\w-]+): light-dark\(((?:#\w{6}, )#\w{6})\)", style))
    palette = [name for name in colours if re.fullmatch(r"c\d+", name)]
    assert len(palette) == 11
    for theme in range(2):

        def luminance(name: str, theme: int = theme) -> float:
            values = np.array(list(bytes.fromhex(colours[name].split(", ")[theme][1:]))) / 255
            linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
            return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

        def contrast(one: str, other: str) -> float:
            low, high = sorted((luminance(one), luminance(other)))
            return (high + 0.05) / (low + 0.05)

        for ink in ("ink", "quiet", "better", "worse"):
            assert min(contrast(ink, ground) for ground in ("ground", "raised")) >= 4.5, (ink, theme)
        assert [name for name in palette if contrast(name, "ground") < 4.5] == []
        assert min(contrast(bar, "ground") for bar in ("bar", "bar-baseline")) >= 3


# plots


@given(st.floats(-1e4, 1e4), st.floats(1e-3, 1e6), st.integers(2, 9))
def test_values_of_an_axis_are_round_and_within(low: float, width: float, most: int) -> None:
    values = round_values(low, low + width, most)
    assert len(values) <= most + 1 and all(low - 1e-6 * width <= each <= low + width * (1 + 1e-6) for each in values)
    steps = np.diff(values)
    if len(steps):
        assert np.allclose(steps, steps[0]) and f"{steps[0]:.3e}"[0] in "125"


@given(st.lists(st.floats(0, HEIGHT), min_size=1, max_size=12))
def test_labels_do_not_overlap_and_stay_in_order(heights: list[float]) -> None:
    found = place_labels(heights)
    order = sorted(range(len(heights)), key=lambda place: (heights[place], place))
    gaps = np.diff([found[place] for place in order])
    assert np.all(gaps >= GAP - 1e-9) and min(found) >= -1e-9 and max(found) <= HEIGHT + 1e-9
    if len(heights) == 1:
        assert found == heights


def test_a_line_is_where_its_values_are() -> None:
    plot = plot_lines("a", [Series("nq", [0, 5, 10], [0.0, 1.0, 0.5], 3)], "step")
    assert plot.lines[0].points == "0.0,180.0 240.0,0.0 480.0,90.0" and plot.lines[0].end == 90.0
    assert [tick.label for tick in plot.x_ticks] == ["0", "2", "4", "6", "8", "10"]
    flat = plot_lines("a", [Series("nq", [3], [0.25], 0)], "step")
    assert flat.lines[0].points == "240.0,90.0"


# in a browser


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_a_page_fits_and_can_be_read(
    kind: str, width: int, theme: str, browser: webdriver.Chrome, tmp_path: Path
) -> None:
    """Nothing but boxes that scroll is wider than the window; no text is small; the system's theme is taken."""
    path = tmp_path / "page.html"
    path.write_text(PAGES[kind]("nq"), encoding="utf-8")
    show(browser, width, theme)
    browser.get(path.as_uri())
    assert browser.execute_script("return document.scrollingElement.scrollWidth") <= width
    assert browser.execute_script("return getComputedStyle(document.body).backgroundColor") == GROUNDS[theme]
    sizes = browser.execute_script(
        "return [...document.querySelectorAll('body *')].filter((e) => e.checkVisibility() && [...e.childNodes]"
        ".some((n) => n.nodeType === 3 && n.textContent.trim())).map((e) => [parseFloat(getComputedStyle(e).fontSize)"
        " * (e.getScreenCTM?.().a ?? 1), e.tagName, e.textContent])"
    )
    shown = [size for size in sizes if size[1] not in ("title", "desc", "SCRIPT")]
    assert len(shown) > 10 and [size for size in shown if size[0] < SMALLEST - 0.1] == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requests = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
    asked = [each["request"]["url"] for each in requests if each["documentURL"] == path.as_uri()]
    assert asked and all(url.startswith(("file:", "data:")) for url in asked)
    assert browser.get_log("browser") == []


GROUNDS = {"light": "rgb(255, 255, 255)", "dark": "rgb(22, 25, 29)"}


def test_a_theme_is_chosen_by_keyboard(kind: str, browser: webdriver.Chrome, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(PAGES[kind]("nq"), encoding="utf-8")
    show(browser, 1280, "dark")
    browser.get(path.as_uri())

    def ground() -> str:
        return str(browser.execute_script("return getComputedStyle(document.body).backgroundColor"))

    seen = [ground()]
    chosen = browser.find_element(By.ID, "theme-system")
    for _ in range(2):
        chosen.send_keys(Keys.ARROW_RIGHT)
        chosen = browser.switch_to.active_element
        seen.append(ground())
    assert seen == [GROUNDS["dark"], GROUNDS["light"], GROUNDS["dark"]]
    assert chosen.get_attribute("id") == "theme-dark" and chosen.accessible_name.strip() == "dark"
