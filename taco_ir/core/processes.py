"""Shares processors with other work on the machine, and ends a child process together with its parent."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time

PARENT = "TACO_IR_PARENT"  # environment variable: the process that started this one and waits for it
SET_PARENT_DEATH_SIGNAL = 1  # prctl's PR_SET_PDEATHSIG
ENDED = 2  # exit code of a process whose parent has ended


def share_processors() -> None:
    """Let OpenMP's threads spin for a tenth of a millisecond while they wait, then sleep; to be called before torch or faiss is imported.

    Their own rule, milliseconds, was ten times slower where something else runs, a Java machine in the same process
    included; threads that sleep at once are slower where nothing does. Where other work keeps all processors busy by now
    they do sleep at once: a thread waits there for one that has no processor, and spinning takes that from it. Unlike a
    number of threads that follows the load, this changes no sum.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "0" if _crowded() else "20000")


def _crowded() -> bool:
    """Whether other work kept every processor busy during the last minute."""
    try:
        return os.getloadavg()[0] >= (os.cpu_count() or 1)
    except OSError:  # a system that does not tell
        return False


def end_with_parent() -> None:
    """End this process when the verb that started it ends, even by kill -9; otherwise it would go on holding locks unnoticed."""
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
