"""Systems x topics -> one table of scores: a block per topics, and the macro average where there are several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from taco_ir.console import log
from taco_ir.data.collections import Collection, Topics
from taco_ir.evaluation.measures import Measure, Scores, evaluate, macro_average
from taco_ir.evaluation.table import Cell, Table, render
from taco_ir.records import Run


def score(collection: Collection, topics: Sequence[Topics], runs: Mapping[str, Sequence[Run]], measures: Sequence[Measure]) -> dict[str, list[Scores]]:
    """Scores of each system, one for each of the topics. Raises: InputError for a run of other topics."""
    scores: dict[str, list[Scores]] = {}
    for system, by_topics in runs.items():
        scores[system] = [evaluate(run, topic.queries, collection.passages.page_of, measures) for topic, run in zip(topics, by_topics, strict=True)]
        for topic, result in zip(topics, scores[system], strict=True):
            if result.missing:
                log.warning("%s has no hits for %d of %d queries of %s; they score 0", system, len(result.missing), len(topic.queries), topic.name)
    return scores


def rows_of(topics: Sequence[Topics], scores: Mapping[str, Sequence[Scores]], measures: Sequence[Measure]) -> list[list[Cell]]:
    """`topics, system, values` for each of the topics, then for their macro average."""
    rows: list[list[Cell]] = [
        [topic.name, system, *(results[i].mean(measure) for measure in measures)] for i, topic in enumerate(topics) for system, results in scores.items()
    ]
    if len(topics) > 1:
        rows += [["macro average", system, *(macro_average(results, measure) for measure in measures)] for system, results in scores.items()]
    return rows


def score_table(collection: Collection, topics: Sequence[Topics], runs: Mapping[str, Sequence[Run]], measures: Sequence[Measure], form: str) -> str:
    rows = rows_of(topics, score(collection, topics, runs, measures), measures)
    return render(Table(f"collection {collection.name}", ["topics", "system", *map(str, measures)], rows), form)
