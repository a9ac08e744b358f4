"""The specialisation of models as one HTML file: style and plots inline, every value escaped, no network needed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from taco_ir.analysis.summary import (
    DENSITY_EDGES,
    DOSE,
    NOT_ACTIVATED,
    Analysis,
    ModelAnalysis,
    bin_edges,
    by_kind,
    by_layer,
    pair_runs,
    percent,
    verdict,
)
from taco_ir.evaluation.tables import templates_of

WIDTH, HEIGHT = 640, 200  # of a plot, in its own units


class Tick(NamedTuple):
    """A place on an axis, and its label."""

    at: float
    label: str


class Line(NamedTuple):
    """A line of a plot; `colour` is a number of the page's palette, None for the plot's main line."""

    points: str
    label: str
    colour: int | None


class Plot(NamedTuple):
    """Lines over two axes; `mark` is a vertical line."""

    title: str
    lines: Sequence[Line]
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    x_label: str
    mark: Tick | None = None


class Bar(NamedTuple):
    """A bar of the histogram: one bin of one model."""

    x: float
    width: float
    height: float
    colour: int
    title: str
    label: str


def render_page(analysis: Analysis) -> str:
    groups = [
        (title, list(zip(*(by(model.measured.parameters) for model in analysis.models), strict=True)))
        for title, by in (("Layers", by_layer), ("Kinds of modules", by_kind))
    ]
    template = templates_of("taco_ir.analysis").get_template("specialisation.html")
    return template.render(
        analysis=analysis,
        verdict=verdict(analysis),
        wholes=[model.whole for model in analysis.models],
        comparisons=pair_runs(analysis.models),
        specific=f"{analysis.specific:.2g}",
        largest=math.log(len(analysis.tasks)),
        not_activated=NOT_ACTIVATED,
        bars=list(_bars(analysis)),
        groups=groups,
        densities=[_densities(analysis, model) for model in analysis.models],
        logged=[plot for model in analysis.models for plot in _logged(model)],
        doses=[plot for model in analysis.models for plot in _doses(model)],
        percent=percent,
        zip=zip,
        width=WIDTH,
        height=HEIGHT,
    )


def _bars(analysis: Analysis) -> Iterator[Bar]:
    """The histogram of entropies: the models side by side in each bin."""
    shares = [model.whole.shares for model in analysis.models]
    most = max(map(max, shares)) or 1.0
    room = WIDTH / len(bin_edges(len(analysis.tasks)))
    wide = room * 0.86 / len(shares)
    for number, (model, own) in enumerate(zip(analysis.models, shares, strict=True)):
        for place, (name, share) in enumerate(zip(analysis.bins, own, strict=True)):
            x = place * room + room * 0.07 + number * wide
            title = f"{model.label}, {name}: {percent(share)} of the parameters"
            yield Bar(x, wide - 1, HEIGHT * share / most, number, title, f"{100 * share:.1f}")


def _densities(analysis: Analysis, model: ModelAnalysis) -> Plot:
    """The density of log10 |g theta|, a line for each task; all models have one scale."""
    first, last = DENSITY_EDGES[0], DENSITY_EDGES[-1]
    size = model.whole.size
    most = max(max(each.counts) for every in analysis.models for each in every.measured.sensitivities) / size or 1.0
    middles = [(low + high) / 2 for low, high in pairwise(DENSITY_EDGES)]
    lines = [
        Line(
            _points(middles, [count / size for count in each.counts], (first, last), (0.0, most)),
            f"{task}: median {each.median:.1e}, {percent(each.zeros / size)} zeros",
            number,
        )
        for number, (task, each) in enumerate(zip(analysis.tasks, model.measured.sensitivities, strict=True))
    ]
    ticks = [Tick(_across(power, (first, last)), f"1e{power:+d}") for power in range(int(first), int(last) + 1, 2)]
    mark = Tick(_across(math.log10(NOT_ACTIVATED), (first, last)), "not activated, left of it for all tasks")
    return Plot(model.label, lines, ticks, [Tick(0, percent(most))], "|g θ|, logarithmic", mark)


def _logged(model: ModelAnalysis) -> Iterator[Plot]:
    """Cosines over the steps of each episode: every pair of tasks, and their mean."""
    for episode, rows in model.logged.items():
        if not rows:
            continue
        pairs = [(a, b) for a, row in rows[0][1].items() for b in row]
        values = {(a, b): [cosines[a][b] for _, cosines in rows] for a, b in pairs}
        values = {pair: series for pair, series in values.items() if all(map(math.isfinite, series))}
        if not values:
            continue
        steps = [float(step) for step, _ in rows]
        x = (steps[0], max(steps[-1], steps[0] + 1))
        every = [value for series in values.values() for value in series]
        y = (min(-0.1, *every), max(0.1, *every))
        mean = [math.fsum(at) / len(values) for at in zip(*values.values(), strict=True)]
        lines = [
            Line(_points(steps, series, x, y), f"{a} and {b}: {_ends(series)}", 0) for (a, b), series in values.items()
        ]
        lines.append(Line(_points(steps, mean, x, y), f"mean of all pairs: {_ends(mean)}", None))
        heights = [Tick(HEIGHT * (y[1] - value) / (y[1] - y[0]), f"{value:.2f}") for value in (y[0], 0.0, y[1])]
        ends = [Tick(_across(step, x), f"{step:.0f}") for step in dict.fromkeys((steps[0], steps[-1]))]
        yield Plot(f"{model.label}{episode and f', {episode}'}", lines, ends, heights, "step")


def _doses(model: ModelAnalysis) -> Iterator[Plot]:
    """The dose over the steps of each episode, a line for each figure, from 0 or the least to 1."""
    for episode, rows in model.dose.items():
        steps = [float(step) for step, _ in rows]
        x = (steps[0], max(steps[-1], steps[0] + 1))
        low = min(0.0, *(figure for _, figures in rows for figure in figures.values() if figure is not None))
        lines = []
        for number, (name, label) in enumerate(DOSE.items()):
            known = [(step, figure) for step, figures in rows if (figure := figures[name]) is not None]
            if known:
                at, series = zip(*known, strict=True)
                lines.append(Line(_points(at, series, x, (low, 1.0)), f"{label}: {_ends(series)}", number))
        heights = [Tick(HEIGHT * (1 - value) / (1 - low), f"{value:.2f}") for value in sorted({low, 0.0, 1.0})]
        ends = [Tick(_across(step, x), f"{step:.0f}") for step in dict.fromkeys((steps[0], steps[-1]))]
        yield Plot(f"{model.label}{episode and f', {episode}'}", lines, ends, heights, "step")


def _ends(series: Sequence[float]) -> str:
    return f"{series[0]:.2f} first, {series[-1]:.2f} last"


def _across(value: float, limits: tuple[float, float]) -> float:
    return WIDTH * (value - limits[0]) / (limits[1] - limits[0])


def _points(xs: Sequence[float], ys: Sequence[float], x: tuple[float, float], y: tuple[float, float]) -> str:
    """Points of a polyline; y grows upwards."""
    return " ".join(
        f"{_across(a, x):.1f},{HEIGHT * (y[1] - b) / (y[1] - y[0]):.1f}" for a, b in zip(xs, ys, strict=True)
    )
