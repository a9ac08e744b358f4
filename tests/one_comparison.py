"""The tests of one system against its baseline, for laws of what the package tests many at once by."""

from __future__ import annotations

from collections.abc import Sequence

from taco_ir.evaluation.significance import FLIPS, RESAMPLES, Column, Values, bootstrap_intervals, randomisation_tests

COLUMN = Column("system", "", "measure")


def randomisation_test(tasks: Sequence[Values], seed: int, samples: int = FLIPS) -> float:
    """p of the mean of the tasks' mean differences."""
    named = {str(number): {COLUMN: task} for number, task in enumerate(tasks)}
    return randomisation_tests(named, [(list(named), COLUMN)], seed, samples)[0]


def bootstrap_interval(
    tasks: Sequence[Values], seed: int, samples: int = RESAMPLES, confidence: float = 0.95
) -> tuple[float, float]:
    """Interval of the same."""
    named = {str(number): {COLUMN: task} for number, task in enumerate(tasks)}
    return bootstrap_intervals(named, [(list(named), COLUMN)], seed, samples, confidence)[0]
