"""What is written is read back; a file that is broken, or of another collection, is refused by line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from taco_ir.core.files import InputError
from taco_ir.negatives.file import (
    Negatives,
    NegativesHeader,
    read_negatives,
    read_sources,
    write_merged,
    write_negatives,
)

HEADER = NegativesHeader("dense", "c0ffee", "0123456789abcdef", 100, 5, 8, ("gold page", "answer"), 7)
RECORD = {"taco_ir_negatives": 1, **HEADER._asdict()}
ROW = {"topics": "nq-train", "qid": "q", "docids": ["a", "b"], "scores": [2.5, 1]}
NAMES = st.text(min_size=1, max_size=6)
DOCIDS = st.lists(NAMES, max_size=4, unique=True)
ROWS = st.dictionaries(
    st.sampled_from(["nq-train", "my-own-task-dev"]), st.dictionaries(NAMES, DOCIDS, min_size=1, max_size=3), max_size=2
)


def write(path: Path, *records: Any) -> Path:
    path.write_text("".join(record if isinstance(record, str) else json.dumps(record) + "\n" for record in records))
    return path


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(ROWS, st.lists(NAMES, max_size=3), st.integers(0, 2**62))
def test_reads_back_what_was_written(
    tmp_path: Path, docids: dict[str, dict[str, list[str]]], filters: list[str], seed: int
) -> None:
    header = HEADER._replace(filters=tuple(filters), seed=seed)
    named = [(topics, qid, each) for topics, of in docids.items() for qid, each in of.items()]
    rows = [(*row, np.linspace(2, 1, len(row[2]), dtype=np.float32)) for row in named]
    path = tmp_path / "negatives.jsonl"
    write_negatives(path, header, iter(rows))
    assert read_negatives(path, header.collection) == read_negatives(path, None) == Negatives((header,), docids)


def test_scores_of_numpy_are_written_in_the_order_given(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "negatives.jsonl"
    write_negatives(path, HEADER, [("nq-train", "q", ("a", "b"), [np.float32(2.5), np.float32(0.5)])])
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {**RECORD, "filters": list(HEADER.filters)},
        {"topics": "nq-train", "qid": "q", "docids": ["a", "b"], "scores": [2.5, 0.5]},
    ]


def test_whole_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "negatives.jsonl"

    def rows() -> Any:
        yield ("nq-train", "q", ["a"], [1.0])
        raise RuntimeError("cut off")

    with pytest.raises(RuntimeError):
        write_negatives(path, HEADER, rows())
    assert not list(tmp_path.iterdir())


def test_topics_are_named_canonically(tmp_path: Path) -> None:
    names = ("zsRE-train", "kilt/hopo/train", "mine-dev")
    path = write(tmp_path / "n.jsonl", RECORD, *({**ROW, "topics": name} for name in names))
    assert list(read_negatives(path, None).docids) == ["structured_zeroshot-train", "hotpotqa-train", "mine-dev"]
    write(path, RECORD, {**ROW, "topics": "zsre-train"}, {**ROW, "topics": "structured_zeroshot-train"})
    with pytest.raises(InputError, match="line 3: query 'q' of structured_zeroshot-train"):
        read_negatives(path, None)


def test_those_of_some_queries_are_kept(tmp_path: Path) -> None:
    path, docids = tmp_path / "negatives.jsonl", {"nq-train": {"a": ["1"], "b": ["2"]}, "wow-train": {"a": ["3"]}}
    rows = [(topics, qid, each, [1.0]) for topics, of in docids.items() for qid, each in of.items()]
    write_negatives(path, HEADER, rows)
    assert read_negatives(path, None, {"nq-train": {"b", "c"}}).docids == {"nq-train": {"b": ["2"]}}
    with path.open("a") as sink:
        sink.write("{}\n")
    with pytest.raises(InputError, match="line 5: keys missing"):
        read_negatives(path, None, {"nq-train": {"b"}})


def test_another_collection_is_refused_naming_both(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="collection '0123456789abcdef', but the given collection is 'feed'"):
        read_negatives(write(tmp_path / "n.jsonl", RECORD, ROW), "feed")


def changed(record: dict[str, Any], **values: Any) -> dict[str, Any]:
    return {key: value for key, value in {**record, **values}.items() if value is not ...}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("", "line 1: there is no header"),
        (ROW, "line 1: there is no header"),
        (changed(RECORD, taco_ir_negatives=3), "taco_ir_negatives is 3; this version reads 1 and 2"),
        (changed(RECORD, taco_ir_negatives=2), "missing .'sources'., unknown .'source'"),
        (changed(RECORD, source=...), "key source is missing"),
        (changed(RECORD, sauce=1), "unknown key 'sauce'; did you mean source"),
        (changed(RECORD, source=3), "source is 3; it must be a text"),
        (changed(RECORD, depth="3"), "depth is '3'; it must be a whole number"),
        (changed(RECORD, keep=True), "keep is True; it must be a whole number"),
        (changed(RECORD, seed=1.5), "seed is 1.5; it must be a whole number"),
        (changed(RECORD, filters="x"), "filters is 'x'; it must be a list"),
        (changed(RECORD, filters=[1]), r"filters\[0\] is 1; it must be a text"),
    ],
)
def test_bad_headers(tmp_path: Path, header: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"^{tmp_path}.*line 1: .*{message.removeprefix('line 1: ')}"):
        read_negatives(write(tmp_path / "n.jsonl", header), None)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{\n", "not valid JSON"),
        ("[]\n", "a JSON object"),
        (RECORD, "missing .'topics', 'qid', 'docids', 'scores'."),
        (changed(ROW, qid=...), "missing .'qid'., unknown .."),
        (changed(ROW, rank=1), "missing .., unknown .'rank'."),
        (changed(ROW, qid=3), "qid is '3'; a string"),
        (changed(ROW, docids="ab"), "docids is 'ab'; a list"),
        (changed(ROW, docids=["a", 3]), "non-empty strings"),
        (changed(ROW, docids=["a", ""]), "non-empty strings"),
        (changed(ROW, docids=["a", "a"]), "docid 'a' is given twice for query 'q'"),
        (changed(ROW, scores=[1.0]), "one number for each of the 2 docids"),
        (changed(ROW, scores=[1.0, None]), "one number"),
        (changed(ROW, scores=[1.0, "2"]), "one number"),
        (changed(ROW, scores=[1.0, True]), "one number"),
        (json.dumps(ROW).replace("2.5", "1e999") + "\n", "not valid JSON .number is infinity"),
        (changed(ROW, topics="nq"), "topics is 'nq'; it must be a name such as nq-train"),
        (changed(ROW, qid="first"), "query 'first' of nq-train has its negatives on an earlier line"),
    ],
)
def test_bad_rows(tmp_path: Path, row: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"^{tmp_path}.*line 3: .*{message}"):
        read_negatives(write(tmp_path / "n.jsonl", RECORD, changed(ROW, qid="first"), row), None)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_negatives(tmp_path / "nothing.jsonl", None)


# merged from several sources


OTHER = HEADER._replace(source="bm25", checkpoint="", depth=50, filters=("gold page", "margin=1"))
MERGED = {"taco_ir_negatives": 2, "sources": [HEADER._asdict(), OTHER._asdict()]}
MERGED_ROW = ROW | {"sources": [[1], [0, 1]], "scores": [[9.5], [0.25, 8]]}
ONE = {"taco_ir_negatives": 1, **OTHER._asdict()}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(ROWS, st.lists(st.sampled_from([HEADER, OTHER]), min_size=2, max_size=4), st.data())
def test_merged_negatives_are_read_back(
    tmp_path: Path, docids: dict[str, dict[str, list[str]]], headers: list[NegativesHeader], data: st.DataObject
) -> None:
    labels = st.lists(st.integers(0, len(headers) - 1), min_size=1, unique=True)
    named = [(topics, qid, each) for topics, of in docids.items() for qid, each in of.items()]
    rows = [(*row, [data.draw(labels) for _ in row[2]]) for row in named]
    path = tmp_path / "negatives.jsonl"
    write_merged(path, headers, ((*row, [[0.5] * len(held) for held in row[3]]) for row in rows))
    assert read_negatives(path, HEADER.collection) == Negatives(tuple(headers), docids)
    assert read_sources(path) == tuple(headers)
    written = [json.loads(line) for line in path.read_bytes().split(b"\n")[1:-1]]
    assert [(row["topics"], row["qid"], row["docids"], row["sources"]) for row in written] == rows


def test_the_merged_format(tmp_path: Path) -> None:
    path = tmp_path / "negatives.jsonl"
    write_merged(path, [HEADER, OTHER], [("nq-train", "q", ["a", "b"], [[1], [0, 1]], [[9.5], [0.25, 8]])])
    assert [json.loads(line) for line in path.read_text().splitlines()] == [json.loads(json.dumps(MERGED)), MERGED_ROW]
    assert read_negatives(path, None).sources == (HEADER, OTHER)


def test_old_files_have_one_source(tmp_path: Path) -> None:
    path = write(tmp_path / "n.jsonl", ONE, ROW)
    found = read_negatives(path, None)
    assert found.sources == read_sources(path) == (OTHER,)
    assert found.docids == {"nq-train": {"q": ["a", "b"]}}


def of_sources(*sources: Any) -> dict[str, Any]:
    return MERGED | {"sources": sources}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (changed(MERGED, sources=...), "missing .'sources'., unknown .."),
        (changed(MERGED, depth=3), "missing .., unknown .'depth'."),
        (changed(MERGED, sources={}), "sources is '{}'; a list"),
        (of_sources(HEADER._asdict()), "at least two objects"),
        (of_sources(HEADER._asdict(), 3), "at least two objects"),
        (of_sources(HEADER._asdict(), ROW), "line 1, source 2: unknown key 'topics'"),
        (of_sources(HEADER._asdict() | {"depth": "x"}, OTHER._asdict()), "line 1, source 1: depth is 'x'"),
        (
            of_sources(HEADER._asdict(), OTHER._asdict() | {"collection": "d"}),
            "several collections .0123456789abcdef, d.",
        ),
    ],
)
def test_bad_merged_headers(tmp_path: Path, header: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_negatives(write(tmp_path / "n.jsonl", header, MERGED_ROW), None)


def test_merged_negatives_of_another_collection(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="collection '0123456789abcdef', but the given collection is 'feed'"):
        read_negatives(write(tmp_path / "n.jsonl", MERGED, MERGED_ROW), "feed")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (ROW, "missing .'sources'."),
        (
            changed(MERGED_ROW, sources=[[1]]),
            r"sources \[\[1\]\]; for each of the 2 docids a list of numbers from 0 to 1,",
        ),
        (changed(MERGED_ROW, sources=[[1], [2]]), "numbers from 0 to 1"),
        (changed(MERGED_ROW, sources=[[1], [-1]]), "numbers from 0 to 1"),
        (changed(MERGED_ROW, sources=[[1], [True]]), "numbers from 0 to 1"),
        (changed(MERGED_ROW, sources=[[1], [0, 0]]), "each once"),
        (changed(MERGED_ROW, sources=[[1], []]), "numbers from 0 to 1"),
        (changed(MERGED_ROW, sources=[1, 0]), "numbers from 0 to 1"),
        (changed(MERGED_ROW, scores=[9.5, 8.0]), "one number for each of its sources"),
        (changed(MERGED_ROW, scores=[[9.5]]), "one number for each of its sources"),
        (changed(MERGED_ROW, scores=[[9.5], [8.0]]), "one number for each of its sources"),
        (changed(MERGED_ROW, scores=[[9.5], [8.0, "x"]]), "one number for each of its sources"),
    ],
)
def test_bad_merged_rows(tmp_path: Path, row: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"^{tmp_path}.*line 2: .*{message}"):
        read_negatives(write(tmp_path / "n.jsonl", MERGED, row), None)
