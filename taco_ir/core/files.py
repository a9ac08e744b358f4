"""Writes files whole or not at all, guards them with locks, and knows where the toolkit keeps what it builds."""

from __future__ import annotations

import contextlib
import errno
import gc
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import threading
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, TypeVar, overload

from taco_ir.core.typed import Mismatch, conform, shown

log = logging.getLogger("taco_ir")
T = TypeVar("T")
CHUNK = 1 << 20
LOCK, PART, BEGUN = ".lock", ".part", ".begun"  # ends of the names of what is no output
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")  # numpy, of a full disk
TOLD_NUMBER = re.compile(
    r"\(os error (\d+)\)|\[Errno (\d+)\]"
)  # in words: safetensors and tokenizers; shutil, of several files
QUOTED_UP_TO = 200  # characters of a value that a message shows
SHOWN_UP_TO = 80  # of one that differs from another
QUOTED = re.compile(rf"(?<!\w)(['\"])((?:(?!\1)[^\\]|\\.){{{QUOTED_UP_TO + 1},}})\1(?!\w)")
_HELD = threading.local()  # the locks that a thread holds


class InputError(ValueError):
    """Something the user gave is wrong; the message, one line, names it, its value and what is allowed."""

    def __init__(self, message: object) -> None:
        super().__init__(
            QUOTED.sub(lambda found: f"{found[1]}{found[2][:QUOTED_UP_TO]}...{found[1]}", printable(str(message)))
        )


def printable(text: str) -> str:
    """`text` with control characters, line ends and bytes that are no text as escapes, so that it cannot act on a terminal."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def data_home() -> Path:
    """Where downloads, indexes and vectors are kept: $TACO_IR_HOME, else the user's cache folder."""
    if home := os.environ.get("TACO_IR_HOME"):
        return Path(home)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "taco_ir"


def fingerprint(value: Any) -> str:
    """First 16 hex digits of the SHA-256 of `value` as canonical JSON."""
    canonical = json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def sha256_file(path: Path) -> str:
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


@contextlib.contextmanager
def writing(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a file for writing that appears under `path`, fsynced, only when the block ends without an error.

    Another process that writes it is waited for.
    """
    with exclusive(path):
        part = _unused(path)
        try:
            with named(path, part):
                with part.open(mode.replace("w", "x"), encoding=None if "b" in mode else "utf-8") as sink:
                    yield sink
                    sink.flush()
                    os.fsync(sink.fileno())
                part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


@contextlib.contextmanager
def writing_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that replaces `path` only when the block ends without an error.

    Another process that writes it is waited for.
    """
    with exclusive(path):
        part, old = _unused(path), _unused(path)
        try:
            with named(path, part):
                part.mkdir()
                yield part
                for file in part.rglob("*"):
                    _sync(file)
                if path.is_dir():
                    path.replace(
                        old
                    )  # whole, and away from its name: to remove it takes time, in which this process may be killed
                part.replace(path)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        sync_folder(path.parent)
        shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def appending(part: Path) -> Iterator[IO[bytes]]:
    """Open a partial file, which a later process goes on with, at its end; an empty one does not outlive a failure.

    Raises:
        InputError: when another process is writing it.
    """
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
    with exclusive(part, wait=False), named(part), os.fdopen(os.open(part, flags, 0o666), "ab") as sink:
        try:
            yield sink
        except BaseException:
            if sink.tell() == 0:
                part.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def exclusive(path: Path, wait: bool = True) -> Iterator[None]:
    """Lock `path` for this process with a lock file beside it, so that two processes never write the same output.

    What a process that was killed had begun of `path` is removed.

    Args:
        wait: for another holder; a thread that holds it already goes on.

    Raises:
        InputError: with `wait` off, when it is held; for a file system without locks.
    """
    if path.name in ("", ".."):
        raise InputError(f"{path}: what is written has a name of its own; give a path that ends in one")
    made = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.parent.resolve() / f"{path.name}{LOCK}"
    held: set[Path] = _HELD.__dict__.setdefault("paths", set())
    if wait and lock in held:
        yield
        return
    try:
        with _locked(path, lock, wait):
            held.add(lock)
            try:
                yield
            finally:
                held.discard(lock)
    finally:
        with contextlib.suppress(OSError):
            for folder in made:  # where nothing was written
                folder.rmdir()


def require_writable(path: Path) -> None:
    """Raises InputError or OSError, before the work is done, if `path` cannot be written or another process is writing it."""
    with exclusive(path, wait=False):
        pass


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
    """Claims an output for this process, and refuses to replace one that was made of something else.

    What is at `path` is absent (so is an empty folder), ours and finished, ours and unfinished, or foreign.

    Args:
        made_of: all that the output depends on, as JSON.
        overwrite: a foreign output may be replaced.
        resume: the output is written in several steps, so one that a stopped process with equal `made_of` began is ours.
        record: reads what the existing output was made of; its keys that `made_of` lacks are ignored. Nothing in it, or
            no `record` at all, makes every existing output foreign.
        remedy: what a user can do instead of choosing another name.
        wait: wait for another process that writes the output instead of refusing.

    Yields:
        Whether the output is there already, finished and ours.

    Raises:
        InputError: naming the first difference of a foreign output; where another process is writing it.
    """

    def refuse_foreign() -> bool:
        there = path.exists() and not (path.is_dir() and all(map(is_leftover, path.iterdir())))
        if there and not overwrite:
            if record is None:
                raise InputError(f"--output {path} exists; give another name or {remedy}")
            refuse_other(path, record(), made_of, remedy)
        return there and not overwrite

    with exclusive(path, wait):
        mark = path.with_name(f"{path.name}{BEGUN}")
        ours = resume and was_begun(path, made_of)
        finished = not ours and refuse_foreign()
        if resume and not ours:
            with writing(mark) as sink:
                sink.write(fingerprint(made_of))
        try:
            yield finished
        except BaseException:
            with contextlib.suppress(InputError, OSError):
                refuse_foreign()
                mark.unlink()  # nothing is there that only this command may go on with
            raise
        mark.unlink(missing_ok=True)


def refuse_other(
    path: Path, found: Mapping[str, Any] | None, made_of: Mapping[str, Any], remedy: str = "--overwrite"
) -> None:
    """Raises InputError if the record `found` of an existing output differs from `made_of`, naming the first difference."""
    if not found:
        raise InputError(
            f"--output {path} exists and has no record of what it was made of; give another name or {remedy}"
        )
    if difference := first_difference(found, made_of):
        raise InputError(f"--output {path} exists and was made otherwise ({difference}); give another name or {remedy}")


def first_difference(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """The first key of `wanted` with another value in `found`, and both values; "" if there is none."""
    for key, value in wanted.items():
        other = found.get(key)
        if isinstance(value, Mapping) and isinstance(other, Mapping):  # inside, keys that only `found` has differ too
            if inner := first_difference(other, {**value, **dict.fromkeys(other.keys() - value.keys())}):
                return f"{key} {inner}"
        elif other != value:
            return f"{key} is {_short(other)}, not {_short(value)}"
    return ""


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= SHOWN_UP_TO else f"{text[:SHOWN_UP_TO]}..."


def was_begun(path: Path, made_of: Any) -> bool:
    """Whether a process that had claimed `path` to make the same did not come to its end."""
    mark = path.with_name(f"{path.name}{BEGUN}")
    return mark.is_file() and mark.read_text(encoding="utf-8") == fingerprint(made_of)


def is_leftover(path: Path) -> bool:
    """Whether a file is a lock or an unfinished file instead of an output."""
    return path.suffix in (LOCK, PART, BEGUN)


@contextlib.contextmanager
def _locked(path: Path, lock: Path, wait: bool) -> Iterator[None]:
    """Hold the lock file and remove it at the end. A lock file that nobody holds was left by a killed process."""
    from filelock import FileLock, Timeout

    held = FileLock(lock, fallback_to_soft=False)
    was_there = os.path.lexists(lock)
    try:
        try:
            held.acquire(blocking=False)
        except Timeout:
            if not wait:
                raise InputError(
                    f"{path}: another process is writing it; wait for that one, or give another place"
                ) from None
            log.info("%s: another process is writing it; waiting for that one", path)
            held.acquire()
    except OSError as error:
        if error.errno in NO_LOCKS:
            lock.unlink(missing_ok=True)
            raise InputError(
                f"{path}: the file system has no locks ({error.strerror}), so another process could write the same; give a place on another"
            ) from error
        if error.errno == errno.ELOOP:
            raise InputError(f"{lock} is a symbolic link, which is not followed; remove it") from error
        raise
    try:
        if was_there:
            _remove_unfinished(path)
        yield
    finally:
        lock.unlink(missing_ok=True)
        held.release()


def discard(paths: Iterable[Path], beside: Path) -> None:
    """Remove files and folders in this order, each at once or not at all; `beside`, which is held, is in the folder of the first ones."""
    part = _unused(beside)
    part.mkdir()
    for number, path in enumerate(paths):
        path.replace(part / str(number))
    shutil.rmtree(part)


def _unused(path: Path) -> Path:
    """An unpredictable name beside `path`, so that no link can wait there."""
    return path.with_name(f"{path.name}.{secrets.token_hex(4)}{PART}")


def _remove_unfinished(path: Path) -> None:
    """Remove what killed processes left of `path`. The caller holds its lock."""
    ours = re.compile(rf"{re.escape(path.name)}\.[0-9a-f]{{8}}{re.escape(PART)}")
    with os.scandir(path.parent) as entries:
        found = [
            (Path(entry.path), entry.is_dir(follow_symlinks=False)) for entry in entries if ours.fullmatch(entry.name)
        ]
    for left, is_folder in found:
        if is_folder:
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


@contextlib.contextmanager
def named(path: Path, part: Path | None = None) -> Iterator[None]:
    """Make errors raised while writing name `path`, whichever library raises them."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            error.filename = str(error.filename or path).replace(str(part or path), str(path))
            raise
        if number := _told_number(str(error)):
            raise OSError(number, os.strerror(number), str(path)) from error
        raise


def _told_number(message: str) -> int | None:
    """The errno behind an error that a library reports only as text."""
    if found := TOLD_NUMBER.search(message):
        return int(found[1] or found[2])
    return errno.ENOSPC if SHORT_WRITE.search(message) else None


def sync_folder(folder: Path) -> None:
    """Flush the folder's entries to disk, so that renames survive a power cut."""
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    with writing(path) as sink:
        json.dump(value, sink, indent=1, ensure_ascii=False)
        sink.write("\n")


@overload
def read_json(path: Path) -> Any: ...
@overload
def read_json(path: Path, kind: type[T], remedy: str = "", others: bool = False) -> T: ...
def read_json(path: Path, kind: Any = Any, remedy: str = "", others: bool = False) -> Any:
    """What a JSON file says, as the type `kind` (see `typed`).

    Args:
        remedy: what to do about a file that does not say that.
        others: whether objects may have keys that their type lacks.

    Raises:
        InputError: naming the file and, where it is JSON, the key, its value and what is allowed.
    """
    try:
        text = path.read_text(encoding="utf-8")
        value = json.loads(text, object_pairs_hook=_each_once)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()  # half a character is refused here, not where it is written
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({error})") from error
    return typed(value, kind, str(path), remedy, others)


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise Mismatch(f"key {shown(next(name for name in names if names.count(name) > 1))} is given twice")
    return found


def read_toml(path: Path) -> dict[str, Any]:
    """What a TOML file says. Raises: InputError naming the file and the line that is wrong."""
    try:
        text = path.read_text(encoding="utf-8")
        return tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 ({error})") from error
    except (ValueError, RecursionError) as error:
        message = str(error).replace("at end of document", f"at line {len(text.splitlines())}, the last")
        raise InputError(f"{path}: not valid TOML: {message[: 2 * QUOTED_UP_TO]}") from error


def read_log(path: Path, kind: type[T]) -> Iterator[tuple[str, T]]:
    """Lines of a file that grows by one JSON object at a time, and what each says, as far as they are whole; none where there is no file.

    Raises:
        InputError: naming the line whose object has a value of another type.
    """
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ()
    for number, line in enumerate(lines, 1):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            return  # a line that was cut short, or is being written, is the last
        yield line, typed(value, kind, f"{path}, line {number}", others=True)


def typed(value: Any, kind: type[T], where: str, remedy: str = "", others: bool = False) -> T:
    """`value` as `kind`. Raises: InputError that begins with `where` and ends with `remedy`."""
    try:
        found: T = conform(value, kind, others=others)
    except ValueError as error:  # a Mismatch, or what a class that checks itself says
        raise InputError(f"{where}: {error}{f'; {remedy}' * bool(remedy)}") from error
    return found


def require_space(folder: Path, needed: int) -> None:
    """Raise InputError when the disk under `folder` has fewer than `needed` bytes free."""
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise InputError(f"{folder}: needs {human_bytes(needed)} on disk, {human_bytes(free)} are free")


def human_bytes(count: float) -> str:
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


@contextlib.contextmanager
def collector_paused() -> Iterator[None]:
    """Pause garbage collection: a run is millions of strings without cycles, and scanning them takes a third of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
