"""Prints leaderboards as tables and as JSON, with significant wins and losses against the baseline marked.

Scores quoted from papers, each with its source, are in a separate table.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from taco_ir.core.tasks import KINDS, canonical_task
from taco_ir.core.types import refuse_text
from taco_ir.evaluation.measures import MACRO, Measure
from taco_ir.evaluation.significance import SIGNIFICANT, Comparison
from taco_ir.evaluation.tables import Cell, Marked, PValue, Table, render, without_empty
from taco_ir.studies.board import Board, BoardRow, check_patterns, hide_rows, make_boards, select_corpus, select_topics
from taco_ir.studies.records import Record, read_records
from taco_ir.training import DOSE

if TYPE_CHECKING:
    import pandas

Tests = Mapping[tuple[str, str, str], Comparison]  # by system, base and topics


class Leaderboard(tuple[Board, ...]):
    """The boards of a study, one for each corpus, the largest corpus first."""

    def tables(self, brief: bool = True) -> list[Table]:
        """Make a table for each board and measure, with a row for each system; `brief` leaves out slices and tests."""
        return [table for board in self for table in (brief_tables(board) if brief else board_tables(board))]

    def to_pandas(self) -> pandas.DataFrame:
        """Return a DataFrame with a row for each score: corpus, system, base, seeds, topics, measure, mean, sd.

        Raises:
            InputError: if pandas is not installed.
        """
        found = [
            (board.corpus, row.system, row.base, len(row.seeds), topics, measure, stat.mean, stat.sd)
            for board in self
            for row in board.rows
            for topics, stats in row.scores.items()
            for measure, stat in stats.items()
        ]
        return Table("", ["corpus", "system", "base", "seeds", "topics", "measure", "mean", "sd"], found).to_pandas()


def leaderboard(
    folder: str | Path,
    *,
    baseline: str | None = None,
    corpus: str | None = None,
    topics: Sequence[str] = (),
    measures: Sequence[str] = (),
    without: Sequence[str] = (),
    seed: int = 0,
) -> Leaderboard:
    """Compare the systems of a study from its records, without searching anything.

    Args:
        folder: the study's folder, with `results` in it.
        baseline: the name of a row or system to test the others against; None: no tests.
        corpus: name of the only corpus to show; None: all.
        topics: the only topics to show, such as ["nq-dev"]; the macro average is then over these. Empty: all.
        measures: the measures to show, such as ["Rprec", "R@20"]; empty: all that were recorded.
        without: systems to hide (`*` matches any text); tests are still corrected for them.
        seed: random seed of the tests.

    Raises:
        InputError: for a folder without records, or an unknown name.

    Examples:
        >>> boards = taco_ir.leaderboard("runs/minikilt", corpus="part", measures=["Rprec"])
        >>> scores = boards.to_pandas()
        >>> scores.loc[scores["topics"] == "macro average", "system"].iloc[0]
        'BM25'
    """
    refuse_text(measures, "measures")
    refuse_text(without, "systems")
    refuse_text(topics, "topics")
    results = select_topics(select_corpus(read_records(Path(folder) / "results"), corpus), topics)
    return make_leaderboard(results, baseline, seed, [str(Measure.parse(name)) for name in measures], without)


def make_leaderboard(
    results: Sequence[Record], baseline: str | None, seed: int, measures: Sequence[str], without: Sequence[str]
) -> Leaderboard:
    """Make the boards of records. Arguments are as in `leaderboard`, but measures have their printed names."""
    check_patterns(results, without)
    return Leaderboard(hide_rows(make_boards(results, baseline, seed, measures), without))


def render_boards(boards: Sequence[Board], form: str, brief: bool) -> str:
    """Render boards as text, followed by scores quoted from papers.

    Args:
        form: a format of `evaluation.tables.render`.
        brief: only one table for each board and measure, without slices, tests and quoted scores.
    """
    tables = Leaderboard(boards).tables(brief)
    quoted = [] if brief else quoted_beside(boards)
    return "\n".join(render(table, form) for table in [*tables, *([quoted_table(quoted)] if quoted else [])])


def board_tables(board: Board) -> list[Table]:
    """Make for each measure a table of scores and, with a baseline, a table of tests; then notes, if any."""
    tables = []
    for measure in board.measures:
        tables.append(score_table(board, measure))
        if board.baseline:
            tables.append(difference_table(board, measure))
    return [*tables, *_note_tables(board)]


def _select_tests(board: Board, measure: str) -> Tests:
    return {(test.system, test.base, test.topics): test for test in board.comparisons if test.measure == measure}


def score_table(board: Board, measure: str) -> Table:
    """Make a table with a row for each system: scores on topics, their macro average, and scores on slices."""
    names = [*board.topics, *([MACRO] if len(board.topics) > 1 else []), *board.slices]
    tests = _select_tests(board, measure)
    columns = [_score_column(board.rows, tests, name, measure) for name in names]
    rows: list[list[Cell]] = [
        [row.system, row.base or None, len(row.seeds), *cells]
        for row, cells in zip(board.rows, zip(*columns, strict=True), strict=True)
    ]
    title = f"{board.corpus}, {board.passages:,} passages: {measure}, ± standard deviation over seeds"
    if board.baseline:
        title += f"; + better, - worse than {board.baseline} (p after Holm below {SIGNIFICANT})"
    return without_empty(Table(title, ["system", "base", "seeds", *names], rows, best=names), "base")


def _score_column(rows: Sequence[BoardRow], tests: Tests, name: str, measure: str) -> list[Cell]:
    """Make a column of scores with marks of equal length, so that numbers are aligned."""
    stats = [row.stat(name, measure) for row in rows]
    spreads = ["" if stat is None or stat.sd is None else f" ±{stat.sd:.3f}".replace("0.", ".") for stat in stats]
    found = [tests.get((row.system, row.base, name)) for row in rows]
    signs = [f" {test.mark}" if test and test.mark else "" for test in found]
    width, sign_width = max(map(len, spreads), default=0), max(map(len, signs), default=0)
    return [
        None if stat is None else Marked(stat.mean, f"{spread:<{width}}{sign:<{sign_width}}")
        for stat, spread, sign in zip(stats, spreads, signs, strict=True)
    ]


def brief_tables(board: Board) -> list[Table]:
    """Make a table of scores for each measure, with standard deviations only for the average; then notes, if any."""
    tables = []
    short = {name: name.removesuffix("-dev") for name in board.topics}
    for measure in board.measures:
        table = score_table(replace(board, slices=()), measure)
        rows = [
            [
                cell._replace(mark=_keep_sign(cell.mark)) if isinstance(cell, Marked) and name != MACRO else cell
                for name, cell in zip(table.header, row, strict=True)
            ]
            for row in table.rows
        ]
        header, best = ([short.get(name, name) for name in names] for names in (table.header, table.best))
        tables.append(Table(table.title, header, rows, best))
    return [*tables, *_note_tables(board)]


def _keep_sign(mark: str) -> str:
    """Return a mark without its standard deviation."""
    sign = mark.strip()[-1:]
    return f" {sign}" if sign in ("+", "-") else ""


def _note_tables(board: Board) -> list[Table]:
    """Make a table of the rows with doses, and a table of notes, if there are any."""
    header = ["system", "base", *DOSE.values()]
    rows: list[list[Cell]] = [
        [row.system, row.base or None, *(row.dose.get(name) for name in DOSE)] for row in board.rows if row.dose
    ]
    title = f"dose on {board.corpus}: how far updates were from the mean of the tasks' gradients, mean over seeds"
    doses = [without_empty(Table(title, header, rows), "base")] if rows else []
    notes = [Table(f"notes on {board.corpus}", ["note"], [[note] for note in board.notes])] if board.notes else []
    return [*doses, *notes]


def difference_table(board: Board, measure: str) -> Table:
    """Make a table of each system's difference from the baseline overall, and of the topics where it wins or loses."""
    tests = _select_tests(board, measure)
    rows: list[list[Cell]] = []
    for row in board.rows:
        if not row.against:
            continue
        numbers: list[Cell] = [None] * 6
        if test := tests.get((row.system, row.base, board.overall)):
            numbers = [test.difference, test.low, test.high, test.effect, PValue(test.p), PValue(test.p_holm)]
        marks = {
            name: found.mark
            for name in (*board.topics, *board.slices)
            if (found := tests.get((row.system, row.base, name)))
        }
        won, lost = ("; ".join(name for name, mark in marks.items() if mark == sign) for sign in "+-")
        rows.append([row.system, row.base or None, *numbers, won or None, lost or None])
    title = (
        f"{board.corpus}, {measure}, {board.overall}, against {board.baseline}: tests over queries, each averaged over "
        "seeds (on one base those in common); 95 % bootstrap interval, d: difference in standard deviations of a "
        "query's, p: paired randomisation, Holm over systems and topics"
    )
    header = ["system", "base", "difference", "from", "to", "d", "p", "p Holm", "better on", "worse on"]
    table = Table(title, header, rows)
    return table if any(row.base for row in board.rows) else without_empty(table, "base")


def board_json(boards: Sequence[Board], quoted: Sequence[Quoted]) -> str:
    """Render boards and quoted scores as JSON, with all digits. Missing values are null or left out."""
    value = {
        "boards": [_board_dict(board) for board in boards],
        "quoted": {"title": TITLE, "rows": [row._asdict() for row in quoted]},
    }
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _board_dict(board: Board) -> dict[str, Any]:
    rows = []
    for row in board.rows:
        scores = {
            name: {measure: stat._asdict() for measure, stat in stats.items()} for name, stats in row.scores.items()
        }
        rows.append({**row._asdict(), "name": row.name, "scores": scores})
    tests = [{**test._asdict(), "mark": test.mark} for test in board.comparisons]
    return {**vars(board), "rows": rows, "comparisons": tests}


TITLE = "quoted from papers: full KILT, page R-precision in %, not comparable with the rows above"
FILE = Path(__file__).with_name("published.toml")


class Quoted(NamedTuple):
    """A row quoted from a paper: its scores in per cent by task, their average, and the source."""

    system: str
    scores: Mapping[str, float]
    average: float
    source: str


def read_published() -> list[Quoted]:
    """Read all rows of published.toml, in the order of the file."""
    return [Quoted(**row) for row in tomllib.loads(FILE.read_text(encoding="utf-8"))["row"]]


def quoted_beside(boards: Sequence[Board]) -> list[Quoted]:
    """Return the rows of published.toml, which are for KILT's tasks; empty if the boards have none of these tasks."""
    tasks = {canonical_task(name.rpartition("-")[0]) for board in boards for name in board.topics}
    return read_published() if tasks & KINDS.keys() else []


def quoted_table(rows: list[Quoted]) -> Table:
    """Make a table of quoted rows, with two decimals as in the papers."""
    tasks = list(dict.fromkeys(task for row in rows for task in row.scores))
    cells: list[list[Cell]] = []
    for row in rows:
        scores = [f"{row.scores[task]:5.2f}" if task in row.scores else None for task in tasks]
        cells.append([row.system, *scores, f"{row.average:5.2f}", row.source])
    return Table(TITLE, ["system", *tasks, "average", "source"], cells)
