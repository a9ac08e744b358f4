"""Single values of a configuration: their types and ranges, what to say of a wrong one, and their spelling on a command line."""

from __future__ import annotations

import argparse
import difflib
import operator
import sys
import tomllib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from taco_ir.files import InputError

RANGES: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "min": ("at least", operator.ge),
    "max": ("at most", operator.le),
    "above": ("above", operator.gt),
    "below": ("below", operator.lt),
}


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def _is_scalar(value: Any) -> bool:
    return isinstance(value, bool | str) or _is_number(value)


def _is_list(value: Any, kind: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(entry, kind) and entry != "" for entry in value)


# by annotation: in words, whether a value read from TOML or JSON is one, and how it is kept
KINDS: dict[Any, tuple[str, Callable[[Any], bool], Callable[[Any], Any]]] = {
    bool: ("true or false", lambda value: type(value) is bool, bool),
    int: ("a whole number", lambda value: type(value) is int, int),
    float: ("a number", _is_number, float),
    str: ("a text", lambda value: isinstance(value, str), str),
    str | None: ("a text", lambda value: value is None or isinstance(value, str), lambda value: value),
    tuple[str, ...]: ("a list of one text or more", lambda value: bool(value) and _is_list(value, str), tuple),
    Mapping[str, Any]: (
        "a table of finite numbers, texts, true and false",
        lambda value: isinstance(value, Mapping) and all(map(_is_scalar, value.values())),
        dict,
    ),
    tuple[Mapping[str, Any], ...]: ("a list of tables, [[episode]] in a file", lambda value: _is_list(value, Mapping), tuple),
}


def checked(name: str, value: Any, kind: Any, rules: Mapping[str, Any]) -> Any:
    """`value` as the type `kind`, within the rules min, max, above, below, choices and test.

    Args:
        rules: `test` is a predicate, and `allowed` says in words what it takes.

    Raises:
        InputError: naming `name`, the value and what is allowed.
    """
    words, is_kind, keep = KINDS[kind]
    ranges = {rule: rules[rule] for rule in RANGES if rule in rules}
    choices = rules.get("choices")
    if (
        is_kind(value)
        and all(RANGES[rule][1](value, bound) for rule, bound in ranges.items())
        and (choices is None or value is None or value in choices)
        and ("test" not in rules or rules["test"](value))
    ):
        return keep(value)
    allowed = rules.get("allowed") or ", ".join([words, *(f"{RANGES[rule][0]} {bound}" for rule, bound in ranges.items())])
    if choices is not None:
        near = difflib.get_close_matches(str(value), choices, n=1)
        allowed = f"one of {', '.join(choices)}{f' (did you mean {near[0]}?)' if near else ''}"
    raise InputError(f"{name} is {value!r}; it must be {allowed}")


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word that an unknown one is nearest to, as a question; else all of them."""
    known = list(known)
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {near[0]}?" if near else f"valid: {', '.join(known) or 'none'}"


def number_or_text(kind: Any) -> Callable[[str], Any]:
    """argparse type: text as a number of this kind; one that is none stays text, for `checked` to refuse."""

    def convert(text: str) -> Any:
        try:
            return kind(text)
        except ValueError:
            return text

    return convert if kind in (int, float) else str


def words(text: str) -> list[str]:
    """argparse type: `nq,fever` as words."""
    return [word for word in text.split(",") if word]


def option(text: str) -> list[tuple[str, Any]]:
    """argparse type: `tau=2` as a name and a TOML scalar; a word needs no quotes. Raises: argparse.ArgumentTypeError."""
    name, _, value = text.partition("=")
    try:
        parsed = tomllib.loads(f"value = {value}")
    except tomllib.TOMLDecodeError:
        parsed = {"value": value} if value.isidentifier() else {}
    if not name.isidentifier() or len(parsed) != 1 or not _is_scalar(parsed["value"]):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE, with a finite number, a word, true or false as the value")
    return [(name, parsed["value"])]
