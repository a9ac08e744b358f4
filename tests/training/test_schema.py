"""The JSON Schema of training files accepts what the settings accept, and refuses what they refuse key by key."""

from __future__ import annotations

import json
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from taco_ir.completion import main
from taco_ir.core.files import InputError
from taco_ir.core.settings import KINDS, check_value, rules_of
from taco_ir.training.flags import CONFIGS, TRAIN
from taco_ir.training.schema import SCHEMAS, described, train_schema
from taco_ir.training.settings import DEFAULTS, RULES, TABLE_KEYS, TaskSettings, checked_keys

jsonschema = pytest.importorskip("jsonschema")
ROOT = Path(__file__).resolve().parents[2]
VALUES: list[Any] = [
    *(True, False, -1, 0, 1, 2, 64, 1 << 33, -0.5, 0.0, 0.3, 0.5, 1.0, 1.5, "", "none", "mean", "taco", "joint", "mlm"),
    *("{title} {text}", *"task shared 0.5% 16,8 1,2,1 uniform {txt} bm25 dev float32 lora shifted".split()),
    *([], ["nq"], [""], ["nq", "mlm"], ["none"], [1], {}, {"tau": 2.0}, {"tau": [1]}, {"a": "b"}, [{}], [{"steps": 1}]),
]
SINGLE = {key: rules for key, rules in RULES.items() if key in TRAIN.keys and key != "tasks"}
OF_TASKS = rules_of(TaskSettings)


@cache
def validator() -> Any:
    jsonschema.Draft7Validator.check_schema(train_schema())
    return jsonschema.Draft7Validator(train_schema())


def accepted(file: Any) -> bool:
    return bool(validator().is_valid(file))


def taken(key: str, value: Any, rules: Any) -> bool:
    try:
        check_value(key, value, *rules)
    except InputError:
        return False
    return True


def test_every_type_of_a_setting_has_a_schema() -> None:
    assert SCHEMAS.keys() == KINDS.keys()


@pytest.mark.parametrize(
    "key", [*SINGLE, *(f"tasks.x.{key}" for key in OF_TASKS), *(f"episode.{k}" for k in TABLE_KEYS)]
)
def test_the_schema_of_a_key_is_its_rules(key: str) -> None:
    """What the training takes it takes; it refuses the rest, but for tests that are no pattern."""
    table, _, name = key.rpartition(".")
    rules = (OF_TASKS if table.startswith("tasks") else RULES)[name]
    opaque = "test" in rules[1] and not {"pattern", "minLength"} & described(name, rules).keys()
    both = set()
    for value in VALUES:
        if isinstance(value, float) and value.is_integer() and rules[0] not in (float, float | None, float | str):
            continue  # to JSON 1.0 is a whole number
        file = {"": {name: value}, "tasks.x": {"tasks": {"x": {name: value}}}, "episode": {"episode": [{name: value}]}}
        found, expected = accepted(file[table]), taken(name, value, rules)
        assert found or not expected, f"{key} = {value!r} is refused"
        assert expected or opaque or not found, f"{key} = {value!r} is accepted"
        both.add(found)
    assert both == {True, False}


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
def test_files_that_ship_are_accepted(path: Path) -> None:
    file = tomllib.loads(path.read_text(encoding="utf-8"))
    assert [error.message for error in validator().iter_errors(file)] == []
    assert not accepted(file | {"learning_rat": 1e-5})


def test_defaults_are_accepted() -> None:
    told = {key: list(value) if isinstance(value, tuple) else value for key, value in DEFAULTS.items()}
    file = {key: value for key, value in told.items() if key in TRAIN.keys and value not in (None, {})}
    assert [error.message for error in validator().iter_errors(file)] == []


@pytest.mark.parametrize(
    "text",
    [
        *("learning_rate = 0", "learning_rate = 'high'", "weighting = 'tacos'", "tasks = []", "tasks = 'nq'"),
        *("epoch = 3", "shares = '16,8,'", "[[episode]]\noutput = 'x'", "[[episode]]\nrepeat = 0", "[tasks]"),
        *("[tasks.nq]\nshare = 0", "[tasks.nq]\nlearning_rate = 1.0", "[weighting_options]\ntau = [1]"),
    ],
)
def test_files_with_a_mistake_are_refused_by_both(text: str) -> None:
    file = tomllib.loads(text)
    assert not accepted(file)
    with pytest.raises(InputError):
        checked_keys(file, (*TRAIN.keys, "episode"), "")


def test_it_is_printed_and_says_what_keys_mean(capsys: pytest.CaptureFixture[str]) -> None:
    main(["toml"])
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(json.dumps(train_schema()))
    assert printed["properties"]["weight_decay"] == {
        "type": "number",
        "minimum": 0,
        "description": "AdamW's weight decay",
        "default": 0.01,
        "title": "weight_decay (optimisation)",
    }
    assert "; has an effect only with steps auto" in printed["properties"]["epochs"]["description"]
