"""Renders a leaderboard as one self-contained HTML file.

The page contains its data as JSON and the scripts that draw it (page_assets/*.js): sortable tables, plots, and the
queries that systems answer most differently, with the top passages of each.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from taco_ir.core.run_formats import read_run
from taco_ir.core.types import Run
from taco_ir.data.collection import Topics
from taco_ir.evaluation.measures import MACRO
from taco_ir.evaluation.significance import SIGNIFICANT
from taco_ir.pages import make_page, templates_of
from taco_ir.studies.board import Board, BoardRow
from taco_ir.studies.conditions import Job
from taco_ir.studies.records import Record, TopicScores
from taco_ir.studies.scores import TESTED
from taco_ir.studies.tables import Quoted, quoted_table

if TYPE_CHECKING:
    from taco_ir.studies.jobs import Runner

MOST_QUERIES, RANKED = 20, 3  # queries of each query set; passages of each system
SHOWN = 600  # characters of a passage
# printable ASCII without what JSON or HTML escapes
LETTERS = "".join(chr(code) for code in range(33, 127) if chr(code) not in "\"\\<>&'")
SCRIPTS = ("leaderboard.js", "plots.js", "pairs.js")
DIGITS = 5

Json = dict[str, Any]


class Example(NamedTuple):
    """A query to read on the page.

    Attributes:
        row: position of the query in the topics, from 0.
        gold: docids of the query's gold passages.
        top: for each row's name, the docids that the system ranks highest, best first.
        pages: the query's gold pages.
    """

    row: int
    qid: str
    text: str
    gold: Sequence[str]
    top: Mapping[str, Sequence[str]]
    pages: Sequence[str] = ()


class Examples(NamedTuple):
    """The texts of one corpus that the page shows.

    Attributes:
        corpus: the corpus of the board.
        topics: queries to read, by name of topics.
        passages: title, text and page of each passage, by docid.
        judged: by name of topics, positions of the queries with gold passages.
    """

    corpus: str
    topics: Mapping[str, Sequence[Example]]
    passages: Mapping[str, tuple[str, str, str]]
    judged: Mapping[str, Sequence[int]] = {}


def render_page(
    boards: Sequence[Board], results: Sequence[Record], published: Sequence[Quoted], examples: Examples | None
) -> str:
    """Render boards as an HTML page, with every text escaped.

    Args:
        results: the records that the boards were made from; their values by query are shown, too.
        published: scores quoted from papers, shown in a separate table.
        examples: queries and passages to show; None: the page has none.
    """
    own = examples.topics if examples else {}
    topics = {name: [example._asdict() for example in queries] for name, queries in own.items()}
    data = {
        "boards": [_board_data(board, [each for each in results if each.corpus == board.corpus]) for board in boards],
        "examples": examples and examples._asdict() | {"topics": topics},
        "letters": LETTERS,
        "macro": MACRO,
        "significant": SIGNIFICANT,
    }
    return make_page(
        templates_of("taco_ir.studies", "page_assets"),
        "leaderboard.html",
        "Leaderboard",
        ("leaderboard.css",),
        SCRIPTS,
        data=json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False).replace("<", "\\u003c"),
        macro=MACRO,
        significant=SIGNIFICANT,
        quoted=quoted_table(list(published)) if published else None,
    )


def _board_data(board: Board, results: Sequence[Record]) -> Json:
    of_topics = {name: scores for result in results for name, scores in result.topics.items()}
    names = (*board.topics, *board.slices)
    baselines = {row.against for row in board.rows}
    return {
        "corpus": board.corpus,
        "passages": board.passages,
        "topics": board.topics,
        "slices": board.slices,
        "whole": {name: of_topics[name].part_of for name in board.slices},
        "queries": {name: of_topics[name].queries for name in names},
        "measures": board.measures,
        "baseline": board.baseline,
        "notes": board.notes,
        "rows": [_row_data(row, row.name in baselines) for row in board.rows],
        "comparisons": _comparison_data(board),
        "values": {name: _pack_values(board, name, results) for name in names},
    }


def _row_data(row: BoardRow, baseline: bool) -> Json:
    scores: dict[str, dict[str, Any]] = defaultdict(dict)
    for topics, by_measure in row.scores.items():
        for measure, stat in by_measure.items():
            sd = None if stat.sd is None else round(stat.sd, DIGITS)
            scores[topics][measure] = [round(stat.mean, DIGITS), sd, [round(v, DIGITS) for v in stat.by_seed]]
    names = {"name": row.name, "system": row.system, "base": row.base, "seeds": row.seeds}
    return {**names, "baseline": baseline, "against": row.against, "scores": scores}


def _comparison_data(board: Board) -> Json:
    """Return [difference, low, high, p after Holm] by measure, row number and topics."""
    place = {(row.system, row.base): number for number, row in enumerate(board.rows)}
    found: dict[str, dict[int, dict[str, list[float]]]] = defaultdict(lambda: defaultdict(dict))
    for test in board.comparisons:
        numbers = (test.difference, test.low, test.high, test.p_holm)
        found[test.measure][place[test.system, test.base]][test.topics] = [round(number, DIGITS) for number in numbers]
    return found


def _pack_values(board: Board, topics: str, results: Sequence[Record]) -> Json:
    """Return, by measure, the values by query of each row, averaged over seeds; None if they are missing for a seed."""
    shown = {(row.system, row.base, seed) for row in board.rows for seed in row.seeds}
    scores: dict[tuple[str, str], list[TopicScores]] = defaultdict(list)
    for result in results:
        if topics in result.topics and (result.system, result.base, result.seed) in shown:
            scores[result.system, result.base].append(result.topics[topics])

    def average(seeds: Sequence[TopicScores], measure: str) -> npt.NDArray[np.float64] | None:
        values = [each.by_query[measure] for each in seeds if measure in each.by_query]
        return np.mean(values, axis=0) if seeds and len(values) == len(seeds) else None

    return {
        measure: _pack([average(scores[row.system, row.base], measure) for row in board.rows])
        for measure in board.measures
    }


def _pack(rows: Sequence[npt.NDArray[np.float64] | None]) -> Json:
    """Pack values in thousandths: the distinct `levels`, and for each row a text with 1 or 2 letters for each query."""
    thousandths = [None if values_Q is None else np.rint(values_Q * 1000).astype(int).tolist() for values_Q in rows]
    levels = sorted({level for values in thousandths if values is not None for level in values})
    names = LETTERS if len(levels) <= len(LETTERS) else [high + low for high in LETTERS for low in LETTERS]
    letters = dict(zip(levels, names, strict=False))
    texts = [None if values is None else "".join(letters[level] for level in values) for values in thousandths]
    return {"levels": levels, "rows": texts}


def collect_examples(runner: Runner, results: Sequence[Record], corpus: str) -> Examples | None:
    """Collect queries and passages to show, from the runs of each system's first seed; None if there are no runs.

    Raises:
        InputError: if a model of the study was not given to the runner.
    """
    first: dict[str, Record] = {}
    for result in results:
        if result.corpus == corpus and result.seed <= first.get(result.condition, result).seed:
            first[result.condition] = result
    examples: dict[str, list[Example]] = {}
    judged: dict[str, list[int]] = {}
    docids: set[str] = set()
    for name in runner.study.topics:
        here = [result for result in first.values() if name in result.topics]
        runs: dict[str, Run] = {}
        for result in here:
            known = result.condition in runner.study.conditions
            if known and (path := runner.runs(Job(result.condition, result.seed), corpus) / f"{name}.trec").is_file():
                runs[result.row] = read_run(path)
        if runs:
            topics = runner.collection.load_topics(name)
            examples[name] = [_make_example(topics, row, runs) for row in most_different_queries(here, name)]
            judged[name] = [row for row, query in enumerate(topics.queries) if query.gold_passages]
            docids.update(
                docid for each in examples[name] for docids in (each.gold, *each.top.values()) for docid in docids
            )
    if not examples:
        return None
    found = runner.collection.passages.get(sorted(docids))
    passages = {docid: (each.title, each.text[:SHOWN], each.page) for docid, each in found.items()}
    return Examples(corpus, examples, passages, judged)


def most_different_queries(results: Sequence[Record], topics: str) -> list[int]:
    """Return the positions of the 20 queries with the most different scores in the results, in ascending order.

    The measure is page R-precision, or nDCG@10 if passages have no pages.
    """
    by_query = [result.topics[topics].by_query for result in results]
    measure = next(name for name in map(str, TESTED) if all(name in values for values in by_query))
    values_SQ = np.array([values[measure] for values in by_query])
    spread = np.var(values_SQ, axis=0)
    return sorted(np.argsort(-spread, kind="stable")[:MOST_QUERIES].tolist())


def _make_example(topics: Topics, row: int, runs: Mapping[str, Run]) -> Example:
    query = topics.queries[row]
    gold, pages = query.gold_passages, query.gold_pages
    ranked = {name: run.rankings[query.qid].docids for name, run in runs.items() if query.qid in run.rankings}
    return Example(
        row, query.qid, query.text, gold, {name: tuple(each[:RANKED]) for name, each in ranked.items()}, pages
    )
