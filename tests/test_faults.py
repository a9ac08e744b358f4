"""A short form of `make faults`: kills, pairs of writers and full disks, of every verb that writes; damaged files for every reader."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FAULTS = Path(__file__).parent / "faults"
PACKAGE = FAULTS.parents[1] / "taco_ir"
sys.path.insert(0, str(FAULTS))

from cases import CASES, READING  # noqa: E402
from pairs import VERBS  # noqa: E402

# each costs a second or less; the others start a JVM or processes
QUICK = [verb for verb in CASES if verb not in ("search bm25", "reproduce", "train", "pretrain", "train reading")]


def ran(script: str, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, FAULTS / f"{script}.py", *words], capture_output=True, text=True, check=False
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_verb_has_a_fault() -> None:
    """One that writes is killed, one that does not is named with the reason."""
    from taco_ir.data.__main__ import COMMANDS

    verbs = {path.stem for path in PACKAGE.glob("*.py") if "run_verb(main)" in path.read_text(encoding="utf-8")} - {
        "__init__"
    }
    verbs |= {f"data {command}" for command in COMMANDS}
    assert verbs == {case.removesuffix(" bm25").removesuffix(" reading") for case in CASES} | READING.keys()


def test_killed_verbs_finish_what_they_began() -> None:
    out = ran("kills", "1", "0", *QUICK)
    assert out.count("1 of 1 kills ended byte-identical") == len(QUICK)


def test_two_writers_leave_what_one_leaves() -> None:
    assert ran("pairs", "1", "0").count("1 of 1 pairs left what one leaves") == len(VERBS)


def test_small_disks_are_one_line() -> None:
    out = ran("disks", str(2 * len(QUICK)), "0", *QUICK)
    if "skipped" in out:
        pytest.skip("nothing can be mounted here")
    assert out.count("2 of 2 disks") == len(QUICK)


def test_damaged_files_are_read_or_told_of_in_one_line() -> None:
    assert "1000 of 1000 damaged files were read or told of in one line" in ran("fuzz", "1000", "0")
