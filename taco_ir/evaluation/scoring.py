"""Scores systems on topics, and builds table rows with macro averages and comparisons with a baseline."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence

from taco_ir.core.files import InputError
from taco_ir.core.processes import log
from taco_ir.core.run_formats import PageOf
from taco_ir.core.tasks import KINDS
from taco_ir.core.types import Run
from taco_ir.data.collection import Collection, Topics
from taco_ir.evaluation.answers import select_measures
from taco_ir.evaluation.measures import MACRO, Measure, Scores, macro_average, score_run
from taco_ir.evaluation.significance import Column, Comparison, Values, compare, paired_differences
from taco_ir.evaluation.tables import Cell, Marked, Table, render


def title(collection: Collection | None) -> str:
    """Returns the caption of a table of scores; `collection` is None if the gold comes from a file."""
    if collection is None:
        return "judgments of a file"
    return f"collection {collection.name}" + (" (a demonstration, no evidence)" if collection.name == "sample" else "")


def score(
    collection: Collection | None,
    topics: Sequence[Topics],
    runs: Mapping[str, Sequence[Run]],
    measures: Sequence[Measure],
    page_of: PageOf | None = None,
) -> dict[str, list[Scores]]:
    """Returns the scores by system name, one entry for each of the topics.

    Args:
        runs: by system name, one run for each of the topics.
        page_of: returns the page of each docid; None: look up pages in the collection, and refuse unknown docids.

    Raises:
        InputError: for a run of other topics, or a docid without a page.
    """
    page_of = page_of or (collection.passages.page_of if collection else _no_pages)
    scores: dict[str, list[Scores]] = {}
    for system, by_topics in runs.items():
        scores[system] = []
        for topic, run in zip(topics, by_topics, strict=True):
            scores[system].append(score_run(run, topic.queries, page_of, measures))
            if missing := len(scores[system][-1].missing):
                said = "%s has no hits for %d of %d queries of %s; they score 0"
                log.warning(said, system, missing, len(topic.queries), topic.name)
    return scores


def _no_pages(_docids: Iterable[str]) -> Mapping[str, str]:
    raise InputError("page-level measures need a collection, which records the page of each passage; give --topics")


def score_by_default(
    collection: Collection | None,
    topics: Sequence[Topics],
    runs: Mapping[str, Sequence[Run]],
    retrieval: Sequence[Measure],
    page_of: PageOf | None = None,
) -> tuple[dict[str, list[Scores]], list[Measure]]:
    """Score with the measures `retrieval` and, if runs have answers, with the answer measures of the topics' tasks.

    Returns:
        The scores (see `score`) and the measures. A measure is None on topics with a task that does not use it.
    """
    answered = [topic for place, topic in enumerate(topics) if any(own[place].answers for own in runs.values())]
    of_answers = [measure for topic in answered for measure in _select_measures(topic)]
    measures = list(dict.fromkeys([*retrieval, *of_answers]))
    scores = score(collection, topics, runs, measures, page_of)
    for results in scores.values():
        for topic, result in zip(topics, results, strict=True):
            for measure in result.by_query:
                if measure.level == "answer" and measure not in _select_measures(topic):
                    result.by_query[measure] = None
    return scores, measures


def _select_measures(topic: Topics) -> list[Measure]:
    """Returns the answer measures of the topics' task; EM and F1 for a task that is not KILT's."""
    return list(map(Measure.parse, select_measures(KINDS.get(topic.task, ""))))


def build_table(
    collection: Collection | None,
    topics: Sequence[Topics],
    scores: Mapping[str, Sequence[Scores]],
    measures: Sequence[Measure],
    comparisons: Sequence[Comparison] = (),
) -> Table:
    """Returns a table with the rows of `build_rows`; its title names the collection."""
    header = ["topics", "system", *map(str, measures)]
    return Table(title(collection), header, build_rows(topics, scores, measures, comparisons))


def build_rows(
    topics: Sequence[Topics],
    scores: Mapping[str, Sequence[Scores]],
    measures: Sequence[Measure],
    comparisons: Sequence[Comparison] = (),
) -> list[list[Cell]]:
    """Returns rows `topics, system, values`, then the macro averages; `*` marks significant differences."""
    marked = {(each.topics, each.system, each.measure) for each in comparisons if each.mark}

    def cell(value: float | None, *row: str, measure: Measure) -> Cell:
        return Marked(value, "*") if (*row, str(measure)) in marked and value is not None else value

    rows: list[list[Cell]] = []
    for place, topic in enumerate(topics):
        for system, results in scores.items():
            row = (topic.name, system)
            rows.append([*row, *(cell(results[place].mean(each), *row, measure=each) for each in measures)])
    for system, results in scores.items() if len(topics) > 1 else ():
        row = (MACRO, system)
        rows.append([*row, *(cell(macro_average(results, each), *row, measure=each) for each in measures)])
    return rows


def build_query_rows(
    topics: Sequence[Topics], scores: Mapping[str, Sequence[Scores]], measures: Sequence[Measure]
) -> list[list[Cell]]:
    """Returns rows `topics, system, query, values`, one for each query of each system."""
    return [
        [topic.name, system, query.qid, *((results[i].by_query[measure] or {}).get(query.qid) for measure in measures)]
        for i, topic in enumerate(topics)
        for system, results in scores.items()
        for query in topic.queries
    ]


def compare_with(
    topics: Sequence[Topics],
    scores: Mapping[str, Sequence[Scores]],
    baseline: str,
    measures: Sequence[Measure],
    seed: int,
) -> list[Comparison]:
    """Test each system against `baseline` where both have scores. Raises: InputError for different queries."""
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
    return render(build_table(collection, topics, score(collection, topics, runs, measures), measures), form)
