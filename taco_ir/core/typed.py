"""Checks values read from files against their expected types.

A type is a dataclass or NamedTuple, whose fields are the keys of an object; `int`, `float`, `str`, `bool`, `list[...]`,
`tuple[...]`, `dict[str, ...]`, `Literal[...]`, `Any`; a union of these; or `Annotated[int, 1]`, a number of at least 1.
"""

from __future__ import annotations

import contextlib
import math
import reprlib
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from taco_ir.core.suggestions import listed_names, suggest

SHOWN = 80  # characters of a value in a message
LARGEST = (1 << 63) - 1
WORDS = {bool: "true or false", int: "a whole number", float: "a finite number", str: "a text", NoneType: "null"}
LISTS, TABLES = (list, tuple), (dict, Mapping)


class Mismatch(ValueError):
    """Raised for a value of the wrong type. The message names the key, the value and what is allowed."""


def conform(value: Any, kind: Any, key: str = "", others: bool = False) -> Any:
    """Convert `value` to the type `kind`, for example a JSON object to a dataclass, or a list to a tuple.

    Args:
        key: the value's key in the file, for error messages.
        others: ignore keys that the type does not have, instead of refusing them.

    Raises:
        Mismatch: for a value of a wrong type, naming key, value and what is allowed.
        ValueError: if the `__post_init__` of a dataclass raises one.
    """
    origin, parts = get_origin(kind) or kind, get_args(kind)
    if origin is Any:
        return value
    if origin in (Annotated, Literal, Union, UnionType):
        return _narrowed(value, origin, parts, key, others)
    if origin in WORDS:
        return _scalar(value, origin, key)
    if origin in LISTS:
        return _listed(value, origin, parts, key, others)
    if not isinstance(value, Mapping):
        keys = "" if origin in TABLES else f" of {listed_names(_keys(kind)[0])}"
        raise _refused(value, f"an object{keys}", key)
    if origin in TABLES:
        return {name: conform(each, parts[1], _below(key, name), others) for name, each in value.items()}
    return _record(value, kind, key, others)


def _narrowed(value: Any, origin: Any, parts: tuple[Any, ...], key: str, others: bool) -> Any:
    """Convert to an Annotated number, a Literal, or the first type of a union that fits."""
    if origin is Annotated:
        base, least = parts
        if (found := conform(value, base, key, others)) < least:
            raise _refused(value, f"{WORDS[base]}, at least {least}", key)
        return found
    if origin is Literal:
        if not any(type(value) is type(each) and value == each for each in parts):
            raise _refused(value, f"one of {', '.join(map(str, parts))}", key)
        return value
    if value is None and NoneType in parts:
        return None
    *first, last = (kind for kind in parts if kind is not NoneType)
    for kind in first:
        with contextlib.suppress(Mismatch):
            return conform(value, kind, key, others)
    return conform(value, last, key, others)


def _scalar(value: Any, kind: Any, key: str) -> Any:
    if kind is float and type(value) in (int, float) and _is_finite(value):
        return float(value)
    if kind is float or type(value) is not kind:
        raise _refused(value, WORDS[kind], key)
    if kind is int and abs(value) > LARGEST:
        raise _refused(value, f"a whole number from {-LARGEST} to {LARGEST}", key)
    return value


def _listed(value: Any, kind: Any, parts: tuple[Any, ...], key: str, others: bool) -> Any:
    fixed = kind is tuple and parts[1:] != (...,)
    if not isinstance(value, LISTS) or (fixed and len(value) != len(parts)):
        raise _refused(value, f"a list of {len(parts)}" if fixed else "a list", key)
    kinds = parts if fixed else parts[:1] * len(value)
    return kind(
        conform(each, part, f"{key}[{place}]", others)
        for place, (each, part) in enumerate(zip(value, kinds, strict=True))
    )


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False


def _record(values: Mapping[str, Any], kind: Any, key: str, others: bool) -> Any:
    hints, needed = _keys(kind)
    if not others and (unknown := [name for name in values if name not in hints]):
        raise Mismatch(f"unknown key {abbreviate(_below(key, unknown[0]))}; {suggest(unknown[0], hints)}")
    if missing := [name for name in needed if name not in values]:
        raise Mismatch(f"key {_below(key, missing[0])} is missing")
    checked = {
        name: conform(values[name], hint, _below(key, name), others) for name, hint in hints.items() if name in values
    }
    return kind(**checked)


@cache
def _keys(kind: Any) -> tuple[dict[str, Any], list[str]]:
    """Return the type of each field, and the fields without a default. With `__post_init__`, every type is Any."""
    hints = get_type_hints(kind, include_extras=True)
    if is_dataclass(kind):
        every = {each.name: Any if hasattr(kind, "__post_init__") else hints[each.name] for each in fields(kind)}
        return every, [each.name for each in fields(kind) if each.default is each.default_factory is MISSING]
    needed = [name for name in kind._fields if name not in kind._field_defaults]
    return {name: hints[name] for name in kind._fields}, needed


def _below(key: str, name: str) -> str:
    return f"{key}.{name[:SHOWN]}" if key else name[:SHOWN]


def _refused(value: Any, allowed: str, key: str) -> Mismatch:
    return Mismatch(
        f"{key} is {abbreviate(value)}; it must be {allowed}" if key else f"{abbreviate(value)}; {allowed} is needed"
    )


def abbreviate(value: Any) -> str:
    """Format a value for an error message: on one line, and cut if it is long."""
    try:
        text = repr(value) if isinstance(value, str | float | None) else reprlib.repr(value)
    except ValueError:  # a number with more digits than Python prints
        text = "a number of too many digits"
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."
