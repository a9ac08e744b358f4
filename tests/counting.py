"""Units that only count: each row is a line of a file, and a worker ends or fails where the spec says so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from taco_ir.core.files import InputError
from taco_ir.retrieval.sharded_encoding import ShardsOfPassages
from taco_ir.scale.units import State, Unit

ROWS = 5
ALL = set(range(1, 7))
DRIVER = """
import signal
import sys
from pathlib import Path
from counting import units
from taco_ir.cli import run_verb
from taco_ir.scale.engines import do_units
from taco_ir.scale.processes import Processes
from taco_ir.scale.ray_pool import Ray

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it

def main(_):
    engine = ENGINE
    try:
        do_units(units(Path(sys.argv[1]), slow=0.3), engine, "count", "rows")
    finally:
        engine.close()

run_verb(main)
"""


class Counting:
    """Writes `number row` into FOLDER/number.

    The spec has the folder, and for some numbers what goes wrong after two rows, so many times.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        self.folder, self.wrong = Path(spec["folder"]), spec.get("wrong", {})
        self.slow = spec.get("slow", 0)
        with (self.folder / "loaded").open("a") as sink:
            said = [os.environ.get(name, "") for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")]
            sink.write(" ".join([str(os.getpid()), *said]) + "\n")

    def run(self, number: int, of: int, report: Callable[[int], None]) -> int:
        path = self.folder / str(number)
        done = rows(path)
        for row in range(done, ROWS):
            if row == 2:
                self._go_wrong(number)
            time.sleep(self.slow)
            with path.open("a") as sink:
                sink.write(f"{number} {row}\n")
            report(row + 1)
        return ROWS - done

    def _go_wrong(self, number: int) -> None:
        what, times = self.wrong.get(str(number), ("", 0))
        seen = self.folder / f"{number} went wrong"
        if what and rows(seen) < times:
            with seen.open("a") as sink:
                sink.write("once\n")
            if what == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            if what == "fails":
                raise KeyError(3)
            raise InputError("--flag 3: not so") if what == "refuses" else OSError(28, "No space", "f")

    @staticmethod
    def look(spec: dict[str, Any], number: int, of: int) -> State:
        done = 0 if spec.get("elsewhere") else rows(Path(spec["folder"]) / str(number))
        return State(done, ROWS, done == ROWS)


def rows(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.is_file() else 0


def units(folder: Path, count: int = 6, **spec: Any) -> list[Unit]:
    folder.mkdir(exist_ok=True)
    return [Unit("counting:Counting", number, count, {"folder": str(folder), **spec}) for number in range(1, count + 1)]


def are_whole(folder: Path, numbers: set[int]) -> bool:
    """Whether each of these units, and no other, is done, no row twice."""
    whole = {
        number: "".join(f"{number} {row}\n" for row in range(ROWS)) == (folder / str(number)).read_text()
        for number in range(1, 7)
        if rows(folder / str(number)) >= ROWS
    }
    return whole == dict.fromkeys(numbers, True)


def is_running(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def workers_of(folder: Path, least: int = 1) -> list[int]:
    """The processes that have begun to count; waits for the first ones."""
    until = time.monotonic() + 60
    while rows(folder / "loaded") < least and time.monotonic() < until:
        time.sleep(0.05)
    return [int(line.split()[0]) for line in (folder / "loaded").read_text().splitlines()]


def end_driver(folder: Path, engine: str, number: signal.Signals) -> tuple[int, str]:
    """Start a driver of slow units, end it by a signal while two workers work, and see these end; code and words."""
    words = [sys.executable, "-c", DRIVER.replace("ENGINE", engine), folder]
    driver = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    workers = workers_of(folder, 2)
    assert all(map(is_running, workers))
    driver.send_signal(number)
    _, said = driver.communicate(timeout=60)
    until = time.monotonic() + 60
    while any(map(is_running, workers)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(is_running, workers))
    return driver.returncode, said


class Sabotaged(ShardsOfPassages):
    """Its worker is killed once, after the first block of the third shard."""

    def __init__(self, spec: dict[str, Any]) -> None:
        super().__init__(spec)
        self._mark = Path(spec["output"]).with_suffix(".killed")

    def run(self, number: int, of: int, report: Callable[[int], None]) -> int:
        def after(done: int) -> None:
            if number == 3 and not self._mark.exists():
                self._mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            report(done)

        return super().run(number, of, after)
