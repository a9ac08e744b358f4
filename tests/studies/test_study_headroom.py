"""A study's headroom from its records, and the notes on systems that had nearly the same updates."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from study_results import fake_results
from verbs import module_of

from taco_ir.core.files import InputError
from taco_ir.evaluation.measures import MACRO
from taco_ir.studies.board import hide_rows, make_boards
from taco_ir.studies.comparison import note_same_updates
from taco_ir.studies.facts import training_facts
from taco_ir.studies.headroom import study_headroom
from taco_ir.studies.records import Record, write_record
from taco_ir.studies.tables import board_tables, brief_tables

leaderboard = module_of("leaderboard")

RPREC = "page R-precision"
RESULTS = fake_results(4, 2, 30, 3)  # BM25, and naive, TACO and task-specific on one base
HIGH = fake_results(11, 2, 30, 2)[-2:]  # a system on another base, above all others


def mean(system: str, topics: str) -> float:
    values = [each.topics[topics].by_query[RPREC] for each in RESULTS if each.system == system]
    return float(np.mean(values))


def test_the_headroom_of_a_study_is_that_of_its_records() -> None:
    ((corpus, row, found),) = study_headroom([*RESULTS, *HIGH], "naive", RPREC)
    assert (corpus, row, [each.topics for each in found]) == (
        "whole",
        "naive (minilm-l6)",
        ["nq-dev", "fever-dev", MACRO],
    )
    gains = []
    for each in found[:2]:
        rivals = {name: mean(name, each.topics) for name in ("TACO", "task-specific")}
        assert each.best == f"{max(rivals, key=rivals.__getitem__)} (minilm-l6)" and each.seeds == 3
        assert each.baseline == pytest.approx(mean("naive", each.topics))
        gains.append(max(0.0, max(rivals.values()) - each.baseline))
        assert each.headroom == pytest.approx(gains[-1])
    assert found[2].headroom == pytest.approx(sum(gains) / 2)
    assert max(gains) > 0 and all(each.smallest is not None and each.smallest > 0 for each in found)


def test_the_systems_that_count_can_be_named() -> None:
    ((*_, found),) = study_headroom([*RESULTS, *HIGH], "naive (minilm-l6)", RPREC, ["task-*", "BM25"])
    assert {each.best for each in found[:2]} <= {"task-specific (minilm-l6)", "BM25"}
    ((*_, found),) = study_headroom(RESULTS, "BM25", RPREC)  # a baseline on no base meets all
    assert all(each.best.endswith("(minilm-l6)") for each in found[:2])
    with pytest.raises(InputError, match="--headroom 'naiv' by page R-precision: .*systems: BM25, naive"):
        study_headroom(RESULTS, "naiv", RPREC)
    with pytest.raises(InputError, match="need this system and another one"):
        study_headroom([each for each in RESULTS if each.system == "naive"], "naive", RPREC)
    two = [*RESULTS, *(replace(each, corpus="part") for each in RESULTS)]
    assert [each.corpus for each in study_headroom(two, "naive", RPREC)] == ["whole", "part"]


def test_the_leaderboard_prints_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for result in RESULTS:
        write_record(tmp_path / "results", result)
    leaderboard.main([str(tmp_path), "--headroom", "naive", "--format", "markdown", "--against", "task-specific"])
    told = capsys.readouterr().out
    assert "| macro average |" in told and "| task-specific (minilm-l6) |" in told
    assert "that these seeds and queries can show" in told
    with pytest.raises(InputError, match="no system matches 'tasks'; systems:"):
        leaderboard.main([str(tmp_path), "--headroom", "naive", "--against", "tasks"])
    with pytest.raises(InputError, match="--headroom prints a table, which --format svg cannot show"):
        leaderboard.main([str(tmp_path), "--headroom", "naive", "--format", "svg"])


def test_a_record_keeps_the_mean_dose_of_its_last_training(tmp_path: Path) -> None:
    for episode, cosines in ((2, [0.9]), (10, [1.0, 0.5, None])):
        (folder := tmp_path / "out" / f"episode-{episode}").mkdir(parents=True)
        lines = [{"step": 1, "loss": {}}]
        for step, cosine in enumerate(cosines):
            dose = {"cosine": cosine, "scaled_cosine": 0.8, "opposed": 0.25, "specific": None}
            lines.append({"step": step, "dose": dose})
        (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    expected = {"cosine": 0.75, "scaled_cosine": 0.8, "opposed": 0.25, "specific": None}
    assert training_facts(tmp_path / "out") == {"dose": expected}


def trained(system: str, cosine: float | None, scaled: float | None, words: str, seed: int = 0) -> Record:
    command = f"train --config CONDITIONS/t.toml --seed {seed} --output {system}/{seed} {words}"
    made: dict[str, Any] = {"commands": [{"command": command}]}
    made["dose"] = {"cosine": cosine, "scaled_cosine": scaled, "opposed": 0.0, "specific": None}
    (result,) = fake_results(1, 1, 4)
    return replace(result, condition=system, system=system, base="tiny", seed=seed, made=made)


def noted(results: Sequence[Record]) -> Mapping[str, str]:
    return {note.partition(":")[0]: note for note in note_same_updates(results)}


def test_systems_with_nearly_the_same_updates_are_noted() -> None:
    naive = trained("naive", 1.0, 1.0, "")
    near = trained("near", 0.999, 0.991, "--weighting taco --weighting-options tau=9 beta=0.9 --log-dose 5")
    far = trained("far", 0.999, 0.97, "--weighting taco")
    (note,) = note_same_updates([naive, far, near])
    assert note.startswith("naive (tiny): nearly the same updates as near (tiny), with a cosine of at least 0.991 on")
    both = [trained(name, 0.995, 0.995, "--weighting uw") for name in ("a", "b")]
    assert list(note_same_updates(both)) != []  # 2 x 5.7 degrees: .98002
    assert math.cos(2 * math.acos(0.9949)) < 0.98
    assert list(note_same_updates([trained(name, 0.9949, 1.0, "") for name in ("a", "b")])) == []


def test_only_systems_that_differ_in_the_weighting_alone_are_compared() -> None:
    naive = trained("naive", 1.0, 1.0, "--steps 300")
    assert noted([naive, trained("taco", 0.999, 0.999, "--steps 300 --weighting taco")]) != {}
    assert noted([naive, trained("longer", 1.0, 1.0, "--steps 600")]) == {}
    assert noted([naive, trained("taco", 0.999, 0.999, "--steps 300", seed=1)]) == {}
    assert noted([naive, trained("zeros", None, None, "--steps 300")]) == {}
    bare = replace(naive, made={}, condition="bare", system="bare")
    assert noted([naive, bare]) == {}


def test_the_note_stands_on_the_board() -> None:
    results = [trained("naive", 1.0, 1.0, ""), trained("taco", 0.999, 0.999, "--weighting taco")]
    boards = make_boards(results, None, seed=0)
    assert [note for note in boards[0].notes if "nearly the same updates" in note] == list(note_same_updates(results))
    assert hide_rows(boards, ["naive"])[0].notes == ()


def test_a_board_has_a_table_of_doses_without_naive_training() -> None:
    far = [trained("taco", cosine, 0.8, "--weighting taco", seed) for seed, cosine in enumerate((0.5, 0.7))]
    (board,) = make_boards([trained("naive", 1.0, 1.0, ""), *far], None, seed=0)
    for tables in (brief_tables(board), board_tables(board)):
        (table,) = [table for table in tables if table.title.startswith("dose on whole:")]
        assert table.rows == [["taco", "tiny", pytest.approx(0.6), 0.8, 0.0, None]]
    (alone,) = make_boards([trained("naive", 1.0, 1.0, "")], None, seed=0)
    assert not [table for table in board_tables(alone) if "dose" in table.title]
