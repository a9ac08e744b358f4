"""Hashes of values, files and names, and random generators seeded by names.

A large file is hashed only once. Its hash is cached in the data home until the file's path, size, times, inode or
device change. If the cache cannot be read or written, the file is hashed again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from taco_ir.core.files import QUOTED_UP_TO, InputError, data_home, read_json, write_json
from taco_ir.core.processes import format_bytes, log
from taco_ir.core.typed import abbreviate

if TYPE_CHECKING:
    import numpy as np

SETTLED = 2.0  # seconds after which another change gives a file another time, on any file system
WORTH_A_WORD = 1 << 30  # bytes that take seconds to hash


def fingerprint(value: Any) -> str:
    """Return the first 16 hex digits of the SHA-256 of `value`, written as canonical JSON."""
    canonical = json.dumps(value, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def hash_names(*names: str | int) -> int:
    """Return a number in [0, 2^64) that depends on `names` and their order, and is the same in every process."""
    spelled = "\0".join(map(str, names)).encode()
    return int.from_bytes(hashlib.blake2b(spelled, digest_size=8).digest(), "little")


def generator(*names: str | int) -> np.random.Generator:
    """Return a random generator that is seeded by `names`, such as a seed, a task and an epoch."""
    import numpy as np

    return np.random.default_rng(hash_names(*names))


def sha256_file(path: Path) -> str:
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def sha256_once(path: Path) -> str:
    """Return the SHA-256 of a file. It is cached until the file's path, size, times, inode or device change."""
    known, asked = data_home() / "hashes" / f"{fingerprint(str(path.resolve()))}.json", time.time()
    status = _status(path)
    found = _remembered(known)
    if found.get("status") == status and isinstance(found.get("sha256"), str):
        return str(found["sha256"])
    size = path.stat().st_size
    if size >= WORTH_A_WORD:
        log.info("%s: hashing %s; this is done only once", path, format_bytes(size))
    digest = sha256_file(path)
    if _status(path) == status and asked - path.stat().st_ctime > SETTLED:
        _remember(known, {"path": str(path.resolve()), "status": status, "sha256": digest})
    return digest


class FileFacts(NamedTuple):
    """The size in bytes and the SHA-256 of a file, as manifests store them."""

    size: int
    sha256: str


def describe_files(folder: Path, names: Iterable[str]) -> dict[str, Any]:
    """Return the size in bytes and the SHA-256 of each file in `names`, by name, in the form for manifests."""
    return {name: {"size": (folder / name).stat().st_size, "sha256": sha256_file(folder / name)} for name in names}


def check_files(
    folder: Path, facts: Mapping[str, FileFacts], names: Iterable[str], remedy: str, anew: bool = False
) -> None:
    """Raise InputError if the size or hash of a file differs from the manifest that `describe_files` made.

    Args:
        facts: size and hash of each file, from the manifest.
        names: files to check; the manifest must list all of them.
        remedy: advice for the user, added to the end of an error message.
        anew: compute the hashes even if they are cached.
    """
    for name in names:
        path, said = folder / name, facts.get(name)
        if said is None:
            raise InputError(f"{folder}: its manifest has no entry for {name[:QUOTED_UP_TO]}; {remedy}")
        size = path.stat().st_size if path.is_file() else 0
        if size != said.size or not path.is_file():
            raise InputError(f"{path}: it has {size} bytes, but its manifest says {abbreviate(said.size)}; {remedy}")
        found = "" if anew else sha256_once(path)
        # the cached hash may be damaged, too
        if found != said.sha256 and (found := sha256_file(path)) != said.sha256:
            raise InputError(
                f"{path}: it was changed (its SHA-256 is {found[:16]}, but the manifest says {said.sha256[:16]}); "
                f"{remedy}"
            )


def _status(path: Path) -> list[int]:
    """Return facts of a file that change with every write, even if its size and modification time stay the same."""
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev]


def _remembered(entry: Path) -> dict[str, Any]:
    try:
        return read_json(entry, dict[str, Any])
    except (OSError, InputError):
        return {}


def _remember(entry: Path, value: dict[str, Any]) -> None:
    try:
        write_json(entry, value)
    except (OSError, InputError):  # a full or read-only data home: it is hashed again next time
        log.debug("%s: not written", entry)
