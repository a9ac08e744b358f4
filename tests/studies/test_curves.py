"""What a training's log says of held-out queries, while the training still writes it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from taco_ir.studies.facts import held_out

LINES = [
    json.dumps(record)
    for record in ({"step": 1, "validation": {"macro": 0.1}}, {"step": 2}, {"step": 3, "validation": {"macro": 0.3}})
]


@pytest.mark.parametrize("written", range(len(LINES[2])))
def test_a_line_that_is_half_written_does_not_count(tmp_path: Path, written: int) -> None:
    (tmp_path / "log.jsonl").write_text("\n".join([*LINES[:2], LINES[2][:written]]), encoding="utf-8")
    assert held_out(tmp_path) == 0.1
    (tmp_path / "log.jsonl").write_text("".join(f"{line}\n" for line in LINES), encoding="utf-8")
    assert held_out(tmp_path) == 0.3


def test_what_a_training_began_with_is_not_its_doing(tmp_path: Path) -> None:
    """Where training only makes things worse, a choice among trainings is of the one that does so least."""
    for step, macro in ((0, 0.9), (5, 0.2), (10, 0.4)):
        with (tmp_path / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps({"step": step, "validation": {"macro": macro}}) + "\n")
        assert held_out(tmp_path) == {0: None, 5: 0.2, 10: 0.4}[step]
