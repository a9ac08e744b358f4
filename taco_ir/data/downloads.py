"""Downloads files over HTTP, with resumption and checks, or takes them from a local copy.

ir_datasets' own `Download` resumes only within one process; a file of 37 GB needs a download that also goes on after a
crash or a reboot, so the partial file and the server's mark of its version stay on disk.
"""

from __future__ import annotations

import gzip
import hashlib
import logging
import os
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.parse import urljoin

from taco_ir.core.files import CHUNK, InputError, appending, require_space, sync_folder, writing

if TYPE_CHECKING:
    import requests

log = logging.getLogger("taco_ir")
Report = Callable[[int, int], None]  # (bytes done, bytes in all)
BLOCK = 1 << 18
PASSING_FAULTS = (408, 425, 429, 500, 502, 503, 504)
GZIP_FAULTS = (gzip.BadGzipFile, EOFError, zlib.error)


class _Broken(Exception):
    """A download attempt that failed in a way that a retry may mend."""


def fetch(
    url: str,
    path: Path,
    md5: str | None = None,
    size: int | None = None,
    report: Report | None = None,
    pause: float = 1.0,
) -> Path:
    """Download `url` to `path`, going on from a `.part` file that an earlier attempt or process left.

    IR_DATASETS_DL_TRIES (3) is the number of attempts in a row that may bring nothing new, IR_DATASETS_DL_TIMEOUT (15)
    the seconds without a byte that end an attempt.

    Args:
        size: bytes that the file must have, where known.
        report: called with bytes done and bytes in all, where the server announces them.
        pause: seconds before another attempt; doubled for each that brought nothing.

    Raises:
        InputError: for an address that does not answer or has no such file, a size or md5 that differs, or a full disk.
    """
    part, mark = _partial(path)
    try:
        with appending(part) as sink:
            if size is None or sink.tell() != size:
                _download(url, path, sink, size, report, pause)
            os.fsync(sink.fileno())
            if md5 and (found := md5_of(part)) != md5:
                part.unlink()
                raise InputError(
                    f"{url}: md5 expected {md5}, found {found}; the download was removed. {_other_way(path)}"
                )
            part.replace(path)
    finally:
        if not part.exists():
            mark.unlink(missing_ok=True)
    sync_folder(path.parent)
    return path


def take(source: Path, path: Path, md5: str | None = None, size: int | None = None, link: bool = False) -> Path:
    """Put a local copy in place of a download; gzip is unpacked unless `path` itself ends in .gz.

    Args:
        link: a plain file on the same disk becomes a second name of the same bytes instead of a copy.

    Raises:
        InputError: for a file that is missing or is broken gzip, or whose size or md5 differs; nothing is left then.
    """
    if not source.is_file():
        raise InputError(f"--file {source}: no such file")
    with source.open("rb") as head:
        packed = head.read(2) == b"\x1f\x8b" and path.suffix != ".gz"
    if not packed and size is not None and source.stat().st_size != size:
        raise InputError(f"--file {source}: {source.stat().st_size} bytes, {path.name} has {size}")
    if path.exists() and path.samefile(source):
        _require_md5(source, md5_of(source) if md5 else "", md5)
        return path
    if link and not packed and _linked(source, path, md5):
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
        raise InputError(f"--file {source}: broken gzip ({error})") from error
    return path


def md5_of(path: Path) -> str:
    with path.open("rb") as source:
        return hashlib.file_digest(source, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _partial(path: Path) -> tuple[Path, Path]:
    """The partial file, and the note of which version of the remote file it is a part of."""
    return path.with_name(path.name + ".part"), path.with_name(path.name + ".part.version")


def _linked(source: Path, path: Path, md5: str | None) -> bool:
    """Make `path` another name of `source`; False where the file system cannot."""
    _require_md5(source, md5_of(source) if md5 else "", md5)
    part, _ = _partial(path)
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
            f"--file {source}: md5 expected {expected}, found {found}; it is another file or a damaged one"
        )


def _download(url: str, path: Path, sink: IO[bytes], size: int | None, report: Report | None, pause: float) -> None:
    tries, timeout = int(_setting("IR_DATASETS_DL_TRIES", 3)), _setting("IR_DATASETS_DL_TIMEOUT", 15)
    failures = 0
    while True:
        before = sink.tell()
        try:
            return _attempt(url, path, sink, size, report, timeout)
        except _Broken as error:
            failures = 0 if sink.tell() > before else failures + 1
            if failures >= tries:
                kept = f"; {sink.tell()} bytes are kept and the same command goes on from there" if sink.tell() else ""
                raise InputError(
                    f"{url}: {error} (attempts without progress: {failures}, IR_DATASETS_DL_TRIES; timeout {timeout:g} s, "
                    f"IR_DATASETS_DL_TIMEOUT){kept}. {_other_way(path)}"
                ) from error
            log.warning("%s: %s; trying again from byte %d", url, error, sink.tell())
            time.sleep(pause * 2 ** max(failures - 1, 0))


def _attempt(url: str, path: Path, sink: IO[bytes], size: int | None, report: Report | None, timeout: float) -> None:
    """One request, appended to `sink`. Raises: _Broken where another request may bring more."""
    import requests
    import urllib3

    done = sink.tell()
    _, mark = _partial(path)
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
            if response.status_code == 416:  # the partial file is whole already; this body only says so
                return
            for block in response.raw.stream(BLOCK, decode_content=False):
                sink.write(block)
                sink.flush()
                if sink.tell() > total:
                    _restart(sink)  # what came so far is of no file that is known
                    raise InputError(
                        f"{url}: the body goes on behind byte {total}, where the file ends; nothing of it was kept"
                    )
                if report:
                    report(sink.tell(), total)
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise _Broken(_reason(error)) from error
    if sink.tell() != total:
        raise _Broken(f"the connection ended after {sink.tell()} of {total} bytes")


def _refuse_plain(response: requests.Response, *_: object, **__: object) -> None:
    """Raise InputError for a redirect from https to anything else: somebody on the way could answer instead."""
    target = urljoin(response.url, response.headers.get("Location", ""))
    if response.is_redirect and response.url.startswith("https:") and not target.startswith("https:"):
        raise InputError(f"{response.url}: redirected to {target[:200]!r}; only https is followed")


def _accept(response: requests.Response, sink: IO[bytes], path: Path, size: int | None) -> int:
    """Judge the answer's head, make `sink` ready for its body, and return the bytes that the whole file has."""
    done, url, status = sink.tell(), response.url, response.status_code
    if status in PASSING_FAULTS:
        raise _Broken(f"the server answers {status}")
    if status not in (200, 206, 416):
        raise InputError(f"{url}: the server answers {status} {response.reason or ''}. {_other_way(path)}")
    if status == 200:
        if done:
            log.warning(
                "%s: the server sends the whole file again instead of the rest; starting from the beginning", url
            )
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
                "%s: the partial file of %d bytes does not fit what the server has; starting from the beginning",
                url,
                done,
            )
            _restart(sink)
            raise _Broken(f"the server answers {status} to a request for the bytes from {done}")
    if total is None:
        raise InputError(
            f"{url}: the server announces no size, so that nobody could tell a whole file from a part. {_other_way(path)}"
        )
    if size is not None and total != size:
        raise InputError(f"{url}: the server announces {total} bytes, {size} are expected. {_other_way(path)}")
    require_space(path.parent, total - sink.tell())
    return total


def _restart(sink: IO[bytes]) -> None:
    sink.seek(0)
    sink.truncate()


def _note_version(response: requests.Response, path: Path) -> None:
    """Keep what lets a later request say `If-Range`: a partial file of another version must not be continued."""
    _, mark = _partial(path)
    tag = response.headers.get("ETag", "")
    version = response.headers.get("Last-Modified", "") if not tag or tag.startswith("W/") else tag
    mark.write_text(version, encoding="latin-1")


def _setting(name: str, default: float) -> float:
    text = os.environ.get(name, str(default))
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 0 < value < float("inf"):
        raise InputError(f"{name}={text!r}; a number above 0 is needed")
    return value


def _reason(error: Exception) -> str:
    """The innermost cause, which is the part of a connection error that says something."""
    cause: BaseException = error
    while isinstance(inner := getattr(cause, "reason", None) or next(iter(cause.args), None), BaseException):
        cause = inner
    return f"{type(cause).__name__}: {str(cause)[:160]}"


def _other_way(path: Path) -> str:
    return f"A copy that was fetched another way is taken with --file PATH, or as {path}"
