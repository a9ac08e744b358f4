"""Systems x topics -> rows of scores, with the macro average over several topics, and comparisons with a baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from taco_ir.core.progress import log
from taco_ir.core.tasks import KINDS
from taco_ir.core.types import Run
from taco_ir.data.collection import Collection, Topics
from taco_ir.evaluation.answers import asked_measures
from taco_ir.evaluation.kilt_pages import PageOf
from taco_ir.evaluation.measures import Measure, Scores, evaluate, macro_average
from taco_ir.evaluation.significance import bootstrap_interval, holm, mean_difference, paired_differences, randomisation_test
from taco_ir.evaluation.tables import Cell, Marked, Table, render

MACRO = "macro average"
SIGNIFICANT = 0.05


class Compared(NamedTuple):
    """A system's difference to the baseline on one measure; `topics` may be the macro average."""

    topics: str
    system: str
    measure: Measure
    difference: float
    low: float
    high: float
    p: float
    p_holm: float


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
        scores[system] = [evaluate(run, topic.queries, page_of, measures) for topic, run in zip(topics, by_topics, strict=True)]
        for topic, result in zip(topics, scores[system], strict=True):
            if result.missing:
                log.warning(
                    "%s has no hits for %d of %d queries of %s; they score 0", system, len(result.missing), len(topic.queries), topic.name
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
    answered = [topic for place, topic in enumerate(topics) if any(by_topics[place].answers for by_topics in runs.values())]
    measures = list(dict.fromkeys([*retrieval, *(measure for topic in answered for measure in _asked_of(topic))]))
    scores = score(collection, topics, runs, measures, page_of)
    for results in scores.values():
        for topic, result in zip(topics, results, strict=True):
            asked = _asked_of(topic)
            result.by_query.update({measure: None for measure in result.by_query if measure.level == "answer" and measure not in asked})
    return scores, measures


def _asked_of(topic: Topics) -> list[Measure]:
    """The measures of answers that the topics' task asks for; EM and F1 for a task that is not KILT's."""
    return list(map(Measure.parse, asked_measures(KINDS.get(topic.task, ""))))


def table_of(
    collection: Collection,
    topics: Sequence[Topics],
    scores: Mapping[str, Sequence[Scores]],
    measures: Sequence[Measure],
    comparisons: Sequence[Compared] = (),
) -> Table:
    """Scores as `rows_of` gives them, under the collection's name."""
    return Table(title(collection), ["topics", "system", *map(str, measures)], rows_of(topics, scores, measures, comparisons))


def rows_of(
    topics: Sequence[Topics], scores: Mapping[str, Sequence[Scores]], measures: Sequence[Measure], comparisons: Sequence[Compared] = ()
) -> list[list[Cell]]:
    """`topics, system, values` for each of the topics, then for their macro average; `*` marks what differs from the baseline."""
    marked = {(c.topics, c.system, c.measure) for c in comparisons if c.p_holm < SIGNIFICANT}
    rows: list[list[Cell]] = []
    for i, topic in enumerate(topics):
        for system, results in scores.items():
            rows.append([topic.name, system, *(_cell(results[i].mean(m), (topic.name, system, m) in marked) for m in measures)])
    if len(topics) > 1:
        rows += [
            [MACRO, system, *(_cell(macro_average(results, m), (MACRO, system, m) in marked) for m in measures)]
            for system, results in scores.items()
        ]
    return rows


def _cell(value: float | None, marked: bool) -> Cell:
    return Marked(value, "*") if marked and value is not None else value


def query_rows(topics: Sequence[Topics], scores: Mapping[str, Sequence[Scores]], measures: Sequence[Measure]) -> list[list[Cell]]:
    """`topics, system, query, values` for every query."""
    return [
        [topic.name, system, query.qid, *((results[i].by_query[measure] or {}).get(query.qid) for measure in measures)]
        for i, topic in enumerate(topics)
        for system, results in scores.items()
        for query in topic.queries
    ]


def compare(
    topics: Sequence[Topics], scores: Mapping[str, Sequence[Scores]], baseline: str, measures: Sequence[Measure], seed: int
) -> list[Compared]:
    """Test every other system against `baseline`; Holm's family is all rows of one measure."""
    parts: list[tuple[str, slice]] = [(topic.name, slice(i, i + 1)) for i, topic in enumerate(topics)]
    if len(topics) > 1:
        parts.append((MACRO, slice(None)))
    compared: list[Compared] = []
    for measure in measures:
        family = []
        for name, part in parts:
            for system in scores:
                pairs = [
                    (ours.by_query[measure], theirs.by_query[measure])
                    for ours, theirs in zip(scores[system][part], scores[baseline][part], strict=True)
                ]
                if system == baseline or not all(ours and theirs for ours, theirs in pairs):
                    continue
                differences = [paired_differences(ours or {}, theirs or {}) for ours, theirs in pairs]
                low, high = bootstrap_interval(differences, seed)
                family.append(
                    Compared(name, system, measure, mean_difference(differences), low, high, randomisation_test(differences, seed), 1.0)
                )
        compared += [row._replace(p_holm=p) for row, p in zip(family, holm([row.p for row in family]), strict=True)]
    return compared


def score_table(
    collection: Collection, topics: Sequence[Topics], runs: Mapping[str, Sequence[Run]], measures: Sequence[Measure], form: str
) -> str:
    return render(table_of(collection, topics, score(collection, topics, runs, measures), measures), form)
