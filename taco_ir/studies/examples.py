"""Queries to read beside the leaderboard: those that a study's systems answer most differently, and what each ranks first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from taco_ir.core.run_formats import read_run
from taco_ir.core.types import Run
from taco_ir.data.collection import Topics
from taco_ir.studies.comparison import row_name
from taco_ir.studies.conditions import Job
from taco_ir.studies.page import Example, Examples
from taco_ir.studies.records import Result
from taco_ir.studies.runner import Runner
from taco_ir.studies.scores import TESTED

QUERIES, TOP = 20, 3  # of each topics, passages of each system
LETTERS = 600  # of a passage


def examples(runner: Runner, results: Sequence[Result], corpus: str) -> Examples | None:
    """Of the first seed of each system on `corpus`; None where the runs are not in the runner's folder."""
    first = first_seeds([result for result in results if result.corpus == corpus])
    kept: dict[str, list[Example]] = {}
    judged: dict[str, list[int]] = {}
    for name in runner.study.topics:
        here = [result for result in first if name in result.topics]
        found: dict[str, Run] = {}
        for result in here:
            path = runner.folder(Job(result.condition, result.seed)) / f"runs-{corpus}" / f"{name}.trec"
            if path.is_file():
                found[row_name(result.system, result.base)] = read_run(path)
        if found:
            topics = runner.collection.load_topics(name)
            kept[name] = [_example(topics, row, found) for row in telling(here, name)]
            judged[name] = [row for row, query in enumerate(topics.queries) if any(each.passages for each in query.evidence)]
    docids = {docid for each in kept.values() for one in each for docid in (*one.gold, *(d for top in one.top.values() for d in top))}
    passages = {
        docid: (each.title, each.text[:LETTERS], each.page) for docid, each in runner.collection.passages.get(sorted(docids)).items()
    }
    return Examples(corpus, kept, passages, judged) if kept else None


def first_seeds(results: Sequence[Result]) -> list[Result]:
    """Of each condition the record with the lowest seed."""
    best: dict[str, Result] = {}
    for result in results:
        if result.condition not in best or result.seed < best[result.condition].seed:
            best[result.condition] = result
    return list(best.values())


def telling(results: Sequence[Result], topics: str) -> list[int]:
    """Positions of the queries whose page R-precision varies most between the systems, in the order of the topics."""
    values = [result.topics[topics].by_query[str(TESTED[0])] for result in results]
    means = [sum(of_query) / len(of_query) for of_query in zip(*values, strict=True)]
    spread = [sum((value - mean) ** 2 for value in of_query) for of_query, mean in zip(zip(*values, strict=True), means, strict=True)]
    return sorted(sorted(range(len(spread)), key=lambda row: (-spread[row], row))[:QUERIES])


def _example(topics: Topics, row: int, runs: Mapping[str, Run]) -> Example:
    query = topics.queries[row]
    gold = tuple(dict.fromkeys(docid for evidence in query.evidence for docid in evidence.passages))
    pages = tuple(dict.fromkeys(page for evidence in query.evidence for page in evidence.pages))
    top = {name: tuple(run.rankings[query.qid].docids[:TOP]) for name, run in runs.items() if query.qid in run.rankings}
    return Example(row, query.qid, query.text, gold, top, pages)
