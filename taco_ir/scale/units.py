"""Units of work, and the worker that runs them one after the other, in any process that an engine starts."""

from __future__ import annotations

import json
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from taco_ir.core import resolve
from taco_ir.core.errors import InputError, is_users
from taco_ir.core.hashes import fingerprint

How = Literal["ready", "done", "refused", "failed"]


class State(NamedTuple):
    """The progress of a unit: finished rows, all rows, and whether it is finished."""

    done: int
    total: int
    finished: bool


class Unit(NamedTuple):
    """A piece of work that any process can do, repeatedly, with the same result; the disk shows whether it is finished.

    All fields are JSON values, so that a unit can be sent to any machine.

    Attributes:
        kind: the `Kind` that does such units, as "module:class".
        number, of: the number of the unit, from 1, and the number of all units of the command.
        spec: the data that all units of the command share.
    """

    kind: str
    number: int
    of: int
    spec: dict[str, Any]

    def look(self) -> State:
        """Returns the unit's progress, as found on disk."""
        state: State = resolve(self.kind).look(self.spec, self.number, self.of)
        return state


class Kind(Protocol):
    """The interface of a kind of unit. A process makes one instance for a spec, which loads what all its units need."""

    def __init__(self, spec: dict[str, Any]) -> None: ...

    def run(self, number: int, of: int, report: Callable[[int], None]) -> int:
        """Finish a unit, and report the number of finished rows to `report`; returns the rows done in this call."""

    @staticmethod
    def look(spec: dict[str, Any], number: int, of: int) -> State:
        """Returns a unit's progress, as found on disk, without loading anything."""


def require_shared(places: Iterable[tuple[str, Path]]) -> None:
    """Raise InputError if a path does not exist on this machine. Each path comes with its name for the error."""
    for what, path in places:
        if not path.exists():
            raise InputError(f"{what} {path}: a worker does not find it; give a path that all machines share")


class Answer(NamedTuple):
    """A worker's message: that it is ready, or how a unit ended.

    Attributes:
        how: `refused` for a user's mistake, which stops all work; `failed` if another worker may succeed.
        said: the mistake or the error in one line.
        rows, seconds: what a finished unit took.
        host: the worker's machine.
    """

    how: How
    said: str = ""
    rows: int = 0
    seconds: float = 0.0
    host: str = ""


class Worker:
    """Runs units in one process; model and data that units with the same spec share are loaded once."""

    def __init__(self) -> None:
        self._loaded: tuple[str, Kind] | None = None

    def run(self, unit: Unit, report: Callable[[int], None] = lambda _: None) -> Answer:
        """Finish a unit. Raises: whatever its kind raises."""
        begun, key = time.perf_counter(), fingerprint([unit.kind, unit.spec])
        if self._loaded is None or self._loaded[0] != key:
            self._loaded = None  # frees its memory before the next model and data are loaded
            self._loaded = key, resolve(unit.kind)(unit.spec)
        rows = self._loaded[1].run(unit.number, unit.of, report)
        return Answer("done", "", rows, time.perf_counter() - begun, socket.gethostname())

    def answer(self, unit: str) -> str:
        """Run a unit given as JSON; returns an `Answer` as JSON, also after an error."""
        host = socket.gethostname()
        try:
            found = self.run(Unit(*json.loads(unit)))
        except InputError as error:
            found = Answer("refused", str(error), host=host)
        except Exception as error:  # such as too little GPU memory: another worker may have more
            if isinstance(error, OSError) and is_users(error):
                found = Answer("refused", f"{error.filename or 'output'}: {error.strerror}", host=host)
            else:
                traceback.print_exc(file=sys.stderr)
                first = (str(error).splitlines() or [""])[0]
                found = Answer("failed", f"{type(error).__name__}: {first}", host=host)
        return json.dumps(found)
