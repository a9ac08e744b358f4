"""A verb of this package as a process of its own, and what it took: over all its attempts, where some were killed or failed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from taco_ir.core.files import InputError, read_json, write_json
from taco_ir.core.processes import PARENT


class Spent(NamedTuple):
    """What a command took: seconds on the clock in all attempts, bytes of memory at their peak, and how many processes it was."""

    seconds: float
    peak_bytes: int
    attempts: int = 1

    def facts(self) -> dict[str, float]:
        """For a record; one attempt goes without saying."""
        return {name: value for name, value in self._asdict().items() if name != "attempts" or value > 1}


def run_process(name: str, words: Sequence[str], environment: Mapping[str, str], log: Path, attempts: Path) -> Spent:
    """Run `python -m taco_ir.<words>` to its end, which is this process's at the latest.

    `attempts` keeps when each process began and, once it ended, well or not, its seconds and its peak. One whose end nobody saw, since
    this process was killed too, counts as an attempt, without its seconds. The file is the caller's to remove, when it has kept the sum.

    Args:
        name: of what it is for, in errors.
        environment: added to this process's own.
        log: what is printed is added here.

    Raises:
        InputError: where the process fails, with its last line.
    """
    made: list[dict[str, Any]] = read_json(attempts) if attempts.is_file() else []
    made.append({"begun": datetime.now(UTC).isoformat(timespec="seconds")})
    write_json(attempts, made)
    start = time.monotonic()
    with log.open("a", encoding="utf-8") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", f"taco_ir.{words[0]}", *words[1:]],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment, PARENT: str(os.getpid())},
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    made[-1] |= {"seconds": round(time.monotonic() - start, 1), "peak_bytes": peak}
    write_json(attempts, made)
    if process.returncode:
        last = next((line for line in reversed(log.read_text(encoding="utf-8").splitlines()) if line.strip()), "no output")
        raise InputError(f"{name}: {words[0]} ended with code {process.returncode}: {last} (all of it: {log})")
    seen = [each for each in made if "seconds" in each]
    return Spent(round(sum(each["seconds"] for each in seen), 1), max(each["peak_bytes"] for each in seen), len(made))
