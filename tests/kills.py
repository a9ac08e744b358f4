"""Kills a verb at random moments and runs it again: its folder must end as that of an undisturbed run."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from taco_ir.core.files import is_leftover

SECONDS = re.compile(rb'"seconds": [^,]+, ')


KILLS = 2  # of each trial
Contents = dict[str, bytes]


def forked(action: Callable[[], None], log: Path) -> int:
    """Run `action` in a child that writes to `log` what it says; the child's process id."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        action()
        status = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)


def contents(folder: Path) -> Contents:
    """Every file; where a training wrote its own folder and seconds, without these."""
    found = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): comparable(path, folder) for path in found}


def comparable(path: Path, folder: Path) -> bytes:
    data = path.read_bytes()
    return SECONDS.sub(b"", data.replace(str(folder).encode(), b"")) if path.suffix in (".json", ".jsonl") else data


def state(output: Path) -> str:
    """What a killed process left, for the report."""
    if unfinished := [path for path in beside(output) if path.suffix == ".part"]:
        return (
            "a file or folder half-written"
            if any(path.is_file() or any(path.iterdir()) for path in unfinished)
            else "nothing written"
        )
    return (
        "whole files"
        if any(path.is_file() and not is_leftover(path) for path in output.rglob("*"))
        else "nothing written"
    )


def beside(output: Path) -> list[Path]:
    """Locks and unfinished files and folders of an output, beside it and in it."""
    return [path for path in (*output.parent.glob(f"{output.name}.*"), *output.rglob("*")) if is_leftover(path)]


def last_change(output: Path) -> int:
    """When anything was last written to a folder or to its unfinished self, in nanoseconds."""
    times = []
    tops = (output, *output.parent.glob(f"{output.name}.*"))
    found = [Path(folder) / name for top in tops for folder, _, names in os.walk(top) for name in (".", *names)]
    for path in found:
        with contextlib.suppress(FileNotFoundError):  # renamed or removed meanwhile
            times.append(path.stat().st_mtime_ns)
    return max(times, default=0)


def begun(action: Callable[[], None], output: Path) -> int:
    """Start `action` in a child and return, with its process id, when it has begun to write (or ended)."""
    before = last_change(output)
    child = forked(action, output.with_name("log"))
    while last_change(output) == before and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        time.sleep(0.0005)
    return child


def trial(action: Callable[[], None], output: Path, seconds: float, draw: random.Random) -> list[str]:
    """KILLS times, start and kill at a random moment of the `seconds` that writing takes; then run to the end."""
    left: list[str] = []
    while len(left) < KILLS:
        child = begun(action, output)
        time.sleep(draw.uniform(0, seconds))
        os.kill(child, signal.SIGKILL)
        if os.WIFSIGNALED(os.waitpid(child, 0)[1]):
            left.append(state(output))
        else:  # finished before: it counts as no kill
            shutil.rmtree(output)
            seconds *= 0.8
    if os.waitpid(forked(action, output.with_name("log")), 0)[1]:
        raise SystemExit(f"the command failed after kills: {left}\n{output.with_name('log').read_text()}")
    return left


def undisturbed(action: Callable[[], None], output: Path) -> float:
    """Run to the end; the seconds that writing took."""
    child = begun(action, output)
    start = time.perf_counter()
    if os.waitpid(child, 0)[1] or not contents(output):
        raise SystemExit(f"the undisturbed command failed\n{output.with_name('log').read_text()}")
    return time.perf_counter() - start


def survive(verb: str, action: Callable[[Path], None], folder: Path, trials: int, draw: random.Random) -> None:
    """Raises: SystemExit when a folder differs from the undisturbed one."""
    whole = folder / f"{verb}-whole"
    seconds = undisturbed(lambda: action(whole), whole)
    expected = contents(whole)
    left: Counter[str] = Counter()
    for number in range(trials):
        output = folder / f"{verb}-{number}"
        left.update(trial(lambda output=output: action(output), output, seconds, draw))  # type: ignore[misc]
        found = contents(output)
        if found != expected:
            differing = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
            raise SystemExit(f"{verb}, trial {number}: {differing} differ from the undisturbed run")
        if left_over := beside(output):
            raise SystemExit(f"{verb}, trial {number}: {', '.join(map(str, left_over))} was left")
    print(f"{verb}: {trials} of {trials} trials byte-identical, {trials * KILLS} kills: {dict(left)}", flush=True)


def rerun(program: str, verb: str, trials: int, model: Path) -> None:
    """Run a file that kills `verb` as a program, since it forks before anything starts a thread; KILL_TRIALS says how often."""
    count = os.environ.get("KILL_TRIALS", str(trials))
    done = subprocess.run([sys.executable, program, count, model], capture_output=True, text=True, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(f"{verb}: {count} of {count} trials byte-identical")
