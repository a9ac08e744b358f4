"""How fast systems learn: steps to a goal, in a table of systems beside a baseline with the same seed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from study_results import fake_results
from verbs import module_of

from taco_ir.core.files import InputError
from taco_ir.evaluation.tables import Marked
from taco_ir.studies.convergence import convergence_table, steps_to
from taco_ir.studies.records import Record, write_record

leaderboard = module_of("leaderboard")


def made(system: str, seed: int, values: list[float], base: str = "tiny", **more: Any) -> Record:
    (result,) = fake_results(1, 1, 4)
    curve = [[50 * place, value] for place, value in enumerate(values)]
    sizes = {"trained": 50, "backbone": 1000}
    facts = {"curve": curve, "parameters": sizes, **more}
    return replace(result, condition=f"{base}-{system}", system=system, base=base, seed=seed, made=facts)


RISING = st.lists(st.floats(0, 1), min_size=2, max_size=8, unique=True).map(sorted)


@given(RISING, st.floats(0, 1))
def test_the_goal_is_reached_where_the_line_between_two_validations_meets_it(values: list[float], goal: float) -> None:
    curve = [(50 * place, value) for place, value in enumerate(values)]
    steps = steps_to(curve, goal)
    if goal > values[-1]:
        assert steps is None
    elif goal <= values[0]:
        assert steps == 0
    else:
        assert steps is not None
        place = max(place for place, value in enumerate(values) if value < goal)
        assert 50 * place <= steps <= 50 * (place + 1)
        assert values[place] + (steps / 50 - place) * (values[place + 1] - values[place]) == pytest.approx(goal)


def test_a_fall_afterwards_does_not_matter() -> None:
    assert steps_to([(0, 0.0), (50, 0.8), (100, 0.2)], 0.4) == 25


def test_each_seed_is_compared_with_the_baseline_of_its_own() -> None:
    """Goals .38 and .76; the fast one gets there after 25 and 75 steps, the slow one with one seed of two."""
    results = [
        *(made("full", seed, [0, end / 2, end]) for seed, end in ((1, 0.4), (2, 0.8))),
        *(made("fast", seed, values) for seed, values in ((1, [0, 0.76, 0.8]), (2, [0, 0.72, 0.8]))),
        *(made("slow", seed, [0, 0.1, 0.4]) for seed in (1, 2)),
        made("other", 1, [0.1, 0.2], base="small"),
        made("twice", 1, [0, 0.4]),
        replace(made("twice", 1, [0, 0.4]), corpus="whole"),
        replace(made("BM25", 0, []), made={}),
    ]
    table = convergence_table(results, "full")
    rows = {row[0]: dict(zip(table.header, row, strict=True)) for row in table.rows}
    assert list(rows) == ["other", "twice", "fast", "full", "slow"]
    assert rows["fast"]["steps"] == Marked(50, " ±35") and rows["fast"]["reached"] == "2 of 2"
    assert rows["slow"]["steps"] is None and rows["slow"]["reached"] == "1 of 2"
    assert rows["twice"]["seeds"] == 1 and rows["other"]["reached"] == "0 of 0"
    assert rows["full"]["at the end"] == Marked(pytest.approx(0.6), " ±.283")
    assert rows["full"]["steps"] == Marked(95, " ±0")
    assert rows["fast"]["parameters trained"] == 50 and rows["fast"]["% of the backbone"] == 5


def test_the_verb_prints_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (1, 2):
        for system, values in (("full", [0.1, 0.6]), ("lora", [0.1, 0.3])):
            write_record(tmp_path / "results", made(system, seed, values))
    leaderboard.main([str(tmp_path), "--convergence", "full", "--format", "markdown"])
    shown = capsys.readouterr().out
    assert "| full | tiny | 2 | 50 | 5.000 | **0.600** ±.000 | 2 of 2 | 47 ±0 |" in shown and "0 of 2 | - |" in shown
    said = "--convergence 'fulll' has no validation curve in the results; systems with one: full, lora"
    with pytest.raises(InputError, match=said):
        leaderboard.main([str(tmp_path), "--convergence", "fulll"])
    said = "--convergence prints a table, which --format html cannot show; allowed: table, markdown"
    with pytest.raises(InputError, match=said):
        leaderboard.main([str(tmp_path), "--convergence", "full", "--format", "html"])
