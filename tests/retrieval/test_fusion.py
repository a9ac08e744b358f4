"""Fusion by ranks looks at ranks alone, not at the order of the runs; fusion by scores at how far apart these are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from taco_ir.core.files import InputError
from taco_ir.core.types import EvidenceSet, Query, Ranking, Run
from taco_ir.evaluation.significance import paired_test
from taco_ir.retrieval.fusion import (
    GRID,
    HybridWeights,
    TaskWeight,
    choose_weights,
    reciprocal_rank_fusion,
    weighted_fusion,
)

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


# weighted by task


def weighted(dense: Run, bm25: Run, weight: float, hits: int = 100) -> Run:
    qids = {*dense.rankings, *bm25.rankings}
    return weighted_fusion(dense, bm25, dict.fromkeys(qids, weight), hits)


def orders(run: Run) -> dict[str, list[str]]:
    return {qid: list(ranking.docids) for qid, ranking in run.rankings.items() if len(ranking.docids)}


@given(RUNS, RUNS)
def test_a_weight_of_one_or_nothing_is_one_run_alone(dense: Run, bm25: Run) -> None:
    """...with none of the other's hits."""
    assert orders(weighted(dense, bm25, 1.0)) == orders(dense)
    assert orders(weighted(dense, bm25, 0.0)) == orders(bm25)


@given(RUNS, RUNS, st.sampled_from(GRID), st.integers(1, 1000), st.integers(-50, 50))
def test_the_scale_of_a_run_changes_nothing(one: Run, two: Run, weight: float, factor: int, shift: int) -> None:
    moved = Run(
        {qid: Ranking(each.docids, each.scores * np.float32(factor) + shift) for qid, each in two.rankings.items()}
    )
    assert orders(weighted(one, two, weight)) == orders(weighted(one, moved, weight))


def test_weighted_by_hand() -> None:
    dense = Run({"q": Ranking.of(["a", "b", "c"], [0.9, 0.8, 0.7]), "r": Ranking.of(["a"], [0.3])})
    bm25 = Run({"q": Ranking.of(["c", "d", "e"], [9.0, 5.0, 1.0]), "r": Ranking.of(["b", "c"], [2.0, 1.0])})
    fused = weighted_fusion(dense, bm25, {"q": 0.6, "r": 0.0}, 4)
    assert fused.rankings["q"].docids == ["a", "c", "b", "d"]
    assert fused.rankings["q"].scores == pytest.approx([0.6, 0.4, 0.3, 0.2], rel=1e-6)
    assert fused.rankings["r"].docids == ["b", "c"]


def test_each_task_gets_the_weight_that_is_best_for_it() -> None:
    """Dense alone finds what one task asks for, BM25 what another does, and a third needs both."""
    found_by = {  # the wrong one comes first of equal scores
        "mention": (["right", "x"], ["wrong", "x"]),
        "entity": (["wrong", "x"], ["right", "x"]),
        "both": (["wrong", "right", "x"], ["other", "right", "x"]),
    }
    queries = [Query(task, "?", task, evidence=(EvidenceSet(("right",), ()),)) for task in found_by]
    scores = np.array([2.0, 1.9, 1.0], dtype=np.float32)
    dense, bm25 = (
        Run({task: Ranking(docids[place], scores[: len(docids[place])]) for task, docids in found_by.items()})
        for place in range(2)
    )
    queries.append(Query("q3", "no gold", "both"))

    def first_is_right(run: Run, asked: Sequence[Query]) -> dict[str, float]:
        return {query.qid: float(run.rankings[query.qid].docids[0] == "right") for query in asked}

    found = choose_weights([(queries, dense, bm25)], first_is_right, paired_test)
    assert {task: (each.queries, each.hybrid) for task, each in found.items()} == dict.fromkeys(found_by, (1, 1.0))
    assert found["entity"].ties > 0 and found["entity"].p == 1
    assert found["entity"].doubts(0.05) == [
        f"{found['entity'].ties} of the 20 other weights score the same",
        "the hybrid is not significantly better than BM25 alone (p 1.00)",
    ]
    assert TaskWeight(0.5, 400, 0.7, 0.6, 0.5, 0, 0.001).doubts(0.05) == TaskWeight(0.5).doubts(0.05) == []
    assert (found["mention"].of_dense, found["mention"].of_bm25) == (1, 0) and found["mention"].dense > 0.5
    assert (found["entity"].of_dense, found["entity"].of_bm25) == (0, 1) and found["entity"].dense < 0.5
    assert (found["both"].of_dense, found["both"].of_bm25, found["both"].dense) == (0, 0, 0.5)
    with pytest.raises(InputError, match="no query has gold"):
        choose_weights([(queries[-1:], dense, bm25)], first_is_right, paired_test)


def test_weights_can_be_written_by_hand_and_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "weights.json"
    path.write_text('{"tasks": {"zsre": {"dense": 0.2}, "*": {"dense": 0.7}}}')
    read = HybridWeights.read(path)
    assert [read.of(task) for task in ("structured_zeroshot", "nq", "")] == [0.2, 0.7, 0.7]
    assert read.unknown(["nq", ""]) == []
    path.write_text('{"tasks": {"nq": {"dense": 0.7}}}')
    read = HybridWeights.read(path)
    assert (read.of("nq"), read.of("fever"), read.unknown(["nq", "", "fever"])) == (0.7, 0.5, ["fever", "no task"])
    for text, said in (
        ('{"tasks": {"nq": {"dense": 1.5}}}', "tasks.nq.dense is 1.5; it must be a number from 0 to 1"),
        ('{"tasks": {"nq": {"dense": -1}}}', "tasks.nq.dense is -1"),
        ('{"tasks": {"nq": 0.5}}', "tasks.nq is 0.5"),
        ("{}", "key tasks is missing"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=said):
            HybridWeights.read(path)
    with pytest.raises(
        InputError, match=r"--hybrid-weights .*: no such file; make it with taco_ir.search --choose-weights"
    ):
        HybridWeights.read(tmp_path / "none.json")
    with pytest.raises(
        InputError, match=r"--hybrid-weights model: there is no hybrid\.json in .*; taco_ir.search --choose-weights"
    ):
        HybridWeights.of_model(tmp_path)
    path.rename(tmp_path / "hybrid.json").write_text('{"tasks": {"nq": {"dense": 0.7}}}')
    assert HybridWeights.of_model(tmp_path) == read
