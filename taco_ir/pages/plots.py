"""Computes line plots as SVG coordinates: axes with round values, points, and labels that do not overlap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

WIDTH, HEIGHT = 480, 180  # of the area between the axes, in the picture's own units
LETTER = 8.8  # width of a letter in labels at the ends of lines
LABELLED = 12  # most lines with labels at their ends
LETTERS = 20  # of a label
GAP = 16.0  # between labels
DOTTED = 12  # most points of a line that are drawn as dots too

Limits = tuple[float, float]


class Tick(NamedTuple):
    """A position on an axis, with its label."""

    at: float
    label: str


class Series(NamedTuple):
    """Values to draw as a line; `colour` is an index into the palette, or None for the plot's main line."""

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    colour: int | None


class Line(NamedTuple):
    """A line with its coordinates and labels.

    Attributes:
        points: coordinates of the polyline.
        dots: coordinates to mark with dots, if the line has few points.
        label: name and values, for the legend and the tooltip.
        short: the name, shortened to fit at the line's end.
        end: the height of the short name; None if it is not shown.
    """

    points: str
    dots: Sequence[tuple[float, float]]
    label: str
    short: str
    end: float | None
    colour: int | None


class Plot(NamedTuple):
    """Lines over two axes; `marks` are vertical lines, and `room` is the space for labels at the right."""

    title: str
    lines: Sequence[Line]
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    x_label: str
    marks: Sequence[Tick] = ()
    room: int = 0
    legend: bool = False
    width: int = WIDTH
    height: int = HEIGHT


def plot_lines(
    title: str,
    series: Sequence[Series],
    x_label: str,
    x: Limits | None = None,
    y: Limits | None = None,
    marks: Sequence[tuple[float, str]] = (),
    labelled: bool = True,
    legend: bool | None = None,
) -> Plot:
    """Lay out a plot of one or more series with values.

    Args:
        x, y: ranges that the axes must include.
        marks: values on the horizontal axis to mark, with their labels.
        labelled: label the ends of the lines, if there are at most twelve lines.
        legend: True shows a legend; None shows one if the ends are labelled.
    """
    x = _reach([value for each in series for value in each.xs], x)
    y = _reach([value for each in series for value in each.ys], y)
    labels = labelled and len(series) <= LABELLED
    ends = place_labels([_down(each.ys[-1], y) for each in series]) if labels else [None] * len(series)
    lines = []
    for each, end in zip(series, ends, strict=True):
        places = [(_across(a, x), _down(b, y)) for a, b in zip(each.xs, each.ys, strict=True)]
        points = " ".join(f"{across:.1f},{down:.1f}" for across, down in places)
        short = each.name if len(each.name) <= LETTERS else f"{each.name[: LETTERS - 1]}…"
        label = f"{each.name}: {each.ys[-1]:.3g}" if labelled else each.name
        lines.append(Line(points, places if len(places) <= DOTTED else (), label, short, end, each.colour))
    return Plot(
        title,
        lines,
        [Tick(_across(value, x), _show(value)) for value in round_values(*x, most=5)],
        [Tick(_down(value, y), _show(value)) for value in round_values(*y)],
        x_label,
        [Tick(_across(value, x), label) for value, label in marks],
        round(LETTER * max(len(line.short) for line in lines)) + 8 if labels else 0,
        labels if legend is None else legend,
    )


def round_values(low: float, high: float, most: int = 5) -> list[float]:
    """Returns at most `most` + 1 round values within [low, high], evenly spaced."""
    rough = (high - low) / most
    if not math.isfinite(rough) or rough <= 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def place_labels(heights: Sequence[float], gap: float = GAP) -> list[float]:
    """Returns heights for labels, near the wanted heights and in the same order, with at least `gap` between them.

    Labels stay inside the plot if there is room for all.
    """
    order = sorted(range(len(heights)), key=lambda place: (heights[place], place))
    found = [0.0] * len(heights)
    lowest = -math.inf
    for place in order:
        found[place] = lowest = max(heights[place], lowest + gap)
    highest = HEIGHT if gap * (len(heights) - 1) <= HEIGHT else math.inf
    for place in reversed(order):
        found[place] = min(found[place], highest)
        highest = found[place] - gap
    return found


def _reach(values: Sequence[float], least: Limits | None) -> Limits:
    """Returns the limits of an axis, which are always different."""
    low, high = min(*values, *(least or ()), math.inf), max(*values, *(least or ()), -math.inf)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _across(value: float, x: Limits) -> float:
    return WIDTH * (value - x[0]) / (x[1] - x[0])


def _down(value: float, y: Limits) -> float:
    """Returns the distance of a value from the top of the plot."""
    return HEIGHT * (y[1] - value) / (y[1] - y[0])


def _show(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}".replace("-", "\u2212").replace("e\u2212", "e-")
