"""Measures as values that parse and print with their level, and a run's scores by them.

Page level is KILT's (see kilt_pages.py); passage level is trec_eval's, on qrels that are the union of the evidence sets; answers
are scored by KILT's downstream measures (see answers.py).
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from taco_ir.core.files import InputError
from taco_ir.core.run_formats import PageOf, missing_topics, ranked_pages
from taco_ir.core.types import Query, Run, refuse_text
from taco_ir.evaluation.answers import answer_scores, gold_answers
from taco_ir.evaluation.kilt_pages import kilt_scores

# kind -> level, printed name
KINDS = {
    "Rprec": ("page", "R-precision"),
    "recall": ("page", "recall"),
    "success": ("page", "success"),
    "precision": ("page", "precision"),
    "MRR": ("passage", "MRR"),
    "R": ("passage", "R"),
    "nDCG": ("passage", "nDCG"),
    "EM": ("answer", "EM"),
    "F1": ("answer", "F1"),
    "AC": ("answer", "accuracy"),
    "RL": ("answer", "ROUGE-L"),
    "KILT-EM": ("answer", "KILT-EM"),
    "KILT-F1": ("answer", "KILT-F1"),
    "KILT-AC": ("answer", "KILT-AC"),
    "KILT-RL": ("answer", "KILT-RL"),
}
AT_K = tuple(kind for kind, (level, _) in KINDS.items() if level != "answer" and kind != "Rprec")  # those with a cutoff
# kind -> trec_eval's name with and without its cutoff as a parameter
TREC_NAMES = {"MRR": "recip_rank", "R": "recall.{k}", "nDCG": "ndcg_cut.{k}"}
PART = 200  # queries scored together
FORM = re.compile(r"(?:(page|passage|answer) )?([A-Za-z-]+1?)(?:@([1-9][0-9]{0,5}))?")


class Measure(NamedTuple):
    """A measure of retrieval or of answers; `k` is its cutoff, 0 for those that have none: R-precision and all of answers."""

    kind: str
    k: int = 0

    @classmethod
    def parse(cls, text: str) -> Measure:
        """Read `Rprec`, `recall@5`, `nDCG@10`, ... or the printed form (`page recall@5`).

        Raises:
            InputError: naming the nearest valid form and all of them.
        """
        if match := FORM.fullmatch(text.strip()):
            level, name, k = match.groups()
            for kind, (level_of_kind, printed) in KINDS.items():
                if name in (kind, printed) and level in (None, level_of_kind) and (k is None) == (kind not in AT_K):
                    return cls(kind, int(k or 0))
        forms = [f"{kind}@k" if kind in AT_K else kind for kind in KINDS]
        wanted = re.sub(r"@.*", "@k", text.strip().lower())
        nearest = max(forms, key=lambda form: difflib.SequenceMatcher(None, wanted, form.lower()).ratio())
        raise InputError(
            f"measure {text!r} is not known, the nearest is {nearest}; allowed: {', '.join(forms[:4])} (page level), "
            f"{', '.join(forms[4:7])} (passage level), {', '.join(forms[7:])} (answers), k from 1"
        )

    @property
    def level(self) -> str:
        return KINDS[self.kind][0]

    @property
    def short(self) -> str:
        """The name for flags and files, such as `recall@5`."""
        return f"{self.kind}@{self.k}" if self.k else self.kind

    def __str__(self) -> str:
        level, printed = KINDS[self.kind]
        return f"{level} {printed}@{self.k}" if self.k else f"{level} {printed}"


MACRO = "macro average"
MEASURES = tuple(
    map(Measure.parse, ("Rprec", "recall@5", "success@5", "precision@1", "MRR@10", "R@20", "R@100", "nDCG@10"))
)


class Scores(NamedTuple):
    """A run's scores on one task.

    `by_query` maps measure -> qid -> value, or to None where the measure does not apply (passage measures without
    passage judgments, or on a run of pages; those of answers without answers, ours or gold); `missing` are the qids that the run has no ranking for (they score 0).
    """

    by_query: dict[Measure, dict[str, float] | None]
    missing: list[str]

    def mean(self, measure: Measure) -> float | None:
        """Mean over the queries (passage level: those with passage judgments; else all of them), or None."""
        values = self.by_query[measure]
        return math.fsum(values.values()) / len(values) if values else None


def evaluate(run: Run, queries: Sequence[Query], page_of: PageOf, measures: Iterable[Measure] = MEASURES) -> Scores:
    """Score a run against the evidence of its topics.

    Args:
        page_of: gives the page of each docid (see `page_run`).

    Raises:
        InputError: where the run has topics that are not among the queries, or a docid without a page.
    """
    refuse_text(measures, "measures")
    missing = missing_topics(run, queries)
    measures = list(dict.fromkeys(measures))
    if not (run.answers and any(map(gold_answers, queries))):
        measures_of_answers: list[Measure] = []
    else:
        measures_of_answers = [measure for measure in measures if measure.level == "answer"]
    of_pages = [measure for measure in measures if measure.level == "page"]
    of_passages = [measure for measure in measures if measure.level == "passage"] if run.level == "passage" else []
    found: dict[Measure, dict[str, float]] = {
        measure: {} for measure in (*of_pages, *measures_of_answers, *of_passages)
    }
    for start in range(0, len(queries), PART):
        part = queries[start : start + PART]
        own = run._replace(rankings={query.qid: run.rankings[query.qid] for query in part if query.qid in run.rankings})
        if of_pages or measures_of_answers:
            rankings = dict(ranked_pages(own, page_of))
            scores = kilt_scores(rankings, part, [measure.short for measure in of_pages])
            scores |= answer_scores(run.answers, rankings, part, [measure.short for measure in measures_of_answers])
            for measure in (*of_pages, *measures_of_answers):
                found[measure] |= scores[measure.short]
        if of_passages and (qrels := passage_qrels(part)):
            for measure, values in passage_scores(own, qrels, of_passages).items():
                found[measure] |= values
    return Scores({measure: found.get(measure) or None for measure in measures}, missing)


def passage_qrels(queries: Iterable[Query]) -> dict[str, dict[str, int]]:
    """qid -> relevant docid -> 1, the union over evidence sets; queries without judged passages are left out."""
    qrels = {query.qid: {docid: 1 for evidence in query.evidence for docid in evidence.passages} for query in queries}
    return {qid: relevant for qid, relevant in qrels.items() if relevant}


def passage_scores(
    run: Run, qrels: Mapping[str, Mapping[str, int]], measures: Sequence[Measure]
) -> dict[Measure, dict[str, float]]:
    """Measure -> qid -> trec_eval's value for every judged query; one that is missing from the run scores 0.

    trec_eval orders by score and then docid; it is given -rank as the score, so the run's own order is measured. The reciprocal
    rank has no cutoff there: it gets k hits alone.
    """
    import pytrec_eval

    cut = {measure: measure.k for measure in measures if measure.kind == "MRR"}
    deepest = max((measure.k for measure in measures if measure not in cut), default=0)
    depths: dict[int, list[Measure]] = {}
    for measure in measures:
        depths.setdefault(cut.get(measure, deepest), []).append(measure)
    scores: dict[Measure, dict[str, float]] = {}
    for depth, own in depths.items():
        names = {measure: TREC_NAMES[measure.kind].format(k=measure.k) for measure in own}
        hits = {
            qid: _to_the_last(relevant, run.rankings[qid].docids[:depth])
            for qid, relevant in qrels.items()
            if qid in run.rankings
        }
        evaluator = pytrec_eval.RelevanceEvaluator(qrels, set(names.values()))
        ranked = {
            qid: {docid: -float(rank) for rank, docid in enumerate(docids)} for qid, docids in hits.items() if docids
        }
        found = evaluator.evaluate(ranked)
        for measure, name in names.items():
            scores[measure] = {qid: found[qid][name.replace(".", "_")] if qid in found else 0.0 for qid in qrels}
    return scores


def _to_the_last(relevant: Collection[str], docids: Sequence[str]) -> Sequence[str]:
    """Hits up to the last one that is relevant: those behind it change no value, and none at all make every value 0."""
    found = [docids.index(docid) for docid in set(relevant).intersection(docids)]
    return docids[: max(found, default=-1) + 1]


def macro_average(tasks: Iterable[Scores], measure: Measure) -> float | None:
    """Mean of the tasks' means, each task counting once; None where any task has no value, or there is no task."""
    means = [task.mean(measure) for task in tasks]
    values = [mean for mean in means if mean is not None]
    return math.fsum(values) / len(values) if values and len(values) == len(means) else None
