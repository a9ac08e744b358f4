"""Claims outputs: how an existing output was made decides whether it is resumed, kept, replaced or refused."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from taco_ir.core.files import BEGUN, InputError, exclusive, is_leftover, writing
from taco_ir.core.hashes import fingerprint

SHOWN_UP_TO = 80  # characters of a value that differs from another


@contextlib.contextmanager
def claim_output(
    path: Path,
    made_of: Any,
    overwrite: bool = False,
    resume: bool = False,
    record: Callable[[], Mapping[str, Any] | None] | None = None,
    remedy: str = "--overwrite",
    wait: bool = False,
) -> Iterator[bool]:
    """Lock an output for this process, and refuse to replace an output that was made differently.

    An existing output is "ours" if its `made_of` is equal, otherwise "foreign". An empty folder is no output.

    Args:
        made_of: everything that the output depends on, as a JSON value.
        overwrite: allow replacing a foreign output.
        resume: allow continuing an unfinished output that was begun with an equal `made_of`.
        record: returns what the existing output was made from; keys that `made_of` does not have are ignored. Without
            `record`, or if it returns None, every existing output is foreign.
        remedy: what the error message suggests, as an alternative to another name.
        wait: wait while another process writes the output, instead of raising an error.

    Yields:
        True if the output exists, is finished and is ours; otherwise False.

    Raises:
        InputError: for a foreign output, with the first difference; or if another process is writing the output.
    """

    def refuse_foreign() -> bool:
        exists = path.exists() and not (path.is_dir() and all(map(is_leftover, path.iterdir())))
        if exists and not overwrite:
            if record is None:
                raise InputError(f"--output {path} exists; give another name or {remedy}")
            refuse_other(path, record(), made_of, remedy)
        return exists and not overwrite

    mark, key = path.with_name(f"{path.name}{BEGUN}"), fingerprint(made_of) if resume else ""
    with exclusive(path, wait):
        ours = resume and mark.is_file() and mark.read_text(encoding="utf-8") == key
        finished = not ours and refuse_foreign()
        if resume and not ours:
            with writing(mark) as sink:
                sink.write(key)
        try:
            yield finished
        except BaseException:
            with contextlib.suppress(InputError, OSError):
                refuse_foreign()
                mark.unlink()  # nothing was written that only this command may resume
            raise
        if resume:
            with exclusive(mark):  # removes a mark that a killed process left unfinished
                mark.unlink(missing_ok=True)


def refuse_other(
    path: Path, found: Mapping[str, Any] | None, made_of: Mapping[str, Any], remedy: str = "--overwrite"
) -> None:
    """Raise InputError, with the first difference, if an output was made from `found` instead of `made_of`."""
    advice = f"give another name or {remedy}"
    if not found:
        raise InputError(f"--output {path} exists, and nothing records how it was made; {advice}")
    if difference := first_difference(found, made_of):
        raise InputError(f"--output {path} exists and was made differently ({difference}); {advice}")


def first_difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Describe the first key of `wanted` that has a different value in `found`; return "" if all values are equal."""
    for key, value in wanted.items():
        other = found.get(key)
        if isinstance(value, Mapping) and isinstance(other, Mapping):  # keys that only `found` has count here
            if inner := first_difference(other, {**value, **dict.fromkeys(other.keys() - value.keys())}):
                return f"{key} {inner}"
        elif other != value:
            return f"{key} is {_shorten(other)}, not {_shorten(value)}"
    return ""


def _shorten(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= SHOWN_UP_TO else f"{text[:SHOWN_UP_TO]}..."
