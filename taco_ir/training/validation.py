"""How well the encoder ranks while it trains: page R-precision in a fixed pool of passages for each task."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from taco_ir.core.types import Passage, Run
from taco_ir.encoders.text_encoder import TextEncoder
from taco_ir.evaluation.answers import exact_match
from taco_ir.evaluation.measures import Measure, evaluate
from taco_ir.retrieval.exact_search import exact_search
from taco_ir.training.encoder import DualEncoder
from taco_ir.training.pools import Pool
from taco_ir.training.shared import SharedEncoder

MEASURE = Measure("Rprec")
HITS = 20  # more than any evidence set has pages, with room for passages of one page


class Validation(Protocol):
    """What is measured between steps: scores by name, of which `macro` tells the best model where there is one to keep."""

    what: str
    keeps_best: bool

    def __call__(self) -> dict[str, float]: ...


class PoolValidation:
    """Page R-precision of a model in pools, by task, and their mean as `macro`, by which the best model is kept."""

    what = "page R-precision in the validation pools"
    keeps_best = True

    def __init__(self, model: DualEncoder, pools: Sequence[Pool], passages: Mapping[str, Passage]) -> None:
        self._model = model
        self._pools = pools
        self._passages = passages

    def __call__(self) -> dict[str, float]:
        scores = validate(self._model.text_encoder(), self._pools, self._passages)
        return scores | {"macro": math.fsum(scores.values()) / len(scores)}


class Questions(NamedTuple):
    """Held-out questions of a reading task: each with a gold passage and others of the pool, and its answers."""

    task: str
    read: Sequence[tuple[str, Sequence[Passage]]]
    answers: Sequence[Sequence[str]]


class SharedValidation(PoolValidation):
    """As before, and of each reading task the share of questions with an answer that is right (EM); `macro` is the mean of all."""

    what = "page R-precision in the validation pools, EM of reading"

    def __init__(
        self,
        model: SharedEncoder,
        pools: Sequence[Pool],
        passages: Mapping[str, Passage],
        questions: Sequence[Questions],
    ) -> None:
        super().__init__(model, pools, passages)
        self._shared = model
        self._questions = questions

    def __call__(self) -> dict[str, float]:
        scores = super().__call__()
        del scores["macro"]
        reader = self._shared.as_reader()
        for task, read, golds in self._questions:
            found = zip(reader.read(read), golds, strict=True)
            right = [max(exact_match(answer.text if answer else "", gold) for gold in own) for answer, own in found]
            scores[f"{task} reading"] = math.fsum(right) / len(right)
        return scores | {"macro": math.fsum(scores.values()) / len(scores)}


def validate(encoder: TextEncoder, pools: Sequence[Pool], passages: Mapping[str, Passage]) -> dict[str, float]:
    """Page R-precision by task, each task's queries against its own pool. Passages in several pools are encoded once."""
    docids = list(dict.fromkeys(docid for pool in pools for docid in pool.docids))
    row_of = {docid: row for row, docid in enumerate(docids)}
    vectors_ND = encoder.encode_passages([passages[docid] for docid in docids])
    page_of = {docid: passages[docid].page for docid in docids}
    scores = {}
    for pool in pools:
        own_ND = vectors_ND[[row_of[docid] for docid in pool.docids]]
        queries_BD = encoder.encode_queries([query.text for query in pool.queries], pool.task)
        found = exact_search(queries_BD, own_ND, np.array(pool.docids, dtype=object), min(HITS, len(own_ND)))
        run = Run(dict(zip((query.qid for query in pool.queries), found, strict=True)))
        mean = evaluate(run, pool.queries, lambda wanted: {docid: page_of[docid] for docid in wanted}, [MEASURE]).mean(
            MEASURE
        )
        scores[pool.task] = mean or 0.0
    return scores
