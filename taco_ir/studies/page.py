"""The leaderboard as one HTML file that needs nothing else: sortable tables, plots, and queries that two systems answer differently.

The page holds data as JSON and a script that draws it (report/leaderboard.js, plots.js, pairs.js).
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from taco_ir.evaluation.measures import MACRO
from taco_ir.evaluation.pages import templates_of
from taco_ir.evaluation.significance import SIGNIFICANT
from taco_ir.studies.board import Board, BoardRow
from taco_ir.studies.published import Quoted, quoted_table
from taco_ir.studies.records import Result, TopicScores

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


def page(boards: Sequence[Board], results: Sequence[Result], published: Sequence[Quoted], examples: Examples | None) -> str:
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
    templates = templates_of("taco_ir.studies")
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
    templates = templates_of("taco_ir.studies")
    assert templates.loader is not None
    return templates.loader.get_source(templates, name)[0]


def _sha256(text: str) -> str:
    """The hash by which a content security policy names an inline script or style."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _board(board: Board, results: Sequence[Result]) -> Json:
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


def _values(board: Board, topics: str, results: Sequence[Result]) -> Json:
    """Measure -> the rows' values by query, averaged over their seeds and packed; a row whose seeds do not all have them has None."""
    shown = {(row.system, row.base, seed) for row in board.rows for seed in row.seeds}
    seeds: dict[tuple[str, str], list[TopicScores]] = defaultdict(list)
    for result in results:
        if topics in result.topics and (result.system, result.base, result.seed) in shown:
            seeds[result.system, result.base].append(result.topics[topics])
    return {measure: _packed([_averaged(seeds[row.system, row.base], measure) for row in board.rows]) for measure in board.measures}


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
        "rows": [None if values_Q is None else "".join(letters[level] for level in values_Q.tolist()) for values_Q in thousandths],
    }


def _examples(examples: Examples) -> Json:
    return {
        "corpus": examples.corpus,
        "topics": {name: [example._asdict() for example in queries] for name, queries in examples.topics.items()},
        "passages": dict(examples.passages),
        "judged": dict(examples.judged),
    }
