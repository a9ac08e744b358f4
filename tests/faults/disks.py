"""File systems that are full, without inodes, or read-only, under each verb that writes: one line, code 2; with room, the same command ends well.

`python tests/faults/disks.py [disks [seed [verb ...]]]`: 220 in all, unless told otherwise. Needs the right to mount.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import cases

KINDS = ("size", "nr_inodes", "ro")
ROOM = "size=512m,nr_inodes=100000,rw"
PAGE = 4096


def mount(*words: str | Path) -> bool:
    return subprocess.run(["mount", *map(str, words)], capture_output=True, check=False).returncode == 0


def tighten(kind: str, disk: Path, needed: Path, draw: random.Random) -> str:
    """Remount with less room than the files of `needed` take; the option."""
    files = list(needed.rglob("*"))
    if kind == "ro":
        option = "ro"
    elif kind == "size":
        used = sum(-(-path.stat().st_size // PAGE) * PAGE for path in disk.rglob("*") if path.is_file())
        option = (
            f"size={used + PAGE + draw.randrange(sum(path.stat().st_size for path in files if path.is_file()) + PAGE)}"
        )
    else:
        option = f"nr_inodes={len(list(disk.rglob('*'))) + 2 + draw.randrange(len(files) + 1)}"
    if not mount("-o", f"remount,{option}", disk):
        raise SystemExit(f"mount -o remount,{option} {disk} failed")
    return option


def fill(verb: str, world: Path, disks: int, draw: random.Random) -> list[str]:
    """What went wrong."""
    wrong, told = [], 0
    with cases.undisturbed(verb, world) as (expected, _):
        for number in range(disks):
            disk = world / "disk"
            disk.mkdir()
            if not mount("-t", "tmpfs", "-o", ROOM, "tmpfs", disk):
                raise SystemExit(f"{disk}: cannot be mounted; this needs root")
            try:
                folder = cases.make(verb, world, disk)
                option = tighten(KINDS[number % len(KINDS)], disk, world / "whole", draw)
                code = cases.ended(cases.start(verb, world, folder, again=True))
                told += code == 2
                fault = cases.fault_of(folder, code)
                mount("-o", f"remount,{ROOM}", disk)
                if fault := fault or cases.finish(verb, world, folder, expected):
                    wrong.append(f"{verb}, disk {number + 1} with {option}: {fault}")
            finally:
                subprocess.run(["umount", disk], check=True)
            disk.rmdir()
    print(
        f"{verb}: {disks - len(wrong)} of {disks} disks, {told} of them too small, without a trace, and then finished",
        flush=True,
    )
    return wrong


def main(words: Sequence[str]) -> None:
    disks, seed = int(words[0]) if words else 220, int(words[1]) if len(words) > 1 else random.randrange(1000)
    verbs = list(words[2:] or cases.CASES)
    print(f"disks: seed {seed}", flush=True)
    cases.warm()
    with tempfile.TemporaryDirectory() as name:
        (probe := Path(name) / "probe").mkdir()
        if not mount("-t", "tmpfs", "tmpfs", probe):
            print("disks: skipped, since nothing can be mounted here (it needs root)")
            return
        subprocess.run(["umount", probe], check=True)
        world = cases.prepared(Path(name))
        wrong: list[str] = []
        for place, verb in enumerate(verbs):
            wrong += fill(
                verb,
                world,
                disks * (place + 1) // len(verbs) - disks * place // len(verbs),
                random.Random(f"{seed} {verb}"),
            )
    sys.exit("\n".join(wrong) or 0)


if __name__ == "__main__":
    main(sys.argv[1:])
