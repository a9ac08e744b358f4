"""Process helpers: logging, progress, memory, sharing processors, and ending together with the parent process.

Also facts about the process for pages and records: its command, and the commit of its code.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar, cast

log = logging.getLogger("taco_ir")
T = TypeVar("T")
PARENT = "TACO_IR_PARENT"  # environment variable: id of the process that started this one and waits for it
SET_PARENT_DEATH_SIGNAL = 1  # prctl's PR_SET_PDEATHSIG
ENDED = 2  # exit code of a process whose parent has ended
PACKAGE = Path(__file__).resolve().parents[1]
CONTAINER_MEMORY = (  # files with a container's memory limit and use, in cgroups 2 and 1
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
LEAST_RATE = 0.05  # units a second: lower rates would be shown as 0.0
MEMORY_UNKNOWN = 4_000_000_000  # bytes assumed to be free if the system does not report them
OURS = threading.Event()  # set if this process runs a command, not another program


class Progress:
    """A progress line with count, rate and time left. A terminal shows one changing line, a log gets a line every 10 s.

    Args:
        what: the work that the line is about, such as a file name.
        total: number of units in all; None if unknown, and then no time left is shown.
        unit: what is counted, such as passages.
    """

    def __init__(self, what: str, total: int | None, unit: str) -> None:
        self._what, self._total, self._unit = what, total, unit
        self._start = self._shown = time.monotonic()
        self._skipped = 0
        self._live = sys.stderr.isatty()

    def skip(self, done: int) -> None:
        """Count the first `done` units as finished by an earlier process, so that they do not affect the rate."""
        self._skipped = done

    def at(self, done: int, note: str = "") -> None:
        now = time.monotonic()
        finished = self._total is not None and done >= self._total
        if now - self._shown < (0.2 if self._live else 10) and not finished:
            return
        self._shown = now
        rate = (done - self._skipped) / max(now - self._start, 1e-9)
        speed = f", {rate:,.1f}/s" if rate >= LEAST_RATE else ""
        of = f" of {self._total:,}" if self._total is not None else ""
        if self._total is not None and rate:
            speed += f", {format_duration((self._total - done) / rate)} left"
        line = f"{self._what}: {done:,}{of} {self._unit}{speed}{note and f'; {note}'}"
        end = "" if self._live and not finished else "\n"
        print(f"\r{line}\x1b[K" if self._live else line, end=end, file=sys.stderr, flush=True)

    def end(self, done: int) -> None:
        """End a line with unknown total after `done` units. Nothing is printed if the line has not appeared yet."""
        if self._shown > self._start:
            self._total = done
            self.at(done)


def with_progress(items: Iterable[T], what: str, unit: str) -> Iterator[T]:
    """Yield the given items and show a progress line with count and rate. The number of items need not be known."""
    progress, count = Progress(what, None, unit), 0
    for count, item in enumerate(items, 1):
        progress.at(count)
        yield item
    progress.end(count)


def ahead(items: Iterable[T]) -> Generator[T, None, None]:
    """Yield items; a thread makes the next one while the caller uses the last. Its errors are raised here."""
    source, end = iter(items), object()
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, source, end)
        while (item := coming.result()) is not end:
            coming = thread.submit(next, source, end)
            yield cast("T", item)


def format_duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def format_bytes(count: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


@contextlib.contextmanager
def timed() -> Iterator[Callable[[], float]]:
    """Yield a function that returns the seconds since the block began."""
    start = time.perf_counter()
    yield lambda: time.perf_counter() - start


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """Pause Python's garbage collection inside the block; it would take a third of the time to read a large run."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def resident_memory() -> int:
    """Return the resident memory of this process in bytes. If the system does not report it, return the peak."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return peak_memory()
    return pages * os.sysconf("SC_PAGE_SIZE")


def peak_memory() -> int:
    """Return the peak resident memory of this process in bytes; 0 if the system does not report it."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def free_memory() -> int:
    """Return the free memory of this machine in bytes, or of this container if its memory limit leaves less."""
    free = [_number(Path("/proc/meminfo"), r"MemAvailable:\s+(\d+) kB") * 1024 or MEMORY_UNKNOWN]
    for most, used in CONTAINER_MEMORY:
        if limit := _number(Path(most), r"(\d+)"):
            free.append(limit - _number(Path(used), r"(\d+)"))
    return max(min(free), 0)


def _number(path: Path, pattern: str) -> int:
    """Return the first number that a pattern finds in a system file; 0 without such a file or number."""
    try:
        found = re.search(pattern, path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0
    return int(found[1]) if found else 0


def share_processors() -> None:
    """Let waiting OpenMP threads spin for a tenth of a millisecond, then sleep; call this before importing torch.

    By default threads spin for milliseconds. This was ten times slower while other work ran, such as a JVM in the same
    process. If other work keeps all processors busy, threads sleep at once, because a spinning thread would take a
    processor from the thread that it waits for. The number of threads does not depend on the load, because that would
    change numerical results.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "0" if _is_crowded() else "20000")


def _is_crowded() -> bool:
    """Return whether other work kept every processor busy during the last minute."""
    try:
        return os.getloadavg()[0] >= (os.cpu_count() or 1)
    except (OSError, AttributeError):  # the system does not report its load
        return False


def end_with_parent() -> None:
    """Make this process end together with its parent process, even after kill -9, so that it releases its locks."""
    parent = int(os.environ.pop(PARENT, 0))
    if not parent:
        return
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    else:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    if os.getppid() != parent:  # it ended before
        os._exit(ENDED)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(ENDED)


def command_line() -> str:
    """Return the taco_ir command that this process runs, as typed in a shell; "" in a notebook or another program."""
    program, words = Path(sys.argv[0]), sys.argv[1:]
    if program.name == "taco-ir":
        return shlex.join(["taco-ir", *words])
    try:
        module = program.resolve().relative_to(PACKAGE.parent).with_suffix("")
    except ValueError:
        return ""
    names = [name for name in module.parts if name != "__main__"]
    return shlex.join(["python", "-m", ".".join(names), *words]) if names[:1] == [PACKAGE.name] else ""


def current_commit() -> str:
    """Return the git commit of this package, with + if its files were changed; "" without a git checkout."""
    if not (PACKAGE.parent / ".git").exists() or not shutil.which("git"):
        return ""

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(PACKAGE.parent), *words], capture_output=True, text=True, check=False)
        return done.stdout.strip()

    return git("rev-parse", "HEAD") + "+" * bool(git("status", "--porcelain", "--", PACKAGE.name))
