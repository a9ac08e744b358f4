"""Downloads files over HTTP, resuming and checking them, or takes them from a local copy.

ir_datasets' own `Download` resumes only within one process. A file of 37 GB must also resume after a crash or a reboot,
so the partial file and the server's version mark stay on disk.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.parse import urljoin

from taco_ir.core.files import CHUNK, InputError, appending, require_space, sync_path, writing
from taco_ir.core.processes import log

if TYPE_CHECKING:
    import requests

Report = Callable[[int, int], None]  # called with (done, total), here in bytes
BLOCK = 1 << 18
PASSING_FAULTS = (408, 425, 429, 500, 502, 503, 504)
GZIP_FAULTS = (gzip.BadGzipFile, EOFError, zlib.error)


class _Broken(Exception):
    """A failed attempt to download that is worth repeating."""


def fetch(
    url: str,
    path: Path,
    md5: str | None = None,
    size: int | None = None,
    report: Report | None = None,
    pause: float = 1.0,
) -> Path:
    """Download `url` to `path`. If an earlier attempt left a `.part` file, the download continues it.

    Environment: the download fails after IR_DATASETS_DL_TRIES (3) attempts in a row without progress. An attempt ends
    after IR_DATASETS_DL_TIMEOUT (15) seconds without a byte.

    Args:
        size: the file's size in bytes, if known.
        report: called with the number of downloaded bytes and the total number of bytes.
        pause: seconds before the next attempt, doubled after each attempt without progress.

    Raises:
        InputError: if the server does not answer or lacks the file, if size or md5 are wrong, or if the disk is full.
    """
    part, mark = _partial_paths(path)
    try:
        with appending(part) as sink:
            if size is None or sink.tell() != size:
                _download(url, path, sink, size, report, pause)
            os.fsync(sink.fileno())
            if md5 and (found := compute_md5(part)) != md5:
                part.unlink()
                raise InputError(
                    f"{url}: the download's md5 is {found}, but must be {md5}; the download was removed. "
                    f"{_suggest_copy(path)}"
                )
            part.replace(path)
    finally:
        if not part.exists():
            mark.unlink(missing_ok=True)
    sync_path(path.parent)
    return path


def take(source: Path, path: Path, md5: str | None = None, size: int | None = None, link: bool = False) -> Path:
    """Copy a local file to `path` instead of downloading it. Gzip is decompressed, except if `path` ends in .gz.

    Args:
        link: make a hard link instead of a copy, if the file is plain and on the same disk.

    Raises:
        InputError: if the file is missing, is broken gzip, or has a wrong size or md5. Then nothing is written.
    """
    if not source.is_file():
        raise InputError(f"--file {source}: no such file")
    with source.open("rb") as head:
        packed = head.read(2) == b"\x1f\x8b" and path.suffix != ".gz"
    if not packed and size is not None and source.stat().st_size != size:
        raise InputError(f"--file {source}: it has {source.stat().st_size} bytes, but {path.name} must have {size}")
    if path.exists() and path.samefile(source):
        _require_md5(source, compute_md5(source) if md5 else "", md5)
        return path
    if link and not packed and _make_link(source, path, md5):
        return path
    if not packed:
        require_space(path.parent, source.stat().st_size)
    digest = hashlib.md5(usedforsecurity=False)
    try:
        with gzip.open(source) if packed else source.open("rb") as stream, writing(path, "wb") as sink:
            while block := stream.read(CHUNK):
                digest.update(block)
                sink.write(block)
            _require_md5(source, digest.hexdigest(), md5)
    except GZIP_FAULTS as error:
        raise InputError(f"--file {source}: broken gzip ({error}); get the file again") from error
    return path


def compute_md5(path: Path) -> str:
    with path.open("rb") as source:
        return hashlib.file_digest(source, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _partial_paths(path: Path) -> tuple[Path, Path]:
    """Return the partial file, and the file that notes which version of the remote file it belongs to."""
    return path.with_name(path.name + ".part"), path.with_name(path.name + ".part.version")


def _make_link(source: Path, path: Path, md5: str | None) -> bool:
    """Make `path` a hard link to `source`, or return False if the file system cannot."""
    _require_md5(source, compute_md5(source) if md5 else "", md5)
    part, _ = _partial_paths(path)
    part.parent.mkdir(parents=True, exist_ok=True)
    part.unlink(missing_ok=True)
    try:
        part.hardlink_to(source.resolve())
    except OSError:
        return False
    part.replace(path)
    return True


def _require_md5(source: Path, found: str, expected: str | None) -> None:
    if expected and found != expected:
        raise InputError(
            f"--file {source}: its md5 is {found}, but must be {expected}; the file is damaged, or not the right one"
        )


def _download(url: str, path: Path, sink: IO[bytes], size: int | None, report: Report | None, pause: float) -> None:
    tries, timeout = int(_read_setting("IR_DATASETS_DL_TRIES", 3)), _read_setting("IR_DATASETS_DL_TIMEOUT", 15)
    failures = 0
    while True:
        before = sink.tell()
        try:
            return _request(url, path, sink, size, report, timeout)
        except _Broken as error:
            failures = 0 if sink.tell() > before else failures + 1
            if failures >= tries:
                kept = (
                    f"; {sink.tell()} bytes are kept and the same command continues from there" if sink.tell() else ""
                )
                raise InputError(
                    f"{url}: {error} (attempts without progress: {failures}, IR_DATASETS_DL_TRIES; timeout {timeout:g} "
                    f"s, IR_DATASETS_DL_TIMEOUT){kept}. {_suggest_copy(path)}"
                ) from error
            log.warning("%s: %s; trying again from byte %d", url, error, sink.tell())
            time.sleep(pause * 2 ** max(failures - 1, 0))


def _request(url: str, path: Path, sink: IO[bytes], size: int | None, report: Report | None, timeout: float) -> None:
    """Append the answer of one request to `sink`. Raises: _Broken if another request may bring more."""
    import requests
    import urllib3

    done = sink.tell()
    _, mark = _partial_paths(path)
    headers = {"User-Agent": "taco_ir", "Accept-Encoding": "identity"}
    if done:
        headers["Range"] = f"bytes={done}-"
        if mark.is_file():
            headers["If-Range"] = mark.read_text(encoding="latin-1")
    try:
        with requests.get(
            url, headers=headers, stream=True, timeout=timeout, hooks={"response": _refuse_plain}
        ) as response:
            total = _accept(response, sink, path, size)
            if response.status_code == 416:  # the partial file is complete; the body contains nothing more
                return
            for block in response.raw.stream(BLOCK, decode_content=False):
                sink.write(block)
                sink.flush()
                if sink.tell() > total:
                    _restart(sink)  # the bytes do not belong to the announced file
                    raise InputError(
                        f"{url}: the server sent more than the {total} bytes it announced; nothing was kept, try again"
                    )
                if report:
                    report(sink.tell(), total)
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise _Broken(_find_reason(error)) from error
    if sink.tell() != total:
        raise _Broken(f"the connection ended after {sink.tell()} of {total} bytes")


def _refuse_plain(response: requests.Response, *_: object, **__: object) -> None:
    """Raise InputError for a redirect from https to http, because anyone on the network could answer there."""
    target = urljoin(response.url, response.headers.get("Location", ""))
    if response.is_redirect and response.url.startswith("https:") and not target.startswith("https:"):
        raise InputError(f"{response.url}: the server redirects to {target[:200]!r}; only https addresses are followed")


def _accept(response: requests.Response, sink: IO[bytes], path: Path, size: int | None) -> int:
    """Check an answer's head, prepare `sink` for its body, and return the size of the whole file."""
    done, url, status = sink.tell(), response.url, response.status_code
    if status in PASSING_FAULTS:
        raise _Broken(f"the server answers {status}")
    if status not in (200, 206, 416):
        raise InputError(f"{url}: the server answers {status} {response.reason or ''}. {_suggest_copy(path)}")
    if status == 200:
        if done:
            log.warning("%s: the server sends the whole file instead of the rest; starting from the beginning", url)
        _restart(sink)
        announced = response.headers.get("Content-Length", "")
        _note_version(response, path)
    else:
        start, _, announced = response.headers.get("Content-Range", "").partition("/")
    total = int(announced) if announced.isdecimal() and len(announced) < 19 else size
    if status != 200:
        continues = start.startswith(f"bytes {done}-") and total is not None and total >= done
        if (status == 206 and not continues) or (status == 416 and total != done):
            log.warning(
                "%s: the partial file (%d bytes) does not fit the server's; starting from the beginning", url, done
            )
            _restart(sink)
            raise _Broken(f"the server answers {status} to a request for the bytes from {done}")
    if total is None:
        raise InputError(
            f"{url}: the server does not announce the file's size, so an incomplete download would go unnoticed. "
            f"{_suggest_copy(path)}"
        )
    if size is not None and total != size:
        raise InputError(
            f"{url}: the server announces {total} bytes, but the file must have {size}. {_suggest_copy(path)}"
        )
    require_space(path.parent, total - sink.tell())
    return total


def _restart(sink: IO[bytes]) -> None:
    sink.seek(0)
    sink.truncate()


def _note_version(response: requests.Response, path: Path) -> None:
    """Note the file's version for a later request's `If-Range`: a partial file of another version is not continued."""
    _, mark = _partial_paths(path)
    tag = response.headers.get("ETag", "")
    version = response.headers.get("Last-Modified", "") if not tag or tag.startswith("W/") else tag
    mark.write_text(version, encoding="latin-1")


def _read_setting(name: str, default: float) -> float:
    text = os.environ.get(name, str(default))
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 0 < value < float("inf"):
        raise InputError(f"{name} is {text!r}; it must be a number above 0")
    return value


def _find_reason(error: Exception) -> str:
    """Return the innermost cause of a connection error, which is the informative part."""
    cause: BaseException = error
    while isinstance(inner := getattr(cause, "reason", None) or next(iter(cause.args), None), BaseException):
        cause = inner
    return f"{type(cause).__name__}: {str(cause)[:160]}"


def _suggest_copy(path: Path) -> str:
    return f"If you have a copy, give it with --file PATH, or put it at {path}"
