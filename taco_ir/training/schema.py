"""Makes a JSON Schema for the TOML files of `train`, with which editors complete and check these files.

It describes each key separately. Rules that involve several keys (a setting that would do nothing, shares given twice)
are checked only by `TrainSettings`, so a training may refuse a file that the schema accepts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from taco_ir.core.settings import Rules, default_word, rules_of
from taco_ir.training.flags import TITLES, TRAIN
from taco_ir.training.settings import DEFAULTS, KEYS, RULES, SECTIONS, TABLE_KEYS, TaskSettings

DRAFT = "http://json-schema.org/draft-07/schema#"
BOUNDS = {"min": "minimum", "max": "maximum", "above": "exclusiveMinimum", "below": "exclusiveMaximum"}
Schema = dict[str, Any]
TEXT, WHOLE, NUMBER = {"type": "string"}, {"type": "integer"}, {"type": "number"}
SCALAR = {"type": ["number", "string", "boolean"]}


def _list(items: Schema, least: int = 0) -> Schema:
    return {"type": "array", "items": items, "minItems": least}


# by annotation, like KINDS; TOML has no null, so files leave out a key whose value is None
SCHEMAS: dict[Any, Schema] = {
    bool: {"type": "boolean"},
    int: WHOLE,
    float: NUMBER,
    str: TEXT,
    float | str: {"type": ["number", "string"]},
    int | None: WHOLE,
    float | None: NUMBER,
    str | None: TEXT,
    tuple[str, ...]: _list(TEXT | {"minLength": 1}, 1),
    tuple[Mapping[str, Any], ...]: _list({"type": "object"}),
    tuple[float, ...]: _list(NUMBER),
    Mapping[str, str]: {"type": "object", "additionalProperties": TEXT},
    Mapping[str, int]: {"type": "object", "additionalProperties": WHOLE | {"minimum": 1}},
    Mapping[str, object]: {"type": "object"},
    Mapping[str, Any]: {"type": "object", "additionalProperties": SCALAR},
}


def schema_of(rules: Rules) -> Schema:
    """Returns the JSON Schema of a setting's value: its type, ranges, choices, and pattern."""
    kind, own = rules
    found = {**SCHEMAS[kind], **{name: own[rule] for rule, name in BOUNDS.items() if rule in own}}
    if "choices" in own:
        found["enum"] = list(own["choices"])
    if "words" in own:
        found["items"] = {"enum": list(own["words"])}
    if "named" in own:
        found = {"anyOf": [found, {"enum": [each for pair in own["named"].items() for each in pair]}]}
    test: Callable[[Any], Any] | None = own.get("test")
    if isinstance(pattern := getattr(test, "__self__", None), re.Pattern):
        found["pattern"] = f"^(?:{pattern.pattern})$"
    elif test is bool:
        found["minLength"] = 1
    return found


def described(key: str, rules: Rules, default: Any = None) -> Schema:
    """Returns the JSON Schema of a setting: its value, help text, default, and when it has an effect."""
    own = rules[1]
    text = own.get("help", "")
    if only := own.get("only"):
        text += f"; has an effect only with {only.goes_with}"
    found = schema_of(rules) | {"description": text or key.replace("_", " ")}
    if default not in (None, "", (), {}):
        found["default"] = list(default) if isinstance(default, tuple) else default_word(default, own)
    return found


def train_schema() -> Schema:
    """Returns the schema of a whole file: all settings, tables [[episode]], and [tasks.NAME] or a list of tasks."""
    keys = {key: described(key, RULES[key], DEFAULTS[key]) for key in TRAIN.keys}
    for title, section in SECTIONS.items():
        for key in rules_of(section).keys() & keys.keys():  # type: ignore[arg-type]
            keys[key]["title"] = f"{key} ({TITLES[title]})"
    table = {key: described(key, RULES[key]) for key in TABLE_KEYS}
    of_task = {entry.name: described(entry.name, rules_of(TaskSettings)[entry.name]) for entry in fields(TaskSettings)}
    tables = {"type": "object", "minProperties": 1, "additionalProperties": _closed(of_task)}
    keys["tasks"] = {
        "anyOf": [schema_of(RULES["tasks"]), tables],
        "title": keys["tasks"]["title"],
        "description": f"{KEYS['tasks'].metadata['help']}; or tables [tasks.NAME] with settings of single tasks",
    }
    keys["episode"] = _list(_closed(table)) | {"description": "episodes of the training, one after the other"}
    return {"$schema": DRAFT, "title": "settings of taco-ir train", **_closed(keys)}


def _closed(keys: Mapping[str, Schema]) -> Schema:
    return {"type": "object", "properties": dict(keys), "additionalProperties": False}
