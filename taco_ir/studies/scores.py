"""Scores a condition's run files by topics and slice, and compares recorded scores with new ones."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from taco_ir.core.processes import collector_paused
from taco_ir.core.run_formats import read_run
from taco_ir.data.collection import Collection, Topics
from taco_ir.evaluation.measures import Measure, Scores, default_measures, score_run
from taco_ir.evaluation.significance import DIGITS
from taco_ir.studies.conditions import Slice
from taco_ir.studies.records import Record, TopicScores

MEASURES = tuple(map(Measure.parse, ("Rprec", "recall@5", "MRR@10", "R@20")))
TESTED = tuple(map(Measure.parse, ("Rprec", "nDCG@10", "R@20")))
ANSWER_MEASURES = tuple(map(Measure.parse, ("EM", "F1", "KILT-EM", "KILT-F1")))
ANSWERS = "answers"  # the folder for answers, in the folder of runs


@collector_paused()
def score_runs(
    collection: Collection, names: Sequence[str], slices: Sequence[Slice], folder: Path
) -> dict[str, TopicScores]:
    """Score `folder/<topics>.trec`, and `answers/<topics>.jsonl` if there are answers, by topics and slice.

    If passages have no pages, the measures for graded judgments are used.

    Raises:
        InputError: if a run is missing, or belongs to other topics.
    """
    page_of = collection.passages.page_of
    measures = MEASURES if collection.passages.has_pages else default_measures(has_pages=False, short=True)
    found: dict[str, TopicScores] = {}
    for topics in map(collection.load_topics, names):
        scores = score_run(read_run(folder / f"{topics.name}.trec"), topics.queries, page_of, measures)
        if (answers := folder / ANSWERS / f"{topics.name}.jsonl").is_file():
            answered = score_run(read_run(answers), topics.queries, page_of, ANSWER_MEASURES)
            scores = scores._replace(by_query={**scores.by_query, **answered.by_query})
        found[topics.name] = _select_scores(topics, scores)
        for each in slices:
            if each.topics == topics.name:
                subset = [query for query in topics.queries if query.meta.get(each.field) == each.value]
                found[each.name] = _select_scores(topics._replace(queries=subset), scores, topics.name)
    return found


def _select_scores(topics: Topics, scores: Scores, part_of: str = "") -> TopicScores:
    """Select the scores of the queries in `topics`."""
    qids = [query.qid for query in topics.queries]
    values = {
        str(measure): [round(by_qid[qid], DIGITS) for qid in qids if qid in by_qid]
        for measure, by_qid in scores.by_query.items()
        if by_qid
    }
    values = {measure: each for measure, each in values.items() if each}
    tested = [str(measure) for measure in (*TESTED, *ANSWER_MEASURES[:2])]
    return TopicScores(
        queries=len(qids),
        fingerprint=topics.gold_fingerprint,
        means={measure: math.fsum(each) / len(each) for measure, each in values.items()},
        by_query={measure: values[measure] for measure in tested if measure in values},
        part_of=part_of,
    )


def summarise_deviations(pairs: Sequence[tuple[Record, Record]], tolerance: float) -> tuple[list[str], str]:
    """Compare pairs (recorded, rescored); return a warning for each record that differs, and a summary."""
    lines = [lines for recorded, found in pairs if (lines := deviations(recorded, found, tolerance))]
    warnings = [f"{each[0]}{f', and {len(each) - 1} more' if len(each) > 1 else ''}" for each in lines]
    return warnings, (
        f"of {len(pairs)} records that this work folder did not make, {len(pairs) - len(lines)} came out as recorded "
        f"and {len(lines)} differ; they stay: remove the line of one to have the scores of this work folder recorded"
    )


def deviations(recorded: Record, found: Record, tolerance: float) -> list[str]:
    """Describe, in a line each, means that changed by more than the tolerance or are missing, and changed inputs."""
    lines = []
    if (recorded.passages, recorded.collection) != (found.passages, found.collection):
        lines.append(
            f"{recorded.name}: recorded on {recorded.passages} passages ({recorded.collection}), "
            f"found on {found.passages} ({found.collection})"
        )
    for topic in dict.fromkeys((*recorded.topics, *found.topics)):
        where = f"{recorded.name}: {topic}"
        before, after = recorded.topics.get(topic), found.topics.get(topic)
        if before is None or after is None:
            lines.append(f"{where}: only {'found' if before is None else 'recorded'}")
        elif before.fingerprint != after.fingerprint:
            lines.append(
                f"{where}: recorded on other queries or other gold ({before.fingerprint}) than found "
                f"({after.fingerprint})"
            )
        else:
            lines += [f"{where}, {line}" for line in _compare_means(before, after, tolerance)]
    return lines


def _compare_means(before: TopicScores, after: TopicScores, tolerance: float) -> Iterator[str]:
    for measure in dict.fromkeys((*before.means, *after.means)):
        old, new = before.means.get(measure), after.means.get(measure)
        if old is None or new is None:
            yield f"{measure}: only {'found' if old is None else 'recorded'}"
        elif not abs(new - old) <= tolerance:  # also true for NaN
            yield f"{measure}: recorded {old:.6f}, found {new:.6f}, moved by {new - old:+.6f}; allowed {tolerance}"
