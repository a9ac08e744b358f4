"""Evaluates held-out queries against all passages of an index, by exact search even if the index is approximate."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from taco_ir.adaptation.queries import Example, Pages
from taco_ir.core.types import Run
from taco_ir.encoders.text_encoder import TextEncoder
from taco_ir.evaluation.measures import Measure, score_run
from taco_ir.retrieval.frozen_base import FrozenIndex
from taco_ir.training.encoder import DualEncoder

HITS = 100
OF_PAGES, OF_GRADES = Measure("Rprec"), Measure("nDCG", 10)
Held = Mapping[str, Sequence[Example]]


class TaskScores(NamedTuple):
    """The scores of a task's queries, by query id, and the name of the measure."""

    measure: str
    values: Mapping[str, float]

    @property
    def mean(self) -> float:
        return math.fsum(self.values.values()) / len(self.values) if self.values else 0.0


class Ruler:
    """Evaluates a query encoder on an index: page R-precision, or nDCG@10 without pages or with graded judgments."""

    def __init__(self, index: FrozenIndex, pages: Pages) -> None:
        self._index = index
        self._pages = pages

    def measure_of(self, examples: Sequence[Example]) -> Measure:
        graded = any(example.query.grades for example in examples)
        return OF_GRADES if graded or not self._pages.known else OF_PAGES

    def __call__(self, encoder: TextEncoder, held: Held) -> dict[str, TaskScores]:
        """Returns the scores of held-out queries by task; each task has its own measure."""
        every = [(task, example.query) for task, examples in held.items() for example in examples]
        texts, tasks = [query.text for _, query in every], [task for task, _ in every]
        queries_BD = encoder.encode_mixed_queries(texts, tasks, held)
        rankings = self._index.rank(queries_BD, HITS)
        runs: dict[str, Run] = {task: Run({}) for task in held}
        for (task, query), ranking in zip(every, rankings, strict=True):
            runs[task].rankings[query.qid] = ranking
        return {task: self.score(run, held[task]) for task, run in runs.items()}

    def score(self, run: Run, examples: Sequence[Example]) -> TaskScores:
        """Returns the scores of one task's run, which ranks passages of the index."""
        measure, queries = self.measure_of(examples), [example.query for example in examples]
        scores = score_run(run, queries, self._page_of, [measure])
        return TaskScores(str(measure), scores.by_query[measure] or {})

    def _page_of(self, docids: Iterable[str]) -> Mapping[str, str]:
        listed = list(docids)
        rows_N = self._index.rows(listed)
        pages = iter(self._pages.of(rows_N[rows_N >= 0]))
        return {docid: next(pages) if row >= 0 else docid for docid, row in zip(listed, rows_N.tolist(), strict=True)}


class IndexValidation:
    """Evaluates held-out queries on the whole index during training. Returns scores by task and `macro`, their mean."""

    keeps_best = True

    def __init__(self, model: DualEncoder, ruler: Ruler, held: Held) -> None:
        self._model, self._ruler, self._held = model, ruler, held
        measures = dict.fromkeys(str(ruler.measure_of(examples)) for examples in held.values())
        self.what = f"{' and '.join(measures)} of held-out queries in the whole index"

    def __call__(self) -> dict[str, float]:
        measured = self._ruler(self._model.as_text_encoder(), self._held)
        means = {task: own.mean for task, own in measured.items()}
        return means | {"macro": math.fsum(means.values()) / len(means)}
