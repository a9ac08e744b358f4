"""How fast systems learn: after how many steps they rank held-out queries nearly as well as a fully trained baseline.

Ma et al., IAA, CIKM 2022, call a method learning-efficient if it needs few steps, and similarly many with every seed.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from taco_ir.core.files import InputError
from taco_ir.evaluation.tables import Cell, Marked, Table, without_empty
from taco_ir.studies.records import Record, row_name

SHARE = 0.95
Curve = Sequence[tuple[int, float]]  # (step, macro page R-precision on held-out queries), by ascending step


class SystemCurves(NamedTuple):
    """A system's learning curves by seed, and the numbers of trained parameters and of backbone parameters."""

    system: str
    base: str
    curves: Mapping[int, Curve]
    trained: int | None
    backbone: int | None


def convergence_table(results: Sequence[Record], baseline: str) -> Table:
    """Make a table of the steps that each system needs to reach 95 % of the baseline's final score, fastest first.

    Each training is compared with the baseline's training on the same base model, with the same seed.

    Raises:
        InputError: for a baseline without learning curves.
    """
    systems = _group_curves(results)
    goals = {
        each.base: {seed: SHARE * curve[-1][1] for seed, curve in each.curves.items()}
        for each in systems
        if each.system == baseline
    }
    if not goals:
        named = ", ".join(dict.fromkeys(each.system for each in systems)) or "none, since no record has one"
        raise InputError(
            f"--convergence {baseline!r} has no validation curve in the results; systems with one: {named}"
        )
    rows = [_make_row(each, goals.get(each.base, {})) for each in systems]
    title = (
        f"held-out train queries: macro page R-precision at the end, and steps until it is {SHARE:.0%} of what "
        f"{baseline} has with the same seed in the end (between two validations on a straight line); "
        "± standard deviation over seeds"
    )
    header = ["system", "base", "seeds", "parameters trained", "% of the backbone", "at the end", "reached", "steps"]
    return without_empty(Table(title, header, sorted(rows, key=_rank), best=["at the end"]), "base")


def steps_to(curve: Curve, goal: float) -> float | None:
    """Return the step at which a curve first reaches `goal`, interpolated linearly; None if it never does."""
    before, low = 0, 0.0
    for number, (step, value) in enumerate(curve):
        if value >= goal:
            return before + (step - before) * (goal - low) / (value - low) if number else float(step)
        before, low = step, value
    return None


def _group_curves(results: Sequence[Record]) -> list[SystemCurves]:
    """Collect the systems with learning curves. A curve is taken once for each seed, even with several corpora."""
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
        systems.append(SystemCurves(system, base, curves, sizes.get("trained"), sizes.get("backbone")))
    return systems


def _make_row(system: SystemCurves, goals: Mapping[int, float]) -> list[Cell]:
    compared = [steps_to(curve, goals[seed]) for seed, curve in system.curves.items() if seed in goals]
    steps = [each for each in compared if each is not None]
    ends = [curve[-1][1] for curve in system.curves.values()]
    share = 100 * system.trained / system.backbone if system.trained is not None and system.backbone else None
    end_spread = f" ±{statistics.stdev(ends):.3f}".replace("0.", ".", 1) if len(ends) > 1 else ""
    needed = None
    if steps and len(steps) == len(compared):
        needed = Marked(round(statistics.fmean(steps)), f" ±{statistics.stdev(steps):.0f}" if len(steps) > 1 else "")
    named: list[Cell] = [system.system, system.base or None, len(system.curves), system.trained, share]
    return [*named, Marked(statistics.fmean(ends), end_spread), f"{len(steps)} of {len(compared)}", needed]


def _rank(row: Sequence[Cell]) -> tuple[str, bool, float, str]:
    """Return a sort key: by base, then by speed; systems that missed the goal with a seed come last."""
    steps = row[-1]
    speed = steps.value if isinstance(steps, Marked) else 0.0
    return (str(row[1]), steps is None, speed, row_name(str(row[0]), str(row[1])))
