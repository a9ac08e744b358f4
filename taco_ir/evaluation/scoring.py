"""Systems x topics -> rows of scores, with the macro average over several topics, and comparisons with a baseline."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from taco_ir.core.progress import log
from taco_ir.core.run_formats import PageOf
from taco_ir.core.tasks import KINDS
from taco_ir.core.types import Run
from taco_ir.data.collection import Collection, Topics
from taco_ir.evaluation.answers import asked_measures
from taco_ir.evaluation.measures import MACRO, Measure, Scores, evaluate, macro_average
from taco_ir.evaluation.significance import Column, Comparison, Values, compare, paired_differences
from taco_ir.evaluation.tables import Cell, Marked, Table, render


def title(collection: Collection) -> str:
    return f"collection {collection.name}" + (" (a demonstration, no evidence)" if collection.name == "sample" else "")


def score(
    collection: Collection,
    topics: Sequence[Topics],
    runs: Mapping[str, Sequence[Run]],
    measures: Sequence[Measure],
    page_of: PageOf | None = None,
) -> dict[str, list[Scores]]:
    """Scores of each system, one for each of the topics.

    Args:
        page_of: gives the page of each docid; None: the collection's, which refuses those that it lacks.

    Raises:
        InputError: for a run of other topics, or a docid without a page.
    """
    page_of = page_of or collection.passages.page_of
    scores: dict[str, list[Scores]] = {}
    for system, by_topics in runs.items():
        scores[system] = [
            evaluate(run, topic.queries, page_of, measures) for topic, run in zip(topics, by_topics, strict=True)
        ]
        for topic, result in zip(topics, scores[system], strict=True):
            if result.missing:
                log.warning(
                    "%s has no hits for %d of %d queries of %s; they score 0",
                    system,
                    len(result.missing),
                    len(topic.queries),
                    topic.name,
                )
    return scores


def score_asked(
    collection: Collection,
    topics: Sequence[Topics],
    runs: Mapping[str, Sequence[Run]],
    retrieval: Sequence[Measure],
    page_of: PageOf | None = None,
) -> tuple[dict[str, list[Scores]], list[Measure]]:
    """As `score`, where no measures were named: by those of retrieval, and of answers, where there are some, by those that the task asks for.

    Returns:
        The scores, and the measures; what the task of some topics does not ask for has no value there.
    """
    answered = [
        topic for place, topic in enumerate(topics) if any(by_topics[place].answers for by_topics in runs.values())
    ]
    measures = list(dict.fromkeys([*retrieval, *(measure for topic in answered for measure in _asked_of(topic))]))
    scores = score(collection, topics, runs, measures, page_of)
    for results in scores.values():
        for topic, result in zip(topics, results, strict=True):
            asked = _asked_of(topic)
            result.by_query.update(
                {measure: None for measure in result.by_query if measure.level == "answer" and measure not in asked}
            )
    return scores, measures


def _asked_of(topic: Topics) -> list[Measure]:
    """The measures of answers that the topics' task asks for; EM and F1 for a task that is not KILT's."""
    return list(map(Measure.parse, asked_measures(KINDS.get(topic.task, ""))))


def table_of(
    collection: Collection,
    topics: Sequence[Topics],
    scores: Mapping[str, Sequence[Scores]],
    measures: Sequence[Measure],
    comparisons: Sequence[Comparison] = (),
) -> Table:
    """Scores as `rows_of` gives them, under the collection's name."""
    return Table(
        title(collection), ["topics", "system", *map(str, measures)], rows_of(topics, scores, measures, comparisons)
    )


def rows_of(
    topics: Sequence[Topics],
    scores: Mapping[str, Sequence[Scores]],
    measures: Sequence[Measure],
    comparisons: Sequence[Comparison] = (),
) -> list[list[Cell]]:
    """`topics, system, values` for each of the topics, then for their macro average; `*` marks what differs from the baseline."""
    marked = {(c.topics, c.system, c.measure) for c in comparisons if c.mark}
    rows: list[list[Cell]] = []
    for i, topic in enumerate(topics):
        for system, results in scores.items():
            rows.append(
                [
                    topic.name,
                    system,
                    *(_cell(results[i].mean(m), (topic.name, system, str(m)) in marked) for m in measures),
                ]
            )
    if len(topics) > 1:
        rows += [
            [MACRO, system, *(_cell(macro_average(results, m), (MACRO, system, str(m)) in marked) for m in measures)]
            for system, results in scores.items()
        ]
    return rows


def _cell(value: float | None, marked: bool) -> Cell:
    return Marked(value, "*") if marked and value is not None else value


def query_rows(
    topics: Sequence[Topics], scores: Mapping[str, Sequence[Scores]], measures: Sequence[Measure]
) -> list[list[Cell]]:
    """`topics, system, query, values` for every query."""
    return [
        [topic.name, system, query.qid, *((results[i].by_query[measure] or {}).get(query.qid) for measure in measures)]
        for i, topic in enumerate(topics)
        for system, results in scores.items()
        for query in topic.queries
    ]


def comparisons_with(
    topics: Sequence[Topics],
    scores: Mapping[str, Sequence[Scores]],
    baseline: str,
    measures: Sequence[Measure],
    seed: int,
) -> list[Comparison]:
    """Test every other system against `baseline`, where both have values. Raises: InputError for values of other queries."""
    differences: dict[str, dict[Column, Values]] = {topic.name: {} for topic in topics}
    for measure, (place, topic), (system, results) in itertools.product(measures, enumerate(topics), scores.items()):
        ours, theirs = results[place].by_query[measure], scores[baseline][place].by_query[measure]
        if system != baseline and ours and theirs:
            differences[topic.name][Column(system, "", str(measure))] = paired_differences(ours, theirs)
    return compare(differences, list(differences), (), seed)


def score_table(
    collection: Collection,
    topics: Sequence[Topics],
    runs: Mapping[str, Sequence[Run]],
    measures: Sequence[Measure],
    form: str,
) -> str:
    return render(table_of(collection, topics, score(collection, topics, runs, measures), measures), form)
