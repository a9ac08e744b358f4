"""Engines run units of work in some number of workers. `Here` runs them in this process and needs no other package."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

from taco_ir.core.errors import InputError
from taco_ir.core.processes import Progress
from taco_ir.scale.units import Unit, Worker

FOR_EACH_WORKER = 8  # units, so that no worker waits long for the last unit
SHARED_WITHIN = 20.0  # seconds in which a shared disk shows a file to other machines


class Standing:
    """The progress of a command's units of work, as found on disk, with a progress line."""

    def __init__(self, units: Sequence[Unit], what: str, rows: str) -> None:
        self._states = {unit.number: unit.look() for unit in units}
        self._progress = Progress(what, sum(state.total for state in self._states.values()), rows)
        self._told = sum(state.done for state in self._states.values())
        self._progress.skip(self._told)

    @property
    def finished(self) -> int:
        """The number of finished units."""
        return sum(state.finished for state in self._states.values())

    def is_done(self, unit: Unit) -> bool:
        return self._states[unit.number].finished

    def at(self, unit: Unit) -> None:
        """Read a unit's progress from disk, and show it."""
        self._states[unit.number] = unit.look()
        if (done := sum(state.done for state in self._states.values())) > self._told:
            self._told = done
            self._progress.at(done, f"{self.finished:,} of {len(self._states):,} shards")

    def confirm(self, unit: Unit, host: str) -> None:
        """Record that a worker finished a unit. Raises: InputError if this machine cannot see the result on disk."""
        until = time.monotonic() + SHARED_WITHIN
        while not unit.look().finished:
            if time.monotonic() > until:
                there = f"its worker finished shard {unit.number} of {unit.of}, which is not on {socket.gethostname()}"
                raise InputError(f"{host}: {there}; give a folder that all machines share")
            time.sleep(0.2)
        self.at(unit)


class Engine(Protocol):
    """The interface of engines, which run units of work.

    Attributes:
        workers: number of units that run at the same time.
        units: number of units that keep all workers busy to the end.
    """

    workers: int
    units: int

    def run(self, units: Sequence[Unit], standing: Standing) -> Mapping[int, str]:
        """Run units; returns the numbers of failed units with the reasons. Raises: InputError for a user's mistake."""

    def close(self) -> None:
        """End all workers."""


class Here:
    """Runs all units in this process, one after the other."""

    workers, units = 1, FOR_EACH_WORKER

    def run(self, units: Sequence[Unit], standing: Standing) -> Mapping[int, str]:
        worker = Worker()
        for unit in units:
            worker.run(unit, lambda _, unit=unit: standing.at(unit))  # type: ignore[misc]
            if not standing.is_done(unit):  # without rows, of which it reports none
                standing.at(unit)
        return {}

    def close(self) -> None:
        pass


def do_units(units: Sequence[Unit], engine: Engine, what: str, rows: str) -> None:
    """Run all unfinished units, with a progress line: rate, finished shards, time left.

    Args:
        what, rows: the name of the work and the name of what is counted, for the progress line.

    Raises:
        InputError: if units failed, with their names, or for a user's mistake that a worker found.
    """
    standing = Standing(units, what, rows)
    if before := standing.finished:
        print(f"{what}: {before:,} of {len(units):,} shards are done already", file=sys.stderr)
    lost = engine.run([unit for unit in units if not standing.is_done(unit)], standing)
    if left := [unit for unit in units if not standing.is_done(unit)]:
        named = "; ".join(f"shard {number}: {said}" for number, said in sorted(lost.items()))
        raise InputError(
            f"{len(left):,} of {len(units):,} shards are not finished ({named}); run the same command again"
        )
