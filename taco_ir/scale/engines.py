"""Engines: whose hands do units of work, and how far these are. `Here` is this process, without any dependency."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

from taco_ir.core.errors import InputError
from taco_ir.core.processes import Progress
from taco_ir.scale.units import Unit, Worker

SHARED_WITHIN = 20.0  # seconds in which a disk shows one machine what another wrote


class Standing:
    """How far all units of a command are, as the disk says, with a line of progress."""

    def __init__(self, units: Sequence[Unit], what: str, rows: str) -> None:
        self._states = {unit.number: unit.look() for unit in units}
        self._progress = Progress(what, sum(state.total for state in self._states.values()), rows)
        self._before = sum(state.done for state in self._states.values())
        self._progress.skip(self._before)

    @property
    def finished(self) -> int:
        """Units that are done."""
        return sum(state.finished for state in self._states.values())

    def is_done(self, unit: Unit) -> bool:
        return self._states[unit.number].finished

    def at(self, unit: Unit) -> None:
        """Look how far a unit is, and show it."""
        self._states[unit.number] = unit.look()
        if (done := sum(state.done for state in self._states.values())) > self._before:
            self._progress.at(done, f"{self.finished:,} of {len(self._states):,} shards")

    def confirm(self, unit: Unit, host: str) -> None:
        """Note a unit that a worker has done. Raises: InputError where the disk does not show it to this machine."""
        until = time.monotonic() + SHARED_WITHIN
        while not unit.look().finished:
            if time.monotonic() > until:
                there = f"its worker finished shard {unit.number} of {unit.of}, which is not on {socket.gethostname()}"
                raise InputError(f"{host}: {there}; give a folder that all machines share")
            time.sleep(0.2)
        self.at(unit)


class Engine(Protocol):
    """Who does units of work.

    Attributes:
        workers: how many work at once.
    """

    workers: int

    def run(self, units: Sequence[Unit], standing: Standing) -> Mapping[int, str]:
        """Do units; the numbers of those that could not be done, with the reason. Raises: InputError for a mistake."""

    def close(self) -> None:
        """End all workers."""


class Here:
    """This process does all units, one after the other."""

    workers = 1

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
    """Do what is left of units, with a line of progress: rate, shards that are done, time left.

    Args:
        what: is done, and `rows` what is counted, for that line.

    Raises:
        InputError: naming the units that could not be done; for a user's mistake that a worker found.
    """
    standing = Standing(units, what, rows)
    if before := standing.finished:
        print(f"{what}: {before:,} of {len(units):,} shards are done already", file=sys.stderr)
    lost = engine.run([unit for unit in units if not standing.is_done(unit)], standing)
    if left := [unit for unit in units if not standing.is_done(unit)]:
        named = "; ".join(f"shard {number}: {said}" for number, said in sorted(lost.items()))
        raise InputError(f"{len(left):,} of {len(units):,} shards are not done ({named}); the same command does them")
