"""Draws the learning curves of a training, from its log alone, as one HTML page in its folder.

The page shows losses, validation scores, task weights, cosines between gradients, and the dose (how far updates were
from the mean of the tasks' gradients). It is rewritten during training, so you can open it at any time, and a resumed
training makes the same page. In a long training a point is a mean over several steps, which keeps the page small.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from taco_ir.core.files import writing
from taco_ir.evaluation.measures import MACRO
from taco_ir.evaluation.tables import Cell, Table, without_empty
from taco_ir.pages import make_page, templates_of
from taco_ir.pages.plots import Plot, Series, plot_lines
from taco_ir.training import DOSE
from taco_ir.training.logged import Record, Watcher, Watchers, log_files

CURVES_FILE = "curves.html"
POINTS = 240  # maximum in a line; of more steps, means are shown
LOSS, VALIDATION, WEIGHT, COSINE, FIGURES = GROUPS = ("loss", "validation", "weight", "cosine", "dose")
MACRO_SCORE, MEAN = "macro", "mean of all pairs"

Bin = list[float]  # number of values, sum of their steps, sum of the values
Place = tuple[int, int]  # an episode, and a bin of steps


class Curve(NamedTuple):
    """The points of a line in a plot. A point has a step, and the mean of the values logged around this step."""

    steps: Sequence[float]
    values: Sequence[float]


class Curves:
    """Collects the numbers of a log as means over bins of steps; the longer the training, the wider the bins."""

    def __init__(self) -> None:
        self.last = 0
        self.starts: list[int] = []  # the step before the first of each episode
        self.width = 1
        self.skipped: dict[str, int] = {}
        self.best: tuple[int, float] | None = None  # step and value of the best macro average, without step 0
        self._bins: dict[tuple[str, str], dict[Place, Bin]] = defaultdict(dict)

    def begin_episode(self) -> None:
        self.starts.append(self.last)

    def add(self, step: int, record: Record) -> None:
        """Adds a line of the log. `step` is counted across episodes."""
        self.last = step
        while step > POINTS * self.width:
            self._double()
        for task in record.get("skipped") or ():
            self.skipped[task] = self.skipped.get(task, 0) + 1
        macro = (record.get(VALIDATION) or {}).get(MACRO_SCORE)
        if macro is not None and step and (self.best is None or macro > self.best[1]):
            self.best = step, macro
        for group, name, value in _values(record):
            place = len(self.starts), (step - 1) // self.width
            own = self._bins[group, name].setdefault(place, [0.0, 0.0, 0.0])
            for number, more in enumerate((1.0, float(step), value)):
                own[number] += more

    def group(self, group: str) -> dict[str, Curve]:
        """Returns the curves of a group, such as "loss", by name, in the order in which names first appear."""
        found = {}
        for (of, name), bins in self._bins.items():
            if of == group:
                points = [(at / count, value / count) for _, (count, at, value) in sorted(bins.items())]
                found[name] = Curve(*zip(*points, strict=True))
        return found

    def _double(self) -> None:
        self.width *= 2
        for key, bins in self._bins.items():
            merged: dict[Place, Bin] = {}
            for (episode, place), own in sorted(bins.items()):
                into = merged.setdefault((episode, place // 2), [0.0, 0.0, 0.0])
                for number, more in enumerate(own):
                    into[number] += more
            self._bins[key] = merged


def _values(record: Record) -> Iterator[tuple[str, str, float]]:
    """Yields (group, name, number) for each finite number in a line of the log."""
    for group in GROUPS:
        for name, value in (record.get(group) or {}).items():
            pairs: Mapping[str, Any] = {name: value}
            if group == COSINE:
                pairs = {f"{name} and {other}": cosine for other, cosine in value.items()}
            for label, number in pairs.items():
                if isinstance(number, int | float) and math.isfinite(number):
                    yield group, label, number


class CurvesPage(Watcher):
    """Writes the page of learning curves into a training's folder at every validation and checkpoint."""

    def __init__(self, output: Path) -> None:
        self._output = output
        self._curves = Curves()

    def episode(self) -> None:
        self._curves.begin_episode()

    def line(self, step: int, record: Record) -> None:
        self._curves.add(step, record)

    def pause(self) -> None:
        page = render_curves(self._curves)
        with writing(self._output / CURVES_FILE) as sink:
            sink.write(page)


def write_missing_page(output: Path) -> None:
    """Writes the page of learning curves for a finished training, if the page is missing."""
    if log_files(output) and not (output / CURVES_FILE).is_file():
        Watchers(output, [CurvesPage(output)]).read_all()


def render_curves(curves: Curves) -> str:
    """Returns the page of learning curves as HTML."""
    loss = curves.group(LOSS)
    colours = {task: number for number, task in enumerate(loss)}
    said: dict[str, Any] = {"summary": summary(curves), "table": _table(curves) if loss else None}
    said["mean"] = f"; each point is the mean of {curves.width} steps" if curves.width > 1 else ""
    said["skipped"] = [f"{task} ({count})" for task, count in curves.skipped.items()]
    said |= {"plots": list(_plots(curves, colours)), "episodes": len(curves.starts)}
    return make_page(templates_of("taco_ir.training"), "curves.html", "Learning curves", **said)


def summary(curves: Curves) -> str:
    """Returns a sentence with the number of steps, the first and last loss, and the best validation."""
    parts = []
    if loss := curves.group(LOSS):
        first, last = (math.fsum(each.values[at] for each in loss.values()) / len(loss) for at in (0, -1))
        change = "fell" if last < first else "rose"
        parts.append(f"the loss, averaged over tasks, {change} from {first:.3g} to {last:.3g}")
    if curves.best:
        now = curves.group(VALIDATION)[MACRO_SCORE].values[-1]
        parts.append(
            f"validation ({MACRO}) was best at step {curves.best[0]:,} with {curves.best[1]:.3f}, and is {now:.3f} now"
        )
    episodes = f" of {len(curves.starts)} episodes" if len(curves.starts) > 1 else ""
    return f"After {curves.last:,} steps{episodes}" + (f", {'; '.join(parts)}." if parts else ", nothing was logged.")


def _table(curves: Curves) -> Table:
    """Returns a table of the first and last values of the curves, with a row for each task."""
    loss, weight, validation = (curves.group(group) for group in (LOSS, WEIGHT, VALIDATION))
    header = ["task", "loss, first", "loss, last", "weight, last", "validation, first", "validation, last"]
    rows: list[list[Cell]] = []
    for name in dict.fromkeys((*loss, *validation)):
        row: list[Cell] = [name]
        for curve, ends in ((loss, (0, -1)), (weight, (-1,)), (validation, (0, -1))):
            row += [curve[name].values[at] if name in curve else None for at in ends]
        rows.append(row)
    table = Table("", header, rows)
    for column in header[1:]:
        table = without_empty(table, column)
    return table


def _plots(curves: Curves, colours: Mapping[str, int]) -> Iterator[Plot]:
    """Yields a plot for each group that was logged."""

    def draw(title: str, found: Mapping[str, Curve], **more: Any) -> Iterator[Plot]:
        series = [
            Series(name, *curve, None if name in (MACRO_SCORE, MEAN) else colours.get(name, number))
            for number, (name, curve) in enumerate(found.items())
        ]
        if series:
            yield plot_lines(title, series, "step", marks=[*borders, *more.pop("marks", ())], **more)

    borders = [(float(step), f"episode {number} begins") for number, step in enumerate(curves.starts, 1) if step]
    best = [(float(curves.best[0]), f"best: step {curves.best[0]:,}")] if curves.best else []
    yield from draw("Loss of each task", curves.group(LOSS))
    yield from draw("Validation on what is held out", curves.group(VALIDATION), marks=best)
    yield from draw("Weight of each task in the update", curves.group(WEIGHT), y=(0.0, 0.0))
    cosines = curves.group(COSINE)
    if len(cosines) > 1:
        cosines |= {MEAN: _mean_curve(list(cosines.values()))}
    yield from draw("Cosines of the tasks' gradients", cosines, y=(-0.1, 0.1))
    figures = {DOSE.get(name, name): curve for name, curve in curves.group(FIGURES).items()}
    yield from draw("Dose: the update against the mean of the gradients", figures, y=(0.0, 1.0))


def _mean_curve(curves: Sequence[Curve]) -> Curve:
    """Returns the mean of several curves at the steps that all of them have."""
    shared = set.intersection(*(set(each.steps) for each in curves))
    by_step = [dict(zip(*each, strict=True)) for each in curves]
    steps = [step for step in curves[0].steps if step in shared]
    return Curve(steps, [math.fsum(own[step] for own in by_step) / len(by_step) for step in steps])
