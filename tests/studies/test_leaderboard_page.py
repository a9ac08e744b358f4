"""The leaderboard's page is escaped and small; in a real browser it sorts, filters, compares, and uses no network."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsers import show
from hostile_text import HOSTILE, Text
from hypothesis import example, given, settings
from hypothesis import strategies as st
from one_comparison import bootstrap_interval
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait
from study_results import fake_results

from taco_ir.evaluation.measures import MACRO
from taco_ir.evaluation.significance import Comparison
from taco_ir.studies.board import Board, make_boards
from taco_ir.studies.board_page import Example, Examples, render_page
from taco_ir.studies.records import Record
from taco_ir.studies.tables import Quoted, read_published

RPREC, MRR = "page R-precision", "passage MRR@10"
SECONDS = 2.0  # to open 20 systems x 8 topics x 700 queries
LARGEST = 3_000_000  # bytes of that page


def examples(results: Sequence[Record], text: str = "who wrote it") -> Examples:
    """Every query of nq-dev; BM25 finds gold first, the others page 1 only (its gold page, another passage)."""
    systems = {f"{each.system} ({each.base})" if each.base else each.system for each in results}
    top = {system: ["1#0", "2#0"] if system == "BM25" else ["2#0", "1#1"] for system in systems}
    count = results[0].topics["nq-dev"].queries
    queries = [Example(row, f"q{row}", f"{text} {row}", ["1#0"], top) for row in range(count)]
    passages = {each: (f"Title {each} {text}", f"Passage {each} {text}", each[0]) for each in ("1#0", "1#1", "2#0")}
    return Examples("whole", {"nq-dev": queries}, passages)


def data_of(source: str) -> Any:
    """What the page's script reads."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', source, re.DOTALL)
    assert found
    return json.loads(found[1])


def unpacked(data: Mapping[str, Any], packed: Mapping[str, Any], row: int) -> list[float]:
    letters, text = data["letters"], packed["rows"][row]
    width = 2 if len(packed["levels"]) > len(letters) else 1
    codes = [text[i : i + width] for i in range(0, len(text), width)]
    places = [
        letters.index(code[0]) * len(letters) ** (width - 1) + letters.index(code[-1]) * (width - 1) for code in codes
    ]
    return [packed["levels"][place] / 1000 for place in places]


def untested(results: Sequence[Record]) -> list[Board]:
    """Boards with a made-up comparison wherever there would be one: the tests of a large board take seconds."""
    tested = []
    for board in make_boards(results, None, 0):
        numbers = (0.1234567, 0.0123456, 0.2345678, 0.5, 0.0123456, 0.0345678)
        made_up = [
            Comparison(row.system, row.base, topics, measure, *numbers)
            for row in board.rows
            if row.system != "BM25"
            for measure in board.measures
            for topics in (*board.topics, MACRO, *board.slices)
        ]
        tested.append(replace(board, baseline="BM25", comparisons=tuple(made_up)))
    return tested


# the file


@pytest.fixture(scope="module")
def large() -> str:
    results = fake_results(20, 8, 700)
    return render_page(untested(results), results, read_published(), None)


def test_large_page_is_small(large: str) -> None:
    assert 100_000 < len(large.encode()) < LARGEST


def test_page_needs_nothing_else(large: str) -> None:
    seen = Text(large)
    foreign = r"https?://(?!www\.w3\.org/2000/svg)|innerHTML|outerHTML|insertAdjacent|eval\("
    assert not re.search(foreign, large)
    assert seen.tags.count("script") == 2


def valued(values_QS: Any) -> list[Record]:
    """One system with these values on one topics, a seed for each column."""
    (template,) = fake_results(1, 1, 1)
    results = []
    for seed, values_Q in enumerate(values_QS.T):
        scores = replace(template.topics["nq-dev"], queries=len(values_Q), means={RPREC: values_Q.mean()})
        scores = replace(scores, by_query={RPREC: values_Q.tolist()})
        results.append(replace(template, seed=seed, topics={"nq-dev": scores}))
    return results


MANY = np.linspace(0, 1, 400).reshape(200, 2)  # more distinct values than there are letters


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=50))
@example(MANY.tolist())
def test_values_by_query_come_back(pairs: list[tuple[float, float]]) -> None:
    """To three decimals, averaged over seeds, whether a letter or two stand for a value."""
    values_QS = np.array(pairs)
    results = valued(values_QS)
    data = data_of(render_page(make_boards(results, None, 0), results, [], None))
    found_Q = unpacked(data, data["boards"][0]["values"]["nq-dev"][RPREC], 0)
    np.testing.assert_allclose(found_Q, values_QS.mean(axis=1), atol=5.001e-4)


def test_values_by_query_are_of_the_seeds_that_the_table_shows() -> None:
    results = fake_results(3, 2, 30, seeds=3)
    last = max(place for place, result in enumerate(results) if result.seed == 1)
    topics = {name: scores for name, scores in results[last].topics.items() if name != "fever-dev"}
    results[last] = lacking = replace(results[last], topics=topics)
    data = data_of(render_page(make_boards(results, None, 0), results, [], None))
    (board,) = data["boards"]
    for place, row in enumerate(board["rows"]):
        for name in board["topics"]:
            mean = np.mean(unpacked(data, board["values"][name][RPREC], place))
            assert mean == pytest.approx(row["scores"][name][RPREC][0], abs=5e-4)
    assert [row["seeds"] for row in board["rows"] if row["name"] == lacking.row] == [[0, 2]]


def hostile(text: str) -> str:
    """A page with `text` wherever data can put one."""
    results = []
    for each in fake_results(3, 1, 20):
        topics = {n + text: replace(s, part_of=s.part_of and s.part_of + text) for n, s in each.topics.items()}
        results.append(replace(each, system=each.system + text, base=text, corpus="whole" + text, topics=topics))
    board = replace(untested(results)[0], notes=(text,))
    queries = {"nq-dev" + text: examples(fake_results(3, 1, 20), text).topics["nq-dev"]}
    shown = Examples("whole" + text, queries, {"1#0": (text, text, text)})
    return render_page([board], results, [Quoted(text, {"FEV": 1.0}, 1.0, text)], shown)


@settings(deadline=None, max_examples=25)
@given(
    st.just(HOSTILE)
    | st.just("</script><script>ran = 1</script>")
    | st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20)
)
def test_text_from_data_is_never_markup(text: str) -> None:
    source, plain = hostile(text), hostile("plain")
    assert Text(source).tags == Text(plain).tags and Text(source).links == Text(plain).links
    assert data_of(source)["boards"][0]["notes"] == [text]


# in a browser


@pytest.fixture(scope="module")
def results() -> list[Record]:
    return [*fake_results(4, 2, 60, 2), *fake_results(3, 2, 40, 1, "half")]


@pytest.fixture(scope="module")
def small(results: list[Record], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "small.html"
    path.write_text(
        render_page(make_boards(results, "BM25", 0), results, read_published(), examples(results)), encoding="utf-8"
    )
    return path


@pytest.fixture
def opened(browser: webdriver.Chrome, small: Path) -> Iterator[webdriver.Chrome]:
    """The small page afresh, corpus `whole`; whatever a test does, nothing may reach the console."""
    browser.get(small.as_uri())
    choose(browser, "corpus", "whole")
    yield browser
    assert browser.get_log("browser") == []


def choose(driver: webdriver.Chrome, name: str, option: str) -> None:
    Select(driver.find_element(By.ID, name)).select_by_visible_text(option)


def column(driver: webdriver.Chrome, name: str) -> list[str]:
    """The numbers, without marks, under a header of the table of scores, from the top."""
    headers = driver.find_elements(By.CSS_SELECTOR, "#board thead button")
    place = [each.get_attribute("data-column") for each in headers].index(name)
    rows = driver.find_elements(By.CSS_SELECTOR, "#board tbody tr")
    texts = [row.find_elements(By.CSS_SELECTOR, "th, td")[place].text.splitlines()[0] for row in rows]
    return [text.split("±")[0].strip("+\u2212 ") for text in texts]


def header(driver: webdriver.Chrome, name: str) -> WebElement:
    return driver.find_element(By.CSS_SELECTOR, f'#board button[data-column="{name}"]')


def sorting(driver: webdriver.Chrome) -> dict[str | None, str | None]:
    headers = driver.find_elements(By.CSS_SELECTOR, "#board th[aria-sort]")
    buttons = [each.find_element(By.TAG_NAME, "button") for each in headers]
    return {
        button.get_attribute("data-column"): each.get_attribute("aria-sort")
        for button, each in zip(buttons, headers, strict=True)
    }


def test_opens_fast_and_asks_for_nothing(browser: webdriver.Chrome, large: str, tmp_path: Path) -> None:
    """The fastest of three openings counts: what else the machine does is not the page's."""
    path = tmp_path / "large.html"
    path.write_text(large, encoding="utf-8")
    times = []
    for _ in range(3):
        browser.get(path.as_uri())
        assert len(browser.find_elements(By.CSS_SELECTOR, "#board tbody tr")) == 20
        times.append(browser.execute_script("return performance.getEntriesByType('navigation')[0].loadEventEnd") / 1000)
    assert min(times) < SECONDS
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requests = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
    asked = [each["request"]["url"] for each in requests if each["documentURL"] == path.as_uri()]
    assert len(asked) >= 3 and all(url.startswith(("file:", "data:")) for url in asked)
    assert browser.get_log("browser") == []


def test_sorts_by_click_and_by_keyboard(opened: webdriver.Chrome) -> None:
    assert sorting(opened) == {MACRO: "descending"}
    header(opened, "nq-dev").click()
    shown = column(opened, "nq-dev")
    assert shown == sorted(shown, reverse=True) and len(set(shown)) > 1 and sorting(opened) == {"nq-dev": "descending"}
    focused = opened.switch_to.active_element
    assert focused.get_attribute("data-column") == "nq-dev"
    focused.send_keys(Keys.ENTER)
    assert column(opened, "nq-dev") == shown[::-1] and sorting(opened) == {"nq-dev": "ascending"}
    opened.switch_to.active_element.send_keys(Keys.TAB)
    opened.switch_to.active_element.send_keys(Keys.SPACE)
    assert sorting(opened) == {"fever-dev": "descending"}
    assert "fever-dev" in opened.find_element(By.ID, "status").text
    header(opened, "system").click()
    names = column(opened, "system")
    assert [name.split()[0] for name in names] == sorted((name.split()[0] for name in names), key=str.lower)


def test_hidden_topics_leave_the_macro_average(opened: webdriver.Chrome) -> None:
    before = column(opened, MACRO)
    opened.find_element(By.CSS_SELECTOR, "#columns input[value='nq-dev']").send_keys(Keys.SPACE)
    assert not opened.find_elements(By.CSS_SELECTOR, "[data-column='nq-dev']") and header(opened, "fever-dev")
    assert column(opened, MACRO) == before
    status = opened.find_element(By.ID, "status").text
    assert "nq-dev hidden" in status and "all 2 topics" in status


def test_measures_and_corpora_change_the_whole_table(opened: webdriver.Chrome, results: list[Record]) -> None:
    def expected(corpus: str, measure: str) -> list[str]:
        (board,) = (board for board in make_boards(results, None, 0) if board.corpus == corpus)
        return [f"{row.scores['nq-dev'][measure].mean:.3f}" for row in board.rows]

    assert sorted(column(opened, "nq-dev")) == sorted(expected("whole", RPREC))
    choose(opened, "measure", MRR)
    assert sorted(column(opened, "nq-dev")) == sorted(expected("whole", MRR))
    choose(opened, "corpus", "half")
    assert sorted(column(opened, "nq-dev")) == sorted(expected("half", MRR))
    assert "half" in opened.find_element(By.CSS_SELECTOR, "#board caption").text


def test_a_wide_board_fits_the_window_and_its_names_stay(browser: webdriver.Chrome, tmp_path: Path) -> None:
    """Eight topics, a slice and three seeds in 1280 pixels; on a phone it scrolls, and names do not."""
    results = fake_results(6, 8, 30, 3)
    path = tmp_path / "wide.html"
    path.write_text(render_page(make_boards(results, "BM25", 0), results, [], None), encoding="utf-8")
    browser.get(path.as_uri())
    box = browser.find_element(By.CSS_SELECTOR, ".wide:has(#board)")
    width = "return [arguments[0].scrollWidth, arguments[0].clientWidth]"
    wanted, room = browser.execute_script(width, box)
    assert wanted <= room <= 1280
    show(browser, 400, "light")
    wanted, room = browser.execute_script(width, box)
    assert wanted > room
    name = browser.find_element(By.CSS_SELECTOR, "#board tbody th")
    before = name.rect["x"]
    browser.execute_script("arguments[0].scrollLeft = 300", box)
    assert name.rect["x"] == before and browser.execute_script("return arguments[0].scrollLeft", box) == 300
    caption = browser.find_element(By.CSS_SELECTOR, "#board caption").rect
    assert caption["x"] >= 0 and caption["x"] + caption["width"] <= 400
    browser.refresh()  # plots are as wide as the page was when it drew them
    labels = [each.get_attribute("textContent") for each in browser.find_elements(By.CSS_SELECTOR, "#averages text")]
    assert {row.name for row in make_boards(results, "BM25", 0)[0].rows} <= set(labels)


def names(driver: webdriver.Chrome) -> list[str]:
    rows = driver.find_elements(By.CSS_SELECTOR, "#board tbody tr")
    return [" ".join(each.text for each in row.find_elements(By.CSS_SELECTOR, "th, td")[:2]) for row in rows]


def test_systems_are_filtered_by_words_of_their_names(opened: webdriver.Chrome) -> None:
    every = names(opened)
    opened.find_element(By.ID, "filter").send_keys("minilm NAIVE")
    assert names(opened) == [each for each in every if "naive" in each and "minilm" in each] != every
    assert "1 of 4 systems shown" in opened.find_element(By.ID, "status").text
    bars = opened.find_element(By.CSS_SELECTOR, "#averages desc").get_attribute("textContent")
    assert str(bars).count(";") == 0 and str(bars).startswith("naive (minilm-l6): ")
    opened.find_element(By.ID, "filter").send_keys(Keys.CONTROL, "a", Keys.DELETE)
    assert names(opened) == every


def test_the_table_is_downloaded_as_it_is_shown(
    opened: webdriver.Chrome, results: list[Record], tmp_path: Path
) -> None:
    settings = {"behavior": "allow", "downloadPath": str(tmp_path)}
    opened.execute_cdp_cmd("Browser.setDownloadBehavior", settings)
    opened.find_element(By.CSS_SELECTOR, "#columns input[value='nq-dev']").click()
    opened.find_element(By.ID, "filter").send_keys("minilm")
    header(opened, "system").click()
    opened.find_element(By.ID, "csv").click()
    path = tmp_path / f"whole {RPREC}.csv"
    WebDriverWait(opened, 10).until(lambda _: path.is_file() and path.stat().st_size)
    with path.open(encoding="utf-8", newline="") as lines:
        first, *rows = list(csv.reader(lines))
    assert first[:5] == ["system", "base", "seeds", MACRO, f"{MACRO} sd"] and "nq-dev" not in first
    (board,) = (board for board in make_boards(results, None, 0) if board.corpus == "whole")
    own = {row.system: row for row in board.rows if row.base == "minilm-l6"}
    assert [row[0] for row in rows] == sorted(own, key=str.lower)
    for row in rows:
        stat = own[row[0]].scores["fever-dev"][RPREC]
        found = [float(row[first.index(name)]) for name in ("fever-dev", "fever-dev sd")]
        assert found == pytest.approx([stat.mean, stat.sd], abs=1e-5)


def test_no_name_is_a_formula_in_a_spreadsheet(opened: webdriver.Chrome) -> None:
    texts = ["=1+1", "-2", "+x", "@y", 'a "b", c', "TACO", -0.5]
    found = [opened.execute_script("return quoted(arguments[0])", text) for text in texts]
    assert found == ["'=1+1", "'-2", "'+x", "'@y", '"a ""b"", c"', "TACO", "-0.5"]


def test_a_link_shows_what_was_chosen(browser: webdriver.Chrome, small: Path) -> None:
    """Corpus, measure, order, columns, systems and the pair; an address of something else changes nothing."""
    browser.get(small.as_uri())
    assert "#" not in browser.current_url
    choose(browser, "corpus", "whole")
    choose(browser, "measure", MRR)
    choose(browser, "a", "TACO (minilm-l6)")
    choose(browser, "topics", "fever-dev")
    browser.find_element(By.CSS_SELECTOR, "#columns input[value='nq-dev']").click()
    browser.find_element(By.ID, "filter").send_keys("a")
    header(browser, "fever-dev").click()
    header(browser, "fever-dev").click()

    def state() -> list[Any]:
        chosen = [Select(browser.find_element(By.ID, each)).first_selected_option.text for each in SELECTS]
        shown = [each.text for each in browser.find_elements(By.CSS_SELECTOR, "#board thead th")]
        return [*chosen, shown, names(browser), sorting(browser), browser.find_element(By.ID, "counts").text]

    before, link = state(), browser.current_url
    browser.get("about:blank")
    browser.get(link)
    assert state() == before and sorting(browser) == {"fever-dev": "ascending"}
    browser.execute_script("location.hash = '#main'")
    assert state() == before
    browser.execute_script("location.hash = '#corpus=nowhere&sort=nothing&a=nobody&hide=none'")
    WebDriverWait(browser, 10).until(lambda _: sorting(browser) == {MACRO: "descending"})
    assert browser.get_log("browser") == []


SELECTS = ("corpus", "measure", "a", "b", "topics")


@pytest.mark.parametrize(("baseline", "expected"), [("BM25", "better"), ("task-specific (minilm-l6)", "worse")])
def test_marks_are_those_of_the_tests(browser: webdriver.Chrome, tmp_path: Path, baseline: str, expected: str) -> None:
    """Words for a screen reader stand with each sign, as often as the tests say."""
    results = fake_results(4, 2, 150, 2)
    (board,) = make_boards(results, baseline, 0)
    path = tmp_path / "marks.html"
    path.write_text(render_page([board], results, [], None), encoding="utf-8")
    browser.get(path.as_uri())
    found = [each for each in board.comparisons if each.measure == RPREC and each.p_holm < 0.05]
    for sign, word in ((1, "better"), (-1, "worse")):
        marks = browser.find_elements(By.CSS_SELECTOR, f"#board .mark.{word}")
        assert len(marks) == sum(each.difference * sign > 0 for each in found)
        assert all(f"significantly {word}" in str(each.get_attribute("textContent")) for each in marks)
        assert marks or word != expected


def averaged(results: Sequence[Record], system: str, topics: str) -> Any:
    ours = [each.topics[topics] for each in results if (each.system, each.corpus) == (system, "whole")]
    return np.mean([each.by_query[RPREC] for each in ours], axis=0)


def test_browser_reads_two_letters(browser: webdriver.Chrome, tmp_path: Path) -> None:
    path = tmp_path / "many.html"
    results = valued(MANY)
    path.write_text(render_page(make_boards(results, None, 0), results, [], None), encoding="utf-8")
    browser.get(path.as_uri())
    values_Q = browser.execute_script("return queryValues(DATA.boards[0], 'nq-dev', arguments[0], 0)", RPREC)
    np.testing.assert_allclose(values_Q, MANY.mean(axis=1), atol=5.001e-4)
    assert browser.get_log("browser") == []


def test_wins_losses_and_evidence_side_by_side(opened: webdriver.Chrome, results: list[Record]) -> None:
    choose(opened, "a", "TACO (minilm-l6)")
    choose(opened, "b", "BM25")
    choose(opened, "topics", "nq-dev")
    differences_Q = averaged(results, "TACO", "nq-dev") - averaged(results, "BM25", "nq-dev")
    counts = [int(each.text) for each in opened.find_elements(By.CSS_SELECTOR, "#counts strong")]
    assert counts == [np.sum(differences_Q > 0), np.sum(differences_Q == 0), np.sum(differences_Q < 0)]
    queries = opened.find_elements(By.CSS_SELECTOR, "button.query")
    first = int(np.argmax(np.abs(differences_Q)))
    assert queries[0].text == f"q{first}: who wrote it {first}"
    queries[0].send_keys(Keys.ENTER)
    assert queries[0].get_attribute("aria-expanded") == "true"
    ours, theirs = opened.find_elements(By.CSS_SELECTOR, ".sides section")
    assert ours.text.startswith("A: TACO (minilm-l6)") and theirs.text.startswith("B: BM25")
    marks = [[each.text.splitlines()[0] for each in side.find_elements(By.TAG_NAME, "li")] for side in (ours, theirs)]
    assert marks[0] == ["Title 2#0 who wrote it 2#0", "Title 1#1 who wrote it 1#1 ✓ gold page"]
    assert marks[1] == ["Title 1#0 who wrote it 1#0 ✓ gold passage", "Title 2#0 who wrote it 2#0"]
    choose(opened, "side", "B better")
    shown = opened.find_elements(By.CSS_SELECTOR, "#queries tbody tr:not([hidden]) td:last-child")
    assert shown and all(each.text.startswith("\u2212") for each in shown)


def test_queries_without_texts_are_positions(opened: webdriver.Chrome) -> None:
    choose(opened, "topics", "fever-dev")
    assert re.match(r"query \d+$", opened.find_element(By.CSS_SELECTOR, "#queries tbody th").text)
    assert not opened.find_element(By.ID, "no-texts").is_displayed()
    choose(opened, "corpus", "half")
    assert "--collection C --work DIR" in opened.find_element(By.ID, "no-texts").text


def plotted(driver: webdriver.Chrome) -> dict[str, list[float]]:
    """The plot of differences as its description says it: name -> difference, low, high."""
    description = driver.find_element(By.CSS_SELECTOR, "#differences desc").get_attribute("textContent")
    named = [each.split(": ", 1) for each in str(description).replace("\u2212", "-").split("; ")]
    return {name: [float(number) for number in re.findall(r"[+-]?\d\.\d{3}", text)[:3]] for name, text in named}


def test_differences_are_those_of_the_study(opened: webdriver.Chrome, results: list[Record]) -> None:
    """Intervals to the baseline are the board's; those of two others are Python's bootstrap, but for resampling."""
    (board,) = [board for board in make_boards(results, "BM25", 0) if board.corpus == "whole"]
    choose(opened, "a", "BM25")
    choose(opened, "b", "TACO (minilm-l6)")
    for each in board.comparisons:
        if (each.system, each.measure) == ("TACO", RPREC) and each.topics not in board.slices:
            assert plotted(opened)[each.topics] == pytest.approx([-each.difference, -each.high, -each.low], abs=6e-4)
    choose(opened, "a", "naive (minilm-l6)")
    tasks = [averaged(results, "naive", topics) - averaged(results, "TACO", topics) for topics in board.topics]
    for name, part in [*zip(board.topics, ([task] for task in tasks), strict=True), (MACRO, tasks)]:
        width = np.sqrt(sum(np.var(task) / len(task) for task in part)) / len(part)
        difference, *ends = plotted(opened)[name]
        assert difference == pytest.approx(np.mean([np.mean(task) for task in part]), abs=1e-3)
        assert ends == pytest.approx(bootstrap_interval(part, 0), abs=0.25 * width)
    assert set(plotted(opened)) == {*board.topics, MACRO}


def test_every_control_has_a_name_and_every_text_is_legible(opened: webdriver.Chrome) -> None:
    controls = opened.find_elements(By.CSS_SELECTOR, "input, select, button, summary, [tabindex], svg")
    nameless = [each for each in controls if not each.accessible_name and each.is_displayed()]
    assert len(controls) > 25 and [each.get_attribute("outerHTML") for each in nameless] == []
    texts = "[...document.querySelectorAll('body *')].filter((e) => e.checkVisibility() && e.textContent.trim())"
    sizes = opened.execute_script(f"return {texts}.map((e) => parseFloat(getComputedStyle(e).fontSize))")
    assert len(sizes) > 100 and min(sizes) >= 12
    assert opened.find_elements(By.CSS_SELECTOR, "th:not([scope])") == []
    assert all(each.find_elements(By.TAG_NAME, "caption") for each in opened.find_elements(By.TAG_NAME, "table"))


def test_script_in_data_does_not_run(browser: webdriver.Chrome, tmp_path: Path) -> None:
    path = tmp_path / "hostile.html"
    path.write_text(hostile("</script><script>ran = 1</script><img src=x onerror='ran = 1'>"), encoding="utf-8")
    browser.get(path.as_uri())
    for each in browser.find_elements(By.CSS_SELECTOR, "button"):
        if each.is_displayed() and each.is_enabled() and each.get_attribute("data-column") is None:
            each.click()
    assert "<script>ran = 1</script>" in browser.find_element(By.CSS_SELECTOR, ".sides").text
    assert browser.execute_script("return typeof ran") == "undefined"
    assert browser.find_elements(By.TAG_NAME, "img") == [] and browser.get_log("browser") == []


def test_quoted_rows_stand_apart(opened: webdriver.Chrome) -> None:
    quoted = opened.find_element(By.CSS_SELECTOR, "section.quoted")
    assert "not comparable" in quoted.text
    assert len(quoted.find_elements(By.CSS_SELECTOR, "tbody tr")) == len(read_published())
    assert opened.find_elements(By.CSS_SELECTOR, ".quoted #board") == []
