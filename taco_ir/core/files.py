"""Reads files with one-line errors, and writes them under a lock, completely or not at all."""

from __future__ import annotations

import codecs
import contextlib
import errno
import gzip
import json
import os
import re
import secrets
import shutil
import threading
import tomllib
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, TypeVar, overload

from taco_ir.core import errors
from taco_ir.core.processes import format_bytes, log
from taco_ir.core.typed import Mismatch, abbreviate, conform

InputError, printable, QUOTED_UP_TO = errors.InputError, errors.printable, errors.QUOTED_UP_TO  # are used with files
T = TypeVar("T")
CHUNK = 1 << 20
GZIP = b"\x1f\x8b"  # the first bytes of a gzip file
LOCK, PART, BEGUN = ".lock", ".part", ".begun"  # suffixes of lock files and unfinished files
KEPT = "TACO_IR_HOME says where downloads, indexes and vectors are kept"
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")  # numpy's words for a full disk
ERRNO_IN_TEXT = re.compile(r"\(os error (\d+)\)|\[Errno (\d+)\]")  # of safetensors and tokenizers; of shutil
_LOCKS = threading.local()  # the locks that a thread holds


def data_home() -> Path:
    """Return the folder for downloads, indexes and vectors: $TACO_IR_HOME, or `taco_ir` in the user's cache folder.

    Raises:
        InputError: if TACO_IR_HOME is not set and the user has no cache folder and no home folder.
    """
    if given := os.environ.get("TACO_IR_HOME"):
        return Path(given)
    if cache := os.environ.get("XDG_CACHE_HOME"):
        return Path(cache) / "taco_ir"
    try:
        home = Path.home()
    except RuntimeError:
        home = Path()
    if home == Path(home.anchor):
        raise InputError(f"there is no home folder (HOME is {os.environ.get('HOME')!r}); {KEPT}: set it to a folder")
    return home / ".cache" / "taco_ir"


def in_data_home(path: Path) -> bool:
    """Return whether a file or folder is in the data home (see `data_home`)."""
    try:
        return path.absolute().is_relative_to(data_home().absolute())
    except InputError:
        return False


@contextlib.contextmanager
def reading(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for reading bytes. Gzip is decompressed, and a byte order mark at the start is skipped.

    Raises:
        InputError: if the file is missing, or if its gzip data are cut short or damaged.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    with path.open("rb") as plain:
        packed = plain.read(2) == GZIP
        plain.seek(0)
        source: Any = gzip.GzipFile(fileobj=plain) if packed else plain
        try:
            if source.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
                source.seek(0)
            yield source
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise InputError(f"{path}: broken gzip ({error}); get or make the file again") from error


@contextlib.contextmanager
def writing(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a file for writing. It appears at `path`, flushed to disk, only if the block ends without an error.

    Waits while another process writes the same file.
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
        sync_path(path.parent)


@contextlib.contextmanager
def writing_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder. It replaces `path` only if the block ends without an error.

    Waits while another process writes the same folder.
    """
    with exclusive(path):
        part, old = _unused(path), _unused(path)
        try:
            with named(path, part):
                part.mkdir()
                yield part
                mode = part.stat().st_mode & 0o666  # safetensors writes files that nobody else may read
                for file in part.rglob("*"):
                    if file.is_file() and not file.is_symlink():
                        file.chmod(mode)
                    sync_path(file)
                if path.is_dir():
                    path.replace(old)  # at once; removing it takes time, in which this process may be killed
                part.replace(path)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        sync_path(path.parent)
        shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def appending(part: Path) -> Iterator[IO[bytes]]:
    """Open an unfinished file for appending. After an error it stays for a later process, except if it is empty.

    Raises:
        InputError: if another process is writing the file.
    """
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    with exclusive(part, wait=False), named(part), os.fdopen(os.open(part, flags, 0o666), "ab") as sink:
        try:
            yield sink
        except BaseException:
            if sink.tell() == 0:
                part.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def exclusive(path: Path, wait: bool = True) -> Iterator[None]:
    """Lock `path` with a lock file next to it, so that two processes never write the same output.

    Also removes unfinished versions of `path` that a killed process left.

    Args:
        wait: wait while another process or thread holds the lock; a thread that holds it already can enter again.

    Raises:
        InputError: if `wait` is False and the lock is held, or if the file system does not support locks.
    """
    if path.name in ("", ".."):
        raise InputError(f"{path}: this path has no file or folder name at its end; add a name")
    made = [folder for folder in path.parents if not folder.exists()]
    _make_folder_of(path)
    lock = path.parent.resolve() / f"{path.name}{LOCK}"
    own: set[Path] = _LOCKS.__dict__.setdefault("paths", set())
    if wait and lock in own:
        yield
        return
    try:
        with _locked(path, lock, wait):
            own.add(lock)
            try:
                yield
            finally:
                own.discard(lock)
    finally:
        with contextlib.suppress(OSError):
            for folder in made:  # still empty where nothing was written
                folder.rmdir()


def _make_folder_of(path: Path) -> None:
    """Make the folder that contains `path`. Raises: InputError if this is not possible."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if in_data_home(path):
            raise InputError(f"{data_home()}: this folder cannot be created ({error.strerror}); {KEPT}") from error
        if error.errno == errno.ENOENT:  # as in /proc
            raise InputError(f"{path.parent}: this folder cannot be created; give another path") from error
        raise


def require_writable(path: Path) -> None:
    """Raise InputError or OSError if `path` cannot be written, or if another process is writing it."""
    with exclusive(path, wait=False):
        pass


def sweep(folder: Path) -> None:
    """Remove the files that killed processes left in a folder: locks that no process holds, and unfinished outputs."""
    for lock in list(folder.rglob(f"*{LOCK}")):
        with contextlib.suppress(InputError), exclusive(lock.with_suffix(""), wait=False):
            pass  # leaving the block removes both


def is_leftover(path: Path) -> bool:
    """Return whether a file is a lock file or an unfinished file, judged by its suffix."""
    return path.suffix in (LOCK, PART, BEGUN)


@contextlib.contextmanager
def _locked(path: Path, lock: Path, wait: bool) -> Iterator[None]:
    """Hold the lock file and remove it at the end. A lock file that no process holds was left by a killed process."""
    from filelock import FileLock, Timeout

    file_lock = FileLock(lock, fallback_to_soft=False)
    was_there = os.path.lexists(lock)
    try:
        try:
            file_lock.acquire(blocking=False)
        except Timeout:
            if not wait:
                message = "another process is writing it; wait for that process to end, or give another path"
                raise InputError(f"{path}: {message}") from None
            log.info("%s: another process is writing it; waiting for that process", path)
            file_lock.acquire()
    except OSError as error:
        if error.errno in NO_LOCKS:
            lock.unlink(missing_ok=True)
            raise InputError(
                f"{path}: the file system does not support locks ({error.strerror}), so another process could "
                "write the same file; give a path on another file system"
            ) from error
        if error.errno == errno.ELOOP:
            raise InputError(f"{lock}: this lock file is a symbolic link; remove it") from error
        raise
    try:
        if was_there:
            _remove_unfinished(path)
        yield
    finally:
        lock.unlink(missing_ok=True)
        file_lock.release()


def discard(paths: Iterable[Path], beside: Path) -> None:
    """Remove files and folders in the given order. Each path is first renamed, so that it disappears at once.

    Args:
        beside: a path on the same file system, with a lock that the caller holds. Renamed files are put next to it.
    """
    part = _unused(beside)
    part.mkdir()
    for number, path in enumerate(paths):
        path.replace(part / str(number))
    shutil.rmtree(part)


def _unused(path: Path) -> Path:
    """Return an unpredictable name next to `path`, so that nobody can have placed a link there before."""
    return path.with_name(f"{path.name}.{secrets.token_hex(4)}{PART}")


def _remove_unfinished(path: Path) -> None:
    """Remove unfinished versions of `path` that killed processes left. The caller holds the lock."""
    ours = re.compile(rf"{re.escape(path.name)}\.[0-9a-f]{{8}}{re.escape(PART)}")
    for left in [each for each in path.parent.iterdir() if ours.fullmatch(each.name)]:
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


@contextlib.contextmanager
def named(path: Path, part: Path | None = None) -> Iterator[None]:
    """Make errors raised in the block mention `path` instead of the temporary file `part`."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            error.filename = str(error.filename or path).replace(str(part or path), str(path))
            raise
        if number := _find_errno(str(error)):
            raise OSError(number, os.strerror(number), str(path)) from error
        raise


def _find_errno(message: str) -> int | None:
    """Return the errno of an error that a library reports only as text; None if the text has no errno."""
    if found := ERRNO_IN_TEXT.search(message):
        return int(found[1] or found[2])
    return errno.ENOSPC if SHORT_WRITE.search(message) else None


def sync_path(path: Path) -> None:
    """Flush a file, or a folder's entries, to disk, so that writes and renames survive a power cut."""
    if os.name == "nt" and path.is_dir():  # Windows opens no folder, and needs no flush of one
        return
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
    """Read a JSON file and convert its value to the type `kind` (see core/typed.py).

    Args:
        remedy: advice for the user, added to the end of an error message.
        others: ignore keys that the type does not have, instead of refusing them.

    Raises:
        InputError: for invalid JSON, or for a value of a wrong type; the message names file, key and what is allowed.
    """
    try:
        text = path.read_text(encoding="utf-8")
        value = json.loads(text, object_pairs_hook=_unique_keys)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()  # refuses half a surrogate pair, before it is written
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({error})") from error
    return check_type(value, kind, str(path), remedy, others)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise Mismatch(f"key {abbreviate(next(name for name in names if names.count(name) > 1))} is given twice")
    return found


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file. Raises: InputError naming the file and the invalid line."""
    try:
        text = path.read_text(encoding="utf-8")
        return tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 ({error}); save it as UTF-8") from error
    except (ValueError, RecursionError) as error:
        message = str(error).replace("at end of document", f"at line {len(text.splitlines())}, the last")
        raise InputError(f"{path}: not valid TOML: {message[: 2 * QUOTED_UP_TO]}") from error


def read_log(path: Path, kind: type[T]) -> Iterator[tuple[str, T]]:
    """Yield each complete line of a JSON lines log, as text and as a value of type `kind`. A missing file has none.

    Raises:
        InputError: naming the line in which a value has the wrong type.
    """
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ()
    for number, line in enumerate(lines, 1):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            return  # the last line, cut short or being written
        yield line, check_type(value, kind, f"{path}, line {number}", others=True)


def check_type(value: Any, kind: type[T], where: str, remedy: str = "", others: bool = False) -> T:
    """Convert `value` to the type `kind`. Raises: InputError with the message `where`, the fault and `remedy`."""
    try:
        found: T = conform(value, kind, others=others)
    except ValueError as error:  # a Mismatch, or an error from __post_init__
        raise InputError(f"{where}: {error}{remedy and f'; {remedy}'}") from error
    return found


def require_space(folder: Path, needed: int) -> None:
    """Raise InputError if the disk under `folder` has fewer than `needed` bytes free."""
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise InputError(f"{folder}: needs {format_bytes(needed)} on disk, {format_bytes(free)} are free; make room")
