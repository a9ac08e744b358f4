"""Settings classes that check their values when created, whether these come from code, a file or a flag.

The type of a setting is its field's annotation; its range and choices are in the field's metadata.
"""

from __future__ import annotations

import argparse
import inspect
import operator
import re
import sys
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import MISSING, field, fields
from functools import cache
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from taco_ir.core.files import InputError
from taco_ir.core.suggestions import nearest, suggest
from taco_ir.core.typed import abbreviate

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Values = dict[str, Any]
Rules = tuple[Any, Mapping[str, Any]]  # a key's type, and its ranges, choices and tests
RANGES: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "min": ("at least", operator.ge),
    "max": ("at most", operator.le),
    "above": ("above", operator.gt),
    "below": ("below", operator.lt),
}
OPTION_NAME = re.compile(r"[^\W\d][\w -]*")  # of an option or a task
OPTION_WORD = re.compile(r"[^\W\d]\w*(:[\w.]+)?")
NEXT_OPTION = re.compile(rf",(?={OPTION_NAME.pattern}=)")


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def _is_scalar(value: Any) -> bool:
    return isinstance(value, bool | str) or _is_number(value)


def _is_list(value: Any, kind: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(entry, kind) and entry != "" for entry in value)


def _is_table(value: Any, test: Callable[[Any], bool]) -> bool:
    return isinstance(value, Mapping) and all(_is_text(key) and test(entry) for key, entry in value.items())


# for each annotation: its name in messages, a test for values from TOML or JSON, and how a value is stored
KINDS: dict[Any, tuple[str, Callable[[Any], bool], Callable[[Any], Any]]] = {
    bool: ("true or false", lambda value: type(value) is bool, bool),
    int: ("a whole number", lambda value: type(value) is int, int),
    float: ("a number", _is_number, float),
    str: ("a text", _is_text, str),
    float | str: (
        "a number or a text",
        lambda value: _is_number(value) or _is_text(value),
        lambda value: value if _is_text(value) else float(value),
    ),
    int | None: ("a whole number", lambda value: value is None or type(value) is int, lambda value: value),
    float | None: (
        "a number, or none",
        lambda value: value is None or _is_number(value),
        lambda value: value if value is None else float(value),
    ),
    str | None: ("a text", lambda value: value is None or _is_text(value), lambda value: value),
    tuple[str, ...]: ("a list of one text or more", lambda value: bool(value) and _is_list(value, str), tuple),
    tuple[Mapping[str, Any], ...]: (
        "a list of tables, [[episode]] in a file",
        lambda value: _is_list(value, Mapping),
        tuple,
    ),
    tuple[float, ...]: (
        "a list of numbers",
        lambda value: isinstance(value, list | tuple) and all(map(_is_number, value)),
        tuple,
    ),
    Mapping[str, str]: ("an object of tasks and texts", lambda value: _is_table(value, _is_text), dict),
    Mapping[str, int]: (
        "an object of tasks and whole numbers, at least 1",
        lambda value: _is_table(value, lambda entry: type(entry) is int and entry > 0),
        dict,
    ),
    Mapping[str, object]: ("a table", lambda value: isinstance(value, Mapping), dict),
    Mapping[str, Any]: (
        "a table of finite numbers, texts, true and false",
        lambda value: _is_table(value, _is_scalar),
        dict,
    ),
}


class Only(NamedTuple):
    """A condition under which a setting has an effect: `goes_with` describes it, `acts` tests it on all settings."""

    goes_with: str
    acts: Callable[[Any], bool]


class Settings:
    """Base class of settings: checks every value and converts it to the annotated type.

    Raises:
        InputError: for a value that is not allowed, naming key, value and what is allowed.
    """

    def __post_init__(self: DataclassInstance) -> None:
        rules = rules_of(type(self))
        for key, value in check_values({key: getattr(self, key) for key in rules}, rules).items():
            object.__setattr__(self, key, value)
        self.check()  # type: ignore[attr-defined]

    def check(self) -> None:
        """Check rules that involve several settings. Raises: InputError."""


def flag(default: Any, help: str, **rules: Any) -> Any:
    """Define a setting: its default, help text, and rules for its values (see `check_value`)."""
    metadata = {"help": help, **rules}
    if isinstance(default, dict):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


@cache
def rules_of(kind: type[DataclassInstance]) -> dict[str, Rules]:
    """Return the type and the rules of each setting, from the annotations and metadata of a dataclass's fields."""
    hints = get_type_hints(kind)
    return {entry.name: _rules(hints[entry.name], entry.metadata) for entry in fields(kind)}


def _rules(hint: Any, metadata: Mapping[str, Any]) -> Rules:
    """Return the type and the rules of one key or argument; a Literal is a text with choices."""
    return (str, {"choices": get_args(hint), **metadata}) if get_origin(hint) is Literal else (hint, metadata)


def check_values(values: Mapping[str, Any], rules: Mapping[str, Rules], said: Callable[[str], str] = str) -> Values:
    """Check and convert each value by its key's rules. `said` gives the name of a key in errors. Raises: InputError."""
    return {key: check_value(said(key), value, *rules[key]) for key, value in values.items()}


def check_value(name: str, value: Any, kind: Any, rules: Mapping[str, Any]) -> Any:
    """Check and convert `value` to the type `kind`, within the rules.

    Args:
        rules: min, max, above and below limit a number. `choices` are the allowed texts, `words` the allowed entries of
            a list. `test` is a predicate, which `allowed` describes in words. `named` maps words (such as none) to
            numbers, which may be outside the limits.

    Raises:
        InputError: for a value that is not allowed, naming `name`, the value and what is allowed.
    """
    words, is_kind, keep = KINDS[kind]
    named = rules.get("named", {})
    value = named.get(value, value) if isinstance(value, str) else value
    if type(value) in (int, float) and value in named.values():
        return keep(value)
    if "words" in rules and is_kind(value) and (unknown := [word for word in value if word not in rules["words"]]):
        raise InputError(f"{name}: {abbreviate(unknown[0])} is unknown; {suggest(unknown[0], rules['words'])}")
    ranges = {rule: rules[rule] for rule in RANGES if rule in rules}
    choices = rules.get("choices")
    if (
        is_kind(value)
        and (value is None or all(RANGES[rule][1](value, bound) for rule, bound in ranges.items()))
        and (choices is None or value is None or value in choices)
        and ("test" not in rules or rules["test"](value))
    ):
        return keep(value)
    bounds = [f"{RANGES[rule][0]} {bound}" for rule, bound in ranges.items()]
    allowed = rules.get("allowed") or ", ".join([words, *bounds, *(f"or {word}" for word in named)])
    if choices is not None:
        near = nearest(abbreviate(value).strip("'"), choices)
        allowed = f"one of {', '.join(choices)}{f' (did you mean {near}?)' if near else ''}"
    raise InputError(f"{name} is {abbreviate(value)}; it must be {allowed}")


def check_arguments(function: Callable[..., Any], given: Mapping[str, Any], where: str, whose: str) -> Values:
    """Check the keyword arguments for a function or class, and convert them to the annotated types.

    Args:
        where: the name of the arguments in error messages.
        whose: the name of the function in error messages.

    Raises:
        InputError: for an unknown argument, or a value of the wrong type.
    """
    hints = get_type_hints(function.__init__ if isinstance(function, type) else function)  # type: ignore[misc]
    entries = inspect.signature(function).parameters.items()
    known = [name for name, entry in entries if entry.kind is entry.KEYWORD_ONLY]
    if unknown := [name for name in given if name not in known]:
        raise InputError(f"{where}: unknown option {unknown[0]!r} of {whose}; {suggest(unknown[0], known)}")
    return {name: check_value(f"{where}: {name}", value, *_rules(hints[name], {})) for name, value in given.items()}


def number_or_text(kind: Any) -> Callable[[str], Any]:
    """Make an argparse type that converts text to a number if it can. `check_value` refuses other text later."""

    def convert(text: str) -> Any:
        try:
            return kind(text)
        except ValueError:
            return text

    return convert if kind in (int, float) else str


def parse_option(text: str) -> list[tuple[str, Any]]:
    """Parse options such as `tau=2` or `nq=2,fever=1` into (name, value) pairs; a value is a number, word or boolean.

    Raises:
        argparse.ArgumentTypeError: for a text that is not NAME=VALUE.
    """
    found = []
    for each in NEXT_OPTION.split(text):
        name, _, value = each.partition("=")
        try:
            parsed = tomllib.loads(f"value = {value}")
        except tomllib.TOMLDecodeError:
            parsed = {"value": value} if OPTION_WORD.fullmatch(value) else {}
        if not OPTION_NAME.fullmatch(name) or len(parsed) != 1 or not _is_scalar(parsed["value"]):
            values = "a finite number, a word, true or false"
            raise argparse.ArgumentTypeError(f"{each!r} is not NAME=VALUE, with {values} as the value")
        found.append((name, parsed["value"]))
    return found


WORDS, OPTIONS = tuple[str, ...], Mapping[str, Any]  # types of flags that take several values


def as_flag(key: str) -> str:
    return f"--{key.replace('_', '-')}"


def add_flag(target: argparse._ActionsContainer, key: str, rules: Rules, help: str) -> None:
    """Add the flag of a setting to a parser or group. If it is not given, the options have no such attribute."""
    kind, own = rules
    settings: Values = {"default": argparse.SUPPRESS, "help": help}
    if kind is bool:
        settings |= {"action": argparse.BooleanOptionalAction}
    elif kind == WORDS:
        whole = own.get("whole")  # words may contain commas
        words = (lambda text: [text]) if whole else (lambda text: [word for word in text.split(",") if word])
        settings |= {"nargs": "+", "type": words, "metavar": own.get("metavar", "TASK")}
    elif kind == OPTIONS:
        settings |= {"nargs": "+", "type": parse_option, "metavar": "NAME=VALUE"}
    else:
        choices = "|".join(own["choices"]) if "choices" in own else {int: "N", float: "X"}.get(kind, "TEXT")
        settings |= {"type": number_or_text(kind), "metavar": own.get("metavar", choices)}
    target.add_argument(as_flag(key), **settings)


def given_values(options: argparse.Namespace, rules: Mapping[str, Rules]) -> Values:
    """Return the values of the given flags, by key, without checking them. A repeated flag has all its values."""
    given = {key: value for key, value in vars(options).items() if key in rules}
    for key, value in given.items():
        if rules[key][0] in (WORDS, OPTIONS):
            given[key] = (tuple if rules[key][0] == WORDS else dict)(chain.from_iterable(value))
    return given


def default_word(default: Any, rules: Mapping[str, Any]) -> Any:
    """Return a default as users write it: a number becomes its word if the rules name one, such as none."""
    return next((word for word, number in rules.get("named", {}).items() if number == default), default)


def with_default(help: str, default: Any, rules: Mapping[str, Any]) -> str:
    """Return the help text of a flag with its default added, escaped for argparse."""
    default = default_word(default, rules)
    if isinstance(default, bool):
        shown = "on" if default else "off"
    elif isinstance(default, tuple):
        shown = ",".join(default)
    else:
        shown = "" if default in (None, MISSING) else f"{default:g}" if isinstance(default, float) else str(default)
    escaped = help.replace("%", "%%")  # argparse formats it
    return f"{escaped} [default: {shown}]" if shown else escaped
