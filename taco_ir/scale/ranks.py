"""The processes of torchrun as an engine: the first one gives out units, and each does an equal share of them.

They communicate in JSON through torchrun's key-value store; without torchrun there is one process, and no store.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING

from taco_ir.core.errors import InputError
from taco_ir.core.processes import format_duration, log
from taco_ir.scale.engines import Standing
from taco_ir.scale.units import Answer, Unit, Worker

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

PATIENCE = timedelta(days=7)  # that processes wait for each other
SLOW = 60.0  # seconds of waiting after which a line names the late ranks; the next line comes after twice as long
NAPS = 0.0005, 0.05  # seconds between two looks at the store, at first and at last
COUNT = itertools.count(1)  # of messages: all ranks count in the same way, so each knows the next message's number


class Ranks:
    """This process and the others that torchrun started with it; an `Engine`.

    Args:
        device: `cuda` becomes the GPU that torchrun numbers for this process.

    Attributes:
        rank: this process's number, from 0; only rank 0 gives out units, writes results and prints.
        world, workers, units: number of processes.
    """

    def __init__(self, device: str) -> None:
        self.world = self.workers = self.units = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        if self.world > 1 and device == "cuda":
            import torch

            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))  # from now on, `cuda` means this GPU

    @property
    def first(self) -> bool:
        return self.rank == 0

    def wait(self) -> None:
        """Wait until all processes have called this."""
        if self.world > 1:
            self._say(message := next(COUNT), "")
            self._hear(message, range(self.world))
            self._part(message)

    def from_first(self, value: float) -> float:
        """Returns the first process's `value` in every process."""
        if self.world > 1:
            self._say(message := next(COUNT), json.dumps(value))
            value = json.loads(self._hear(message, [0])[0])
        return value

    @contextmanager
    def lead(self) -> Iterator[bool]:
        """Yield True in the first process. The others first do their shares of the units that it runs in the block."""
        worker = Worker()
        while not self.first and (units := json.loads(self._hear(message := next(COUNT), [0])[0])) is not None:
            own = units[self.rank :: self.world]
            self._say(message, json.dumps([worker.answer(json.dumps(unit)) for unit in own]))
        del worker
        yield self.first
        if self.world > 1:
            if self.first:
                self._say(message := next(COUNT), "null")
            self._part(message)

    def run(self, units: Sequence[Unit], standing: Standing) -> Mapping[int, str]:
        """Run units, as `Engine.run` does; call this only in the block of `lead`."""
        self._say(message := next(COUNT), json.dumps(units))
        worker = Worker()
        for turn, unit in enumerate(units[:: self.world]):

            def report(_: int, first: int = turn * self.world) -> None:
                for each in units[first : first + self.world]:
                    standing.at(each)

            worker.run(unit, report)
            standing.at(unit)
        lost: dict[int, str] = {}
        for rank, answers in self._hear(message, range(1, self.world)).items():
            for unit, said in zip(units[rank :: self.world], json.loads(answers), strict=True):
                answer = Answer(*json.loads(said))
                if answer.how == "refused":
                    raise InputError(f"rank {rank}: {answer.said}")
                if answer.how == "failed":
                    lost[unit.number] = f"rank {rank}: {answer.said}"
                else:
                    standing.confirm(unit, answer.host)
        return lost

    def close(self) -> None:
        """Do nothing, since the processes are not workers: they continue with their training."""

    def _say(self, message: object, said: str) -> None:
        meeting_place().set(f"{message} {self.rank}", said)

    def _part(self, message: int) -> None:
        """Let the first process, which may hold the store, continue only after all others have read this message."""
        if self.first:
            self._hear(f"{message} read", range(1, self.world))
        else:
            self._say(f"{message} read", "")

    def _hear(self, message: object, ranks: Iterable[int]) -> dict[int, bytes]:
        """Wait for a message from each of the ranks. If this takes long, the lowest rank names the late ranks."""
        keys = {rank: f"{message} {rank}" for rank in ranks}
        store, began, pause, nap = meeting_place(), time.monotonic(), SLOW, NAPS[0]
        while not store.check(list(keys.values())):
            time.sleep(nap)
            nap = min(2 * nap, NAPS[1])
            if (waited := time.monotonic() - began) >= pause:
                pause *= 2
                late = [rank for rank, key in keys.items() if not store.check([key])]
                if late and self.rank == min({*range(self.world)}.difference(late)):
                    named = f"{'ranks' if len(late) > 1 else 'rank'} {', '.join(map(str, late))}"
                    log.warning("rank %d has waited %s for %s", self.rank, format_duration(waited), named)
        return {rank: store.get(key) for rank, key in keys.items()}


@cache
def meeting_place() -> Store:
    """Returns the key-value store that all processes share."""
    from torch.distributed.rendezvous import rendezvous

    store: Store = next(rendezvous("env://", timeout=PATIENCE))[0]
    return store
