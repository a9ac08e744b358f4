"""A pool holds what its queries need, and validation scores are those of a ranking of the whole pool by brute force."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import verbs
from small_steps import PASSAGES, encoder

from taco_ir.core.types import EvidenceSet, Passage, Query, Vectors
from taco_ir.data.collection import Collection, open_collection
from taco_ir.data.gold import find_positives
from taco_ir.encoders.text_encoder import TextEncoder
from taco_ir.training.validation import Pool, build_pool, sample_queries, score_pools

HARD = {f"q{row}": [f"{row + 1}#1", f"{row + 2}#1"] for row in range(12)}


KNOWN = {passage.docid: passage for passage in PASSAGES}


@pytest.fixture(scope="module")
def tiny(tiny_bert: Path) -> TextEncoder:
    return encoder(tiny_bert, passage_length=40).as_text_encoder()


def query(qid: str, text: str, *sets: Sequence[Passage], task: str = "nq") -> Query:
    evidence = tuple(
        EvidenceSet(tuple(dict.fromkeys(each.page for each in own)), tuple(each.docid for each in own)) for own in sets
    )
    return Query(qid, text, task, evidence=evidence)


def pool(task: str, count: int, first: int, docids: Sequence[str]) -> Pool:
    """Queries of words from passages, which are their evidence; every third has a second set, of two passages."""
    queries = []
    for row in range(count):
        gold, *others = PASSAGES[first + 2 * row], PASSAGES[first + row + 20], PASSAGES[first + row + 30]
        sets = [[gold], others] if row % 3 == 0 else [[gold]]
        queries.append(query(f"{task}{row}", " ".join(gold.text.split()[: 4 + row]), *sets, task=task))
    return Pool(task, queries, list(docids))


def by_brute_force(made: TextEncoder, own: Pool) -> float:
    """Mean over queries of the best set's R-precision of pages, each page once, at the place of its best passage."""
    scores = []
    vectors_ND = {docid: made.encode_passages([KNOWN[docid]])[0].astype(np.float64) for docid in own.docids}
    for each in own.queries:
        query_D = made.encode_queries([each.text], own.task)[0].astype(np.float64)
        ranked = sorted(own.docids, key=lambda docid: float(query_D @ vectors_ND[docid]), reverse=True)
        pages = list(dict.fromkeys(KNOWN[docid].page for docid in ranked))
        scores.append(
            max(
                len(set(pages[: len(own_set.pages)]) & set(own_set.pages)) / len(own_set.pages)
                for own_set in each.evidence
            )
        )
    return sum(scores) / len(scores)


def test_scores_are_those_of_a_full_ranking(tiny: TextEncoder) -> None:
    """Each task against its own pool, though pools share passages."""
    docids = list(KNOWN)
    pools = [pool("nq", 12, 0, docids), pool("wow", 9, 7, docids[:45][::-1]), pool("fever", 5, 3, docids[::2])]
    found = {task: sum(own) / len(own) for task, own in score_pools(tiny, pools, KNOWN).items()}
    assert found == pytest.approx({each.task: by_brute_force(tiny, each) for each in pools})
    assert list(found) == ["nq", "wow", "fever"] and any(0 < score < 1 for score in found.values())


def test_passages_in_several_pools_are_encoded_once(tiny: TextEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []
    encode = tiny.encode_passages

    def watched(passages: Sequence[Passage]) -> Vectors:
        seen.append([passage.docid for passage in passages])
        return encode(passages)

    monkeypatch.setattr(tiny, "encode_passages", watched)
    docids = list(KNOWN)
    score_pools(tiny, [pool("nq", 2, 0, docids[:50]), pool("wow", 2, 0, docids[30:])], KNOWN)
    assert seen == [docids]


def test_queries_are_read_with_their_task_s_prompt(tiny: TextEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, str | None]] = []
    encode = tiny.encode_queries

    def watched(texts: Sequence[str], task: str | None) -> Vectors:
        seen.extend((text, task) for text in texts)
        return encode(texts, task)

    monkeypatch.setattr(tiny, "encode_queries", watched)
    pools = [pool("nq", 2, 0, list(KNOWN)), pool("wow", 1, 4, list(KNOWN))]
    score_pools(tiny, pools, KNOWN)
    assert seen == [(each.text, own.task) for own in pools for each in own.queries]


def test_a_pool_of_one_passage(tiny: TextEncoder) -> None:
    (right, wrong) = PASSAGES[0], next(passage for passage in PASSAGES if passage.page != PASSAGES[0].page)
    queries = [query("a", "x", [right]), query("b", "y", [wrong]), query("c", "z", [wrong], [right])]
    assert score_pools(tiny, [Pool("nq", queries, [right.docid])], KNOWN) == {"nq": [1, 0, 1]}


def test_ties_are_broken_as_everywhere(tiny: TextEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of passages with one score the larger docid comes first, whatever their order in the pool."""
    alike = [Passage(f"{page}#0", page, "T", "text") for page in ("p1", "p2", "p3")]
    monkeypatch.setattr(tiny, "encode_passages", lambda passages: np.ones((len(passages), 2), dtype=np.float32))
    monkeypatch.setattr(tiny, "encode_queries", lambda texts, task: np.ones((len(texts), 2), dtype=np.float32))
    known = {passage.docid: passage for passage in alike}
    for order in (alike, alike[::-1]):
        docids = [passage.docid for passage in order]
        scores = [
            score_pools(tiny, [Pool("nq", [query("a", "x", [passage])], docids)], known)["nq"] for passage in alike
        ]
        assert scores == [[0.0], [0.0], [1.0]]


# pools


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    topics = {
        "nq-dev": [verbs.query(f"q{row}", f"text {row}", [f"{row}#0"], [f"{row + 1}#0", "99#0"]) for row in range(12)]
        + [verbs.query("unjudged", "none"), verbs.query("gone", "gone", ["98#0"])],
        "trex-dev": [verbs.query("t", "slot", ["2#0"])],
        "wow-dev": [verbs.query("w", "talk", ["98#0"])],
        "fever-train": [verbs.query("f", "claim", ["3#0"])],
    }
    passages = [verbs.passage(f"{page}#{place}", "x") for page in range(50) for place in range(2)]
    return open_collection(str(verbs.write_collection(tmp_path / "mine", passages, topics)))


def pool_of(collection: Collection, task: str = "nq", queries: int = 5, random: int = 10, seed: int = 3) -> Pool:
    topics = sample_queries(collection, task, "dev", queries, seed)
    assert topics is not None
    return build_pool(collection, topics, HARD, random, seed)


def test_a_pool_is_gold_then_hard_then_random(collection: Collection) -> None:
    made = pool_of(collection)
    assert (made.task, len(made.queries)) == ("nq", 5)
    assert len(set(made.docids)) == len(made.docids)
    gold = {docid for sets in find_positives(collection.passages, made.queries) for docids in sets for docid in docids}
    hard = {docid for each in made.queries for docid in HARD[each.qid]}
    assert set(made.docids[: len(gold)]) == gold
    assert set(made.docids[len(gold) :][: len(hard)]) == hard
    assert set(pool_of(collection, random=0).docids) == gold | hard
    assert (collection.passages.rows(made.docids) >= 0).all()
    assert len(gold | hard) < len(made.docids) <= len(gold | hard) + 10


def test_a_pool_depends_on_the_seed_alone(collection: Collection) -> None:
    assert pool_of(collection) == pool_of(open_collection(str(collection.passage_path.parent)))
    others = [pool_of(collection, seed=seed) for seed in range(4, 10)]
    assert any(other.queries != pool_of(collection).queries for other in others)
    assert any(other.docids[-3:] != pool_of(collection).docids[-3:] for other in others)


def test_queries_without_gold_in_the_collection_are_not_sampled(collection: Collection) -> None:
    made = pool_of(collection, queries=99)
    assert [each.qid for each in made.queries] == [f"q{row}" for row in range(12)]


def test_all_passages_where_fewer_than_asked(collection: Collection) -> None:
    assert set(pool_of(collection, random=1000).docids) == {each.docid for each in collection.passages.read()}


def test_tasks_share_their_random_passages(collection: Collection) -> None:
    random = set(pool_of(collection, "trex").docids) - {"2#0"}
    assert len(random) >= 9
    assert random <= set(pool_of(collection).docids)


def test_nothing_is_sampled_without_gold(collection: Collection) -> None:
    for task in ("fever", "unknown", "wow"):
        assert sample_queries(collection, task, "dev", 5, 0) is None


def test_at_most_a_fifth_of_train_is_held_out(tmp_path: Path) -> None:
    topics = {
        "nq-train": [verbs.query(f"q{row}", f"text {row}", ["0#0"]) for row in range(14)],
        "trex-train": [verbs.query("t", "slot", ["0#0"])],
    }
    mine = open_collection(str(verbs.write_collection(tmp_path / "mine", [verbs.passage("0#0", "x")], topics)))
    found = sample_queries(mine, "nq", "train", 9, 0)
    assert found is not None and len(found.queries) == 2
    assert sample_queries(mine, "trex", "train", 9, 0) is None


def test_aliases_and_minikilt(minikilt: Path) -> None:
    small = open_collection(str(minikilt / "small"))
    topics = sample_queries(small, "zsre", "dev", 20, 0)
    assert topics is not None
    made = build_pool(small, topics, {}, 300, 0)
    assert made.task == "structured_zeroshot"
    assert len(made.queries) == 20 and 300 <= len(made.docids) <= 340
