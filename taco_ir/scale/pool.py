"""Pools of workers: give units of work to workers, and replace workers that die."""

from __future__ import annotations

import socket
import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Mapping, Sequence

from taco_ir.core.errors import InputError
from taco_ir.core.processes import log
from taco_ir.scale.engines import FOR_EACH_WORKER, Standing
from taco_ir.scale.units import Answer, Unit

TRIES = 3  # workers that may die at one unit, or before they begin; units that may be given up before any is done
LOOK_EVERY = 2.0  # seconds between two looks at the disk
SLOW_START = 60.0  # seconds after which a user is told that no worker has begun


class Pool(ABC):
    """An engine with several workers in separate processes.

    If a worker dies, another worker continues its unit from the results on disk. If three workers die at one unit, the
    unit is given up, and the other units continue.

    Args:
        workers: number of workers at the same time.
    """

    def __init__(self, workers: int) -> None:
        self.workers, self.units = workers, FOR_EACH_WORKER * workers

    @abstractmethod
    def hire(self) -> int:
        """Start another worker and return its number; the worker reports when it is ready."""

    @abstractmethod
    def give(self, worker: int, unit: Unit) -> None:
        """Give a unit to a worker that is ready."""

    @abstractmethod
    def hear(self, seconds: float) -> tuple[int, Answer] | None:
        """Wait at most `seconds` for a worker's message or end; returns the worker and the message, or None."""

    @abstractmethod
    def end(self, worker: int) -> None:
        """Stop a worker, which may have stopped already."""

    @abstractmethod
    def close(self) -> None:
        """End all workers."""

    def run(self, units: Sequence[Unit], standing: Standing) -> Mapping[int, str]:
        """Run units; returns the numbers of failed units with the reasons (see `Engine.run`)."""
        return _Shift(self, units, standing).work()


class _Shift:
    """The workers of a pool during one `run`, and the unit of each worker."""

    def __init__(self, pool: Pool, units: Sequence[Unit], standing: Standing) -> None:
        self._pool, self._standing, self._before = pool, standing, standing.finished
        self._waiting, self._busy = deque(units), dict[int, Unit]()
        self._coming, self._idle = set[int](), list[int]()
        self._tries, self._lost, self._unborn = Counter[int](), dict[int, str](), 0

    def work(self) -> Mapping[int, str]:
        slow = time.monotonic() + SLOW_START
        while (self._waiting or self._busy) and not self._is_hopeless:
            self._employ()
            if (heard := self._pool.hear(LOOK_EVERY)) is not None:
                self._act(*heard)
                continue
            for unit in self._busy.values():
                self._standing.at(unit)
            if time.monotonic() > slow and not self._busy:
                log.warning("no worker has begun; are the machines busy?")
                slow = float("inf")
        return self._lost

    @property
    def _is_hopeless(self) -> bool:
        """True if the first units were all given up, and no unit was finished."""
        return len(self._lost) == TRIES and self._standing.finished == self._before

    def _employ(self) -> None:
        while self._waiting and self._idle:
            self._busy[worker := self._idle.pop()] = unit = self._waiting.popleft()
            self._pool.give(worker, unit)
        while len(self._coming) < min(self._pool.workers - len(self._busy), len(self._waiting)):
            self._coming.add(self._pool.hire())

    def _act(self, worker: int, answer: Answer) -> None:
        """Handle a worker's message."""
        said = f"{answer.host}: {answer.said}" if answer.host not in ("", socket.gethostname()) else answer.said
        unit = self._busy.pop(worker, None)
        if answer.how == "refused":
            raise InputError(said)
        if answer.how != "failed":
            self._coming.discard(worker)
            self._unborn = 0
            self._idle.append(worker)
            if unit is not None:
                self._standing.confirm(unit, answer.host)
        elif unit is not None:
            self._pool.end(worker)
            self._give_back(unit, said)
        elif worker in self._idle:
            self._idle.remove(worker)
        elif worker in self._coming:
            self._coming.remove(worker)
            self._unborn += 1
            if self._unborn == TRIES:
                raise InputError(f"workers ended before they could begin ({said}); see their messages above")

    def _give_back(self, unit: Unit, said: str) -> None:
        self._tries[unit.number] += 1
        where = f"shard {unit.number} of {unit.of}"
        if self._tries[unit.number] < TRIES:
            log.warning("%s: its worker ended (%s); another takes it", where, said)
            self._waiting.append(unit)
        else:
            log.warning("%s: %d workers ended at it (%s); other shards continue", where, TRIES, said)
            self._lost[unit.number] = f"{TRIES} workers ended at it ({said})"
