"""Verbs that write, under faults: `python trials.py kills|workers|pairs|disks [CASE ...] [--count N] [--seed N]`.

kills   kill -9 twice at random moments of writing, then the command again: byte for byte what nobody disturbed
workers kill -9 two workers of a command that has some, at random moments: it ends well, with the same bytes
pairs   two processes write one output at a time: one may be refused, none leaves a trace, and the output is that of one
disks   full, without inodes, or read-only: one line and code 2; with room, the same command ends well (needs root)
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import cases
from cases import CASES, Case, Contents, contents, ended, finish, log, make, start

KILLS = 2  # of each trial
ALONE = ("reproduce", "encode workers")  # start processes: every other kill leaves these without their parent
OPTIONS = ("size", "nr_inodes", "ro")  # of a disk, one for each trial in turn
ROOM = "size=512m,nr_inodes=100000,rw"
PAGE = 4096


class Trial(NamedTuple):
    """One command to disturb.

    Attributes:
        work: a folder for working directories; that of the undisturbed command, `whole`, is in it.
        expected: what the undisturbed command wrote.
        seconds: how long it took from its first change of a file to its end.
    """

    case: Case
    world: Path
    work: Path
    expected: Contents
    seconds: float
    number: int
    draw: random.Random


class Outcome(NamedTuple):
    """How a trial ended: what is wrong ("" for nothing), and what is counted of it."""

    fault: str
    seen: tuple[str, ...] = ()


# ---- kills


def kill(trial: Trial) -> Outcome:
    folder, seconds = make(trial.case, trial.world, trial.work / "killed"), trial.seconds
    alone = trial.case in [CASES[name] for name in ALONE] and trial.number % 2
    seen: list[str] = []
    while len(seen) < KILLS:
        child = begun(trial.case, trial.world, folder)
        time.sleep(trial.draw.uniform(0, seconds))
        (os.kill if alone else os.killpg)(child, signal.SIGKILL)
        code = ended(child)
        if code == -signal.SIGKILL:
            seen.append(state(folder))
        elif code or seen:  # it failed, or ended well after a kill
            break
        else:  # it was over before the first kill
            shutil.rmtree(folder)
            make(trial.case, trial.world, folder)
            seconds *= 0.8
    if code in (0, -signal.SIGKILL) or (code == 2 and " exists" in log(folder)):
        fault = finish(trial.case, trial.world, folder, trial.expected)
    else:
        fault = f"code {code}\n{log(folder)}"
    shutil.rmtree(folder)
    return Outcome(fault and f"after {len(seen)} kills: {fault}", tuple(seen))


def begun(case: Case, world: Path, folder: Path) -> int:
    """Start a command and return, with its process id, when it has begun to write (or ended)."""
    before = last_change(folder)
    child = start(case, world, folder)
    while last_change(folder) == before and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        time.sleep(0.001)
    return child


def last_change(folder: Path) -> int:
    """When anything in a folder was last written, in nanoseconds."""
    times = []
    for path in cases.walk(folder):
        with contextlib.suppress(FileNotFoundError):  # renamed or removed meanwhile
            times.append(path.stat().st_mtime_ns)
    return max(times, default=0)


def state(folder: Path) -> str:
    """What a killed process left."""
    unfinished = [path for path in folder.rglob("*") if path.suffix == ".part"]
    half = any(path.is_file() or any(path.iterdir()) for path in unfinished)
    return "half-written" if half else "between two writes"


# ---- workers


def kill_workers(trial: Trial) -> Outcome:
    folder = make(trial.case, trial.world, trial.work / "workers")
    child = begun(trial.case, trial.world, folder)
    seen: list[str] = []
    for _ in range(KILLS):
        time.sleep(trial.draw.uniform(0, trial.seconds / KILLS))
        if workers := children(child):
            os.kill(trial.draw.choice(workers), signal.SIGKILL)
            seen.append(state(folder))
    code = ended(child)
    names = cases.differing(contents(folder), trial.expected)
    said = log(folder)
    shutil.rmtree(folder)
    return Outcome(
        f"code {code}, {', '.join(names) or 'nothing'} differs\n{said}" if code or names else "", tuple(seen)
    )


def children(parent: int) -> list[int]:
    """The processes that a process has started and that have not ended."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            words = status.read_text().rpartition(")")[2].split()
            if int(words[1]) == parent and words[0] != "Z":
                found.append(int(status.parent.name))
    return found


# ---- pairs


def collide(trial: Trial) -> Outcome:
    folder = make(trial.case, trial.world, trial.work / "shared")
    first = start(trial.case, trial.world, folder)
    time.sleep(trial.draw.choice((0, trial.draw.uniform(0, trial.seconds))))
    second = start(trial.case, trial.world, folder, "second")
    codes = [ended(first), ended(second)]
    said = log(folder) + log(folder, "second")
    names = cases.differing(contents(folder), trial.expected)
    shutil.rmtree(folder)
    fault = ""
    if "Traceback" in said or 0 not in codes or not set(codes) <= {0, 2} or names:
        fault = f"codes {codes}, {', '.join(names) or 'nothing'} differs\n{said}"
    return Outcome(fault, ("one was refused",) if 2 in codes else ())


# ---- disks


def mount(*words: str | Path) -> bool:
    return subprocess.run(["mount", *map(str, words)], capture_output=True, check=False).returncode == 0


def fill(trial: Trial) -> Outcome:
    disk = trial.work / "disk"
    disk.mkdir()
    if not mount("-t", "tmpfs", "-o", ROOM, "tmpfs", disk):
        raise SystemExit(f"{disk}: cannot be mounted; this needs root")
    try:
        make(trial.case, trial.world, disk)
        option = tighten(OPTIONS[trial.number % len(OPTIONS)], disk, trial.work / "whole", trial.draw)
        code = ended(start(trial.case, trial.world, disk))
        fault = wrong_end(disk, code)
        mount("-o", f"remount,{ROOM}", disk)
        fault = fault or finish(trial.case, trial.world, disk, trial.expected)
    finally:
        subprocess.run(["umount", disk], check=True)
    disk.rmdir()
    return Outcome(fault and f"with {option}: {fault}", ("too small",) if code == 2 else ())


def tighten(kind: str, disk: Path, needed: Path, draw: random.Random) -> str:
    """Remount with less room than the files of `needed` take; the option."""
    files = list(needed.rglob("*"))
    if kind == "ro":
        option = "ro"
    elif kind == "size":
        used = sum(-(-path.stat().st_size // PAGE) * PAGE for path in disk.rglob("*") if path.is_file())
        room = draw.randrange(sum(path.stat().st_size for path in files if path.is_file()) + PAGE)
        option = f"size={used + PAGE + room}"
    else:
        option = f"nr_inodes={len(list(disk.rglob('*'))) + 2 + draw.randrange(len(files) + 1)}"
    if not mount("-o", f"remount,{option}", disk):
        raise SystemExit(f"mount -o remount,{option} {disk} failed")
    return option


def wrong_end(folder: Path, code: int) -> str:
    """What is wrong with how a command ended: a trace, another code, more or less than one line of error."""
    said = log(folder)
    if "Traceback" in said or code not in (0, 2):
        return f"code {code}\n{said}"
    if code == 2 and not (said.splitlines() or [""])[-1].startswith("error: "):
        return f"code 2 without a line of error\n{said}"
    return ""


def mountable(folder: Path) -> bool:
    """Whether disks can be mounted here."""
    folder.mkdir()
    if not mount("-t", "tmpfs", "tmpfs", folder):
        return False
    subprocess.run(["umount", folder], check=True)
    return True


# ---- all of them


class Kind(NamedTuple):
    disturb: Callable[[Trial], Outcome]
    count: int
    cases: tuple[str, ...] = tuple(CASES)


KINDS = {
    "kills": Kind(kill, 8),
    "workers": Kind(kill_workers, 15, ("encode workers",)),
    "pairs": Kind(collide, 40, ("index", "search", "export", "submission", "mine", "adapt")),
    "disks": Kind(fill, 10),
}


@contextlib.contextmanager
def undisturbed(name: str, world: Path, work: Path) -> Iterator[Trial]:
    """The command of a case, run to its end."""
    whole = make(CASES[name], world, work / "whole")
    child = begun(CASES[name], world, whole)
    began = time.perf_counter()
    if (code := ended(child)) or not (expected := contents(whole)):
        raise SystemExit(f"{name}: the undisturbed command ended with code {code}\n{log(whole)}")
    yield Trial(CASES[name], world, work, expected, time.perf_counter() - began, 0, random.Random())
    shutil.rmtree(whole)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}")
    parser.add_argument("--count", type=int, help="trials of each case")
    parser.add_argument("--seed", type=int, default=random.randrange(1000))
    options = parser.parse_args()
    kind = KINDS[options.kind]
    count, names, wrong = options.count or kind.count, options.cases or kind.cases, 0
    print(f"{options.kind}: seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        world, work = Path(folder).resolve() / "world", Path(folder).resolve() / "work"
        work.mkdir()
        if options.kind == "disks" and not mountable(work / "probe"):
            print("disks: skipped, since nothing can be mounted here (it needs root)")
            return
        cases.prepared(world, names)
        for name in names:
            draw, seen, faults = random.Random(f"{options.seed} {name}"), Counter[str](), 0
            with undisturbed(name, world, work) as whole:
                for number in range(count):
                    outcome = kind.disturb(whole._replace(number=number, draw=draw))
                    seen.update(outcome.seen)
                    if outcome.fault:
                        faults += 1
                        print(f"{name}, {options.kind} {number + 1}: {outcome.fault}", flush=True)
            wrong += faults
            notes = "".join(f"; {what}: {times}" for what, times in seen.items())
            good = f"{name}: {count - faults} of {count} {options.kind} left what nobody disturbed"
            print(f"{good} ({whole.seconds:.1f} s){notes}", flush=True)
    sys.exit(f"{wrong} trials left what they should not" if wrong else 0)


if __name__ == "__main__":
    main()
