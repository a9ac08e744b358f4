"""A short `make faults`: kills, pairs of writers and full disks for verbs that write, damaged files for readers."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import warm

FAULTS = Path(__file__).parent / "faults"
PACKAGE = FAULTS.parents[1] / "taco_ir"
sys.path.insert(0, str(FAULTS))

from cases import CASES, READING  # noqa: E402
from trials import KINDS  # noqa: E402

# each costs a second or less; the others start a JVM or processes, or train for long
LONG = ("encode workers", "search bm25", "reproduce", "pretrain")
QUICK = [case for case in CASES if case not in LONG and not case.startswith("train")]


def ran(script: str, *words: str) -> str:
    done = warm.run([sys.executable, FAULTS / f"{script}.py", *words])
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_verb_has_a_fault() -> None:
    """One that writes is killed, one that does not is named with the reason."""
    from taco_ir.data.__main__ import COMMANDS

    files = {path.stem for path in PACKAGE.glob("*.py") if "run_verb(main)" in path.read_text(encoding="utf-8")}
    verbs = (files - {"__init__"}) | {f"data {command}" for command in COMMANDS}
    words = [case.words.split() for case in CASES.values()]
    assert verbs == {" ".join(each[: 2 if each[0] == "data" else 1]) for each in words} | READING.keys()


@pytest.mark.parametrize(
    ("count", "cases"),
    [
        (1, QUICK),
        (4, ["encode", "encode workers", "index"]),
        (2, ["train episodes"]),
        (2, ["train kinds"]),
        (2, ["pretrain"]),
    ],
    ids=["quick", "encode, its workers and index", "train episodes", "train kinds", "pretrain"],
)
def test_killed_verbs_finish_what_they_began(count: int, cases: Sequence[str]) -> None:
    out = ran("trials", "kills", *cases, "--count", str(count), "--seed", "0")
    assert out.count(f"{count} of {count} kills left what nobody disturbed") == len(cases)
    assert "half-written" in out or len(cases) == 1, "no kill came while something was being written"


def test_a_command_whose_workers_are_killed_ends_well() -> None:
    out = ran("trials", "workers", "--count", "4", "--seed", "0")
    assert out.count("4 of 4 workers left what nobody disturbed") == 1
    assert "half-written" in out or "between two writes" in out, "no worker was killed"


def test_two_writers_leave_what_one_leaves() -> None:
    out = ran("trials", "pairs", "--count", "1", "--seed", "0")
    assert out.count("1 of 1 pairs left what nobody disturbed") == len(KINDS["pairs"].cases)


def test_small_disks_are_one_line() -> None:
    out = ran("trials", "disks", *QUICK, "--count", "2", "--seed", "0")
    if "skipped" in out:
        pytest.skip("nothing can be mounted here")
    assert out.count("2 of 2 disks left what nobody disturbed") == len(QUICK)


def test_damaged_files_are_read_or_told_of_in_one_line() -> None:
    assert "1000 of 1000 damaged files were read or told of in one line" in ran("fuzz", "1000", "0")
