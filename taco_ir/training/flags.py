"""Reads the settings of a training from a preset, a TOML file and flags, each overriding the one before."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from taco_ir.core.files import InputError, read_toml
from taco_ir.core.settings import Values, add_flag, as_flag, given_values, rules_of, with_default
from taco_ir.core.suggestions import suggest
from taco_ir.training.settings import (
    EPISODE_KEYS,
    KEYS,
    NOTHING,
    RULES,
    SECTIONS,
    TrainSettings,
    checked_keys,
    idle_in_run,
    idle_keys,
    merge,
    override,
    require,
)

CONFIGS = Path(__file__).with_name("configs")
SPAN_KEYS = ("objective", "span_from", "length", "mask_share", "held_out")  # settings that only pre-training has
TITLES = {  # titles of the sections in --help
    **{"run": "what is trained", "encoder": "encoder", "adapters": "adapters", "batch": "batches and loss"},
    **{"objectives": "reading, self-supervision and pre-training", "optimiser": "optimisation"},
    **{"weighting": "weighting of tasks", "negatives": "negatives", "validation": "validation, checkpoints and logs"},
}
PRESETS: dict[str, Values] = {
    "dpr": {
        **{"untied": True, "pooling": "first", "prompts": False, "dropout": 0.1},
        **{"negatives": "bm25", "hard_negatives": 1, "batch_size": 128, "shares": "proportional"},
        **{"learning_rate": 1e-5, "epochs": 40.0},
    }
}


class Verb(NamedTuple):
    """What a training command, train or pretrain, accepts as settings.

    Attributes:
        keys: the settings that have a flag and may be in a file.
        defaults: defaults that differ from those of `TrainSettings`.
        help: help texts of settings that mean something else in this command.
        presets: whether presets, shipped files and episodes are allowed.
    """

    keys: Collection[str]
    defaults: Values
    help: Mapping[str, str]
    presets: bool


TRAIN = Verb(tuple(key for key in KEYS if key not in SPAN_KEYS), {}, {}, presets=True)
PRETRAIN = Verb(
    (
        *("collection", "model", "output", "seed", "device", "pooling", "normalize", "dropout", "batch_size"),
        *("temperature", "objective", "max_passages", "span_from", "length", "mask_share", "gradcache", "precision"),
        *("learning_rate", "weight_decay", "warmup", "clip", "epochs", "steps", "gradient_checkpointing"),
        *("held_out", "validate_every", "checkpoint_every", "keep_checkpoints", "track"),
    ),
    {"tasks": NOTHING, "objective": ("mlm", "span_contrast"), "learning_rate": 1e-4, "negatives": "none"},
    {
        "max_passages": "read at most N passages into memory, sampled in blocks of neighbouring passages; none: "
        "all (about 1.5 GB per million)",
        "batch_size": "number of documents in a batch; with span_contrast each gives two spans, otherwise one",
        "epochs": "number of passes over the documents",
        "steps": "number of training steps; auto: from the number of epochs",
        "gradcache": "encode only N spans at once, so that a large batch fits in memory (GradCache); none: all at once",
        "validate_every": "measure the held-out loss every N steps; auto: at the end of each epoch",
    },
    presets=False,
)


def add_flags(parser: argparse.ArgumentParser, verb: Verb = TRAIN) -> None:
    """Adds --config, --preset and a flag for every setting to a parser. `given_flags` reads which flags were given."""
    help = "a TOML file of settings, named like the flags below but with `_` for `-`; flags override the file"
    if verb.presets:
        help = f"a TOML file, or a shipped configuration: {', '.join(shipped())}"
    parser.add_argument("--config", type=Path, metavar="FILE", help=help)
    if verb.presets:
        help = (
            "a named set of settings; dpr: separate encoders for queries and passages, BM25 negatives, no prompts "
            "(Karpukhin et al., EMNLP 2020)"
        )
        parser.add_argument("--preset", metavar="NAME", help=help)
    for name, section in SECTIONS.items():
        own = [key for key in rules_of(section) if key in verb.keys]  # type: ignore[arg-type]
        group = parser.add_argument_group(TITLES[name]) if own else parser
        for key in own:
            default = verb.defaults.get(key, KEYS[key].default)
            help = with_default(verb.help.get(key, KEYS[key].metadata["help"]), default, RULES[key][1])
            add_flag(group, key, RULES[key], help)


def given_flags(options: argparse.Namespace, keys: Collection[str] = TRAIN.keys) -> Values:
    """Returns the values of the flags that the user gave, by setting. Raises InputError if a value is not allowed."""
    given = given_values(options, {key: RULES[key] for key in keys})
    return checked_keys(given, keys, "", said=as_flag)


def read_settings(
    path: Path | None, flags: Mapping[str, Any], preset: str | None = None, verb: Verb = TRAIN
) -> TrainSettings:
    """Combines settings from defaults, a preset, a file and flags; each overrides the one before, also in episodes.

    If only some episodes set a weighting, flags about the weighting change only these; so one flag compares weightings.

    Args:
        path: a TOML file, or the name of a shipped configuration.
        flags: values of the flags that the user gave, by setting (see `given_flags`).

    Raises:
        InputError: naming file or flag, if a setting is unknown, has no effect, or has a value that is not allowed.
    """
    values: Values = {**verb.defaults}
    if preset is not None:
        if preset not in PRESETS:
            raise InputError(f"--preset {preset}: unknown; {suggest(preset, PRESETS)}")
        values = override(values, PRESETS[preset])
    if path is not None:
        file, allowed = _find(path, verb), (*verb.keys, "episode") if verb.presets else verb.keys
        found = checked_keys(read_toml(file), allowed, f"{file}: ")
        values = override(values, {"episodes" if key == "episode" else key: value for key, value in found.items()})
    values = _flags_over(values, checked_keys(flags, verb.keys, "", said=as_flag))
    require(values, said=as_flag)
    idle = idle_in_run(values)
    for key in flags:  # refused even where the value is the default
        if key in idle:
            raise InputError(f"{as_flag(key)} has an effect only with {idle[key]}")
    return TrainSettings(**values)


def shipped() -> list[str]:
    """Returns the names of the configurations that come with the package."""
    return sorted(path.stem for path in CONFIGS.glob("*.toml"))


def _find(path: Path, verb: Verb) -> Path:
    """Returns the path of a file, or of the shipped configuration with that name."""
    if path.is_file():
        return path
    if not verb.presets:
        raise InputError(f"--config {path}: no such file; give a TOML file")
    if path.parent == Path() and path.name.removesuffix(".toml") in shipped():
        return CONFIGS / f"{path.name.removesuffix('.toml')}.toml"
    raise InputError(f"--config {path}: no such file; shipped configurations: {', '.join(shipped())}")


def _flags_over(values: Values, given: Mapping[str, Any]) -> Values:
    """Returns `values` with those of flags instead, also in episodes (see `read_settings` for the weighting)."""
    tables = values.get("episodes", ())
    of_some = {"weighting", "weighting_options"} if any("weighting" in table for table in tables) else set()
    everywhere = {key: value for key, value in given.items() if key in EPISODE_KEYS}
    sparing = {key: value for key, value in everywhere.items() if key not in of_some}
    found = merge(values, {key: value for key, value in given.items() if key not in of_some})
    found["episodes"] = tuple(merge(table, everywhere if "weighting" in table else sparing) for table in tables)
    made_idle = idle_in_run(found).keys() - idle_in_run(values).keys() - given.keys()
    found = {key: value for key, value in found.items() if key not in made_idle}
    found["episodes"] = tuple(
        _episode(values, table, found, now, given) for table, now in zip(tables, found["episodes"], strict=True)
    )
    return found


def _episode(values: Values, table: Values, found: Values, now: Values, given: Collection[str]) -> Values:
    """Returns `now`, an episode's table with flags, without the keys that lost their effect through the flags."""
    before, after = idle_keys(merge(values, table)), idle_keys(merge(found, now))
    return {key: value for key, value in now.items() if key not in after or (key in before and key not in given)}
