"""The embedded sample is what it says it is: large enough, sound in every judgment, and nobody else's text."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from taco_ir.core.tasks import KILT_TASKS
from taco_ir.core.types import ENTITY_MARKS, Passage
from taco_ir.data.collection import PACKAGE, open_collection

SAMPLE = open_collection("sample")
TASKS = ("nq", "hotpotqa", "triviaqa", "fever", "trex", "structured_zeroshot", "wow", "aidayago2")
TOPICS = [f"{task}-{split}" for task in TASKS for split in ("train", "dev")]
LITERAL = ("nq", "triviaqa", "trex", "structured_zeroshot")


def records(name: str) -> list[dict[str, Any]]:
    installed = PACKAGE / "topics"
    path = (installed if installed.is_dir() else PACKAGE.parent / "topics") / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def texts(task: str, split: str) -> list[str]:
    return [record["input"].strip() for record in records(f"{task}-{split}")]


@pytest.fixture(scope="module")
def passages() -> dict[str, Passage]:
    return {passage.docid: passage for passage in SAMPLE.passages.read()}


def test_size(passages: dict[str, Passage]) -> None:
    assert len(passages) >= 240
    assert len({passage.page for passage in passages.values()}) >= 80
    assert {str(name) for name in SAMPLE.topics_names} == set(TOPICS)
    assert set(TASKS) < {task.name for task in KILT_TASKS}


@pytest.mark.parametrize("name", TOPICS)
def test_enough_queries(name: str) -> None:
    assert len(SAMPLE.load_topics(name).queries) >= (24 if name.endswith("train") else 12)


def test_pages_have_one_title_and_titles_one_page(passages: dict[str, Passage]) -> None:
    pairs = {(passage.page, passage.title) for passage in passages.values()}
    assert len(pairs) == len({page for page, _ in pairs}) == len({title for _, title in pairs})
    assert all(
        docid.rpartition("#")[0] == passage.page and passage.text.strip() and passage.title
        for docid, passage in passages.items()
    )
    assert len({passage.text for passage in passages.values()}) == len(passages)


@pytest.mark.parametrize("name", TOPICS)
def test_every_provenance_exists_under_its_title(name: str, passages: dict[str, Passage]) -> None:
    for record in records(name):
        assert any(output.get("provenance") for output in record["output"]), record["id"]
        for item in (item for output in record["output"] for item in output.get("provenance", [])):
            passage = passages[item["passage_id"]]
            assert (passage.page, passage.title) == (item["wikipedia_id"], item["title"]), record["id"]


@pytest.mark.parametrize("name", TOPICS)
def test_ids_are_unique_and_say_their_topics(name: str) -> None:
    ids = [record["id"] for record in records(name)]
    assert len(set(ids)) == len(ids) and all(record_id.startswith(f"{name}-") for record_id in ids)


@pytest.mark.parametrize("name", [name for name in TOPICS if name.rpartition("-")[0] in LITERAL])
def test_answers_are_literally_in_a_gold_passage(name: str, passages: dict[str, Passage]) -> None:
    for query in SAMPLE.load_topics(name).queries:
        gold = " ".join(passages[docid].text for evidence in query.evidence for docid in evidence.passages)
        assert any(answer in gold for answer in query.answers), f"{query.qid}: {query.answers}"


@pytest.mark.parametrize("split", ["train", "dev"])
def test_hotpotqa_needs_two_pages(split: str) -> None:
    for query in SAMPLE.load_topics(f"hotpotqa-{split}").queries:
        assert all(len(set(evidence.pages)) == 2 == len(evidence.passages) for evidence in query.evidence), query.qid


@pytest.mark.parametrize("split", ["train", "dev"])
def test_fever_has_verdicts(split: str) -> None:
    verdicts = Counter(answer for query in SAMPLE.load_topics(f"fever-{split}").queries for answer in query.answers)
    assert set(verdicts) == {"SUPPORTS", "REFUTES"} and min(verdicts.values()) >= 4


@pytest.mark.parametrize("split", ["train", "dev"])
def test_entities_are_marked_once(split: str, passages: dict[str, Passage]) -> None:
    for query in SAMPLE.load_topics(f"aidayago2-{split}").queries:
        assert [query.text.count(mark) for mark in ENTITY_MARKS] == [1, 1], query.qid
        mention = query.text.partition(ENTITY_MARKS[0])[2].partition(ENTITY_MARKS[1])[0].strip()
        assert mention == query.meta["mention"]
        assert {passages[docid].title for evidence in query.evidence for docid in evidence.passages} == set(
            query.answers
        ), query.qid


@pytest.mark.parametrize("task", ["trex", "structured_zeroshot"])
def test_slots_are_subject_and_relation(task: str, passages: dict[str, Passage]) -> None:
    for query in (query for split in ("train", "dev") for query in SAMPLE.load_topics(f"{task}-{split}").queries):
        subject, relation = query.text.split(" [SEP] ")
        assert subject and relation == query.meta["relation"], query.qid


def test_zero_shot_relations_are_new_in_dev() -> None:
    train, dev = (
        {record["meta"]["relation"] for record in records(f"structured_zeroshot-{split}")} for split in ("train", "dev")
    )
    assert train and dev and not train & dev


@pytest.mark.parametrize("task", TASKS)
def test_no_query_is_in_train_and_dev(task: str) -> None:
    train, dev = texts(task, "train"), texts(task, "dev")
    assert len(set(train)) == len(train) and len(set(dev)) == len(dev)
    assert not set(train) & set(dev)


def test_nothing_is_from_the_real_collection(minikilt: Path, passages: dict[str, Passage]) -> None:
    """Compared by words, so that spacing and case do not hide a copy."""

    def words(text: str) -> str:
        return " ".join(text.lower().split())

    with gzip.open(minikilt / "passages.jsonl.gz", "rt", encoding="utf-8") as source:
        theirs = {words(json.loads(line)["contents"]) for line in source}
    assert not theirs & {words(passage.text) for passage in passages.values()}
    queries = {
        words(json.loads(line)["input"]) for path in minikilt.glob("*-*.jsonl") for line in path.open(encoding="utf-8")
    }
    assert len(theirs) > 100_000 and len(queries) > 30_000
    assert not queries & {words(text) for task in TASKS for split in ("train", "dev") for text in texts(task, split)}
