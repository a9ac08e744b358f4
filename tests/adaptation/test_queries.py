"""Queries of an adaptation: their gold by rows of the index, and held-out ones that share no page with the others."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from verbs import passage, query, write_collection

from taco_ir.adaptation.queries import Pages, Reader, halve, hold_out
from taco_ir.core.files import InputError
from taco_ir.data.collection import Collection, open_collection
from taco_ir.retrieval.frozen_base import FrozenIndex, Matrix

DOCIDS = ["a1", "a2", "b1", "a3", "c1", "elsewhere"]  # the last one is not in the collection
PAGE_OF = {"a1": "A", "a2": "A", "a3": "A", "b1": "B", "c1": "C"}


def index_of(docids: list[str]) -> FrozenIndex:
    return FrozenIndex(Path("index"), "npy", Matrix([np.eye(len(docids), 4, dtype=np.float32)]), docids)


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    passages = [passage(docid, "text") | {"wikipedia_id": page} for docid, page in PAGE_OF.items()]
    gold = {
        "of a passage": [{"wikipedia_id": "A", "passage_id": "a2"}],
        "of a page": [{"wikipedia_id": "A"}],
        "of two pages": [{"wikipedia_id": "A", "passage_id": "a1"}, {"wikipedia_id": "B", "passage_id": "b1"}],
        "of none": [{"wikipedia_id": "Z", "passage_id": "z1"}],
    }
    records = [{"id": qid, "input": qid, "output": [{"provenance": each}]} for qid, each in gold.items()]
    write_collection(tmp_path / "c", passages, {"nq-train": records})
    return open_collection(str(tmp_path / "c"))


def test_gold_and_what_is_no_negative_are_told_by_passages_and_pages(
    collection: Collection, caplog: pytest.LogCaptureFixture
) -> None:
    index = index_of(DOCIDS)
    found = Reader(index, collection).read("--topics", ["nq-train"])["nq"]
    gold = {
        each.query.qid: tuple([index.docids[row] for row in rows] for rows in (each.gold.positives, each.gold.others))
        for each in found
    }
    assert gold == {
        "of_a_passage": (["a2"], ["a1", "a3"]),
        "of_a_page": (["a1", "a2", "a3"], []),
        "of_two_pages": (["a1", "b1"], ["a2", "a3"]),
    }
    assert all(each.gold.weights.sum() == pytest.approx(1) and len(set(each.gold.weights)) == 1 for each in found)
    assert "lacks 1 of 5 gold docids, first 'z1'; 1 of 4 queries have no gold there" in caplog.text


def test_grades_are_weights_and_none_is_no_positive(collection: Collection, tmp_path: Path) -> None:
    (tmp_path / "q.tsv").write_text("1\twho\n2\twhere\n")
    (tmp_path / "q.qrels").write_text("1 0 a1 3\n1 0 c1 1\n1 0 b1 0\n2 0 a3 1\n")
    first, second = Reader(index_of(DOCIDS), collection, [tmp_path / "q.qrels"]).read(
        "--topics", [f"{tmp_path}/q.tsv"]
    )["q"]
    assert first.gold.positives.tolist() == [0, 4] and first.gold.weights.tolist() == [0.75, 0.25]
    assert first.gold.others.tolist() == [1, 3]  # of page A; a passage of grade 0 is a negative
    assert second.gold.positives.tolist() == [3] and second.gold.others.tolist() == [0, 1]
    (tmp_path / "more.qrels").write_text("2 0 a3 1\n")
    with pytest.raises(InputError, match="more.qrels: another file also judges query '2'"):
        Reader(index_of(DOCIDS), collection, [tmp_path / "q.qrels", tmp_path / "more.qrels"])


def test_pages_are_those_of_the_collection_or_of_docids(collection: Collection) -> None:
    told = Pages(index_of(DOCIDS), collection)
    assert told.known and told.rows_of("A").tolist() == [0, 1, 3] and told.of(np.array([2, 5])) == ["B", "elsewhere"]
    spelled = Pages(index_of(["7#0", "7#1", "8#0"]), None)
    assert spelled.known and spelled.rows_of("7").tolist() == [0, 1] and not len(spelled.rows_of("9"))
    bare = Pages(index_of(DOCIDS), None)
    assert not bare.known and bare.rows_of("a1").tolist() == [0] and bare.of(np.array([1])) == ["a2"]


def test_held_out_queries_share_no_page_with_the_others(tmp_path: Path) -> None:
    docids = [f"p{page}#{number}" for page in range(40) for number in range(3)]
    records = [query(f"q{n}", f"query {n}", [docids[3 * (n % 40) + n % 3]]) for n in range(120)]
    lines = "".join(json.dumps(record | {"task": "nq"}) + "\n" for record in records)
    (tmp_path / "queries.jsonl").write_text(lines)
    reader = Reader(index_of(docids), None)
    (examples,) = reader.read("--topics", [f"{tmp_path}/queries.jsonl"]).values()
    split = hold_out(examples, reader.pages, 0.25, 400, 0, "nq")
    pages = [
        {page for each in part for page in reader.pages.of(each.gold.positives)}
        for part in (split.train, split.choose, split.report)
    ]
    assert not pages[0] & pages[1] and not pages[0] & pages[2] and len(pages[1] & pages[2]) <= 1
    assert len(split.train) + len(split.choose) + len(split.report) + split.dropped == 120
    assert abs(len(split.choose) - len(split.report)) <= 1 and 30 <= len(split.choose) + len(split.report) <= 33
    assert hold_out(examples, reader.pages, 0.25, 400, 0, "nq") == split
    few = hold_out(examples, reader.pages, 0.25, 8, 0, "nq")
    assert len(few.choose) == len(few.report) == 4 and len(few.train) > len(split.train)
    alone = examples[:1]
    assert halve(alone, reader.pages, 8, 0, "nq") == (alone, alone)
    with pytest.raises(InputError, match="too few to hold .*; give other queries with --validate-on, or"):
        hold_out(examples[::40], reader.pages, 0.5, 400, 0, "nq")
