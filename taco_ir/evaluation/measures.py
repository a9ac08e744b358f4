"""Measures of retrieval and answers: reads and prints their names, and scores runs by them.

Page-level measures are KILT's (kilt_pages.py). Passage-level measures are trec_eval's, on qrels that are the union of
the evidence sets. Answers are scored by KILT's downstream measures (answers.py).
"""

from __future__ import annotations

import difflib
import math
import re
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from taco_ir.core.files import InputError
from taco_ir.core.run_formats import PageOf, missing_topics, ranked_pages
from taco_ir.core.types import Query, Run, refuse_text
from taco_ir.data.query_files import Qrels
from taco_ir.evaluation.answers import ANSWER_MEASURES, answer_scores, gold_answers
from taco_ir.evaluation.kilt_pages import kilt_scores

KINDS = {
    "page": ("Rprec", "recall", "success", "precision"),
    "passage": ("MRR", "R", "nDCG"),
    "answer": ANSWER_MEASURES,
}
LEVELS = {kind: level for level, kinds in KINDS.items() for kind in kinds}
PRINTED = {"Rprec": "R-precision", "AC": "accuracy", "RL": "ROUGE-L"}  # names that are not the kind itself
AT_K = tuple(kind for kind, level in LEVELS.items() if level != "answer" and kind != "Rprec")  # with a cutoff
# kind -> trec_eval's name
TREC_NAMES = {"MRR": "recip_rank", "R": "recall.{k}", "nDCG": "ndcg_cut.{k}"}
BATCH = 200  # queries scored together
LARGEST_CUTOFF = 1_000_000
FORM = re.compile(r"(?:(page|passage|answer) )?([A-Za-z-]+1?)(?:@([1-9][0-9]{0,5}))?")


class Measure(NamedTuple):
    """A measure of retrieval or of answers.

    Attributes:
        kind: a key of LEVELS, such as `recall`, or the full name of a measure in ir_measures.
        k: the cutoff; 0 for R-precision, for answer measures, and for measures of ir_measures.
    """

    kind: str
    k: int = 0

    @classmethod
    def parse(cls, text: str) -> Measure:
        """Parse a name: `Rprec`, `recall@5`, `nDCG@10`, ..., or the printed form (`page recall@5`).

        Raises:
            InputError: for an unknown name; the message has the most similar name and all names.
        """
        if match := FORM.fullmatch(text.strip()):
            level, name, k = match.groups()
            for kind, own_level in LEVELS.items():
                named = name in (kind, PRINTED.get(kind)) and level in (None, own_level)
                if named and (k is None) == (kind not in AT_K):
                    return cls(kind, int(k or 0))
        if canonical := canonical_name(text.strip().removeprefix("passage ")):
            return cls(canonical)
        forms = [f"{kind}@k" if kind in AT_K else kind for kind in LEVELS]
        wanted = re.sub(r"@.*", "@k", text.strip().lower())
        nearest = max(forms, key=lambda form: difflib.SequenceMatcher(None, wanted, form.lower()).ratio())
        raise InputError(
            f"measure {text!r} is not known, the nearest is {nearest}; allowed (k is 1 or more): for pages: "
            f"{', '.join(forms[:4])}; for passages: {', '.join(forms[4:7])} and any measure of ir_measures, such as "
            f"AP, RR@10, Judged@10; for answers: {', '.join(forms[7:])}"
        )

    @property
    def level(self) -> str:
        return LEVELS.get(self.kind, "passage")

    @property
    def short(self) -> str:
        """The name in flags and files, such as `recall@5`."""
        return f"{self.kind}@{self.k}" if self.k else self.kind

    def __str__(self) -> str:
        return f"{self.level} {PRINTED.get(self.kind, self.kind)}" + (f"@{self.k}" if self.k else "")


MACRO = "macro average"
DEFAULTS = ("Rprec", "recall@5", "success@5", "precision@1", "MRR@10", "R@20", "R@100", "nDCG@10")
MEASURES = tuple(map(Measure.parse, DEFAULTS))
SUMMARY = tuple(map(Measure.parse, ("Rprec", "recall@5", "MRR@10", "R@20")))
GRADED = tuple(Measure(*each) for each in (("nDCG", 10), ("MRR", 10), ("R", 20), ("R", 100), ("AP",), ("Judged@10",)))


def default_measures(has_pages: bool, short: bool = False) -> tuple[Measure, ...]:
    """Returns the default measures for a collection with or without pages; if `short`, only the main measures."""
    if not has_pages:
        return GRADED[:3] if short else GRADED
    return SUMMARY if short else MEASURES


class Scores(NamedTuple):
    """A run's scores on one task.

    Attributes:
        by_query: values by measure and qid; None if the measure does not apply. A passage measure needs a run of
            passages and judged passages; an answer measure needs answers in run and gold.
        missing: qids without a ranking in the run; they score 0.
    """

    by_query: dict[Measure, dict[str, float] | None]
    missing: list[str]

    def mean(self, measure: Measure) -> float | None:
        """Returns the mean over queries (passage measures: queries with judged passages); None without values."""
        values = self.by_query[measure]
        return math.fsum(values.values()) / len(values) if values else None


def score_run(run: Run, queries: Sequence[Query], page_of: PageOf, measures: Iterable[Measure] = MEASURES) -> Scores:
    """Score a run against the gold of its topics.

    Args:
        page_of: returns the page of each docid (see `page_run`).

    Raises:
        InputError: if the run has topics that are not among the queries, or a docid without a page.
    """
    refuse_text(measures, "measures")
    missing = missing_topics(run, queries)
    measures = list(dict.fromkeys(measures))
    levels = {"page": True, "passage": run.level == "passage"}
    levels["answer"] = bool(run.answers) and any(map(gold_answers, queries))
    of_pages, of_passages, of_answers = (
        [measure for measure in measures if measure.level == level and levels[level]]
        for level in ("page", "passage", "answer")
    )
    found: dict[Measure, dict[str, float]] = {measure: {} for measure in (*of_pages, *of_answers, *of_passages)}
    for start in range(0, len(queries), BATCH):
        batch = queries[start : start + BATCH]
        own = run._replace(rankings={each.qid: run.rankings[each.qid] for each in batch if each.qid in run.rankings})
        if of_pages or of_answers:
            rankings = dict(ranked_pages(own, page_of))
            scores = kilt_scores(rankings, batch, [measure.short for measure in of_pages])
            scores |= answer_scores(run.answers, rankings, batch, [measure.short for measure in of_answers])
            for measure in (*of_pages, *of_answers):
                found[measure] |= scores[measure.short]
        if of_passages and (qrels := passage_qrels(batch)):
            for measure, values in passage_scores(own, qrels, of_passages).items():
                found[measure] |= values
    return Scores({measure: found.get(measure) or None for measure in measures}, missing)


def passage_qrels(queries: Iterable[Query]) -> dict[str, dict[str, int]]:
    """Returns relevance grades by qid and docid. Without grades, gold passages have 1; other queries are left out."""
    qrels = {query.qid: dict(query.grades) or dict.fromkeys(query.gold_passages, 1) for query in queries}
    return {qid: relevant for qid, relevant in qrels.items() if relevant}


def passage_scores(
    run: Run, qrels: Mapping[str, Mapping[str, int]], measures: Sequence[Measure]
) -> dict[Measure, dict[str, float]]:
    """Returns trec_eval's scores by measure and qid for all judged queries; a query that the run lacks scores 0.

    trec_eval orders hits by score and docid, so it gets -rank as the score to keep the run's order. Its reciprocal
    rank has no cutoff, so for MRR@k it gets only the first k hits.
    """
    import pytrec_eval

    named = [measure for measure in measures if measure.kind not in TREC_NAMES]
    scores: dict[Measure, dict[str, float]] = {}
    if named:
        found_named = named_scores(run, qrels, [measure.kind for measure in named])
        scores = {measure: found_named[measure.kind] for measure in named}
    measures = [measure for measure in measures if measure.kind in TREC_NAMES]
    cut = {measure: measure.k for measure in measures if measure.kind == "MRR"}
    deepest = max((measure.k for measure in measures if measure not in cut), default=0)
    depths: dict[int, list[Measure]] = {}
    for measure in measures:
        depths.setdefault(cut.get(measure, deepest), []).append(measure)
    for depth, own in depths.items():
        names = {measure: TREC_NAMES[measure.kind].format(k=measure.k) for measure in own}
        ranked = {}
        for qid in qrels.keys() & run.rankings.keys():
            if docids := _cut_after_last(qrels[qid], run.rankings[qid].docids[:depth]):
                ranked[qid] = {docid: -float(rank) for rank, docid in enumerate(docids)}
        found = pytrec_eval.RelevanceEvaluator(qrels, set(names.values())).evaluate(ranked)
        for measure, name in names.items():
            scores[measure] = {qid: found[qid][name.replace(".", "_")] if qid in found else 0.0 for qid in qrels}
    return scores


def _cut_after_last(relevant: Collection[str], docids: Sequence[str]) -> Sequence[str]:
    """Returns the hits up to the last relevant hit; later hits change no value."""
    found = [docids.index(docid) for docid in set(relevant).intersection(docids)]
    return docids[: max(found, default=-1) + 1]


def macro_average(tasks: Iterable[Scores], measure: Measure) -> float | None:
    """Returns the mean of the tasks' means, with equal weights; None if a task has no value, or there is no task."""
    means = [task.mean(measure) for task in tasks]
    values = [mean for mean in means if mean is not None]
    return math.fsum(values) / len(values) if values and len(values) == len(means) else None


def canonical_name(text: str) -> str | None:
    """Returns the canonical name of a measure that pytrec_eval or ir_measures can compute; None for any other text.

    Measures that need external programs are not accepted. Cutoffs are from 1 to 999,999.
    """
    import ir_measures

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # its parser, on Python 3.12
        try:
            measure = ir_measures.parse_measure(text)
            providers = (ir_measures.pytrec_eval, ir_measures.judged, ir_measures.msmarco)
            computed = any(provider.supports(measure) for provider in providers)
        except (NameError, ValueError, TypeError, AssertionError, SyntaxError):
            return None
    cutoff = measure.params.get("cutoff", 1)
    return str(measure) if computed and 1 <= cutoff < LARGEST_CUTOFF else None


def named_scores(run: Run, qrels: Mapping[str, Mapping[str, int]], names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Returns scores of ir_measures by measure name and qid, for all judged queries; a query without hits scores 0."""
    import ir_measures

    ranked = {  # -rank as the score keeps the run's order
        qid: {docid: -float(rank) for rank, docid in enumerate(run.rankings[qid].docids, 1)}
        for qid in qrels
        if qid in run.rankings
    }
    judged: Qrels = {qid: dict(grades) for qid, grades in qrels.items()}
    scores = {name: dict.fromkeys(qrels, 0.0) for name in names}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        by_measure = {ir_measures.parse_measure(name): name for name in names}
    for found in ir_measures.iter_calc(list(by_measure), judged, ranked):
        scores[by_measure[found.measure]][found.query_id] = float(found.value)
    return scores
