"""A board as a picture (SVG), in light or dark colours: averages as bars, or the scores on each topic as points."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from taco_ir.core.files import InputError
from taco_ir.pages import templates_of
from taco_ir.studies.board import Board

WIDTH, RIGHT, TOP, STEP, KEY = 880, 90, 40, 28, 24
LEFT, TOPICS_LEFT = 300, 170  # room for names of systems, of topics
MOST_TICKS = 6
COLOURS = 4  # of systems in a picture of topics


def plot_averages(board: Board, measure: str) -> str:
    """The rows' averages (or scores of the only topics) as bars, best first."""
    rows = [(row.name, stat) for row in board.rows if (stat := row.stat(board.overall, measure))]
    reach = {name: max(stat.mean + (stat.sd or 0.0), *stat.by_seed) for name, stat in rows}
    place, ticks = _scale(max(reach.values(), default=1.0), LEFT)
    bars = [
        {
            "name": name,
            "y": TOP + STEP * number,
            "length": round(place(stat.mean) - LEFT, 1),
            "low": None if stat.sd is None else place(stat.mean - stat.sd),
            "high": None if stat.sd is None else place(stat.mean + stat.sd),
            "seeds": [] if stat.sd is None else [place(value) for value in stat.by_seed],
            "end": place(reach[name]),
            "label": f"{stat.mean:.3f}",
        }
        for number, (name, stat) in enumerate(rows)
    ]
    return _draw(
        "board.svg", board, f"{measure}, {board.overall}", TOP + STEP * len(rows), left=LEFT, bars=bars, ticks=ticks
    )


def plot_topics(board: Board, measure: str) -> str:
    """The rows' scores on each topic as points; a line leads from the baseline to the best other row on its base.

    Raises:
        InputError: for more systems than colours, or none.
    """
    if not 1 <= len(board.rows) <= COLOURS:
        raise InputError(f"a picture of topics shows 1 to {COLOURS} systems, not {len(board.rows)}; hide by --without")
    start = next((row for row in board.rows if board.baseline in (row.name, row.system)), board.rows[0])
    rows = sorted(board.rows, key=lambda row: (row is not start, row.base != start.base))
    scores = {
        topics: [(row, stat.mean) for row in rows if (stat := row.stat(topics, measure))] for topics in board.topics
    }
    place, ticks = _scale(max((score for found in scores.values() for _, score in found), default=1.0), TOPICS_LEFT)
    top = TOP + KEY * len(rows)
    lines = []
    for number, (topics, found) in enumerate(scores.items()):
        on_base = {row.name: score for row, score in found if row.base == start.base}
        before, after = on_base.get(start.name, 0.0), max(on_base.values(), default=0.0)
        points = [{"x": place(score), "label": f"{score:.3f}", "system": rows.index(row)} for row, score in found]
        moved = before and after > before
        line = {"name": topics.removesuffix("-dev"), "y": top + STEP * number, "points": points}
        lines.append(line | {"way": (place(before), place(after)) if moved else None})
    keys = [{"system": number, "name": row.name, "y": TOP + KEY * number} for number, row in enumerate(rows)]
    return _draw(
        "topics.svg",
        board,
        measure,
        top + STEP * len(lines),
        left=TOPICS_LEFT,
        lines=lines,
        keys=keys,
        ticks=ticks,
        top=top,
    )


def _scale(top: float, left: int) -> tuple[Callable[[float], float], Sequence[dict[str, Any]]]:
    """Where a score lies across, and the ticks from 0 to the largest."""
    top = top or 1.0
    step = next(step for step in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0) if top / step <= MOST_TICKS or step == 1.0)
    scale = (WIDTH - left - RIGHT) / top

    def place(value: float) -> float:
        return round(left + scale * max(0.0, value), 1)

    return place, [{"x": place(step * n), "label": f"{step * n:.2f}"} for n in range(int(top / step) + 1)]


def _draw(template: str, board: Board, what: str, bottom: int, **parts: Any) -> str:
    return (
        templates_of("taco_ir.studies", "page_assets")
        .get_template(template)
        .render(
            title=f"{what}: {board.corpus} ({board.passages:,} passages)",
            width=WIDTH,
            height=bottom + 28,
            **parts,
        )
    )
