"""Examples hold exactly the positives that the collection has; whatever is left out is counted."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from verbs import passage, query, write_collection

from taco_ir.core.files import InputError
from taco_ir.core.tasks import TopicsName
from taco_ir.data.collection import Collection, open_collection
from taco_ir.data.examples import TrainExample, read_examples
from taco_ir.data.gold import find_positives
from taco_ir.negatives.file import Negatives, NegativesHeader, with_negatives

HEADER = NegativesHeader("bm25", "", "any", 10, 0, 5, (), 0)
PASSAGES = [passage(docid, f"text of {docid}") for docid in ("1#0", "1#1", "2#0", "3#0", "3#1", "3#2")]
MINIKILT = {  # passages of the largest evidence set in the small collection
    **{"fever": 9, "hotpotqa": 2, "nq": 1, "squad": 1},
    **{"structured_zeroshot": 3, "trex": 4, "wned": 1, "wow": 1},
}


def pages_only(qid: str, *pages: str) -> dict[str, object]:
    return {"id": qid, "input": f"about {qid}", "output": [{"provenance": [{"wikipedia_id": page} for page in pages]}]}


@pytest.fixture(params=["page in docid", "page beside docid"])
def collection(tmp_path: Path, request: pytest.FixtureRequest) -> Collection:
    """Both layouts of docids; the second has one passage more, on page 1, whose docid does not say so."""
    passages = (
        PASSAGES if request.param == "page in docid" else [*PASSAGES, {**passage("other", "x"), "wikipedia_id": "1"}]
    )
    topics = {
        "zsre-train": [
            query("a", "first", ["1#0", "2#0"], ["3#1"], ["1#0", "2#0", "9#9"], ["8#8"]),
            query("nothing", "second", ["9#9"]),
            query("unjudged", "third"),
            pages_only("b", "1", "9"),
        ],
        "gone-train": [query("a", "first", ["9#9"])],
        "nq-dev": [query("d", "dev", ["2#0"])],
    }
    return open_collection(str(write_collection(tmp_path / "mine", passages, topics)))


def test_positives_are_the_passages_of_each_set_that_the_collection_has(collection: Collection) -> None:
    first, second = read_examples(collection, "structured_zeroshot")
    assert first == TrainExample(
        "a", "first", "structured_zeroshot", (("1#0", "2#0"), ("3#1",)), frozenset(["1", "2", "3", "8", "9"]), ()
    )
    assert second.positives == (tuple(docid for docid, page in pages_of(collection).items() if page == "1"),)
    assert second.pages == {"1", "9"}


def pages_of(collection: Collection) -> dict[str, str]:
    return {each.docid: each.page for each in collection.passages.read()}


def test_gold_pages_are_those_of_the_evidence_and_of_the_positives(tmp_path: Path) -> None:
    """A record may name a page that is not the one that the collection has its passage on."""
    record = {"id": "q", "input": "x", "output": [{"provenance": [{"wikipedia_id": "7", "passage_id": "1#0"}]}]}
    folder = write_collection(tmp_path / "mine", PASSAGES, {"nq-train": [record]})
    assert read_examples(open_collection(str(folder)), "nq")[0].pages == {"1", "7"}


def test_left_out_queries_are_counted(collection: Collection, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "taco_ir"):
        read_examples(collection, "zsre")
    assert "structured_zeroshot-train: 2 of 4 queries have no positive passage" in caplog.text
    caplog.clear()
    assert [example.qid for example in read_examples(collection, "nq", "dev")] == ["d"] and not caplog.text


def test_negatives_come_by_topics_and_qid(collection: Collection, caplog: pytest.LogCaptureFixture) -> None:
    mined = Negatives(
        (HEADER,), {"structured_zeroshot-train": {"a": ["3#2", "1#1"], "nothing": ["2#0"]}, "nq-train": {"b": ["3#0"]}}
    )
    examples = with_negatives(read_examples(collection, "zsre"), TopicsName("structured_zeroshot", "train"), mined)
    assert [example.negatives for example in examples] == [("3#2", "1#1"), ()]
    assert "1 of 2 examples have no mined negatives" in caplog.text


def test_what_cannot_train_is_named(collection: Collection) -> None:
    with pytest.raises(
        InputError,
        match="task 'nq': collection mine has no topics nq-train; its train topics are for gone, structured_zeroshot",
    ):
        read_examples(collection, "nq")
    with pytest.raises(InputError, match="its test topics are for no task"):
        read_examples(collection, "nq", "test")
    with pytest.raises(InputError, match="gone-train: none of its 1 queries has a positive passage in collection mine"):
        read_examples(collection, "gone")


def test_the_order_is_that_of_the_topics(collection: Collection) -> None:
    queries = collection.load_topics("zsre-train").queries
    assert find_positives(collection.passages, queries[::-1]) == find_positives(collection.passages, queries)[::-1]
    assert find_positives(collection.passages, []) == []


@pytest.mark.parametrize("task", sorted(MINIKILT))
def test_minikilt(minikilt: Path, task: str) -> None:
    """Every positive is a passage on a gold page; every query of the small collection has one."""
    collection = open_collection(str(minikilt / "small"))
    examples = read_examples(collection, task)
    assert len(examples) == len(collection.load_topics(f"{task}-train").queries)
    page_of = collection.passages.page_of(
        {docid for example in examples for docids in example.positives for docid in docids}
    )
    for example in examples:
        assert example.task == task and example.positives
        assert {page_of[docid] for docids in example.positives for docid in docids} <= example.pages
    assert max(len(docids) for example in examples for docids in example.positives) == MINIKILT[task]
