"""kill -9 at random moments of each verb that writes, then the same command: byte for byte what a process that nobody disturbed writes.

`python tests/faults/kills.py [kills [seed [verb ...]]]`: 15 kills of every verb, unless told otherwise.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import cases

ALONE = "reproduce"  # starts processes: every other kill leaves these without their parent


def survive(verb: str, world: Path, kills: int, draw: random.Random) -> list[str]:
    """What went wrong, one entry a kill."""
    wrong = []
    with cases.undisturbed(verb, world) as (expected, seconds):
        for number in range(kills):
            folder, moment = world / "killed", draw.uniform(0, seconds)
            child = cases.start(verb, world, folder)
            time.sleep(moment)
            (os.kill if verb == ALONE and number % 2 else os.killpg)(child, signal.SIGKILL)
            os.waitpid(child, 0)
            if fault := cases.finish(verb, world, folder, expected):
                wrong.append(f"{verb}, kill {number + 1} after {moment:.2f} s: {fault}")
            shutil.rmtree(folder)
    print(
        f"{verb}: {kills - len(wrong)} of {kills} kills ended byte-identical ({seconds:.1f} s undisturbed)", flush=True
    )
    return wrong


def main(words: Sequence[str]) -> None:
    kills, seed = int(words[0]) if words else 15, int(words[1]) if len(words) > 1 else random.randrange(1000)
    print(f"kills: seed {seed}", flush=True)
    cases.warm()
    with tempfile.TemporaryDirectory() as name:
        world = cases.prepared(Path(name))
        wrong = [
            fault
            for verb in words[2:] or cases.CASES
            for fault in survive(verb, world, kills, random.Random(f"{seed} {verb}"))
        ]
    sys.exit("\n".join(wrong) or 0)


if __name__ == "__main__":
    main(sys.argv[1:])
