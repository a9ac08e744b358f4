"""Fusion looks at ranks alone: not at scores, not at the order of the runs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taco_ir.core.types import Ranking, Run
from taco_ir.retrieval.retrievers import reciprocal_rank_fusion

DOCIDS = st.lists(st.sampled_from([f"{n}#0" for n in range(12)]), unique=True, max_size=10)
RANKINGS = st.builds(lambda docids: Ranking(docids, np.arange(len(docids), 0, -1, dtype=np.float32)), DOCIDS)
RUNS = st.builds(Run, st.dictionaries(st.sampled_from(["q1", "q2", "q3"]), RANKINGS))


def same(one: Run, other: Run) -> bool:
    return one.rankings.keys() == other.rankings.keys() and all(
        ranking.docids == other.rankings[qid].docids and np.array_equal(ranking.scores, other.rankings[qid].scores)
        for qid, ranking in one.rankings.items()
    )


@given(RUNS, st.integers(1, 3))
def test_a_run_with_itself_keeps_its_order(run: Run, times: int) -> None:
    fused = reciprocal_rank_fusion([run] * times, 10)
    assert {qid: ranking.docids for qid, ranking in fused.rankings.items()} == {
        qid: ranking.docids for qid, ranking in run.rankings.items()
    }


@given(
    st.lists(RUNS, min_size=2, max_size=4).flatmap(lambda runs: st.tuples(st.just(runs), st.permutations(runs))),
    st.integers(1, 12),
)
def test_the_order_of_runs_changes_nothing(both: tuple[list[Run], list[Run]], hits: int) -> None:
    runs, permuted = both
    assert same(reciprocal_rank_fusion(runs, hits), reciprocal_rank_fusion(permuted, hits))


@given(RUNS, st.integers(1, 1000))
def test_scores_change_nothing(run: Run, factor: float) -> None:
    scaled = Run({qid: Ranking(each.docids, each.scores * np.float32(factor)) for qid, each in run.rankings.items()})
    assert same(reciprocal_rank_fusion([run, run], 10), reciprocal_rank_fusion([run, scaled], 10))


@given(st.lists(RUNS, min_size=1, max_size=3), st.integers(1, 12))
def test_fewer_hits_are_the_first_of_more(runs: list[Run], hits: int) -> None:
    everything = reciprocal_rank_fusion(runs, 100).rankings
    first = Run({qid: ranking.top(hits) for qid, ranking in everything.items()})
    assert same(reciprocal_rank_fusion(runs, hits), first)


def test_by_hand() -> None:
    one = Run({"q": Ranking.of(["a", "b", "c"], [9.0, 8.0, 7.0])}, "page")
    two = Run({"q": Ranking.of(["c", "a"], [0.2, 0.1]), "only here": Ranking.of(["d"], [1.0])}, "page")
    fused = reciprocal_rank_fusion([one, two], 10)
    assert fused.level == "page"
    assert fused.rankings["q"].docids == ["a", "c", "b"]
    assert fused.rankings["q"].scores == pytest.approx([1 / 61 + 1 / 62, 1 / 63 + 1 / 61, 1 / 62], rel=1e-6)
    assert fused.rankings["only here"].docids == ["d"]
    assert reciprocal_rank_fusion([one, two], 1, k=0).rankings["q"].scores == pytest.approx([1 + 1 / 2])


def test_equal_scores_are_ordered_by_docid_descending() -> None:
    fused = reciprocal_rank_fusion([Run({"q": Ranking.of(["a"], [1.0])}), Run({"q": Ranking.of(["b"], [5.0])})], 10)
    assert fused.rankings["q"].docids == ["b", "a"]
