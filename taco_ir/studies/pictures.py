"""Draws a board as an SVG picture in light and dark colours.

Averages are bars, scores on each topic are points, and systems that differ by a number in their names are lines.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from taco_ir.core.files import InputError
from taco_ir.pages import templates_of
from taco_ir.studies.board import Board, BoardRow

WIDTH, RIGHT, TOP, STEP, KEY = 880, 90, 40, 28, 24
LEFT, TOPICS_LEFT = 300, 170  # pixels for the names of systems, and of topics
MOST_TICKS = 6
COLOURS = 4  # number of systems in a picture of topics or lines
NUMBERED = re.compile(r"(?P<name>.+), (?P<what>[\w ]+?) (?P<number>\d+(?:\.\d+)?)")
LINES_LEFT, LINES_HEIGHT = 70, 260
STEPS = tuple(digit * 10**-power for power in (4, 3, 2, 1) for digit in (1, 2, 5))  # distances between ticks


def plot_averages(board: Board, measure: str) -> str:
    """Draw each row's average (with one query set, its score) as a bar, best first. Return the picture as SVG."""
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
    """Draw each row's score on each query set as a point, with an arrow from the baseline to the best row on its base.

    Raises:
        InputError: for more than four systems, or none.
    """
    if not 1 <= len(board.rows) <= COLOURS:
        raise InputError(f"svg-topics can show 1 to {COLOURS} systems, not {len(board.rows)}; hide some by --without")
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
        way = (place(before) + 9, place(after) - 7)  # between the two points, if there is room
        line = {"name": topics.removesuffix("-dev"), "y": top + STEP * number, "points": points}
        lines.append(line | {"way": way if before and way[0] < way[1] else None})
    keys = [{"system": number, "name": row.name, "y": TOP + KEY * number} for number, row in enumerate(rows)]
    height, drawn = top + STEP * len(lines), {"lines": lines, "keys": keys, "ticks": ticks}
    return _draw("topics.svg", board, measure, height, left=TOPICS_LEFT, top=top, **drawn)


def plot_lines(board: Board, measure: str) -> str:
    """Draw the averages of systems with a number in the name, such as `naive, width 4`, over this number (log scale).

    If the baseline is such a system, each score is the difference to the baseline with the same number, seed by seed.
    Large points are means over seeds; small points are single seeds.

    Raises:
        InputError: if no system exists with two numbers, for more than four such systems, or if the numbers count
            different things.
    """
    families: dict[tuple[str, str], dict[float, BoardRow]] = {}
    start = ""
    for row in board.rows:
        if not (found := NUMBERED.fullmatch(row.system)) or not row.stat(board.overall, measure):
            continue
        families.setdefault((found["name"], found["what"]), {})[float(found["number"])] = row
        start = found["name"] if board.baseline in (row.name, row.system) else start
    lines = {name: own for (name, _), own in sorted(families.items()) if len(own) > 1}
    words = {what for (_, what), own in families.items() if len(own) > 1}
    if len(words) > 1 or not 1 <= len(lines) <= COLOURS:
        raise InputError(
            f"svg-lines shows 1 to {COLOURS} systems, each at several numbers of one thing, such as 'naive, width 4' "
            f"and 'naive, width 8'; here are {len(lines)} ({', '.join([*lines, *sorted(words)])}); hide by --without"
        )
    against = lines.pop(start, {})
    values = {name: _by_seed(own, against, board, measure) for name, own in lines.items()}
    numbers = sorted({*against, *(number for own in values.values() for number in own)})
    across = _logarithmic(numbers)
    seeds = [each for own in values.values() for by_seed in own.values() for each in by_seed]
    shown = [*seeds, 0.0] if against else seeds
    low, high = min(shown), max(shown)
    step = next((step for step in STEPS if (high - low) / step <= MOST_TICKS), 1.0)
    floor, ceiling = math.floor(low / step), math.ceil(high / step)
    top = TOP + KEY * len(values)
    scale = LINES_HEIGHT / (max(1, ceiling - floor) * step)

    def down(value: float) -> float:
        return round(top + LINES_HEIGHT - scale * (value - floor * step), 1)

    sign = "+" if against else ""
    drawn: list[dict[str, Any]] = []
    for place, (name, found_by_number) in enumerate(values.items()):
        points = []
        for number, by_seed in sorted(found_by_number.items()):
            mean = sum(by_seed) / len(by_seed)
            label, spread = f"{number:g}: {mean:{sign}.4f}", [down(value) for value in by_seed]
            points.append({"x": across[number], "y": down(mean), "label": label, "seeds": spread})
        drawn.append({"name": name, "y": TOP + KEY * place, "points": points})
    ticks = [{"y": down(n * step), "label": f"{n * step:{sign if n else ''}.4g}"} for n in range(floor, ceiling + 1)]
    what = f"{measure}, {board.overall}{f', less that of {start}' if against else ''}"
    return _draw(
        "lines.svg",
        board,
        what,
        top + LINES_HEIGHT + 20,
        left=LINES_LEFT,
        right=WIDTH - RIGHT,
        top=top,
        floor=top + LINES_HEIGHT,
        lines=drawn,
        ticks=ticks,
        numbers=[{"x": across[number], "label": f"{number:g}"} for number in numbers],
        axis=words.pop(),
    )


def _by_seed(
    own: Mapping[float, BoardRow], against: Mapping[float, BoardRow], board: Board, measure: str
) -> dict[float, list[float]]:
    """Return the scores of all seeds by number or, with a baseline, differences for common numbers and seeds."""

    def scores(row: BoardRow) -> dict[int, float]:
        stat = row.stat(board.overall, measure)
        return dict(zip(row.seeds, stat.by_seed, strict=True)) if stat else {}

    if not against:
        return {number: list(scores(row).values()) for number, row in own.items()}
    found = {}
    for number in own.keys() & against.keys():
        ours, theirs = scores(own[number]), scores(against[number])
        if both := sorted(ours.keys() & theirs.keys()):
            found[number] = [ours[seed] - theirs[seed] for seed in both]
    return found


def _logarithmic(numbers: Sequence[float]) -> dict[float, float]:
    """Return the horizontal position of each number, on a log scale."""
    logs = [math.log(number) if number > 0 else 0.0 for number in numbers]
    width = (max(logs) - min(logs)) or 1.0
    room = WIDTH - RIGHT - LINES_LEFT - 60
    return {
        number: round(LINES_LEFT + 30 + room * (own - min(logs)) / width, 1)
        for number, own in zip(numbers, logs, strict=True)
    }


def _scale(top: float, left: int) -> tuple[Callable[[float], float], Sequence[dict[str, Any]]]:
    """Return a function from a score to its horizontal position, and the ticks from 0 to `top`."""
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
        .render(title=f"{what}: {board.corpus} ({board.passages:,} passages)", width=WIDTH, height=bottom + 28, **parts)
    )


PLOTS = {"svg": plot_averages, "svg-topics": plot_topics, "svg-lines": plot_lines}
