"""What is written is read back; a file that is broken, or of another collection, is refused by line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from taco_ir.data.negatives import Negatives, NegativesHeader, read_negatives, write_negatives
from taco_ir.files import InputError

HEADER = NegativesHeader("dense", "c0ffee", "0123456789abcdef", 100, 5, 8, ("gold page", "answer"), 7)
RECORD = {"taco_ir_negatives": 1, **HEADER._asdict()}
ROW = {"topics": "nq-train", "qid": "q", "docids": ["a", "b"], "scores": [2.5, 1]}
NAMES = st.text(min_size=1, max_size=6)
DOCIDS = st.lists(NAMES, max_size=4, unique=True)
ROWS = st.dictionaries(st.sampled_from(["nq-train", "my-own-task-dev"]), st.dictionaries(NAMES, DOCIDS, min_size=1, max_size=3), max_size=2)


def write(path: Path, *records: Any) -> Path:
    path.write_text("".join(record if isinstance(record, str) else json.dumps(record) + "\n" for record in records))
    return path


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(ROWS, st.lists(NAMES, max_size=3), st.integers(0, 2**62))
def test_reads_back_what_was_written(tmp_path: Path, docids: dict[str, dict[str, list[str]]], filters: list[str], seed: int) -> None:
    header = HEADER._replace(filters=tuple(filters), seed=seed)
    rows = [
        (topics, qid, each, np.linspace(2, 1, len(each), dtype=np.float32)) for topics in docids for qid, each in docids[topics].items()
    ]
    path = tmp_path / "negatives.jsonl"
    write_negatives(path, header, ((topics, qid, each, scores) for topics, qid, each, scores in rows))
    assert read_negatives(path, header.collection) == read_negatives(path, None) == Negatives(header, docids)


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
    path = write(
        tmp_path / "n.jsonl", RECORD, {**ROW, "topics": "zsRE-train"}, {**ROW, "topics": "kilt/hopo/train"}, {**ROW, "topics": "mine-dev"}
    )
    assert list(read_negatives(path, None).docids) == ["structured_zeroshot-train", "hotpotqa-train", "mine-dev"]
    write(path, RECORD, {**ROW, "topics": "zsre-train"}, {**ROW, "topics": "structured_zeroshot-train"})
    with pytest.raises(InputError, match="line 3: query 'q' of structured_zeroshot-train"):
        read_negatives(path, None)


def test_another_collection_is_refused_naming_both(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="collection '0123456789abcdef', this collection is 'feed'"):
        read_negatives(write(tmp_path / "n.jsonl", RECORD, ROW), "feed")


def changed(record: dict[str, Any], **values: Any) -> dict[str, Any]:
    return {key: value for key, value in {**record, **values}.items() if value is not ...}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("", "line 1: no header"),
        (ROW, "line 1: no header"),
        (changed(RECORD, taco_ir_negatives=2), "taco_ir_negatives is 2; this version reads 1"),
        (changed(RECORD, source=...), "missing .'source'., unknown .."),
        (changed(RECORD, sauce=1), "missing .., unknown .'sauce'."),
        (changed(RECORD, source=3), "source is '3'; a string is needed"),
        (changed(RECORD, depth="3"), "depth is '3'; a whole number"),
        (changed(RECORD, keep=True), "keep is 'True'; a whole number"),
        (changed(RECORD, seed=1.5), "seed is '1.5'; a whole number"),
        (changed(RECORD, filters="x"), "filters is 'x'; a list"),
        (changed(RECORD, filters=[1]), "filters is .1.; a list of strings"),
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
        (changed(ROW, topics="nq"), "topics 'nq'; a name such as nq-train"),
        (changed(ROW, qid="first"), "query 'first' of nq-train has its negatives on an earlier line"),
    ],
)
def test_bad_rows(tmp_path: Path, row: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"^{tmp_path}.*line 3: .*{message}"):
        read_negatives(write(tmp_path / "n.jsonl", RECORD, changed(ROW, qid="first"), row), None)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_negatives(tmp_path / "nothing.jsonl", None)
