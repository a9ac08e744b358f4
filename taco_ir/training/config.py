"""What a training run is made of: put together from defaults, a preset, a TOML file and flags, and checked before anything is loaded."""

from __future__ import annotations

import argparse
import re
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, Field, asdict, fields
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from taco_ir.core.files import InputError, discard, is_leftover, read_json, write_json
from taco_ir.core.settings import Rules, Values, nearest, number_or_text, option, rules_of, words
from taco_ir.training.keys import (
    EPISODE_KEYS,
    FLAG_KEYS,
    GROUPS,
    HINTS,
    KEYS,
    PRESETS,
    RULES,
    WEIGHTING_NAMES,
    TrainConfig,
    checked_keys,
    episode_of,
    over,
)

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = [
    "EPISODE_KEYS",
    "PRESETS",
    "WEIGHTING_NAMES",
    "TrainConfig",
    "add_flag",
    "add_flag_groups",
    "add_flags",
    "checked_flags",
    "differing_keys",
    "episode_configs",
    "from_dict",
    "from_values",
    "given_flags",
    "load_config",
    "needed",
    "read_file",
    "read_saved",
    "read_train_config",
    "save_config",
    "shipped",
    "to_dict",
]
CONFIGS = Path(__file__).with_name("configs")
CONFIG_FILE, INPUTS_FILE = "config.json", "inputs.json"
OWN = re.compile(  # names of what a run writes
    r"(config|inputs|parameters)\.json|log\.jsonl|(bm25-\d+-\d+-\d+|ance|validation)\.(jsonl|runs)"
    r"|model|best|checkpoints|vectors|index|tensorboard|episode-\d+"
)
MAY_DIFFER = ("device", "output", "tensorboard", "log_cosines")  # between a run and its continuation
LISTS = ("tasks", "reading", "self_supervised", "objective")  # keys whose flag takes several words
Config = TypeVar("Config", bound="DataclassInstance")  # TrainConfig, or the keys of another kind of run


def read_train_config(path: Path | None, flags: Mapping[str, Any], preset: str | None = None) -> TrainConfig:
    """Defaults, then a preset, then a file, then flags; a flag also replaces what the file's episodes say.

    Where some episodes choose a weighting, flags about the weighting are for them alone, so that one flag compares weightings.

    Args:
        path: a TOML file, or the name of a shipped configuration.
        flags: what the user gave on the command line, by key (see `given_flags`).

    Raises:
        InputError: naming file or flag, key, value and what is allowed.
    """
    values: Values = {}
    if preset is not None:
        if preset not in PRESETS:
            raise InputError(f"--preset {preset}: unknown; {nearest(preset, PRESETS)}")
        values = PRESETS[preset]
    if path is not None:
        found = read_file(_find(path), (*FLAG_KEYS, "episode"), RULES)
        values = over(values, {"episodes" if key == "episode" else key: value for key, value in found.items()})
    values = _flags_over(values, checked_keys(flags, FLAG_KEYS, "", said=_flag))
    needed(values, KEYS)
    return TrainConfig(**values)


def episode_configs(config: TrainConfig) -> list[TrainConfig]:
    """One configuration for each episode, in order; the run itself where it has no episodes."""
    if not config.episodes:
        return [config]
    return [episode_of(config, table) for table in config.episodes for _ in range(table.get("repeat", 1))]


def differing_keys(a: Config, b: Config) -> list[str]:
    """Keys in which `b` is not a continuation of `a`."""
    return [entry.name for entry in fields(a) if entry.name not in MAY_DIFFER and getattr(a, entry.name) != getattr(b, entry.name)]


def needed(values: Mapping[str, Any], keys: Mapping[str, Field[Any]]) -> None:
    """Raise InputError where model or output is not given."""
    for key in ("model", "output"):
        if not values.get(key):
            raise InputError(f"--{key} is needed: {keys[key].metadata['help']}")


def to_dict(config: DataclassInstance) -> Values:
    return asdict(config)


def from_dict(values: Mapping[str, Any], where: str = "configuration: ") -> TrainConfig:
    """What `to_dict` gave, after JSON as well. Raises: InputError for an unknown key or a value that is not allowed."""
    return from_values(values, where, TrainConfig)


def from_values(values: Mapping[str, Any], where: str, kind: type[Config]) -> Config:
    """As `from_dict`, of any kind of run whose fields' metadata say what they take."""
    rules = rules_of(kind)
    found = checked_keys(values, rules, where, rules, _flag if not where else str)
    try:
        return kind(**found)
    except InputError as error:
        raise InputError(f"{where}{error}") from error


def save_config(config: DataclassInstance, folder: Path) -> None:
    write_json(folder / CONFIG_FILE, to_dict(config))


def load_config(folder: Path) -> TrainConfig:
    """Raises: InputError naming the file when it is missing, not JSON, or no configuration."""
    return read_saved(folder, TrainConfig)


def read_saved(folder: Path, kind: type[Config]) -> Config:
    """As `load_config`, of any kind of run."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise InputError(f"{path}: no such file; a folder that taco_ir.train wrote has one")
    values = read_json(path)
    if not isinstance(values, dict):
        raise InputError(f"{path}: a JSON object is needed, with the keys {', '.join(rules_of(kind))}")
    return from_values(values, f"{path}: ", kind)


def begun(output: Path) -> bool:
    """Whether the run in `output` has made a step; one that failed before, perhaps after mining, may be configured anew."""
    return any(
        next((folder / "checkpoints").glob("step-*"), None) or (folder / "model").is_dir() or _has_logged_step(folder / "log.jsonl")
        for folder in (output, *output.glob("episode-*"))
    )


def _has_logged_step(log: Path) -> bool:
    """Whether a log has a line of a step, beside that of a validation before the first."""
    return log.is_file() and any('"learning_rate"' in line for line in log.read_text(encoding="utf-8").splitlines())


def _holds_anything(output: Path) -> bool:
    """Whether anything is there beside what a run writes before it is configured."""
    return any(path.is_file() and path != output / INPUTS_FILE and not is_leftover(path) for path in output.rglob("*"))


def refuse_other_run(config: DataclassInstance, output: Path) -> None:
    """Raise InputError where `output` holds a run that was configured otherwise, or something else."""
    if (output / CONFIG_FILE).is_file():
        _refuse_other_kind(output, rules_of(type(config)))
        found = read_saved(output, type(config))
        if (keys := differing_keys(found, config)) and begun(output):
            changes = ", ".join(f"{key} was {getattr(found, key)!r}, is {getattr(config, key)!r}" for key in keys)
            raise InputError(
                f"--output {output} is a run with another configuration: {changes}; go on with the same one, or give another folder"
            )
    elif output.is_file() or _holds_anything(output):
        raise InputError(f"--output {output} exists and is no training run; give another folder")


def remove_run(config: DataclassInstance, output: Path) -> None:
    """Remove the run in `output`, which is held, the last it made first, so that a process that is killed leaves what is an unfinished run.

    Raises:
        InputError: where anything else is there, or what `config` starts from.
    """
    if not (output / CONFIG_FILE).is_file():
        refuse_other_run(config, output)
        return
    _refuse_other_kind(output, rules_of(type(config)))
    folders = sorted(output.glob("episode-*"), key=lambda path: (len(path.name), path.name))
    for path in (path for folder in (output, *folders) if folder.is_dir() for path in sorted(folder.iterdir())):
        if not OWN.fullmatch(path.name) and not is_leftover(path):
            raise InputError(f"--overwrite: {path} is no part of a training run; move it away, or give another --output")
    values = to_dict(config)
    for given in (values["model"], values.get("negatives", ""), *(each.get("negatives", "") for each in values.get("episodes", ()))):
        if given and Path(given).resolve().is_relative_to(output.resolve()) and Path(given).exists():
            raise InputError(f"--overwrite: the run starts from {given}, which it would remove; give another --output")
    order = [*reversed(folders), *(output / name for name in ("model", "checkpoints"))]
    rest = [path for path in sorted(output.iterdir()) if path not in order and not is_leftover(path)]
    rest.sort(key=lambda path: path.name == CONFIG_FILE)
    discard([path for path in (*order, *rest) if path.exists()], output / "run")


def _refuse_other_kind(output: Path, keys: Collection[str]) -> None:
    """Raise InputError where the configuration in `output` has keys that are not among `keys`, and lacks some that are."""
    values = read_json(output / CONFIG_FILE)
    foreign, missing = [key for key in values if key not in keys], [key for key in keys if key not in values]
    if foreign and missing:
        raise InputError(
            f"--output {output} is a run of another kind: its {CONFIG_FILE} has {foreign[0]!r} and lacks {missing[0]!r}; give another folder"
        )


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add --config, --preset and a flag for every key; a flag that is not given leaves no trace (see `given_flags`)."""
    parser.add_argument("--config", type=Path, metavar="FILE", help=f"a TOML file, or a shipped configuration: {', '.join(shipped())}")
    parser.add_argument(
        "--preset", metavar="NAME", help="dpr: two BERT towers, BM25 negatives, no prompts, as in Karpukhin et al. (EMNLP 2020)"
    )
    add_flag_groups(parser, GROUPS, {key: KEYS[key] for key in FLAG_KEYS}, RULES)


def add_flag_groups(
    parser: argparse.ArgumentParser, groups: Sequence[str], keys: Mapping[str, Field[Any]], every: Mapping[str, Rules]
) -> None:
    """Add a flag for every one of `keys`, under the title of its group."""
    titled = {title: parser.add_argument_group(title) for title in groups}
    for key, entry in keys.items():
        add_flag(titled[entry.metadata["group"]], key, _help(entry), every)


def add_flag(target: argparse._ActionsContainer, key: str, help: str, every: Mapping[str, Rules] = RULES) -> None:
    """Add the flag of one key to a parser or a group of its flags; not given, it leaves no trace."""
    kind, rules = every[key]
    settings: Values = {"default": argparse.SUPPRESS, "help": help}
    if kind is bool:
        settings |= {"action": argparse.BooleanOptionalAction}
    elif kind == HINTS["tasks"]:
        settings |= {"nargs": "+", "type": words, "metavar": rules.get("metavar", "TASK")}
    elif kind == HINTS["weighting_options"]:
        settings |= {"nargs": "+", "type": option, "metavar": "NAME=VALUE"}
    else:
        metavar = "|".join(rules["choices"]) if "choices" in rules else {int: "N", float: "X"}.get(kind, "TEXT")
        settings |= {"type": number_or_text(kind), "metavar": metavar}
    target.add_argument(_flag(key), **settings)


def given_flags(options: argparse.Namespace, keys: Collection[str] = FLAG_KEYS) -> Values:
    """Those of a command line's flags that are among these keys of a configuration and were given; not checked yet."""
    given = {key: value for key, value in vars(options).items() if key in keys}
    for key, gather in (*((key, tuple) for key in LISTS), ("weighting_options", dict)):
        if key in given:
            given[key] = gather(chain.from_iterable(given[key]))
    return given


def checked_flags(options: argparse.Namespace, keys: Collection[str]) -> Values:
    """As `given_flags`. Raises: InputError for a value that is not allowed."""
    return checked_keys(given_flags(options, keys), keys, "", said=_flag)


def shipped() -> list[str]:
    """Names of the configurations that come with the package."""
    return sorted(path.stem for path in CONFIGS.glob("*.toml"))


def _flag(key: str) -> str:
    return f"--{key.replace('_', '-')}"


def _help(entry: Field[Any]) -> str:
    text, default = entry.metadata["help"].replace("%", "%%"), entry.default  # argparse formats it
    if isinstance(default, bool):
        shown = "on" if default else "off"
    elif isinstance(default, tuple):
        shown = ",".join(default)
    else:
        shown = "" if default in (None, MISSING) else f"{default:g}" if isinstance(default, float) else str(default)
    return f"{text} [default: {shown}]" if shown else text


def _find(path: Path) -> Path:
    """A file, or the shipped configuration of that name."""
    if path.is_file():
        return path
    if path.parent == Path() and path.name.removesuffix(".toml") in shipped():
        return CONFIGS / f"{path.name.removesuffix('.toml')}.toml"
    raise InputError(f"--config {path}: no such file; shipped configurations: {', '.join(shipped())}")


def read_file(path: Path, allowed: Collection[str], every: Mapping[str, Rules]) -> Values:
    """The keys of a TOML file. Raises: InputError naming the file and what is wrong in it."""
    try:
        text = path.read_text(encoding="utf-8")
        values = tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 ({error})") from error
    except tomllib.TOMLDecodeError as error:
        message = str(error).replace("at end of document", f"at line {len(text.splitlines())}, the last")
        raise InputError(f"{path}: not valid TOML: {message}") from error
    return checked_keys(values, allowed, f"{path}: ", every)


def _flags_over(values: Mapping[str, Any], given: Mapping[str, Any]) -> Values:
    """`values` and each of its episodes with the flags instead (see `read_train_config` for those about the weighting)."""
    tables = values.get("episodes", ())
    of_some = {"weighting", "weighting_options"} if any("weighting" in table for table in tables) else set()
    merged = over(values, {key: value for key, value in given.items() if key not in of_some})
    everywhere = {key: value for key, value in given.items() if key in EPISODE_KEYS}
    sparing = {key: value for key, value in everywhere.items() if key not in of_some}
    return merged | {"episodes": tuple(over(table, everywhere if "weighting" in table else sparing) for table in tables)}
