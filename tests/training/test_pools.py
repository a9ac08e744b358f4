"""A pool holds what its queries need, is the same for one seed, and has no docid twice."""

from __future__ import annotations

from pathlib import Path

import pytest
from verbs import passage, query, write_collection

from taco_ir.data.collection import Collection, open_collection
from taco_ir.data.gold import find_positives
from taco_ir.training.pools import Pool, draw_queries, make_pool

HARD = {f"q{row}": [f"{row + 1}#1", f"{row + 2}#1"] for row in range(12)}


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    topics = {
        "nq-dev": [query(f"q{row}", f"text {row}", [f"{row}#0"], [f"{row + 1}#0", "99#0"]) for row in range(12)]
        + [query("unjudged", "none"), query("gone", "gone", ["98#0"])],
        "trex-dev": [query("t", "slot", ["2#0"])],
        "wow-dev": [query("w", "talk", ["98#0"])],
        "fever-train": [query("f", "claim", ["3#0"])],
    }
    passages = [passage(f"{page}#{place}", "x") for page in range(50) for place in range(2)]
    return open_collection(str(write_collection(tmp_path / "mine", passages, topics)))


def pool(collection: Collection, task: str = "nq", queries: int = 5, random: int = 10, seed: int = 3) -> Pool:
    topics = draw_queries(collection, task, "dev", queries, seed)
    assert topics is not None
    return make_pool(collection, topics, HARD, random, seed)


def test_a_pool_is_gold_then_hard_then_random(collection: Collection) -> None:
    made = pool(collection)
    assert (made.task, len(made.queries)) == ("nq", 5)
    assert len(set(made.docids)) == len(made.docids)
    gold = {docid for sets in find_positives(collection.passages, made.queries) for docids in sets for docid in docids}
    hard = {docid for each in made.queries for docid in HARD[each.qid]}
    assert set(made.docids[: len(gold)]) == gold
    assert set(made.docids[len(gold) :][: len(hard)]) == hard
    assert set(pool(collection, random=0).docids) == gold | hard
    assert (collection.passages.rows(made.docids) >= 0).all()
    assert len(gold | hard) < len(made.docids) <= len(gold | hard) + 10


def test_a_pool_depends_on_the_seed_alone(collection: Collection) -> None:
    assert pool(collection) == pool(open_collection(str(collection.passage_path.parent)))
    others = [pool(collection, seed=seed) for seed in range(4, 10)]
    assert any(other.queries != pool(collection).queries for other in others)
    assert any(other.docids[-3:] != pool(collection).docids[-3:] for other in others)


def test_queries_without_gold_in_the_collection_are_not_drawn(collection: Collection) -> None:
    made = pool(collection, queries=99)
    assert [each.qid for each in made.queries] == [f"q{row}" for row in range(12)]


def test_all_passages_where_fewer_than_asked(collection: Collection) -> None:
    assert set(pool(collection, random=1000).docids) == {each.docid for each in collection.passages.read()}


def test_tasks_share_their_random_passages(collection: Collection) -> None:
    drawn = set(pool(collection, "trex").docids) - {"2#0"}
    assert len(drawn) >= 9
    assert drawn <= set(pool(collection).docids)


def test_nothing_is_drawn_without_judged_topics(collection: Collection) -> None:
    for task in ("fever", "unknown", "wow"):
        assert draw_queries(collection, task, "dev", 5, 0) is None


def test_at_most_a_fifth_of_train_is_held_out(tmp_path: Path) -> None:
    topics = {
        "nq-train": [query(f"q{row}", f"text {row}", ["0#0"]) for row in range(14)],
        "trex-train": [query("t", "slot", ["0#0"])],
    }
    mine = open_collection(str(write_collection(tmp_path / "mine", [passage("0#0", "x")], topics)))
    drawn = draw_queries(mine, "nq", "train", 9, 0)
    assert drawn is not None and len(drawn.queries) == 2
    assert draw_queries(mine, "trex", "train", 9, 0) is None


def test_aliases_and_minikilt(minikilt: Path) -> None:
    small = open_collection(str(minikilt / "small"))
    topics = draw_queries(small, "zsre", "dev", 20, 0)
    assert topics is not None
    made = make_pool(small, topics, {}, 300, 0)
    assert made.task == "structured_zeroshot"
    assert len(made.queries) == 20 and 300 <= len(made.docids) <= 340
