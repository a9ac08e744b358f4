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
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

log = logging.getLogger("taco_ir")
T = TypeVar("T")
PARENT = "TACO_IR_PARENT"  # environment variable: the process that started this one and waits for it
SET_PARENT_DEATH_SIGNAL = 1  # prctl's PR_SET_PDEATHSIG
ENDED = 2  # exit code of a process whose parent has ended
PACKAGE = Path(__file__).resolve().parents[1]
CONTAINER_MEMORY = (  # files of the most that a container may take and of what it takes, in cgroups 2 and 1
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
MEMORY_UNKNOWN = 4_000_000_000  # bytes that are taken for free where the system does not tell
OURS = threading.Event()  # set where a verb is the whole process, and not a function that a program calls


class Progress:
    """A progress line with count, rate and time left: updated in place on a terminal, every ten seconds in a log.

    Args:
        total: None if unknown; then no time left is shown.
    """

    def __init__(self, what: str, total: int | None, unit: str) -> None:
        self._what, self._total, self._unit = what, total, unit
        self._start = self._shown = time.monotonic()
        self._skipped = 0
        self._live = sys.stderr.isatty()

    def skip(self, done: int) -> None:
        """Count `done` units as finished earlier, by another process; they do not affect the rate."""
        self._skipped = done

    def at(self, done: int, note: str = "") -> None:
        now = time.monotonic()
        finished = self._total is not None and done >= self._total
        if now - self._shown < (0.2 if self._live else 10) and not finished:
            return
        self._shown = now
        rate = (done - self._skipped) / max(now - self._start, 1e-9)
        of, left = "", ""
        if self._total is not None:
            of, left = f" of {self._total:,}", f", {format_duration((self._total - done) / rate if rate else 0)} left"
        line = f"{self._what}: {done:,}{of} {self._unit}, {rate:,.1f}/s{left}"
        line += note and f"; {note}"
        end = "" if self._live and not finished else "\n"
        print(f"\r{line}\x1b[K" if self._live else line, end=end, file=sys.stderr, flush=True)

    def end(self, done: int) -> None:
        """Set the total, which was unknown before; printed only if the progress line has already appeared."""
        if self._shown > self._start:
            self._total = done
            self.at(done)


def with_progress(items: Iterable[T], what: str, unit: str) -> Iterator[T]:
    """Yield items whose number is unknown, showing a progress line with count and rate."""
    progress, count = Progress(what, None, unit), 0
    for count, item in enumerate(items, 1):
        progress.at(count)
        yield item
    progress.end(count)


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
    """Pause Python's garbage collection, which wastes a third of the time on the millions of strings of a run."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def resident_memory() -> int:
    """Resident memory of this process now, in bytes; its peak if the system does not report the current value."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return peak_memory()
    return pages * os.sysconf("SC_PAGE_SIZE")


def peak_memory() -> int:
    """Peak resident memory of this process in bytes; 0 if the system does not report it."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def free_memory() -> int:
    """Memory that processes can still use, in bytes: on this machine, or in this container if it has less."""
    free = [_number(Path("/proc/meminfo"), r"MemAvailable:\s+(\d+) kB") * 1024 or MEMORY_UNKNOWN]
    for most, used in CONTAINER_MEMORY:
        if limit := _number(Path(most), r"(\d+)"):
            free.append(limit - _number(Path(used), r"(\d+)"))
    return max(min(free), 0)


def _number(path: Path, pattern: str) -> int:
    """The first number that a pattern finds in a file of the system; 0 without such a file or number."""
    try:
        found = re.search(pattern, path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0
    return int(found[1]) if found else 0


def share_processors() -> None:
    """Let waiting OpenMP threads spin for a tenth of a millisecond, then sleep; call this before importing torch.

    By default threads spin for milliseconds, which was ten times slower beside other work, such as a JVM in the same
    process. Sleeping at once is slower on an idle machine, but better if other work keeps all processors busy: spinning
    then takes a processor from the very thread that is waited for. Numerical results do not change, as they would if
    the number of threads followed the load.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "0" if _is_crowded() else "20000")


def _is_crowded() -> bool:
    """Whether other work kept every processor busy during the last minute."""
    try:
        return os.getloadavg()[0] >= (os.cpu_count() or 1)
    except (OSError, AttributeError):  # a system that does not tell
        return False


def end_with_parent() -> None:
    """End this process when the verb that started it ends, even by kill -9, so that it does not keep holding locks."""
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
    """The taco_ir command that this process runs, as one would type it; "" in a notebook or another program."""
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
    """The commit of this package's checkout, with + if files were changed; "" if installed, or without git."""
    if not (PACKAGE.parent / ".git").exists() or not shutil.which("git"):
        return ""

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(PACKAGE.parent), *words], capture_output=True, text=True, check=False)
        return done.stdout.strip()

    return git("rev-parse", "HEAD") + "+" * bool(git("status", "--porcelain", "--", PACKAGE.name))
