"""Runs a study's jobs: each after those it needs, several at a time, and each command as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any, NamedTuple

from taco_ir.core.files import InputError, read_json, write_json
from taco_ir.core.processes import PARENT, format_duration
from taco_ir.studies.conditions import Job, Study

Say = Callable[[str], None]


def wanted_jobs(study: Study, patterns: Collection[str], seeds: Collection[int]) -> list[Job]:
    """Jobs whose condition matches a pattern, of these seeds, and all that they need; everything where neither is given.

    Raises:
        InputError: for a pattern or a seed that no condition has.
    """
    jobs = study.jobs()
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in study.conditions):
            raise InputError(f"--only {pattern!r} matches no condition; there are {', '.join(study.conditions)}")
    chosen = [
        job
        for job in jobs
        if (not seeds or job.seed in seeds)
        and (not patterns or any(fnmatchcase(job.condition, each) for each in patterns))
    ]
    if not chosen:
        raise InputError(f"--seeds {' '.join(map(str, seeds))}: none of these conditions has them")
    wanted = study.with_needs(chosen)
    return [job for job in jobs if job in wanted]


def run_jobs(study: Study, jobs: Collection[Job], run: Callable[[Job], None], workers: int, say: Say) -> dict[Job, str]:
    """Run jobs, `workers` at a time, earlier ones first; what failed, and why. Raises: InputError for conditions that need each other."""
    rank = {job: place for place, job in enumerate(jobs)}
    sorter = TopologicalSorter({job: [need for need in study.needs(job).values() if need in rank] for job in jobs})
    sorter.prepare()
    ready: list[Job] = []
    running: dict[Future[None], Job] = {}
    failed: dict[Job, str] = {}
    start, done = time.monotonic(), 0
    with ThreadPoolExecutor(workers) as pool:
        while True:
            ready = sorted([*ready, *sorter.get_ready()], key=rank.__getitem__)
            while ready and len(running) < workers:
                job = ready.pop(0)
                say(f"{job}: begun")
                running[pool.submit(run, job)] = job
            if not running:
                return failed
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job = running.pop(future)
                done += 1
                error = future.exception()
                if isinstance(error, InputError | OSError):
                    failed[job] = str(error)
                    say(f"failed: {error}")
                elif error is not None:
                    raise error
                else:
                    sorter.done(job)
                    left = (time.monotonic() - start) / done * (len(jobs) - done)
                    say(f"{job}: done, {done} of {len(jobs)}, about {format_duration(left)} left")


class Spent(NamedTuple):
    """What a command took: seconds on the clock and bytes of memory at their peak, over all its processes, and how many these were."""

    seconds: float
    peak_bytes: int
    processes: int = 1

    def facts(self) -> dict[str, float]:
        """For a record; one process goes without saying."""
        return {name: value for name, value in self._asdict().items() if name != "processes" or value > 1}


def run_process(name: str, words: Sequence[str], environment: Mapping[str, str], log: Path, begun: Path) -> Spent:
    """Run `python -m taco_ir.<words>` to its end, which is this process's at the latest.

    `begun` keeps when each process began and, once it ended, well or not, its seconds and its peak. One whose end nobody saw, since
    this process was killed too, counts, without its seconds. The file is the caller's to remove, when it has kept the sum.

    Args:
        name: of what it is for, in errors.
        environment: added to this process's own.
        log: what is printed is added here.

    Raises:
        InputError: where the process fails, with its last line.
    """
    made = read_json(begun, list[dict[str, Any]]) if begun.is_file() else []
    made.append({"begun": datetime.now(UTC).isoformat(timespec="seconds")})
    write_json(begun, made)
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
    write_json(begun, made)
    if process.returncode:
        last = next(
            (line for line in reversed(log.read_text(encoding="utf-8").splitlines()) if line.strip()), "no output"
        )
        raise InputError(f"{name}: {words[0]} ended with code {process.returncode}: {last} (all of it: {log})")
    seen = [each for each in made if "seconds" in each]
    return Spent(round(sum(each["seconds"] for each in seen), 1), max(each["peak_bytes"] for each in seen), len(made))
