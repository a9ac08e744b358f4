"""A board's macro averages as a picture (SVG): a bar for each system, its standard deviation and its seeds."""

from __future__ import annotations

from typing import Any

from taco_ir.evaluation.measures import MACRO
from taco_ir.evaluation.pages import templates_of
from taco_ir.studies.board import Board, BoardRow

WIDTH, LEFT, RIGHT, TOP, STEP = 880, 300, 90, 40, 28
MOST_TICKS = 6


def macro_plot(board: Board, measure: str) -> str:
    """Of the rows that have an average (of the only topics, where there is one), best first. Colours follow the reader's light or dark."""
    part = MACRO if len(board.topics) > 1 else board.topics[0]
    rows = [row for row in board.rows if row.stat(part, measure)]
    top = max((value for row in rows for value in _reach(row, part, measure)), default=1.0) or 1.0
    step = next(step for step in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0) if top / step <= MOST_TICKS or step == 1.0)
    scale = (WIDTH - LEFT - RIGHT) / top
    ticks = [{"x": round(LEFT + scale * step * number, 1), "label": f"{step * number:.2f}"} for number in range(int(top / step) + 1)]
    bars = [_bar(row, part, measure, TOP + STEP * place, scale) for place, row in enumerate(rows)]
    return (
        templates_of("taco_ir.studies")
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
