"""Renders the analysis of models as one HTML file with all styles and plots inline; it needs no network."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from taco_ir.analysis.summary import (
    DENSITY_EDGES,
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
from taco_ir.pages import make_page, templates_of
from taco_ir.pages.plots import Plot, Series, plot_lines
from taco_ir.training import DOSE

X_DENSITY = "log10 of |g θ|; heights in per cent of the parameters"
WIDTH, HEIGHT = 640, 200  # of the histogram, in its own units


class Bar(NamedTuple):
    """A bar of the histogram: one entropy bin of one model."""

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
    said: dict[str, Any] = {"percent": percent, "zip": zip, "width": WIDTH, "height": HEIGHT, "groups": groups}
    said |= {"verdict": verdict(analysis), "specific": f"{analysis.specific:.2g}", "not_activated": NOT_ACTIVATED}
    said |= {"bars": list(_bars(analysis)), "heat": _heat(analysis), "largest": math.log(len(analysis.tasks))}
    return make_page(
        templates_of("taco_ir.analysis"),
        "specialisation.html",
        f"Specialisation of {', '.join(model.label for model in analysis.models)}",
        ("specialisation.css",),
        analysis=analysis,
        wholes=[model.whole for model in analysis.models],
        comparisons=pair_runs(analysis.models),
        densities=[_densities(analysis, model) for model in analysis.models],
        logged=[plot for model in analysis.models for plot in _logged(model)],
        doses=[plot for model in analysis.models for plot in _doses(model)],
        **said,
    )


def _bars(analysis: Analysis) -> Iterator[Bar]:
    """Yield the bars of the histogram of entropies, with the models side by side in each bin."""
    shares = [model.whole.shares for model in analysis.models]
    most = max(map(max, shares)) or 1.0
    room = WIDTH / len(bin_edges(len(analysis.tasks)))
    wide = room * 0.86 / len(shares)
    for number, (model, own) in enumerate(zip(analysis.models, shares, strict=True)):
        for place, (name, share) in enumerate(zip(analysis.bins, own, strict=True)):
            x = place * room + room * 0.07 + number * wide
            title = f"{model.label}, {name}: {percent(share)} of the parameters"
            yield Bar(x, wide - 1, HEIGHT * share / most, number, title, f"{100 * share:.1f}")


class HeatRow(NamedTuple):
    """A layer's row of the heat map: the share of parameters specific to each task, and its colour step (0 to 10)."""

    layer: str
    shares: Sequence[float]
    steps: Sequence[int]


def _heat(analysis: Analysis) -> list[tuple[ModelAnalysis, list[HeatRow]]]:
    """Returns a heat map of layers by tasks for each model; all have one scale, which ends at the largest share."""
    found = [
        (model, [(group.name, [count / group.size for count in group.by_bin[0]]) for group in by_layer(parameters)])
        for model in analysis.models
        if (parameters := model.measured.parameters)
    ]
    most = max((share for _, rows in found for _, shares in rows for share in shares), default=0.0) or 1.0
    return [
        (model, [HeatRow(name, shares, [round(10 * share / most) for share in shares]) for name, shares in rows])
        for model, rows in found
    ]


def _densities(analysis: Analysis, model: ModelAnalysis) -> Plot:
    """Returns a plot of the density of log10 |g theta|, a line for each task; all models have one scale."""
    size = model.whole.size
    most = max(max(each.counts) for every in analysis.models for each in every.measured.sensitivities) / size
    middles = [(low + high) / 2 for low, high in pairwise(DENSITY_EDGES)]
    series = [
        Series(
            f"{task}: median {each.median:.1e}, {percent(each.zeros / size)} zeros",
            middles,
            [100 * count / size for count in each.counts],
            number,
        )
        for number, (task, each) in enumerate(zip(analysis.tasks, model.measured.sensitivities, strict=True))
    ]
    mark = (math.log10(NOT_ACTIVATED), "not activated, left of it for all tasks")
    limits, heights = (DENSITY_EDGES[0], DENSITY_EDGES[-1]), (0.0, 100 * most)
    return plot_lines(model.label, series, X_DENSITY, limits, heights, marks=[mark], labelled=False)


def _logged(model: ModelAnalysis) -> Iterator[Plot]:
    """Yield a plot of cosines over the steps of each episode: a line for every pair of tasks, and their mean."""
    for episode, rows in model.logged.items():
        if not rows:
            continue
        pairs = [(a, b) for a, row in rows[0][1].items() for b in row]
        values = {(a, b): [cosines[a][b] for _, cosines in rows] for a, b in pairs}
        values = {pair: series for pair, series in values.items() if all(map(math.isfinite, series))}
        if not values:
            continue
        steps = [float(step) for step, _ in rows]
        mean = [math.fsum(at) / len(values) for at in zip(*values.values(), strict=True)]
        found = [Series(f"{a} and {b}: {_ends(series)}", steps, series, 0) for (a, b), series in values.items()]
        found.append(Series(f"mean of all pairs: {_ends(mean)}", steps, mean, None))
        yield plot_lines(_title(model, episode), found, "step", y=(-0.1, 0.1), labelled=False)


def _doses(model: ModelAnalysis) -> Iterator[Plot]:
    """Yield a plot of the dose over the steps of each episode, a line for each figure."""
    for episode, rows in model.dose.items():
        found = []
        for number, (name, label) in enumerate(DOSE.items()):
            known = [(float(step), figure) for step, figures in rows if (figure := figures[name]) is not None]
            if known:
                at, series = zip(*known, strict=True)
                found.append(Series(f"{label}: {_ends(series)}", at, series, number))
        yield plot_lines(_title(model, episode), found, "step", y=(0.0, 1.0), labelled=False, legend=True)


def _ends(series: Sequence[float]) -> str:
    return f"{series[0]:.2f} first, {series[-1]:.2f} last"


def _title(model: ModelAnalysis, episode: str) -> str:
    return f"{model.label}{episode and f', {episode}'}"
