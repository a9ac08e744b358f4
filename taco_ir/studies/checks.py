"""What a conditions file may not say: names that are other places, commands that are no verbs, outputs outside the work folder.

A study may come from somebody else. Running it is running the verbs that it names on what it names, and nothing more.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from string import Formatter
from typing import Any

from taco_ir.core.files import InputError
from taco_ir.core.typed import abbreviate

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
NAMED = "letters, digits, dots, _, + and -, at most 100, a letter or digit first"
VERBS = ("train", "pretrain", "mine", "encode", "index", "export", "data", "search", "answer")  # all with --output
DATA_COMMANDS = ("hold-out", "subset")  # of the verb data: the others write to the data home
RESERVED = ("collection", "folder", "out", "seed")  # placeholders
CORPORA = "corpora"  # the folder of parts beside those of conditions
NUMBER, NUMBERS, TEXTS, TABLE, LISTS = (
    "a whole number from 0",
    "whole numbers from 0",
    "texts",
    "a table of texts",
    "a table of lists",
)
KINDS = dict.fromkeys(("name", "system", "base", "search", "answer", "field", "args"), "text")
KINDS |= dict.fromkeys(("commands", "topics", "models"), TEXTS) | dict.fromkeys(("distractors", "seed", "hits"), NUMBER)
KINDS |= {"seeds": NUMBERS, "best": TABLE, "each": LISTS}


def check_names(where: str, names: Iterable[str], taken: Collection[str] = ()) -> None:
    """Raise InputError for a name of a file or folder to be that might be another place, or that stands for something else."""
    for name in names:
        if not NAME.fullmatch(name) or name in taken:
            but = f", and not {', '.join(taken)}" if taken else ""
            raise InputError(f"{where}: {name[:200]!r}: a name is {NAMED}{but}")


def check_kinds(where: str, table: Mapping[str, Any], more: Mapping[str, str] | None = None) -> None:
    """Raise InputError for a value of another kind than its key wants.

    Args:
        more: kinds of other keys, or instead of those of KINDS.
    """
    for key, kind in (KINDS | dict(more or {})).items():
        if key in table and not _is_kind(table[key], kind):
            raise InputError(f"{where}: {key} is {abbreviate(table[key])}; needed: {kind}")


def _is_kind(value: Any, kind: str) -> bool:
    if kind in (TABLE, LISTS):
        return isinstance(value, dict) and all(
            isinstance(each, str if kind == TABLE else list) for each in value.values()
        )
    if kind in (TEXTS, NUMBERS):
        return isinstance(value, list) and all(_is_kind(each, "text" if kind == TEXTS else NUMBER) for each in value)
    return isinstance(value, str) if kind == "text" else type(value) is int and value >= 0


def check_command(where: str, template: str, scored: bool) -> None:
    """Raise InputError for a command that is none of this package's verbs, or that may write elsewhere than into {out}.

    Args:
        scored: whether it is flags of the search or the answers that are scored, whose output is said for them.
    """
    quoted = f"{where}: {template[:200]!r}"
    try:
        words = shlex.split(template)
        fields = [field for field in Formatter().parse(template) if field[1] is not None]
    except ValueError as error:
        raise InputError(f"{quoted}: {error}") from error
    if any(spec or conversion for _, _, spec, conversion in fields):
        raise InputError(f"{quoted}: placeholders are names in braces, without : and !")
    if not scored:
        _check_verb(where, words)
    outputs = [place for place, word in enumerate(words) if word.partition("=")[0] == "--output"]
    if scored and outputs:
        raise InputError(f"{quoted}: --output is not for it to say")
    elsewhere = words[:1] in (["search"], ["answer"]) or any(
        word.startswith("--config") for word in words
    )  # where they would write else
    if len(outputs) > 1 or (elsewhere and not outputs and not scored):
        raise InputError(f"{quoted}: --output {{out}}, or a place inside it, is needed, once")
    for place in outputs:
        _check_output(quoted, "".join(words[place + 1 : place + 2]))


def _check_verb(where: str, words: Sequence[str]) -> None:
    if not words or words[0] not in VERBS or (words[0] == "data" and "".join(words[1:2]) not in DATA_COMMANDS):
        allowed = [*(verb for verb in VERBS if verb != "data"), *(f"data {each}" for each in DATA_COMMANDS)]
        raise InputError(f"{where}: command {' '.join(words[:2])[:200]!r}; allowed: {', '.join(allowed)}")


def _check_output(quoted: str, text: str) -> None:
    path = PurePosixPath(text)
    if path.parts[:1] != ("{out}",) or ".." in path.parts or "\\" in text or "\0" in text:
        raise InputError(f"{quoted}: --output {text[:200]!r}; it must be {{out}}, or a place inside it")
