"""One set of passages reads the same from JSON lines, gzip and DPR's TSV, in any range, by any docid."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from taco_ir.core.files import InputError
from taco_ir.core.types import Passage
from taco_ir.data import passage_store as store_module
from taco_ir.data.passage_store import PassageStore

TEXTS = ["plain words", 'a "quoted" word', "ümlaut, and a comma", "'single'", "back\\slash", "", "tab\there"]
FORMATS = ["passages.jsonl", "passages.jsonl.gz", "psgs_w100.tsv", "psgs_w100.tsv.gz"]
PASSAGES = [
    Passage(f"{row // 3}#{row % 3}", str(row // 3), f"Title {row // 3}", TEXTS[row % len(TEXTS)]) for row in range(23)
]


def write(path: Path, passages: list[Passage]) -> Path:
    with gzip.open(path, "wt", newline="") if path.suffix == ".gz" else path.open("w", newline="") as sink:
        if ".tsv" in path.suffixes:
            rows = csv.writer(sink, delimiter="\t", lineterminator="\n")
            rows.writerow(["id", "text", "title", "wikipedia_id", "extra"])
            rows.writerows([passage.docid, passage.text, passage.title, passage.page, "?"] for passage in passages)
        else:
            for docid, page, title, text in passages:
                sink.write(json.dumps({"id": docid, "contents": text, "title": title, "wikipedia_id": page}) + "\n")
    return path


@pytest.fixture(autouse=True)
def short_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "STEP", 4)  # so that ranges begin in the middle of a small file


@pytest.mark.parametrize("name", FORMATS)
def test_formats_hold_the_same_passages(tmp_path: Path, name: str) -> None:
    store = PassageStore(write(tmp_path / name, PASSAGES))
    assert list(store.read()) == PASSAGES
    assert store.count == len(PASSAGES)
    assert store.rows([passage.docid for passage in PASSAGES]).tolist() == list(range(len(PASSAGES)))
    assert store.get(["7#1", "0#0"]) == {"7#1": PASSAGES[22], "0#0": PASSAGES[0]}
    assert store.missing_pages(["0", "8", "7", "", "x"]) == ["8", "", "x"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(st.sampled_from(FORMATS), st.integers(0, 30), st.one_of(st.none(), st.integers(0, 30)))
def test_ranges_are_slices(tmp_path: Path, name: str, start: int, stop: int | None) -> None:
    path = tmp_path / name
    store = PassageStore(path if path.exists() else write(path, PASSAGES))
    assert list(store.read(start, stop)) == PASSAGES[start:stop]


def test_fingerprint_is_of_the_uncompressed_bytes(tmp_path: Path) -> None:
    plain = write(tmp_path / FORMATS[0], PASSAGES)
    expected = hashlib.sha256(plain.read_bytes()).hexdigest()[:16]
    assert (
        PassageStore(plain).fingerprint == PassageStore(write(tmp_path / FORMATS[1], PASSAGES)).fingerprint == expected
    )
    assert PassageStore(write(tmp_path / "other.jsonl", PASSAGES[:-1])).fingerprint != expected


def test_unknown_docids(tmp_path: Path) -> None:
    store = PassageStore(write(tmp_path / FORMATS[0], PASSAGES))
    assert store.rows(["0#1", "nothing", "7#2"]).tolist() == [1, -1, -1]
    assert store.rows([]).tolist() == [] and store.get([]) == {} and store.missing_pages([]) == []
    with pytest.raises(InputError, match="2 of 3 docids are not in the collection, first 'nothing'"):
        store.get(["0#1", "nothing", "7#2"])


@pytest.mark.parametrize("named", [True, False])
def test_pages_of_docids_are_those_of_the_passages(tmp_path: Path, named: bool) -> None:
    """Whether the docid says its page (`12#0`) or, as in DPR's file, does not; an unknown one has none."""
    passages = [passage if named else passage._replace(docid=str(row)) for row, passage in enumerate(PASSAGES)]
    store = PassageStore(write(tmp_path / FORMATS[2], passages))
    assert dict(store.page_of(passage.docid for passage in passages)) == {
        passage.docid: passage.page for passage in passages
    }
    with pytest.raises(InputError, match=r"2 of 3 docids are not in the collection, first '99#7'"):
        store.page_of([passages[0].docid, "99#7", "bare", "99#7"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(st.sampled_from(FORMATS), st.sets(st.integers(0, len(PASSAGES) - 1)))
def test_passages_at_rows(tmp_path: Path, name: str, rows: set[int]) -> None:
    path = tmp_path / name
    store = PassageStore(path if path.exists() else write(path, PASSAGES))
    assert list(store.at(sorted(rows))) == [PASSAGES[row] for row in sorted(rows)]


@pytest.mark.parametrize("named", [True, False])
def test_docids_of_pages(tmp_path: Path, named: bool) -> None:
    passages = [passage if named else passage._replace(docid=str(row)) for row, passage in enumerate(PASSAGES)]
    store = PassageStore(write(tmp_path / FORMATS[0], passages))
    expected = {page: [passage.docid for passage in passages if passage.page == page] for page in ("7", "0", "x")}
    assert store.docids_of(["7", "0", "x"]) == expected and len(expected["0"]) == 3
    assert store.docids_of([]) == {}


def test_the_second_opening_does_not_scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / FORMATS[0], PASSAGES)
    first = PassageStore(path)
    monkeypatch.setattr(PassageStore, "_scan", lambda *_: pytest.fail("scanned again"))
    assert PassageStore(path).fingerprint == first.fingerprint


def test_processes_that_open_it_at_once_share_one_scan(tmp_path: Path) -> None:
    path = write(tmp_path / FORMATS[0], [Passage(f"{row}#0", str(row), "T", "x") for row in range(20_000)])
    script = (
        "import sys, taco_ir.data.passage_store as module; from pathlib import Path\nscan = module.PassageStore._scan\n"
        "module.PassageStore._scan = lambda *given: (print('scans'), scan(*given))\n"
        "print(module.PassageStore(Path(sys.argv[1])).count)"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", script, path], stdout=subprocess.PIPE, text=True) for _ in range(3)
    ]
    said = sorted(process.communicate()[0].split() for process in processes)
    assert said == [["20000"], ["20000"], ["scans", "20000"]]


def test_a_changed_file_is_scanned_again(tmp_path: Path) -> None:
    path = write(tmp_path / FORMATS[0], PASSAGES)
    first = PassageStore(path)
    changed = path.read_text().replace("plain words", "other words")
    path.write_text(changed)
    os.utime(path, ns=(1, 1))
    assert PassageStore(path).fingerprint != first.fingerprint


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_replaced_with_its_size_and_time_is_scanned_again(tmp_path: Path, name: str) -> None:
    """As `cp -p` and `rsync -t` do it."""
    words = ("plain words", "other words")
    stores = []
    for folder, word in zip(("one", "two"), words, strict=True):
        (tmp_path / folder).mkdir()
        path = write(
            tmp_path / folder / name,
            [passage._replace(text=passage.text.replace(words[0], word)) for passage in PASSAGES],
        )
        os.utime(path, ns=(1, 1))
        stores.append(path)
    there = tmp_path / name
    shutil.copy2(stores[0], there)
    before = PassageStore(there)
    shutil.copy2(stores[1], there)
    after = PassageStore(there)
    assert there.stat().st_mtime_ns == 1
    assert (
        after.fingerprint
        == PassageStore(stores[1]).fingerprint
        != before.fingerprint
        == PassageStore(stores[0]).fingerprint
    )


@pytest.mark.parametrize("name", ["digests.npy", "order.npy", "offsets.npy", "pages.npy"])
def test_a_layout_that_was_altered_is_refused(tmp_path: Path, name: str) -> None:
    store = PassageStore(write(tmp_path / FORMATS[0], [*PASSAGES, PASSAGES[0]._replace(docid=f"new#{name}")]))
    path = store._layout / name
    whole = path.read_bytes()
    for place in (1, 60, len(whole) - 1):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(InputError, match=rf"^{path}: it was changed"):
            PassageStore(store.path)
    path.write_bytes(whole)
    PassageStore(store.path)


@pytest.mark.parametrize("name", FORMATS)
def test_duplicates_are_refused_naming_both_lines(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, [*PASSAGES, PASSAGES[4]])
    header = ".tsv" in path.suffixes
    with pytest.raises(InputError, match=f"line {24 + header}: docid '1#1' is already on line {5 + header}"):
        PassageStore(path)
    assert not list((Path(os.environ["TACO_IR_HOME"]) / "layouts").glob("*.part"))


@pytest.mark.parametrize(
    "bad",
    [
        *("{", "", "[]", '{"id": "9#9", "wikipedia_id": "9"}', '{"id": 9, "contents": "x", "wikipedia_id": "9"}'),
        *('{"id": "9#9", "contents": "x"}', '{"id": "9#9", "contents": "x", "wikipedia_id": null}'),
        *('{"id": "9 9", "contents": "x", "wikipedia_id": "9"}', '{"id": "", "contents": "x", "wikipedia_id": "9"}'),
        '{"id": "9", "contents": "x", "wikipedia_id": " "}',
        '{"id": "9", "contents": "x", "wikipedia_id": "a\\tb\\nc"}',
    ],
)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_bad_lines_are_refused_with_their_number(tmp_path: Path, bad: str, suffix: str) -> None:
    path = tmp_path / f"passages.jsonl{suffix}"
    body = write(tmp_path / "good.jsonl", PASSAGES[:2]).read_bytes() + bad.encode() + b"\n"
    path.write_bytes(gzip.compress(body) if suffix else body)
    with pytest.raises(InputError, match=f"^{path}, line 3: "):
        PassageStore(path)


@pytest.mark.parametrize("bad", ["9\ttext", "9\ttext\r more\tT\t9", "9\t" + "x" * 140_000 + "\tT\t9", "\ttext\tT\t9"])
def test_bad_rows_are_refused_with_their_number(tmp_path: Path, bad: str) -> None:
    path = tmp_path / "psgs_w100.tsv"
    path.write_bytes(b"id\ttext\ttitle\twikipedia_id\n1\ttext\tT\t9\n" + bad.encode() + b"\n")
    with pytest.raises(InputError, match=f"^{path}, line 3: "):
        PassageStore(path)


def test_files_that_are_no_passages(tmp_path: Path) -> None:
    path = tmp_path / "psgs_w100.tsv"
    path.write_text("id\ttext\n")
    with pytest.raises(
        InputError, match=r"line 1: its columns are .'id', 'text'.; they must be id, text, title.*, and title is mis"
    ):
        PassageStore(path)
    path.write_text("pid\tbody\tname\n1\tBach wrote suites.\tCello\n")
    with pytest.raises(
        InputError,
        match=r"line 1: its columns are .'pid', 'body', 'name'.; they must be id, text, title.*, title is mis",
    ):
        PassageStore(path)
    for name in FORMATS[:2]:
        with pytest.raises(InputError, match="no passages"):
            PassageStore(write(tmp_path / name, []))
    with pytest.raises(InputError, match="no such file"):
        PassageStore(tmp_path / "nothing.jsonl")
    for body in (b"not gzip", gzip.compress(b'{"id": "1", "contents": "x", "wikipedia_id": "1"}\n' * 9)[:-12]):
        (tmp_path / FORMATS[1]).write_bytes(body)
        with pytest.raises(InputError, match="broken gzip"):
            PassageStore(tmp_path / FORMATS[1])


def test_dpr_passages_come_with_or_without_header_and_pages(tmp_path: Path) -> None:
    """Where there is no wikipedia_id the title is the page, and the docid where there is no title either."""
    rows = [["1", '"Bach wrote ""suites""."', "Cello suites", "77"], ["2", "Plain.", "", "88"]]
    header = ["id", "text", "title", "wikipedia_id"]
    texts = ['Bach wrote "suites".', "Plain."]
    for width, pages in ((4, ["77", "88"]), (3, ["Cello_suites", "2"])):
        for first in ([header], []):
            path = tmp_path / "psgs_w100.tsv"
            path.write_text("".join("\t".join(row[:width]) + "\n" for row in [*first, *rows]))
            found = list(PassageStore(path).read())
            assert [(each.docid, each.page, each.text) for each in found] == list(zip("12", pages, texts, strict=True))
            with pytest.raises(InputError, match=f"psgs_w100.tsv, line {len(first) + 3}: '3' is not a passage"):
                path.write_text(path.read_text() + "3\n")
                PassageStore(path)


def test_a_byte_order_mark_is_no_part_of_the_first_passage(tmp_path: Path) -> None:
    path = tmp_path / "passages.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b'{"id": "1#0", "contents": "x", "wikipedia_id": "1"}\n')
    store = PassageStore(path)
    assert list(store.read()) == list(store.at([0])) == [Passage("1#0", "1", "", "x")]


def test_rows_are_whole_numbers(tmp_path: Path) -> None:
    assert PassageStore(write(tmp_path / FORMATS[0], PASSAGES)).rows(["0#0"]).dtype == np.int64


# ---- plain copies


@pytest.mark.parametrize("name", FORMATS)
def test_a_gzip_file_is_unpacked_once_and_reads_the_same(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    passages = [*PASSAGES, Passage(f"new#{name}", "new", "", "unlike other tests'")]
    store = PassageStore(write(tmp_path / name, passages))
    store.unpack()
    (tmp_path / "elsewhere").mkdir()
    again = PassageStore(Path(shutil.copy(store.path, tmp_path / "elsewhere")))  # to the byte: gzip has a time in it
    if name.endswith(".gz"):
        monkeypatch.setattr(gzip, "open", lambda *_: pytest.fail("the gzip file is read"))
    for each in (store, again):
        assert list(each.read()) == passages and list(each.read(5, 9)) == passages[5:9]
        assert list(each.at([0, 6, 7, 23])) == [passages[row] for row in (0, 6, 7, 23)]
        each.unpack()


def test_a_plain_copy_that_was_altered_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / FORMATS[1], [*PASSAGES, Passage("altered#0", "altered", "", "")])
    store = PassageStore(path)
    store.unpack()
    (copy,) = (place for place in store._unpacked.iterdir() if place.name == "passages")
    copy.write_bytes(copy.read_bytes().replace(b"plain words", b"other words"))
    with pytest.raises(InputError, match=rf"^{copy}: it was changed .*; remove {store._unpacked}; it is made again$"):
        PassageStore(path)


def test_a_very_large_file_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = PassageStore(write(tmp_path / FORMATS[1], [*PASSAGES, Passage("large#0", "large", "", "")]))
    monkeypatch.setattr(store_module, "UNPACKED_UP_TO", 10)
    store.unpack()
    assert not store._unpacked.exists() and store.get(["large#0"])
