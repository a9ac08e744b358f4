"""Files that are either whole or absent, their hashes, and where the toolkit keeps what it builds."""

from __future__ import annotations

import contextlib
import fcntl
import gc
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

CHUNK = 1 << 20


class InputError(ValueError):
    """Something the user gave is wrong; the message names it, its value and what is allowed."""


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
    """Open `path` for writing so that it appears, fsynced, only when the block ends well (.part, then rename)."""
    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with part.open(mode, encoding=None if "b" in mode else "utf-8") as sink:
            yield sink
            sink.flush()
            os.fsync(sink.fileno())
        part.replace(path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a failing write names no file
        raise
    sync_folder(path.parent)


@contextlib.contextmanager
def writing_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `path`, replacing what is there, only when the block ends well."""
    part = path.with_name(path.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        for file in part.rglob("*"):
            _sync(file)
        shutil.rmtree(path, ignore_errors=True)
        part.replace(path)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    sync_folder(path.parent)


@contextlib.contextmanager
def exclusive(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold `path` for this process (by a lock file beside it), so that two processes do not build one thing.

    Raises:
        InputError: with `wait` off, when another process holds it.
    """
    lock = path.with_name(path.name + ".lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise InputError(f"{path}: another process is writing it; wait for that one, or give another place") from error
        yield


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` survive a power cut."""
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


def read_json(path: Path) -> Any:
    """Raises: InputError naming file and line when it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid JSON ({error})") from error


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
    """No garbage collection inside: a run is millions of texts and no cycle, and to look through them takes a third of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
