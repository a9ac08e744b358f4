"""What benchmarks share: ratios with their bounds, measures in a process of their own, and a flag for a short race."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import NamedTuple, TypeVar

T = TypeVar("T")

MARK = "bound: "  # begins the line of each, by which all of them are found in what benchmarks print


class Bound(NamedTuple):
    """A figure and what it must be: at least `limit`, or at most that much."""

    what: str
    value: float
    limit: float
    at_most: bool = False

    @property
    def holds(self) -> bool:
        return self.value <= self.limit if self.at_most else self.value >= self.limit

    def __str__(self) -> str:
        side = "at most" if self.at_most else "at least"
        broken = "ABOVE" if self.at_most else "BELOW"
        return f"{MARK}{self.what}: {self.value:.4g}, {side} {self.limit:g} needed: {'holds' if self.holds else broken}"


def in_a_process(measure: Callable[..., T], *values: object) -> T:
    """What `measure` gives in a forked process: its peak memory is its own, on top of what this process holds."""
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
        return pool.submit(measure, *values).result()


def add_tiny(flags: argparse.ArgumentParser) -> None:
    """Add --tiny: what it times then says nothing, so no bound is held."""
    flags.add_argument(
        "--tiny", action="store_true", help="one short round of little, to see that it runs; bounds are shown, not held"
    )


def judged(bounds: Sequence[Bound], tiny: bool) -> int:
    """Print the bounds; the exit code: 1 where one of them does not hold."""
    for bound in bounds:
        print(bound, flush=True)
    return 0 if tiny else int(not all(bound.holds for bound in bounds))
