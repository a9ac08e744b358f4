"""Claims outputs: what may be written where something exists depends on what that was made of."""

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
    """Claim an output for this process, and refuse to replace one that was made of something else.

    What is at `path` is absent (so is an empty folder), ours and finished, ours and unfinished, or foreign.

    Args:
        made_of: all that the output depends on, as JSON.
        overwrite: a foreign output may be replaced.
        resume: the output is written in several steps: one that a stopped process with equal `made_of` began is ours.
        record: reads what the existing output was made of; keys that `made_of` lacks are ignored. Every existing output
            is foreign where it returns nothing, or where there is no `record`.
        remedy: what a user can do instead of choosing another name.
        wait: wait for another process that writes the output instead of refusing.

    Yields:
        Whether the output exists already, finished and ours.

    Raises:
        InputError: naming the first difference of a foreign output; where another process is writing it.
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
                mark.unlink()  # nothing is there that only this command may resume
            raise
        if resume:
            with exclusive(mark):  # sweeps what a process left that was killed while it wrote the mark
                mark.unlink(missing_ok=True)


def refuse_other(
    path: Path, found: Mapping[str, Any] | None, made_of: Mapping[str, Any], remedy: str = "--overwrite"
) -> None:
    """Raise InputError if the record `found` of an existing output differs from `made_of`, naming the difference."""
    advice = f"give another name or {remedy}"
    if not found:
        raise InputError(f"--output {path} exists and has no record of what it was made of; {advice}")
    if difference := first_difference(found, made_of):
        raise InputError(f"--output {path} exists and was made otherwise ({difference}); {advice}")


def first_difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """The first key of `wanted` with another value in `found`, and both values; "" if there is none."""
    for key, value in wanted.items():
        other = found.get(key)
        if isinstance(value, Mapping) and isinstance(other, Mapping):  # inside, keys that only `found` has differ too
            if inner := first_difference(other, {**value, **dict.fromkeys(other.keys() - value.keys())}):
                return f"{key} {inner}"
        elif other != value:
            return f"{key} is {_shorten(other)}, not {_shorten(value)}"
    return ""


def _shorten(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= SHOWN_UP_TO else f"{text[:SHOWN_UP_TO]}..."
