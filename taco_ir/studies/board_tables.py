"""A leaderboard as tables (text, Markdown, LaTeX) and as JSON; wins and losses against the baseline are marked in all of them.

Scores quoted from papers, each with its source, stand in a block of their own and are never mixed with measured ones.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from taco_ir.evaluation.measures import MACRO
from taco_ir.evaluation.significance import SIGNIFICANT, Comparison
from taco_ir.evaluation.tables import Cell, Marked, PValue, Table, render, without_empty
from taco_ir.studies.board import Board, BoardRow


def render_boards(boards: Sequence[Board], form: str, brief: bool) -> str:
    """Boards as text in one of the forms of `evaluation.tables`, one after the other; scores quoted from papers last.

    Args:
        brief: one table for each board and measure, without slices, tests and quoted scores.
    """
    tables = [table for board in boards for table in (brief_tables(board) if brief else board_tables(board))]
    return "\n".join(render(table, form) for table in [*tables, *([] if brief else [quoted_table(published())])])


def board_tables(board: Board) -> list[Table]:
    """For each measure the scores and, with a baseline, the tests; then notes, if there are any."""
    tables = []
    for measure in board.measures:
        tables.append(score_table(board, measure))
        if board.baseline:
            tables.append(difference_table(board, measure))
    return [*tables, *_notes(board)]


def score_table(board: Board, measure: str) -> Table:
    """A row for each system: whole topics, their macro average, then slices, which do not enter it."""
    averages = [MACRO] if len(board.topics) > 1 else []
    names = [*board.topics, *averages, *board.slices]
    tests = {(c.system, c.base, c.topics): c for c in board.comparisons if c.measure == measure}
    columns = [
        _column([(row, tests.get((row.system, row.base, name))) for row in board.rows], name, measure) for name in names
    ]
    rows: list[list[Cell]] = [
        [row.system, row.base or None, len(row.seeds), *cells]
        for row, cells in zip(board.rows, zip(*columns, strict=True), strict=True)
    ]
    title = f"{board.corpus}, {board.passages:,} passages: {measure}, ± standard deviation over seeds"
    if board.baseline:
        title += f"; + better, - worse than {board.baseline} (p after Holm below {SIGNIFICANT})"
    return without_empty(Table(title, ["system", "base", "seeds", *names], rows, best=names), "base")


def brief_tables(board: Board) -> list[Table]:
    """For each measure the scores of whole topics, with spreads of the average alone; then notes, if there are any."""
    tables = [_brief_table(board, measure) for measure in board.measures]
    return [*tables, *_notes(board)]


def _brief_table(board: Board, measure: str) -> Table:
    whole = score_table(replace(board, slices=()), measure)
    average = whole.header.index(MACRO) if MACRO in whole.header else None
    rows = [
        [
            cell._replace(mark=_sign(cell.mark)) if isinstance(cell, Marked) and place != average else cell
            for place, cell in enumerate(row)
        ]
        for row in whole.rows
    ]
    short = {name: name.removesuffix("-dev") for name in board.topics}
    header = [short.get(name, name) for name in whole.header]
    return Table(whole.title, header, rows, [short.get(name, name) for name in whole.best])


def _sign(mark: str) -> str:
    """What is left of a mark without its standard deviation."""
    sign = mark.strip()[-1:]
    return f" {sign}" if sign in ("+", "-") else ""


def _notes(board: Board) -> list[Table]:
    return [Table(f"notes on {board.corpus}", ["note"], [[note] for note in board.notes])] if board.notes else []


def _column(rows: Sequence[tuple[BoardRow, Comparison | None]], name: str, measure: str) -> list[Cell]:
    """Scores of one topics, their marks of equal length, so that numbers stay below each other."""
    stats = [row.stat(name, measure) for row, _ in rows]
    spreads = ["" if stat is None or stat.sd is None else f" ±{stat.sd:.3f}".replace("0.", ".") for stat in stats]
    signs = [f" {test.mark}" if test and test.mark else "" for _, test in rows]
    width, sign_width = max(map(len, spreads), default=0), max(map(len, signs), default=0)
    return [
        None if stat is None else Marked(stat.mean, f"{spread:<{width}}{sign:<{sign_width}}")
        for stat, spread, sign in zip(stats, spreads, signs, strict=True)
    ]


def difference_table(board: Board, measure: str) -> Table:
    """For each system the difference of the macro average (of the only topics) to the baseline's, and where it wins and loses."""
    part = MACRO if len(board.topics) > 1 else board.topics[0]
    tests: Mapping[tuple[str, str, str], Comparison] = {
        (c.system, c.base, c.topics): c for c in board.comparisons if c.measure == measure
    }
    rows: list[list[Cell]] = []
    for row in board.rows:
        if not row.against:
            continue
        test = tests.get((row.system, row.base, part))
        numbers: list[Cell] = (
            [test.difference, test.low, test.high, test.effect, PValue(test.p), PValue(test.p_holm)]
            if test
            else [None] * 6
        )
        marks = {
            name: found.mark
            for name in (*board.topics, *board.slices)
            if (found := tests.get((row.system, row.base, name)))
        }
        won, lost = ("; ".join(name for name, mark in marks.items() if mark == sign) for sign in "+-")
        rows.append([row.system, row.base or None, *numbers, won or None, lost or None])
    title = (
        f"{board.corpus}, {measure}, {part}, against {board.baseline}: tests over queries, each averaged over seeds (on one base those in common); 95 % bootstrap "
        "interval, d: difference in standard deviations of a query's, p: paired randomisation, Holm over systems and topics"
    )
    header = ["system", "base", "difference", "from", "to", "d", "p", "p Holm", "better on", "worse on"]
    table = Table(title, header, rows)
    return table if any(row.base for row in board.rows) else without_empty(table, "base")


def board_json(boards: Sequence[Board], quoted: Sequence[Quoted]) -> str:
    """Everything as JSON with all digits; numbers are numbers, what does not exist is null or not there."""
    value = {
        "boards": [_values(board) for board in boards],
        "quoted": {"title": TITLE, "rows": [row._asdict() for row in quoted]},
    }
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _values(board: Board) -> dict[str, Any]:
    rows = [
        {
            **row._asdict(),
            "name": row.name,
            "scores": {
                name: {measure: stat._asdict() for measure, stat in stats.items()} for name, stats in row.scores.items()
            },
        }
        for row in board.rows
    ]
    return {
        **vars(board),
        "rows": rows,
        "comparisons": [{**test._asdict(), "mark": test.mark} for test in board.comparisons],
    }


TITLE = "quoted from papers: full KILT, page R-precision in %, not comparable with the rows above"
FILE = Path(__file__).with_name("published.toml")


class Quoted(NamedTuple):
    """A paper's row: per cent by task (only those that the paper gives), their average, and where it stands."""

    system: str
    scores: Mapping[str, float]
    average: float
    source: str


def published() -> list[Quoted]:
    """All rows of published.toml, in its order."""
    return [Quoted(**row) for row in tomllib.loads(FILE.read_text(encoding="utf-8"))["row"]]


def quoted_table(rows: list[Quoted]) -> Table:
    """The block as a table; two decimals, as the papers print."""
    tasks = list(dict.fromkeys(task for row in rows for task in row.scores))
    cells: list[list[Cell]] = [
        [
            row.system,
            *(f"{row.scores[task]:5.2f}" if task in row.scores else None for task in tasks),
            f"{row.average:5.2f}",
            row.source,
        ]
        for row in rows
    ]
    return Table(TITLE, ["system", *tasks, "average", "source"], cells)
