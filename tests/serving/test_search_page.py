"""The search page in a real browser, and its server's refusals; single queries in a terminal."""

from __future__ import annotations

import io
import socket
import sys
import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlencode

import pytest
from browsers import show
from hostile_text import HOSTILE, Text
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select, WebDriverWait

from taco_ir.core.files import InputError
from taco_ir.data.collection import open_collection
from taco_ir.retrieval.choices import ModelChoice
from taco_ir.retrieval.retriever import Retriever
from taco_ir.search import main
from taco_ir.serving.page import GOLD, HOST, PAGE, SearchPage, make_server

HITS = 5


@pytest.fixture(scope="module")
def page(tiny_bert: Path) -> SearchPage:
    model = ModelChoice(str(tiny_bert), pooling="mean", normalize=True)
    return SearchPage(Retriever("sample", model, retriever="hybrid"), HITS)


@pytest.fixture(scope="module")
def port(page: SearchPage) -> Iterator[int]:
    with make_server(page, 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def get(port: int, path: str, host: str = HOST) -> tuple[int, str]:
    connection = HTTPConnection(HOST, port, timeout=60)
    connection.request("GET", path, headers={"Host": f"{host}:{port}"})
    response = connection.getresponse()
    return response.status, response.read().decode()


@pytest.mark.parametrize(("width", "theme"), [(1280, "light"), (400, "dark")])
def test_a_known_query_is_answered_side_by_side_with_gold(
    browser: webdriver.Chrome, port: int, width: int, theme: str
) -> None:
    show(browser, width, theme)
    query = open_collection("sample").topics("nq-dev").queries[0]
    browser.get(f"http://{HOST}:{port}/")
    Select(browser.find_element(By.NAME, "task")).select_by_visible_text("nq")
    box = browser.find_element(By.NAME, "query")
    box.send_keys(query.text)
    box.submit()
    WebDriverWait(browser, 30).until(lambda opened: opened.find_elements(By.CSS_SELECTOR, "main section"))
    columns = browser.find_elements(By.CSS_SELECTOR, "main section")
    assert len(columns) == 3 and {"bm25", "hybrid"} <= {each.find_element(By.TAG_NAME, "h2").text for each in columns}
    assert all(len(each.find_elements(By.TAG_NAME, "li")) == HITS for each in columns)
    assert browser.find_element(By.NAME, "query").get_attribute("value") == query.text
    bm25 = next(each for each in columns if each.find_element(By.TAG_NAME, "h2").text == "bm25")
    marked = {item.text for item in bm25.find_elements(By.CLASS_NAME, "badge")}
    assert marked and marked <= {GOLD, PAGE}
    assert bm25.find_elements(By.TAG_NAME, "mark")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    side_by_side = len({each.location["y"] for each in columns}) == 1
    assert side_by_side == (width > 1000)
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def test_gold_is_what_the_topics_say(page: SearchPage) -> None:
    """Every hit that is marked answers the query, and none that answers it is left unmarked."""
    topics = open_collection("sample").topics("fever-dev")
    for query in topics.queries[:5]:
        answer = page._ask(query.text, "fever")
        passages = {docid for each in query.evidence for docid in each.passages}
        pages = {each for evidence in query.evidence for each in evidence.pages}
        assert answer.judged
        for found in (each for hits in answer.systems.values() for each in hits):
            expected = GOLD if found.hit.docid in passages else PAGE if found.hit.page in pages else ""
            assert found.gold == expected


def test_an_example_is_asked_by_a_click(browser: webdriver.Chrome, port: int) -> None:
    browser.get(f"http://{HOST}:{port}/?{urlencode({'query': 'rivers', 'task': 'nq'})}")
    assert "no known answers" in browser.find_element(By.CSS_SELECTOR, "main > p.quiet").text
    assert not browser.find_elements(By.CLASS_NAME, "badge")
    first = browser.find_element(By.CSS_SELECTOR, "button.link")
    text = first.text
    first.click()
    WebDriverWait(browser, 30).until(lambda opened: opened.find_elements(By.CLASS_NAME, "badge"))
    assert browser.find_element(By.NAME, "query").get_attribute("value") == text


def test_text_is_never_markup(port: int) -> None:
    status, plain = get(port, f"/?{urlencode({'query': 'rivers', 'task': 'nq'})}")
    _, hostile = get(port, f"/?{urlencode({'query': 'rivers ' + HOSTILE, 'task': 'nq'})}")
    assert status == 200 and set(Text(hostile).tags) <= {*Text(plain).tags, "mark"}
    assert "script" not in Text(hostile).tags


def test_what_is_wrong_with_a_query_stands_on_the_page(
    port: int, page: SearchPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise InputError("task 'a <b>' is unknown")

    with monkeypatch.context() as patch:
        patch.setattr(Retriever, "search_each", refuse)
        status, text = get(port, f"/?{urlencode({'query': 'x', 'task': 'nq'})}")
    assert status == 200 and 'role="alert">task &#39;a &lt;b&gt;&#39; is unknown</p>' in text
    assert get(port, "/?query=+&task=nq")[1].count("<section") == 0


def test_names_of_other_sites_and_other_paths_are_refused(port: int) -> None:
    """A site elsewhere whose name leads to this machine reads nothing."""
    assert get(port, "/", host="evil.example")[0] == 403
    assert get(port, "/", host="localhost")[0] == 200
    assert get(port, "/etc/passwd")[0] == 404


def test_a_port_that_is_taken_is_told(page: SearchPage) -> None:
    with socket.socket() as other:
        other.bind((HOST, 0))
        other.listen()
        taken = other.getsockname()[1]
        with pytest.raises(InputError, match=f"--serve {taken}: .*; give another port, or 0"):
            make_server(page, taken)
    with pytest.raises(InputError, match="--serve 70000: "):
        make_server(page, 70_000)


def test_lines_are_answered_until_an_empty_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = "bach cello\n/task no such\nbach cello\n/task\nbritish columbia\n\nnever asked\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    main(["--interactive", "--retriever", "bm25", "--hits", "1"])
    out, err = capsys.readouterr()
    assert out.count("  1  ") == 3 and "British Columbia" in out and "never" not in err
    assert err.count(" ms") == 3


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ((), "give either --topics or --query, or one of --interactive and --serve"),
        (("--interactive", "--query", "x"), "give either"),
        (("--serve", "0", "--topics", "nq-dev"), "give either"),
        (("--serve", "0", "--output", "x"), "--output has an effect only with --topics"),
        (("--interactive", "--compare"), "--compare has an effect only with --topics or --serve"),
        (("--serve", "0", "--task", "nq"), "--task has an effect only with --query or --interactive"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(argv: tuple[str, ...], said: str) -> None:
    with pytest.raises(InputError, match=said):
        main(argv)
