"""Run files of a condition -> its scores, query by query, with the study's slices."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from taco_ir.core.files import collector_paused
from taco_ir.core.run_formats import read_run
from taco_ir.data.collection import Collection, Topics
from taco_ir.evaluation.measures import Measure, Scores, evaluate
from taco_ir.studies.conditions import Slice
from taco_ir.studies.records import TopicScores

MEASURES = tuple(map(Measure.parse, ("Rprec", "recall@5", "MRR@10", "R@20")))
TESTED = tuple(map(Measure.parse, ("Rprec", "R@20")))
ANSWER_MEASURES = tuple(map(Measure.parse, ("EM", "F1", "KILT-EM", "KILT-F1")))
ANSWERS = "answers"  # the folder of answers beside runs
DIGITS = 6


@collector_paused()
def score_runs(collection: Collection, names: Sequence[str], slices: Sequence[Slice], folder: Path) -> dict[str, TopicScores]:
    """Scores of `folder / <topics>.trec`, by topics and by slice, with those of `answers/<topics>.jsonl` where there are any.

    Raises:
        InputError: for a run that is missing or of other topics.
    """
    found: dict[str, TopicScores] = {}
    for topics in map(collection.load_topics, names):
        scores = evaluate(read_run(folder / f"{topics.name}.trec"), topics.queries, collection.passages.page_of, MEASURES)
        if (answers := folder / ANSWERS / f"{topics.name}.jsonl").is_file():
            answered = evaluate(read_run(answers), topics.queries, collection.passages.page_of, ANSWER_MEASURES)
            scores = scores._replace(by_query={**scores.by_query, **answered.by_query})
        found[topics.name] = _of(topics, scores)
        for each in slices:
            if each.topics == topics.name:
                kept = [query for query in topics.queries if query.meta.get(each.field) == each.value]
                found[each.name] = _of(topics._replace(queries=kept), scores, topics.name)
    return found


def _of(topics: Topics, scores: Scores, part_of: str = "") -> TopicScores:
    """Scores of the queries of `topics`, which may be a part of those that were scored."""
    wanted = [query.qid for query in topics.queries]
    values = {str(measure): _values(by_qid, wanted) for measure, by_qid in scores.by_query.items() if by_qid}
    return TopicScores(
        queries=len(wanted),
        fingerprint=topics.gold_fingerprint,
        means={measure: math.fsum(each) / len(each) for measure, each in values.items() if each},
        by_query={str(measure): values[str(measure)] for measure in (*TESTED, *ANSWER_MEASURES[:2]) if values.get(str(measure))},
        part_of=part_of,
    )


def _values(by_qid: Mapping[str, float], wanted: Sequence[str]) -> list[float]:
    return [round(by_qid[qid], DIGITS) for qid in wanted if qid in by_qid]
