"""The files in runs/: the studies' commands are understood, and commands with expected scores give them."""

from __future__ import annotations

import importlib
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from verbs import module_of

from taco_ir.adaptation import settings
from taco_ir.adaptation.settings import AdaptSettings
from taco_ir.core.settings import given_values, rules_of
from taco_ir.data.__main__ import held_out_parser
from taco_ir.data.collection import open_collection
from taco_ir.studies.commands import fill_command
from taco_ir.studies.conditions import DATA_COMMANDS, Condition, Study, read_study
from taco_ir.studies.records import read_records
from taco_ir.training.flags import given_flags, read_settings

search = module_of("search")

RUNS = Path(__file__).resolve().parents[2] / "runs"
CONDITIONS = tomllib.loads((RUNS / "conditions.toml").read_text(encoding="utf-8"))["condition"]
STUDIES = [read_study(path) for path in sorted(RUNS.glob("*/conditions.toml"))]


def commands(study: Study, condition: Condition) -> list[list[str]]:
    """Every command of a condition and its search, placeholders filled in."""
    folder = {"folder": str(study.folder), "collection": "sample", "seed": "1", "out": "out"}
    chosen = {name: next(iter(values)) for name, values in study.candidates(condition.name).items()}
    known = {name: name for name in (*study.models, *study.conditions)} | folder | chosen
    searches = [f"search --topics {' '.join(study.topics)} {condition.search}"] if condition.search else []
    return [fill_command(template, known) for template in (*condition.commands, *searches)]


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_every_command_is_understood(study: Study) -> None:
    for condition in study.conditions.values():
        for verb, *argv in commands(study, condition):
            if verb == "data":
                assert argv[0] in DATA_COMMANDS, condition.name
                if argv[0] == "hold-out":
                    held_out_parser().parse_args(argv[1:])
                continue
            options = importlib.import_module(f"taco_ir.{verb}").parser().parse_args(argv)
            if verb == "train":
                config = read_settings(options.config, given_flags(options), options.preset)
                assert config.run.output.startswith("out") and config.run.seed == 1, condition.name
            if verb == "adapt":
                adapted = settings.read_settings(options.config, given_values(options, rules_of(AdaptSettings)))
                assert adapted.output.startswith("out") and adapted.seed == 1, condition.name


def test_each_method_and_size_of_the_tuning_study_chooses_among_four_rates() -> None:
    (study,) = (study for study in STUDIES if study.name == "tuning")
    chosen = {name: study.candidates(name)["rate"] for name, condition in study.conditions.items() if condition.best}
    assert len(chosen) > 35 and all(len(rates) == 4 for rates in chosen.values())
    for name, rates in chosen.items():
        for tried in rates.values():
            for flag in ("--tune", "--tune-budget") if re.search("-(0.5|5|paper)$", name) else ("--tune",):
                assert of_flag(flag, study.conditions[name]) == of_flag(flag, study.conditions[tried]), (name, tried)


def of_flag(flag: str, condition: Condition) -> str:
    """Its value in the condition's training, "" where it is not given."""
    words = condition.commands[0].split()
    return words[words.index(flag) + 1] if flag in words else ""


@pytest.mark.parametrize("condition", CONDITIONS, ids=lambda condition: condition["name"])
def test_recorded_scores(condition: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    search.main([*condition["search"], "--output", str(tmp_path / "runs") + "/", "--format", "json"])
    rows = json.loads(capsys.readouterr().out)["rows"]
    found = {row["topics"]: row[condition["measure"]] for row in rows if row["system"] == condition["system"]}
    for topics, expected in condition["expected"].items():
        assert found[topics] == pytest.approx(expected, abs=condition["tolerance"]), topics


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_gold_of_records_is_that_of_the_collection(study: Study, minikilt: Path) -> None:
    """So that new records can stand beside those that are kept."""
    collection = open_collection(str(minikilt))
    recorded = {
        (name, scores.fingerprint)
        for each in (read_records(study.results) if study.results.is_dir() else ())
        for name, scores in each.topics.items()
        if not scores.part_of
    }
    now = {name: collection.load_topics(name).gold_fingerprint for name, _ in recorded}
    assert recorded == set(now.items())
