"""The leaderboard as one HTML file that needs nothing else, and its macro averages as a picture (SVG).

The page holds data as JSON and a script that draws it (page_assets/leaderboard.js, plots.js, pairs.js): sortable tables, plots, and the
queries that systems answer most differently, with what each ranks first.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from taco_ir.core.run_formats import read_run
from taco_ir.core.types import Run
from taco_ir.data.collection import Topics
from taco_ir.evaluation.measures import MACRO
from taco_ir.evaluation.significance import SIGNIFICANT
from taco_ir.evaluation.tables import templates_of
from taco_ir.studies.board import Board, BoardRow
from taco_ir.studies.board_tables import Quoted, quoted_table
from taco_ir.studies.comparison import row_name
from taco_ir.studies.conditions import Job
from taco_ir.studies.records import Record, TopicScores
from taco_ir.studies.scores import TESTED

if TYPE_CHECKING:
    from taco_ir.studies.runner import Runner

MOST_QUERIES, RANKED = 20, 3  # of each topics, passages of each system
SHOWN = 600  # of a passage


WIDTH, LEFT, RIGHT, TOP, STEP = 880, 300, 90, 40, 28
MOST_TICKS = 6

# printable ASCII without what JSON or HTML escapes
LETTERS = "".join(chr(code) for code in range(33, 127) if chr(code) not in "\"\\<>&'")
SCRIPTS = ("leaderboard.js", "plots.js", "pairs.js")
DIGITS = 5

Json = dict[str, Any]


class Example(NamedTuple):
    """A query to read.

    Attributes:
        row: its position in the topics, from 0.
        gold: docids of the passages of its evidence; pages: of its evidence, where pages are judged beyond those of `gold`.
        top: name of a system (`BoardRow.name`) -> docids that it ranks first, best first.
    """

    row: int
    qid: str
    text: str
    gold: Sequence[str]
    top: Mapping[str, Sequence[str]]
    pages: Sequence[str] = ()


class Examples(NamedTuple):
    """Texts of one corpus for the page.

    Attributes:
        corpus: the name of the board that they belong to.
        topics: name of topics -> queries to read.
        passages: docid -> title, text, page.
        judged: name of topics -> positions of the queries that passage measures apply to, where these are not all.
    """

    corpus: str
    topics: Mapping[str, Sequence[Example]]
    passages: Mapping[str, tuple[str, str, str]]
    judged: Mapping[str, Sequence[int]] = {}


def page(
    boards: Sequence[Board], results: Sequence[Record], published: Sequence[Quoted], examples: Examples | None
) -> str:
    """The page as HTML: style and scripts inline and named by hash in its content security policy, every text escaped.

    Args:
        results: those that the boards were made of; values by query come from them.
    """
    data = {
        "boards": [_board(board, [each for each in results if each.corpus == board.corpus]) for board in boards],
        "examples": examples and _examples(examples),
        "letters": LETTERS,
        "macro": MACRO,
        "significant": SIGNIFICANT,
    }
    templates = templates_of("taco_ir.studies", "page_assets")
    style, script = _source("leaderboard.css"), "".join(_source(name) for name in SCRIPTS)
    return templates.get_template("leaderboard.html").render(
        data=json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False).replace("<", "\\u003c"),
        style=style,
        script=script,
        policy={"style": _sha256(style), "script": _sha256(script)},
        macro=MACRO,
        significant=SIGNIFICANT,
        quoted=quoted_table(list(published)) if published else None,
    )


def _source(name: str) -> str:
    """A file of the report's folder as it stands."""
    templates = templates_of("taco_ir.studies", "page_assets")
    assert templates.loader is not None
    return templates.loader.get_source(templates, name)[0]


def _sha256(text: str) -> str:
    """The hash by which a content security policy names an inline script or style."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _board(board: Board, results: Sequence[Record]) -> Json:
    of_topics = {name: scores for result in results for name, scores in result.topics.items()}
    return {
        "corpus": board.corpus,
        "passages": board.passages,
        "topics": board.topics,
        "slices": board.slices,
        "whole": {name: of_topics[name].part_of for name in board.slices},
        "queries": {name: of_topics[name].queries for name in (*board.topics, *board.slices)},
        "measures": board.measures,
        "baseline": board.baseline,
        "notes": board.notes,
        "rows": [_row(row, {each.against for each in board.rows}) for row in board.rows],
        "comparisons": _comparisons(board),
        "values": {name: _values(board, name, results) for name in (*board.topics, *board.slices)},
    }


def _row(row: BoardRow, baselines: Collection[str]) -> Json:
    scores = {
        topics: {
            measure: [
                round(stat.mean, DIGITS),
                stat.sd if stat.sd is None else round(stat.sd, DIGITS),
                [round(v, DIGITS) for v in stat.by_seed],
            ]
            for measure, stat in by_measure.items()
        }
        for topics, by_measure in row.scores.items()
    }
    return {
        "name": row.name,
        "system": row.system,
        "base": row.base,
        "seeds": row.seeds,
        "baseline": row.name in baselines,
        "against": row.against,
        "scores": scores,
    }


def _comparisons(board: Board) -> Json:
    """Measure -> place of the row -> topics -> [difference, low, high, p after Holm]."""
    place = {(row.system, row.base): number for number, row in enumerate(board.rows)}
    found: dict[str, dict[int, dict[str, list[float]]]] = defaultdict(lambda: defaultdict(dict))
    for each in board.comparisons:
        numbers = (each.difference, each.low, each.high, each.p_holm)
        found[each.measure][place[each.system, each.base]][each.topics] = [round(number, DIGITS) for number in numbers]
    return found


def _values(board: Board, topics: str, results: Sequence[Record]) -> Json:
    """Measure -> the rows' values by query, averaged over their seeds and packed; a row whose seeds do not all have them has None."""
    shown = {(row.system, row.base, seed) for row in board.rows for seed in row.seeds}
    seeds: dict[tuple[str, str], list[TopicScores]] = defaultdict(list)
    for result in results:
        if topics in result.topics and (result.system, result.base, result.seed) in shown:
            seeds[result.system, result.base].append(result.topics[topics])
    return {
        measure: _packed([_averaged(seeds[row.system, row.base], measure) for row in board.rows])
        for measure in board.measures
    }


def _averaged(seeds: Sequence[TopicScores], measure: str) -> npt.NDArray[np.float64] | None:
    values = [scores.by_query[measure] for scores in seeds if measure in scores.by_query]
    return np.mean(values, axis=0) if seeds and len(values) == len(seeds) else None


def _packed(rows: Sequence[npt.NDArray[np.float64] | None]) -> Json:
    """Values in thousandths: the distinct ones as `levels`, and for each row a text of one letter a query, two where one does not do."""
    thousandths = [None if values_Q is None else np.rint(values_Q * 1000).astype(int) for values_Q in rows]
    levels = sorted({level for values_Q in thousandths if values_Q is not None for level in values_Q.tolist()})
    base = len(LETTERS)
    names = LETTERS if len(levels) <= base else [high + low for high in LETTERS for low in LETTERS]
    letters = dict(zip(levels, names, strict=False))
    return {
        "levels": levels,
        "rows": [
            None if values_Q is None else "".join(letters[level] for level in values_Q.tolist())
            for values_Q in thousandths
        ],
    }


def _examples(examples: Examples) -> Json:
    return {
        "corpus": examples.corpus,
        "topics": {name: [example._asdict() for example in queries] for name, queries in examples.topics.items()},
        "passages": dict(examples.passages),
        "judged": dict(examples.judged),
    }


def examples(runner: Runner, results: Sequence[Record], corpus: str) -> Examples | None:
    """Of the first seed of each system on `corpus`; None where the runs are not in the runner's folder. Raises: InputError for a model that was not given."""
    first = first_seeds([result for result in results if result.corpus == corpus])
    kept: dict[str, list[Example]] = {}
    judged: dict[str, list[int]] = {}
    for name in runner.study.topics:
        here = [result for result in first if name in result.topics]
        found: dict[str, Run] = {}
        for result in here:
            known = result.condition in runner.study.conditions
            if known and (path := runner.runs(Job(result.condition, result.seed), corpus) / f"{name}.trec").is_file():
                found[row_name(result.system, result.base)] = read_run(path)
        if found:
            topics = runner.collection.load_topics(name)
            kept[name] = [_example(topics, row, found) for row in telling(here, name)]
            judged[name] = [
                row for row, query in enumerate(topics.queries) if any(each.passages for each in query.evidence)
            ]
    docids = {
        docid
        for each in kept.values()
        for one in each
        for docid in (*one.gold, *(d for top in one.top.values() for d in top))
    }
    passages = {
        docid: (each.title, each.text[:SHOWN], each.page)
        for docid, each in runner.collection.passages.get(sorted(docids)).items()
    }
    return Examples(corpus, kept, passages, judged) if kept else None


def first_seeds(results: Sequence[Record]) -> list[Record]:
    """Of each condition the record with the lowest seed."""
    best: dict[str, Record] = {}
    for result in results:
        if result.condition not in best or result.seed < best[result.condition].seed:
            best[result.condition] = result
    return list(best.values())


def telling(results: Sequence[Record], topics: str) -> list[int]:
    """Positions of the queries whose page R-precision varies most between the systems, in the order of the topics."""
    values = [result.topics[topics].by_query[str(TESTED[0])] for result in results]
    means = [sum(of_query) / len(of_query) for of_query in zip(*values, strict=True)]
    spread = [
        sum((value - mean) ** 2 for value in of_query)
        for of_query, mean in zip(zip(*values, strict=True), means, strict=True)
    ]
    return sorted(sorted(range(len(spread)), key=lambda row: (-spread[row], row))[:MOST_QUERIES])


def _example(topics: Topics, row: int, runs: Mapping[str, Run]) -> Example:
    query = topics.queries[row]
    gold = tuple(dict.fromkeys(docid for evidence in query.evidence for docid in evidence.passages))
    pages = tuple(dict.fromkeys(page for evidence in query.evidence for page in evidence.pages))
    top = {
        name: tuple(run.rankings[query.qid].docids[:RANKED]) for name, run in runs.items() if query.qid in run.rankings
    }
    return Example(row, query.qid, query.text, gold, top, pages)


def macro_plot(board: Board, measure: str) -> str:
    """Of the rows that have an average (of the only topics, where there is one), best first. Colours follow the reader's light or dark."""
    part = MACRO if len(board.topics) > 1 else board.topics[0]
    rows = [row for row in board.rows if row.stat(part, measure)]
    top = max((value for row in rows for value in _reach(row, part, measure)), default=1.0) or 1.0
    step = next(step for step in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0) if top / step <= MOST_TICKS or step == 1.0)
    scale = (WIDTH - LEFT - RIGHT) / top
    ticks = [
        {"x": round(LEFT + scale * step * number, 1), "label": f"{step * number:.2f}"}
        for number in range(int(top / step) + 1)
    ]
    bars = [_bar(row, part, measure, TOP + STEP * place, scale) for place, row in enumerate(rows)]
    return (
        templates_of("taco_ir.studies", "page_assets")
        .get_template("board.svg")
        .render(
            title=f"{measure}, {part}: {board.corpus} ({board.passages:,} passages)",
            bars=bars,
            ticks=ticks,
            width=WIDTH,
            height=TOP + STEP * len(rows) + 28,
            left=LEFT,
        )
    )


def _reach(row: BoardRow, part: str, measure: str) -> list[float]:
    """How far to the right anything of a row is drawn."""
    stat = row.stat(part, measure)
    return [stat.mean + (stat.sd or 0.0), *stat.by_seed] if stat else []


def _bar(row: BoardRow, part: str, measure: str, y: int, scale: float) -> dict[str, Any]:
    stat = row.stat(part, measure)
    assert stat is not None  # rows without are left out

    def place(value: float) -> float:
        return round(LEFT + scale * max(0.0, value), 1)

    several = stat.sd is not None
    return {
        "name": row.name,
        "y": y,
        "length": round(scale * stat.mean, 1),
        "low": place(stat.mean - stat.sd) if stat.sd is not None else None,
        "high": place(stat.mean + stat.sd) if stat.sd is not None else None,
        "seeds": [place(value) for value in stat.by_seed] if several else [],
        "end": place(max(_reach(row, part, measure))),
        "label": f"{stat.mean:.3f}",
    }
