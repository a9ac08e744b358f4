"""What a KILT file says is what its queries say; what it says wrongly is refused with its line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from taco_ir.core.files import InputError
from taco_ir.core.types import EvidenceSet, Query, run_id
from taco_ir.data.topics import read_topics

GOOD: dict[str, Any] = {"id": "1", "input": "who"}


def write(path: Path, *records: Any) -> Path:
    path.write_text(
        "".join((record if isinstance(record, str) else json.dumps(record)) + "\n" for record in records),
        encoding="utf-8",
    )
    return path


def provenance(*pages: str) -> dict[str, Any]:
    return {"provenance": [{"wikipedia_id": page} for page in pages]}


def test_a_whole_record(tmp_path: Path) -> None:
    """An empty provenance is an empty evidence set, as in KILT's scorer; an output without one is only an answer."""
    record = {
        "id": "7",
        "input": " who was it \n",
        "meta": {"mention": "it"},
        "output": [
            {
                "answer": "Ann",
                "provenance": [{"wikipedia_id": 12, "passage_id": "12#0"}, {"wikipedia_id": "13", "passage_id": None}],
            },
            {"answer": "Ann"},
            {"answer": "Bea"},
            provenance("13"),
            {"answer": ""},
            {"provenance": []},
        ],
    }
    expected = Query(
        "7",
        "who was it",
        "nq",
        ("Ann", "Bea"),
        (EvidenceSet(("12", "13"), ("12#0",)), EvidenceSet(("13",), ()), EvidenceSet((), ())),
        {"mention": "it"},
        "7",
    )
    assert read_topics(write(tmp_path / "t.jsonl", record), "nq") == [expected]


IDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6).filter(lambda text: bool(text.split()))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(st.lists(st.tuples(IDS, IDS), min_size=1, max_size=5, unique_by=lambda pair: run_id(pair[0])))
def test_ids_and_texts_survive_in_order(tmp_path: Path, pairs: list[tuple[str, str]]) -> None:
    """White space in an id becomes `_` in the run's spelling; KILT's spelling is kept beside it."""
    queries = read_topics(write(tmp_path / "t.jsonl", *({"id": key, "input": text} for key, text in pairs)), "nq")
    assert [(query.record_id, query.text) for query in queries] == [(key, text.strip()) for key, text in pairs]
    assert [query.qid for query in queries] == [run_id(key) for key, _ in pairs]
    assert all(len(query.qid.split()) == 1 for query in queries)


def test_an_id_with_spaces(tmp_path: Path) -> None:
    (query,) = read_topics(write(tmp_path / "t.jsonl", {"id": "947testa CRICKET 0", "input": "x"}), "aidayago2")
    assert (query.qid, query.record_id) == ("947testa_CRICKET_0", "947testa CRICKET 0")


def test_repeats_are_one_query_with_all_evidence(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(
        tmp_path / "fever-dev.jsonl",
        GOOD | {"output": [provenance("1") | {"answer": "S"}]},
        GOOD | {"id": "2"},
        GOOD | {"output": [provenance("1"), provenance("2")]},
        GOOD,
    )
    first, second = read_topics(path, "fever")
    assert first.evidence == (EvidenceSet(("1",), ()), EvidenceSet(("2",), ())) and first.answers == ("S",)
    assert second.qid == "2" and second.evidence == ()
    assert "fever-dev.jsonl: 2 records repeat" in caplog.text


def test_blank_lines_count_but_do_not_matter(tmp_path: Path) -> None:
    assert [
        query.qid for query in read_topics(write(tmp_path / "t.jsonl", "", GOOD, "  ", GOOD | {"id": "2"}), "nq")
    ] == ["1", "2"]
    with pytest.raises(InputError, match="line 3: not valid JSON"):
        read_topics(write(tmp_path / "t.jsonl", "", GOOD, "{"), "nq")


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ('{"id": "2", "input": ', "not valid JSON"),
        ('["id"]', "is not a JSON object"),
        ("null", "is not a JSON object"),
        ({"input": "x"}, "id is None; it must be a non-empty string"),
        ({"id": None, "input": "x"}, "id is None; it must be a non-empty string"),
        ({"id": " ", "input": "x"}, "id is ' '; it must be a non-empty string"),
        ({"id": ["2"], "input": "x"}, r"id is \['2'\]; it must be a non-empty string"),
        ({"id": "2"}, "query '2' has input None"),
        ({"id": "2", "input": " "}, "query '2' has input ' '"),
        ({"id": "2", "input": ["x"]}, "query '2' has input"),
        ({"id": "1", "input": "what"}, "id '1' has another text on line 1"),
        ({"id": "2", "input": "x", "output": {"answer": "y"}}, "an output that is not a list of objects"),
        ({"id": "2", "input": "x", "output": ["y"]}, "an output that is not a list of objects"),
        (
            {"id": "2", "input": "x", "output": [{"provenance": "12"}]},
            "it must be a list of objects with a wikipedia_id",
        ),
        ({"id": "2", "input": "x", "output": [{"provenance": 5}]}, "it must be a list of objects with a wikipedia_id"),
        (
            {"id": "2", "input": "x", "output": [{"provenance": [{"title": "T"}]}]},
            "it must be a list of objects with a wikipedia_id",
        ),
        ({"id": "2", "input": "x", "output": [{"provenance": [{"wikipedia_id": None}]}]}, "names no page"),
        (
            {"id": "2", "input": "x", "output": [{"provenance": [{"wikipedia_id": "1", "passage_id": ""}]}]},
            "names no page or passage",
        ),
    ],
)
def test_bad_records_are_refused_with_file_and_line(tmp_path: Path, bad: Any, said: str) -> None:
    path = write(tmp_path / "nq-dev.jsonl", GOOD, bad)
    with pytest.raises(InputError, match=f"^{path}, line 2: .*{said}"):
        read_topics(path, "nq")


def test_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "nq-dev.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b'\n{"id": "2", "input": "caf\xe9"}\n')
    with pytest.raises(InputError, match=f"^{path}, line 2: not UTF-8 .*0xe9"):
        read_topics(path, "nq")


def test_files_without_records(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_topics(tmp_path / "nq-dev.jsonl", "nq")
    with pytest.raises(InputError, match="it is empty"):
        read_topics(write(tmp_path / "nq-dev.jsonl"), "nq")
