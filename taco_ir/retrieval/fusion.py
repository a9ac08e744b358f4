"""Reciprocal rank fusion of runs (Cormack, Clarke and Buettcher, SIGIR 2009)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from taco_ir.core.types import Ranking, Run

RRF_K = 60


def reciprocal_rank_fusion(runs: Sequence[Run], hits: int, k: int = RRF_K) -> Run:
    """Score of a document: the sum over runs of 1 / (k + rank), ranks from 1. All runs must be of one level."""
    rankings = {}
    for qid in dict.fromkeys(qid for run in runs for qid in run.rankings):
        scores: dict[str, float] = defaultdict(float)
        for run in runs:
            if qid in run.rankings:
                for rank, docid in enumerate(run.rankings[qid].docids, 1):
                    scores[docid] += 1 / (k + rank)
        rankings[qid] = Ranking.of(list(scores), list(scores.values())).top(hits)
    return Run(rankings, runs[0].level)
