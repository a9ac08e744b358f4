"""How fast systems learn beside a baseline: steps until held-out queries are ranked nearly as well as the baseline ranks them in the end.

Ma et al., IAA, CIKM 2022, call a method learning-efficient where it needs few steps, and about as many with every seed.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from taco_ir.core.files import InputError
from taco_ir.evaluation.tables import Cell, Marked, Table, without_empty
from taco_ir.studies.comparison import row_name
from taco_ir.studies.records import Record

SHARE = 0.95
Curve = Sequence[tuple[int, float]]  # (step, macro page R-precision on held-out queries), steps rising


class Learned(NamedTuple):
    """A system's trainings, by seed, and the parameters of one: those trained and the backbone's."""

    system: str
    base: str
    curves: Mapping[int, Curve]
    trained: int | None
    backbone: int | None


def convergence_table(results: Sequence[Record], baseline: str) -> Table:
    """A row for each system whose records hold curves, beside the baseline on the same base and seed; the fastest first.

    Raises:
        InputError: for a baseline without curves.
    """
    systems = _learned(results)
    goals = {
        each.base: {seed: SHARE * curve[-1][1] for seed, curve in each.curves.items()}
        for each in systems
        if each.system == baseline
    }
    if not goals:
        named = ", ".join(dict.fromkeys(each.system for each in systems)) or "none, since no record has one"
        raise InputError(f"--convergence {baseline!r} has no validation curve in the results; those that have: {named}")
    rows = [_row(each, goals.get(each.base, {})) for each in systems]
    title = (
        f"held-out train queries: macro page R-precision at the end, and steps until it is {SHARE:.0%} of what {baseline} has with the same seed"
        " in the end (between two validations on a straight line); ± standard deviation over seeds"
    )
    header = ["system", "base", "seeds", "parameters trained", "% of the backbone", "at the end", "reached", "steps"]
    return without_empty(Table(title, header, sorted(rows, key=_place), best=["at the end"]), "base")


def steps_to(curve: Curve, goal: float) -> float | None:
    """Steps until a curve reaches a goal, on straight lines between its points; None where it does not."""
    before: tuple[int, float] | None = None
    for step, value in curve:
        if value >= goal:
            return (
                float(step)
                if before is None
                else before[0] + (step - before[0]) * (goal - before[1]) / (value - before[1])
            )
        before = (step, value)
    return None


def _learned(results: Sequence[Record]) -> list[Learned]:
    """Systems with curves, one for each seed, whatever corpora they were scored on."""
    found: dict[tuple[str, str], dict[int, Record]] = defaultdict(dict)
    for result in results:
        if result.made.get("curve"):
            found[result.system, result.base].setdefault(result.seed, result)
    systems = []
    for (system, base), by_seed in found.items():
        sizes = next(iter(by_seed.values())).made.get("parameters", {})
        curves = {
            seed: [(int(step), float(value)) for step, value in each.made["curve"]]
            for seed, each in sorted(by_seed.items())
        }
        systems.append(Learned(system, base, curves, sizes.get("trained"), sizes.get("backbone")))
    return systems


def _row(learned: Learned, goals: Mapping[int, float]) -> list[Cell]:
    compared = [steps_to(curve, goals[seed]) for seed, curve in learned.curves.items() if seed in goals]
    steps = [each for each in compared if each is not None]
    all_there = bool(steps) and len(steps) == len(compared)
    ends = [curve[-1][1] for curve in learned.curves.values()]
    share = 100 * learned.trained / learned.backbone if learned.trained is not None and learned.backbone else None
    return [
        learned.system,
        learned.base or None,
        len(learned.curves),
        learned.trained,
        share,
        Marked(
            statistics.fmean(ends), f" ±{statistics.stdev(ends):.3f}".replace("0.", ".", 1) if len(ends) > 1 else ""
        ),
        f"{len(steps)} of {len(compared)}",
        Marked(round(statistics.fmean(steps)), f" ±{statistics.stdev(steps):.0f}" if len(steps) > 1 else "")
        if all_there
        else None,
    ]


def _place(row: Sequence[Cell]) -> tuple[str, bool, float, str]:
    """Bases apart; of each the fastest first, those that did not get there with every seed last."""
    steps = row[-1]
    return (
        str(row[1]),
        steps is None,
        steps.value if isinstance(steps, Marked) else 0.0,
        row_name(str(row[0]), str(row[1])),
    )
