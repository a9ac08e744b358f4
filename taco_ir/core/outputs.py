"""Claims outputs: decides whether an existing output is resumed, kept, replaced or refused, by how it was made."""

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
    """Claim an output for this process, and refuse to replace one that was made from something else.

    An output that exists is ours if it was made from an equal `made_of`, else foreign; an empty folder does not count.

    Args:
        made_of: everything that the output depends on, as JSON.
        overwrite: allow replacing a foreign output.
        resume: the output is written in several steps, so an unfinished one with equal `made_of` is ours.
        record: reads what the existing output was made from; keys that `made_of` lacks are ignored. If it returns None,
            or without `record`, every existing output is foreign.
        remedy: what the error suggests besides giving another name.
        wait: wait while another process writes the output, instead of refusing.

    Yields:
        Whether the output already exists, finished and ours.

    Raises:
        InputError: for a foreign output, naming the first difference; or if another process is writing it.
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
    """Raise InputError if an existing output's record `found` differs from `made_of`, naming the difference."""
    advice = f"give another name or {remedy}"
    if not found:
        raise InputError(f"--output {path} exists, and nothing records how it was made; {advice}")
    if difference := first_difference(found, made_of):
        raise InputError(f"--output {path} exists and was made differently ({difference}); {advice}")


def first_difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Describes the first key of `wanted` that has another value in `found`; "" if there is none."""
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
