"""Run files of a condition -> its scores, query by query, with the study's slices; and whether recorded scores come out again."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from taco_ir.core.processes import collector_paused
from taco_ir.core.run_formats import read_run
from taco_ir.data.collection import Collection, Topics
from taco_ir.evaluation.measures import Measure, Scores, evaluate
from taco_ir.evaluation.significance import DIGITS
from taco_ir.studies.conditions import Slice
from taco_ir.studies.records import Record, TopicScores

MEASURES = tuple(map(Measure.parse, ("Rprec", "recall@5", "MRR@10", "R@20")))
TESTED = tuple(map(Measure.parse, ("Rprec", "R@20")))
ANSWER_MEASURES = tuple(map(Measure.parse, ("EM", "F1", "KILT-EM", "KILT-F1")))
ANSWERS = "answers"  # the folder of answers beside runs


@collector_paused()
def score_runs(
    collection: Collection, names: Sequence[str], slices: Sequence[Slice], folder: Path
) -> dict[str, TopicScores]:
    """Scores of `folder / <topics>.trec`, by topics and by slice, with those of `answers/<topics>.jsonl` where there are any.

    Raises:
        InputError: for a run that is missing or of other topics.
    """
    found: dict[str, TopicScores] = {}
    for topics in map(collection.load_topics, names):
        scores = evaluate(
            read_run(folder / f"{topics.name}.trec"), topics.queries, collection.passages.page_of, MEASURES
        )
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
        by_query={
            str(measure): values[str(measure)]
            for measure in (*TESTED, *ANSWER_MEASURES[:2])
            if values.get(str(measure))
        },
        part_of=part_of,
    )


def _values(by_qid: Mapping[str, float], wanted: Sequence[str]) -> list[float]:
    return [round(by_qid[qid], DIGITS) for qid in wanted if qid in by_qid]


def told(stay: Sequence[tuple[Record, Record]], tolerance: float) -> tuple[list[str], str]:
    """Warnings of records that others made and that the work folder's own scores differ from, and how many agree, in words."""
    lines = [lines for recorded, found in stay if (lines := deviations(recorded, found, tolerance))]
    warnings = [f"{each[0]}{f', and {len(each) - 1} more' if len(each) > 1 else ''}" for each in lines]
    return warnings, (
        f"of {len(stay)} records that this work folder did not make, {len(stay) - len(lines)} came out as recorded and {len(lines)} differ; "
        "they stay: remove the line of one to have the scores of this work folder recorded"
    )


def deviations(recorded: Record, found: Record, tolerance: float) -> list[str]:
    """A line for each mean that moved by more than the tolerance, up or down, is only in one of the two, or is not of the same queries."""
    lines = []
    if (recorded.passages, recorded.collection) != (found.passages, found.collection):
        lines.append(
            f"{recorded.name}: recorded on {recorded.passages} passages ({recorded.collection}), found on {found.passages} ({found.collection})"
        )
    for topic in dict.fromkeys((*recorded.topics, *found.topics)):
        before, after = recorded.topics.get(topic), found.topics.get(topic)
        if before is None or after is None:
            lines.append(f"{recorded.name}: {topic}: only {'found' if before is None else 'recorded'}")
        elif before.fingerprint != after.fingerprint:
            lines.append(
                f"{recorded.name}: {topic}: recorded on other queries or other gold ({before.fingerprint}) than found ({after.fingerprint})"
            )
        else:
            lines += [f"{recorded.name}: {topic}, {line}" for line in _moved_means(before, after, tolerance)]
    return lines


def _moved_means(before: TopicScores, after: TopicScores, tolerance: float) -> Iterator[str]:
    for measure in dict.fromkeys((*before.means, *after.means)):
        old, new = before.means.get(measure), after.means.get(measure)
        if old is None or new is None:
            yield f"{measure}: only {'found' if old is None else 'recorded'}"
        elif not abs(new - old) <= tolerance:  # so that a NaN deviates
            yield f"{measure}: recorded {old:.6f}, found {new:.6f}, moved by {new - old:+.6f}; allowed {tolerance}"
