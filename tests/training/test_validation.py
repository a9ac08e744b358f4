"""Validation scores are those of a ranking of the whole pool by brute force."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from small_steps import PASSAGES, encoder

from taco_ir.core.types import EvidenceSet, Passage, Query, Vectors
from taco_ir.encoders.text_encoder import TextEncoder
from taco_ir.training.pools import Pool
from taco_ir.training.validation import validate

KNOWN = {passage.docid: passage for passage in PASSAGES}


@pytest.fixture(scope="module")
def tiny(tiny_bert: Path) -> TextEncoder:
    return encoder(tiny_bert, passage_length=40).text_encoder()


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
    found = validate(tiny, pools, KNOWN)
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
    validate(tiny, [pool("nq", 2, 0, docids[:50]), pool("wow", 2, 0, docids[30:])], KNOWN)
    assert seen == [docids]


def test_queries_are_read_with_their_task_s_prompt(tiny: TextEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, str | None]] = []
    encode = tiny.encode_queries

    def watched(texts: Sequence[str], task: str | None) -> Vectors:
        seen.extend((text, task) for text in texts)
        return encode(texts, task)

    monkeypatch.setattr(tiny, "encode_queries", watched)
    pools = [pool("nq", 2, 0, list(KNOWN)), pool("wow", 1, 4, list(KNOWN))]
    validate(tiny, pools, KNOWN)
    assert seen == [(each.text, own.task) for own in pools for each in own.queries]


def test_a_pool_of_one_passage(tiny: TextEncoder) -> None:
    (right, wrong) = PASSAGES[0], next(passage for passage in PASSAGES if passage.page != PASSAGES[0].page)
    queries = [query("a", "x", [right]), query("b", "y", [wrong]), query("c", "z", [wrong], [right])]
    assert validate(tiny, [Pool("nq", queries, [right.docid])], KNOWN) == {"nq": pytest.approx(2 / 3)}


def test_ties_are_broken_as_everywhere(tiny: TextEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of passages with one score the larger docid comes first, whatever their order in the pool."""
    alike = [Passage(f"{page}#0", page, "T", "text") for page in ("p1", "p2", "p3")]
    monkeypatch.setattr(tiny, "encode_passages", lambda passages: np.ones((len(passages), 2), dtype=np.float32))
    monkeypatch.setattr(tiny, "encode_queries", lambda texts, task: np.ones((len(texts), 2), dtype=np.float32))
    known = {passage.docid: passage for passage in alike}
    for order in (alike, alike[::-1]):
        docids = [passage.docid for passage in order]
        scores = [validate(tiny, [Pool("nq", [query("a", "x", [passage])], docids)], known)["nq"] for passage in alike]
        assert scores == [0.0, 0.0, 1.0]
