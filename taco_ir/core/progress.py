"""Progress of long work: the toolkit's log, and a line with the rate and the time left."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

log = logging.getLogger("taco_ir")


class Progress:
    """A progress line with count, rate and time left: rewritten in place on a terminal, every ten seconds in a log."""

    def __init__(self, what: str, total: int, unit: str) -> None:
        self._what, self._total, self._unit = what, total, unit
        self._start = self._shown = time.monotonic()
        self._skipped = 0
        self._live = sys.stderr.isatty()

    def skip(self, done: int) -> None:
        """Count `done` units as finished by an earlier process; they do not affect the rate."""
        self._skipped = done

    def at(self, done: int, note: str = "") -> None:
        now = time.monotonic()
        if now - self._shown < (0.2 if self._live else 10) and done < self._total:
            return
        self._shown = now
        rate = (done - self._skipped) / max(now - self._start, 1e-9)
        left = (self._total - done) / rate if rate else 0
        line = f"{self._what}: {done:,} of {self._total:,} {self._unit}, {rate:,.1f}/s, {duration(left)} left{note and f'; {note}'}"
        print(
            f"\r{line}\x1b[K" if self._live else line,
            end="" if self._live and done < self._total else "\n",
            file=sys.stderr,
            flush=True,
        )


def duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


@contextmanager
def timed() -> Iterator[Callable[[], float]]:
    """Yield a function that returns the seconds since the block began."""
    start = time.perf_counter()
    yield lambda: time.perf_counter() - start
