"""Passages are their page's words in order, in blocks; a build killed at any moment ends like one that was not."""

from __future__ import annotations

import gzip
import json
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taco_ir.core.files import InputError
from taco_ir.data.passage_store import PassageStore
from taco_ir.data.wikipedia import build_passages, cut_page, strip_markup, take_passages

WORD = st.text("abcé:.-", min_size=1, max_size=4)
PARAGRAPH = st.builds(
    "{}{}\n".format, st.sampled_from(["", "Section::::", "BULLET::::- "]), st.lists(WORD, max_size=30).map(" ".join)
)


def page(page_id: str, *paragraphs: str, title: str = "Title") -> dict[str, Any]:
    return {
        "wikipedia_id": page_id,
        "wikipedia_title": title,
        "text": list(paragraphs),
        "anchors": [],
        "categories": "x",
    }


def write(path: Path, pages: list[Any]) -> Path:
    body = "".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in pages).encode()
    path.write_bytes(gzip.compress(body) if path.suffix == ".gz" else body)
    return path


def made_up(count: int) -> list[dict[str, Any]]:
    made = random.Random(0)
    return [
        page(str(n), "Title\n", " ".join(f"w{made.randrange(99)}" for _ in range(made.randrange(250))))
        for n in range(count)
    ]


@given(st.lists(PARAGRAPH, max_size=5), st.integers(1, 40))
def test_passages_are_the_pages_words_in_blocks(paragraphs: list[str], words: int) -> None:
    records = [json.loads(line) for line in cut_page(page("7", "Title\n", *paragraphs), words)]
    cut = [record["contents"].split(" ") for record in records]
    assert [word for block in cut for word in block] == [
        word for text in paragraphs for word in strip_markup(text).split()
    ]
    assert all(len(block) == words for block in cut[:-1]) and all(0 < len(block) <= words for block in cut)
    assert [record["id"] for record in records] == [f"7#{n}" for n in range(len(records))]
    assert {(record["title"], record["wikipedia_id"]) for record in records} <= {("Title", "7")}


def test_a_page_as_kilt_has_them() -> None:
    texts = ["Ann Lee\n", "Ann Lee was a poet.\n", "Section::::Life:Youth.\n", "BULLET::::- Born at sea\n", "\n"]
    (record,) = (json.loads(line) for line in cut_page(page("12", *texts, title="Ann Lee"), 100))
    assert record == {
        "id": "12#0",
        "contents": "Ann Lee was a poet. Life Youth. - Born at sea",
        "title": "Ann Lee",
        "wikipedia_id": "12",
    }


def test_markup_is_that_of_ir_datasets() -> None:
    from ir_datasets.datasets.kilt import strip_markup as theirs

    for text in ("Section::::A:B:C.\n", "BULLET::::- x: BULLET::::- y", "plain: text", "a Section::::b", ""):
        assert strip_markup(text) == theirs(text)


def test_first_paragraph_is_kept_unless_it_is_the_title() -> None:
    def contents(*texts: str) -> list[str]:
        return [json.loads(line)["contents"] for line in cut_page(page("1", *texts), 100)]

    assert contents("Title\n", "Title\n") == ["Title"]
    assert contents("Titles\n", "x") == ["Titles x"]
    assert contents("Title\n") == contents() == contents("Title", " \n") == []


@pytest.mark.parametrize("name", ["pages.json", "pages.json.gz"])
def test_a_build_is_a_collections_file(tmp_path: Path, name: str) -> None:
    pages = made_up(300)
    source, target = write(tmp_path / name, pages), tmp_path / "out" / "passages.jsonl"
    reports: list[tuple[int, int]] = []
    done = build_passages(source, target, 100, lambda at, total: reports.append((at, total)), block_pages=70)
    expected = [line for one in pages for line in cut_page(one, 100)]
    assert target.read_bytes() == b"".join(expected)
    assert (done.pages, done.passages, PassageStore(target).count) == (300, len(expected), len(expected))
    assert [path.name for path in target.parent.iterdir()] == ["passages.jsonl"]
    assert len(reports) == 5 and reports[-1] == (source.stat().st_size,) * 2 and reports == sorted(reports)


SCRIPT = """import sys; from pathlib import Path; from taco_ir.data.wikipedia import build_passages
report = lambda *at: (print(*at, flush=True), sys.stdin.read(1))
build_passages(Path(sys.argv[1]), Path(sys.argv[2]), report=report, block_pages=40)"""


def test_killed_builds_end_as_one_that_was_not(tmp_path: Path) -> None:
    """kill -9 after one more block each time: the next process goes on after that block, and adds nothing twice."""
    source, target = write(tmp_path / "pages.json", made_up(200)), tmp_path / "passages.jsonl"
    whole = tmp_path / "whole.jsonl"
    build_passages(source, whole)
    starts = []
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, source, target], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert process.stdout
        starts.append(int(process.stdout.readline().split()[0]))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert starts == sorted(set(starts)), "each process began where the one before had ended"
    part = target.with_name("passages.jsonl.part")
    with part.open("ab") as torn:
        torn.write(b'{"id": "half a li')
    first: list[int] = []
    build_passages(source, target, report=lambda at, total: first.append(at), block_pages=40)
    assert first[0] > starts[-1]
    assert target.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pages.json", "passages.jsonl", "whole.jsonl"]


def stopped_build(source: Path, target: Path) -> None:
    def stop(at: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_passages(source, target, report=stop, block_pages=40)


@pytest.mark.parametrize("change", ["words", "source", "lost bytes"])
def test_a_partial_build_of_something_else_is_not_continued(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, change: str
) -> None:
    source, target = write(tmp_path / "pages.json", made_up(100)), tmp_path / "passages.jsonl"
    stopped_build(source, target)
    if change == "source":
        write(source, made_up(101))
    if change == "lost bytes":
        target.with_name("passages.jsonl.part").write_bytes(b"")
    words = 50 if change == "words" else 100
    build_passages(source, target, words)
    assert "starting again" in caplog.text
    build_passages(source, tmp_path / "whole.jsonl", words)
    assert target.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_gzip_starts_again_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source, target = write(tmp_path / "pages.json.gz", made_up(100)), tmp_path / "passages.jsonl"
    stopped_build(source, target)
    assert build_passages(source, target).pages == 100
    assert "reading cannot begin in the middle of a gzip file" in caplog.text


@pytest.mark.parametrize(
    "bad",
    [
        *("{", "[]", "7", '{"wikipedia_id": "1"}', json.dumps(page("1 2", "x")), json.dumps(page("", "x"))),
        *(json.dumps(page("1", "x") | {"text": "x"}), json.dumps(page("1", "x") | {"text": [1]})),
        json.dumps(page("1", "x") | {"wikipedia_title": None}),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, bad: str) -> None:
    source = write(tmp_path / "pages.json", [*made_up(44), bad])
    with pytest.raises(InputError, match=f"^{source}, line 45: not a page of the KILT knowledge source"):
        build_passages(source, tmp_path / "passages.jsonl", block_pages=40)
    with pytest.raises(InputError, match="line 45: "):
        build_passages(source, tmp_path / "passages.jsonl", block_pages=40)
    assert not (tmp_path / "passages.jsonl").exists()


def test_sources_and_targets_that_cannot_be(tmp_path: Path) -> None:
    target = tmp_path / "passages.jsonl"
    with pytest.raises(InputError, match="no such file; get it with: python -m taco_ir.data get kilt/knowledgesource"):
        build_passages(tmp_path / "nothing", target)
    for pages in ([], [page("1", "Title")]):
        with pytest.raises(InputError, match=f"{len(pages)} pages have no text to cut into passages"):
            build_passages(write(tmp_path / "pages.json", pages), target)
    packed = write(tmp_path / "pages.json.gz", made_up(9))
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(InputError, match="broken gzip"):
        build_passages(packed, target)
    target.write_text("mine")
    with pytest.raises(InputError, match="passages.jsonl exists"):
        build_passages(write(tmp_path / "pages.json", made_up(3)), target)
    assert target.read_text() == "mine"


def test_a_build_that_was_killed_at_its_very_end_is_finished_by_the_same_command(tmp_path: Path) -> None:
    """Killed when the target is whole and the record of its progress is not removed yet."""
    source, target, state = tmp_path / "pages.json", tmp_path / "passages.jsonl", tmp_path / "passages.jsonl.part.json"
    kept: list[bytes] = []
    done = build_passages(write(source, made_up(9)), target, report=lambda _, __: kept.append(state.read_bytes()))
    state.write_bytes(kept[-1])
    with pytest.raises(InputError, match="passages.jsonl exists"):
        build_passages(source, target, words=7)
    assert build_passages(source, target) == done and not state.exists()
    with pytest.raises(InputError, match="passages.jsonl exists"):
        build_passages(source, target)


def test_space_is_asked_for_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    source, usage = write(tmp_path / "pages.json", made_up(9)), shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=source.stat().st_size - 1))
    with pytest.raises(InputError, match="on disk"):
        build_passages(source, tmp_path / "out" / "passages.jsonl")
    assert not (tmp_path / "out").exists()


TSV = 'id\ttext\ttitle\twikipedia_id\n1\t"a ""b"""\tT\t9\n2\tc\tT\t9\n'


@pytest.mark.parametrize(
    ("name", "lands"),
    [
        ("psgs_w100.tsv", "psgs_w100.tsv"),
        ("mine.tsv", "psgs_w100.tsv"),
        ("mine.tsv.gz", "psgs_w100.tsv.gz"),
        ("mine.jsonl", "passages.jsonl"),
    ],
)
def test_passages_that_exist_are_taken(tmp_path: Path, name: str, lands: str) -> None:
    body = (
        TSV.encode()
        if ".tsv" in name
        else b'{"id": "1", "contents": "a", "wikipedia_id": "9"}\n{"id": "2", "contents": "b", "wikipedia_id": "9"}\n'
    )
    (tmp_path / name).write_bytes(gzip.compress(body) if name.endswith(".gz") else body)
    store = take_passages(tmp_path / name, tmp_path / "kilt")
    assert store.path == tmp_path / "kilt" / lands and store.count == 2
    (tmp_path / name).unlink()
    assert len(list(store.read())) == 2
    (tmp_path / "other.jsonl").write_bytes(body)
    with pytest.raises(InputError, match=f"{lands} exists"):
        take_passages(tmp_path / "other.jsonl", tmp_path / "kilt")


def test_files_that_are_no_passages_are_not_taken(tmp_path: Path) -> None:
    source = tmp_path / "psgs_w100.tsv"
    source.write_text(TSV + "3\tx\n")
    with pytest.raises(InputError, match="psgs_w100.tsv, line 4"):
        take_passages(source, tmp_path / "kilt")
    assert source.exists() and not (tmp_path / "kilt" / "psgs_w100.tsv").exists()
    with pytest.raises(InputError, match="the name must end in .tsv or .jsonl"):
        take_passages(tmp_path / "notes.txt", tmp_path / "kilt")
