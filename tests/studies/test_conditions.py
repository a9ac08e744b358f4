"""The commands in runs/conditions.toml give the scores recorded there."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from taco_ir import search

CONDITIONS = tomllib.loads(
    (Path(__file__).resolve().parents[2] / "runs" / "conditions.toml").read_text(encoding="utf-8")
)["condition"]


@pytest.mark.parametrize("condition", CONDITIONS, ids=lambda condition: condition["name"])
def test_recorded_scores(condition: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    search.main([*condition["search"], "--output", str(tmp_path / "runs") + "/", "--format", "json"])
    rows = json.loads(capsys.readouterr().out)["rows"]
    found = {row["topics"]: row[condition["measure"]] for row in rows if row["system"] == condition["system"]}
    for topics, expected in condition["expected"].items():
        assert found[topics] == pytest.approx(expected, abs=condition["tolerance"]), topics
