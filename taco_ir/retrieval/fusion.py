"""Fuses the rankings of several retrievers: by reciprocal ranks, or by scores with a weight for each task.

Reciprocal ranks give all retrievers the same weight, so a retriever that fails on a task (BM25 on entity linking)
spoils the fused ranking. Weights are chosen on queries with gold: a few hundred queries per task are enough for one
number (Bruch, Gai, Ingber, An Analysis of Fusion Functions for Hybrid Retrieval, TOIS 2023).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np

from taco_ir.core.files import InputError, read_json, write_json
from taco_ir.core.processes import Progress
from taco_ir.core.tasks import canonical_task
from taco_ir.core.types import Query, Ranking, Run
from taco_ir.encoders.config import ANY_TASK

RRF_K = 60
EVEN = 0.5
WEIGHTS_FILE = "hybrid.json"
OF_MODEL = "model"  # means the file in the model's folder
GRID = tuple(step / 20 for step in range(21))


class TaskWeight(NamedTuple):
    """The weight for fusing dense and BM25 scores of one task, and its results on the queries that chose it.

    Attributes:
        dense: weight of the dense scores, from 0 to 1; BM25 scores have the weight 1 - dense.
        queries: number of queries that the weight was chosen on.
        hybrid, of_dense, of_bm25: scores on these queries: of the fusion with this weight, of dense retrieval, of BM25.
        ties: number of other weights with the same score.
        p: p-value of the fusion against the better retriever; too small, since the same queries chose the weight.
    """

    dense: Annotated[float, 0]
    queries: int = 0
    hybrid: float = 0.0
    of_dense: float = 0.0
    of_bm25: float = 0.0
    ties: int = 0
    p: float | None = None

    def doubts(self, significant: float) -> list[str]:
        """List reasons why another weight may suit other queries better; p-values below `significant` are no reason."""
        better = "dense retrieval" if self.of_dense >= self.of_bm25 else "BM25"
        said = [f"{self.ties} of the {len(GRID) - 1} other weights score the same"] * (self.ties > 0)
        if self.p is not None and self.p >= significant:
            said.append(f"the hybrid is not significantly better than {better} alone (p {self.p:.2f})")
        return said


class HybridWeights(NamedTuple):
    """The content of a file of fusion weights. Only `tasks` is required, so the file can be written by hand.

    Attributes:
        tasks: weights by task; `*` is the weight of all other queries.
        hits: number of hits to fuse from each retriever; scores are scaled among these hits.
        measure: the measure that the weights maximise.
        encoder, made_of: fingerprints of the encoder and of the data that the weights were chosen with.
    """

    tasks: Mapping[str, TaskWeight]
    hits: Annotated[int, 1] = 100
    measure: str = ""
    encoder: str = ""
    made_of: Mapping[str, Any] = {}

    @classmethod
    def of_model(cls, folder: Path) -> HybridWeights:
        """Read the fusion weights in a model's folder. Raises: InputError if it has none."""
        if not (folder / WEIGHTS_FILE).is_file():
            raise InputError(
                f"--hybrid-weights {OF_MODEL}: there is no {WEIGHTS_FILE} in {folder}; taco_ir.search "
                "--choose-weights makes such a file"
            )
        return cls.read(folder / WEIGHTS_FILE)

    @classmethod
    def read(cls, path: Path) -> HybridWeights:
        """Read a file of fusion weights. Raises: InputError for unknown keys, or a weight that is not from 0 to 1."""
        if not path.is_file():
            raise InputError(f"--hybrid-weights {path}: no such file; make it with taco_ir.search --choose-weights")
        found = read_json(path, HybridWeights, "choose the weights again with search --choose-weights")
        for task, weight in found.tasks.items():
            if weight.dense > 1:
                raise InputError(f"{path}: tasks.{task}.dense is {weight.dense:g}; it must be a number from 0 to 1")
        named = {task if task == ANY_TASK else canonical_task(task): weight for task, weight in found.tasks.items()}
        return found._replace(tasks=named)

    @property
    def by_task(self) -> dict[str, float]:
        """The weight of the dense scores, by task."""
        return {task: weight.dense for task, weight in self.tasks.items()}

    def of(self, task: str) -> float:
        """Return the weight of dense scores for a task's queries; if there is none, the weight of `*`, or else 0.5."""
        return self.by_task.get(task, self.by_task.get(ANY_TASK, EVEN))

    def unknown(self, tasks: Iterable[str]) -> list[str]:
        """Return the tasks that have no weight, sorted; an empty list if there is a weight for `*`."""
        return [] if ANY_TASK in self.tasks else sorted({task or "no task" for task in tasks if task not in self.tasks})

    def save(self, path: Path) -> None:
        tasks = {task: weight._asdict() for task, weight in self.tasks.items()}
        write_json(path, self._asdict() | {"tasks": tasks})


def reciprocal_rank_fusion(runs: Sequence[Run], hits: int, k: int = RRF_K) -> Run:
    """Fuse runs: the score of a document is the sum over all runs of 1 / (k + rank), with ranks from 1.

    All runs must rank passages, or all must rank pages. Paper: Cormack, Clarke and Buettcher, SIGIR 2009.
    """
    rankings = {}
    for qid in dict.fromkeys(qid for run in runs for qid in run.rankings):
        scores: dict[str, float] = defaultdict(float)
        for run in runs:
            if qid in run.rankings:
                for rank, docid in enumerate(run.rankings[qid].docids, 1):
                    scores[docid] += 1 / (k + rank)
        rankings[qid] = Ranking.of(list(scores), list(scores.values())).top(hits)
    return Run(rankings, runs[0].level)


def weighted_fusion(dense: Run, bm25: Run, weight_of: Mapping[str, float], hits: int) -> Run:
    """Fuse the scores of two runs: weight x dense + (1 - weight) x BM25, with a weight for each query.

    In each run, the scores of a query are scaled to 1 for the best hit and 0 for the last; a document that is missing
    from a run has the score 0 there. A run with weight 0 contributes nothing, not even hits.

    Args:
        weight_of: weight of the dense run, by query id.
    """
    rankings = {}
    for qid in dict.fromkeys([*dense.rankings, *bm25.rankings]):
        weight = weight_of[qid]
        scores: dict[str, float] = defaultdict(float)
        for run, share in ((dense, weight), (bm25, 1 - weight)):
            if share > 0 and qid in run.rankings:
                for docid, score in _scaled(run.rankings[qid]):
                    scores[docid] += share * score
        rankings[qid] = Ranking.of(list(scores), list(scores.values())).top(hits)
    return Run(rankings, dense.level)


def _scaled(ranking: Ranking) -> Iterator[tuple[str, float]]:
    """Yield hits with scores scaled to 1 for the best hit and 0 for the last; to 1 for all hits if scores are equal."""
    if not len(ranking.docids):
        return iter(())
    scores_K = ranking.scores.astype(np.float64)
    low, high = scores_K[-1], scores_K[0]
    scaled_K = (scores_K - low) / (high - low) if high > low else np.ones_like(scores_K)
    return zip(ranking.docids, scaled_K.tolist(), strict=True)


def choose_weights(
    parts: Sequence[tuple[Sequence[Query], Run, Run]],
    score: Callable[[Run, Sequence[Query]], Mapping[str, float]],
    test: Callable[[Sequence[float], Sequence[float]], float],
) -> dict[str, TaskWeight]:
    """Choose for each task the weight with the best mean score, among 0, .05, ... 1; ties go to the weight nearest .5.

    Args:
        parts: sets of queries, each with its dense run and its BM25 run.
        score: function that returns the value of each query in a run, by query id.
        test: function that returns the p-value of two systems, from their values on the same queries.

    Raises:
        InputError: if no query has gold.
    """
    values: dict[str, dict[float, list[float]]] = defaultdict(lambda: {weight: [] for weight in GRID})
    progress, done = Progress("weights", len(GRID) * len(parts), "fusions"), 0
    for queries, dense, bm25 in parts:
        judged = [query for query in queries if query.evidence or query.grades]
        named = {query.qid for query in judged}
        task_of = {query.qid: query.task or ANY_TASK for query in judged}
        ours, theirs = (
            run._replace(rankings={qid: found for qid, found in run.rankings.items() if qid in named})
            for run in (dense, bm25)
        )
        for weight in GRID:
            fused = weighted_fusion(ours, theirs, dict.fromkeys(named, weight), max(map(_depth, (ours, theirs))))
            for qid, value in score(fused, judged).items():
                values[task_of[qid]][weight].append(value)
            done += 1
            progress.at(done)
    if not values:
        raise InputError("--choose-weights: no query has gold; give topics with gold, such as nq-train")
    return {task: _best(by_weight, test) for task, by_weight in values.items()}


def _depth(run: Run) -> int:
    return max((len(ranking.docids) for ranking in run.rankings.values()), default=0)


def _best(
    by_weight: Mapping[float, Sequence[float]], test: Callable[[Sequence[float], Sequence[float]], float]
) -> TaskWeight:
    means = {weight: math.fsum(values) / len(values) for weight, values in by_weight.items()}
    best = max(means, key=lambda weight: (means[weight], -abs(weight - EVEN)))
    single = max(by_weight[0.0], by_weight[1.0], key=math.fsum)
    ties, p = sum(mean == means[best] for mean in means.values()) - 1, test(by_weight[best], single)
    return TaskWeight(best, len(by_weight[best]), means[best], means[1.0], means[0.0], ties, p)
