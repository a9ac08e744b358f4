"""Two writers of one output at a time: one of them is refused or waits, no trace, and the output is that of one alone.

`python tests/faults/pairs.py [pairs [seed [verb ...]]]`: 40 pairs of index, search, export, submission and mine, unless told otherwise.
"""

from __future__ import annotations

import random
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import cases

VERBS = ("index", "search", "export", "submission", "mine")


def collide(verb: str, world: Path, pairs: int, draw: random.Random) -> list[str]:
    """What went wrong."""
    wrong, refused = [], 0
    with cases.undisturbed(verb, world) as (expected, seconds):
        for number in range(pairs):
            folder = world / "shared"
            first = cases.start(verb, world, folder)
            time.sleep(draw.choice((0, draw.uniform(0, seconds))))
            second = cases.start(verb, world, folder, again=True, said="second")
            codes = [cases.ended(first), cases.ended(second)]
            said = "".join((world / f"shared.{name}").read_text() for name in ("log", "second"))
            names = cases.differing(cases.contents(folder), expected)
            refused += 2 in codes
            if "Traceback" in said or 0 not in codes or not set(codes) <= {0, 2} or names:
                wrong.append(
                    f"{verb}, pair {number + 1}: codes {codes}, {', '.join(names) or 'nothing'} differs\n{said}"
                )
            shutil.rmtree(folder)
    print(
        f"{verb}: {pairs - len(wrong)} of {pairs} pairs left what one leaves; in {refused} one was refused", flush=True
    )
    return wrong


def main(words: Sequence[str]) -> None:
    pairs, seed = int(words[0]) if words else 40, int(words[1]) if len(words) > 1 else random.randrange(1000)
    print(f"pairs: seed {seed}", flush=True)
    cases.warm()
    with tempfile.TemporaryDirectory() as name:
        world = cases.prepared(Path(name))
        wrong = [
            fault
            for verb in words[2:] or VERBS
            for fault in collide(verb, world, pairs, random.Random(f"{seed} {verb}"))
        ]
    sys.exit("\n".join(wrong) or 0)


if __name__ == "__main__":
    main(sys.argv[1:])
