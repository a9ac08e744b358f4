"""In which order jobs run: each after those it needs, several at a time, the rest going on where one fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from fnmatch import fnmatchcase
from graphlib import TopologicalSorter

from taco_ir.core.files import InputError
from taco_ir.core.progress import duration
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
        if (not seeds or job.seed in seeds) and (not patterns or any(fnmatchcase(job.condition, each) for each in patterns))
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
                    say(f"{job}: done, {done} of {len(jobs)}, about {duration(left)} left")
