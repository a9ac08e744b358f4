"""The processes of torchrun share units, wait for each other, and say for whom they wait long."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from counting import ALL, are_whole, rows
from started_ranks import run_ranks
from units_by_ranks import LATE


def run(folder: Path, code: int = 0, **wrong: Any) -> list[str]:
    return run_ranks(
        [sys.executable, Path(__file__).with_name("units_by_ranks.py"), folder, json.dumps(wrong)], 3, folder, code
    )


def test_all_ranks_do_their_shares_and_name_the_one_that_is_late(tmp_path: Path) -> None:
    said = run(tmp_path)
    for name in ("one", "two"):
        assert are_whole(tmp_path / name, ALL)
        assert rows(tmp_path / name / "loaded") == 3, "each rank loads what it needs once"
    assert all(f"value {1 / 3}" in each for each in said)
    waits = [re.findall(r"rank (\d) has waited \d+ s for (.*)", each) for each in said]
    # after .2, .6 and 1.4 seconds, by the lowest of those that wait
    assert waits[1:] == [[], []] and 1 <= len(waits[0]) <= 3 and set(waits[0]) == {("0", f"rank {LATE}")}


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("refuses", "error: rank 1: --flag 3: not so"),
        ("fails", "error: 1 of 6 shards are not finished (shard 5: rank 1: KeyError: 3); run the same command again"),
    ],
)
def test_what_goes_wrong_in_another_rank_is_told_by_the_first(what: str, said: str, tmp_path: Path) -> None:
    assert said in run(tmp_path, 2, **{"5": (what, 1)})[0].splitlines()
    run(tmp_path)
    assert are_whole(tmp_path / "one", ALL)
