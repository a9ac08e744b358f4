"""Merging: a union that keeps every label, takes sources in turn, and never compares scores of different sources."""

from __future__ import annotations

from collections import Counter
from random import Random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from taco_ir.core.types import Ranking
from taco_ir.data.examples import TrainExample
from taco_ir.negatives.miner import first_source, merge
from taco_ir.training.batches import choose_negatives

DOCIDS = [f"{page}#{part}" for page in range(4) for part in range(3)]


@st.composite
def rankings(draw: st.DrawFn) -> Ranking:
    docids = draw(st.lists(st.sampled_from(DOCIDS), unique=True, max_size=8))
    return Ranking.of(docids, draw(st.lists(st.integers(-3, 9), min_size=len(docids), max_size=len(docids))))


SOURCES = st.lists(rankings(), min_size=1, max_size=4)


@given(SOURCES)
def test_it_is_the_union_with_every_label_and_score(sources: list[Ranking]) -> None:
    merged = merge(sources)
    numbered = [(number, *hit) for number, each in enumerate(sources) for hit in zip(*each, strict=True)]
    held = {(docid, number, score) for number, docid, score in numbered}
    told = [
        (docid, number, score)
        for docid, *labels in zip(merged.docids, merged.sources, merged.scores, strict=True)
        for number, score in zip(*labels, strict=True)
    ]
    assert len(set(merged.docids)) == len(merged.docids)
    assert len(told) == len(held) and set(told) == held and all(merged.sources)


@given(SOURCES)
def test_the_order_is_that_of_the_best_places_in_turn(sources: list[Ranking]) -> None:
    """Place by place, source by source: what is new. A passage's first label is the source that brought it."""
    expected: dict[str, int] = {}
    for place in range(8):
        for number, each in enumerate(sources):
            for docid in each.docids[place : place + 1]:
                expected.setdefault(docid, number)
    merged = merge(sources)
    assert merged.docids == list(expected)
    assert [labels[0] for labels in merged.sources] == list(expected.values())
    for docid, labels in zip(merged.docids, merged.sources, strict=True):
        places = [(sources[number].docids.index(docid), number) for number in labels]
        assert places == sorted(places)


@given(SOURCES, st.randoms(use_true_random=False))
def test_a_permutation_of_the_sources_only_interleaves_otherwise(sources: list[Ranking], random: Random) -> None:
    order = list(range(len(sources)))
    random.shuffle(order)
    merged, permuted = merge(sources), merge([sources[number] for number in order])
    pairs = zip(permuted.docids, permuted.sources, strict=True)
    labels = {docid: {order[number] for number in each} for docid, each in pairs}
    assert labels == {docid: set(each) for docid, each in zip(merged.docids, merged.sources, strict=True)}

    def best(docid: str) -> int:
        return min(each.docids.index(docid) for each in sources if docid in each.docids)

    assert [best(docid) for docid in permuted.docids] == [best(docid) for docid in merged.docids]


@given(SOURCES, st.data())
def test_another_first_source_is_the_order_of_the_sources_turned(sources: list[Ranking], data: st.DataObject) -> None:
    first = data.draw(st.integers(0, len(sources) - 1))
    turned = merge([*sources[first:], *sources[:first]])
    labels = [[(first + number) % len(sources) for number in each] for each in turned.sources]
    assert merge(sources, first) == (turned.docids, labels, turned.scores)


@given(st.integers(1, 4), st.integers(0, 9))
def test_the_first_epoch_learns_from_every_source_alike(sources: int, start: int) -> None:
    """With one negative a query as well: the file of three sources was once, for an epoch, that of the first."""
    found = [Ranking.of([str(source)], [1.0]) for source in range(sources)]
    told = [merge(found, first_source(str(qid), sources)).docids for qid in range(1200 * start, 1200 * (start + 1))]
    examples = [TrainExample("q", "text", "nq", (("gold",),), frozenset(), tuple(docids)) for docids in told]
    counts = Counter(choose_negatives(each, 1, 0)[0] for each in examples)
    assert len(counts) == sources and max(counts.values()) - min(counts.values()) < 150


@given(SOURCES, st.lists(st.sampled_from([0.125, 4.0, 1024.0]), min_size=4, max_size=4))
def test_scales_of_scores_decide_nothing(sources: list[Ranking], scales: list[float]) -> None:
    pairs = zip(sources, scales, strict=False)
    scaled = [Ranking(each.docids, each.scores * np.float32(scale)) for each, scale in pairs]
    assert merge(scaled)[:2] == merge(sources)[:2]


@given(rankings())
def test_one_source_is_itself(ranking: Ranking) -> None:
    scores = [[score] for score in ranking.scores.tolist()]
    assert merge([ranking]) == (ranking.docids, [[0]] * len(scores), scores)
    assert merge([ranking, ranking]).docids == ranking.docids


def test_numbers() -> None:
    bm25 = Ranking.of(["a", "b", "c", "d"], [40, 30, 20, 10])
    dense = Ranking.of(["c", "e", "a"], [0.75, 0.5, 0.25])
    merged = merge([bm25, dense])
    assert merged.docids == ["a", "c", "b", "e", "d"]
    assert merged.sources == [[0, 1], [1, 0], [0], [1], [0]]
    assert merged.scores == [[40, 0.25], [0.75, 20], [30], [0.5], [10]]


@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 5))
def test_training_goes_through_the_sources_in_turn(sources: int, held: int, k: int) -> None:
    """Epoch after epoch other negatives until all have come; any S successive ones are of S sources."""
    docids = [[f"{source}-{place}" for place in range(held)] for source in range(sources)]
    found = [Ranking.of(each, range(held, 0, -1)) for each in docids]
    example = TrainExample("q", "text", "nq", (("gold",),), frozenset(), tuple(merge(found).docids))
    stream = [docid for epoch in range(sources * held) for docid in choose_negatives(example, k, epoch)]
    assert len(set(stream[: sources * held])) == sources * held
    for start in range(len(stream) - sources):
        assert len({docid.partition("-")[0] for docid in stream[start : start + sources]}) == sources
    assert [docid.partition("-")[2] for docid in stream[: sources * held : sources]] == list(map(str, range(held)))
