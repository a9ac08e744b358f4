"""Downloads files over HTTP, with resumption and checks, or takes them from a local copy.

ir_datasets' own `Download` resumes only within one process; a file of 37 GB needs a download that also goes on after a
crash or a reboot, so the partial file and the server's mark of its version stay on disk.
"""

from __future__ import annotations

import gzip
import hashlib
import logging
import os
import re
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple
from urllib.parse import urljoin, urlsplit

from taco_ir.core.files import CHUNK, InputError, appending, require_space, sync_folder, writing

if TYPE_CHECKING:
    import requests

log = logging.getLogger("taco_ir")
Report = Callable[[int, int], None]  # (bytes done, bytes in all)
BLOCK = 1 << 18
PASSING_FAULTS = (408, 425, 429, 500, 502, 503, 504)
HOSTS = ("dl.fbaipublicfiles.com", "nlp.cs.washington.edu")  # of all that is fetched; a redirect may lead to no other
REDIRECTS = 5  # in a row
MOST = 4_000_000_000  # bytes of a file of which nobody says how many it may have
LENGTH = re.compile(r"[0-9]{1,18}")
CONTENT_RANGE = re.compile(r"bytes (?:([0-9]{1,18})-[0-9]{1,18}|\*)/([0-9]{1,18}|\*)")
VERSION = re.compile(r"[ -~]{1,200}")
GZIP_FAULTS = (gzip.BadGzipFile, EOFError, zlib.error)


class _Broken(Exception):
    """A download attempt that failed in a way that a retry may mend."""


class Expected(NamedTuple):
    """The size of a file in bytes or, if unknown, the most that it may have."""

    size: int | None
    most: int

    def check(self, url: str, found: int, way: str) -> None:
        """Raises: InputError for another size than the file has, or one above what it may have."""
        if self.size is not None and found != self.size:
            raise InputError(f"{url}: the server announces {found} bytes, {self.size} are expected. {way}")
        if found > self.most:
            raise InputError(f"{url}: the server announces {found} bytes, at most {self.most} are taken. {way}")


def fetch(
    url: str,
    path: Path,
    md5: str | None = None,
    size: int | None = None,
    report: Report | None = None,
    pause: float = 1.0,
    most: int = MOST,
) -> Path:
    """Download `url` to `path`, resuming from a `.part` file that an earlier attempt or process left.

    IR_DATASETS_DL_TRIES (3) is the number of attempts in a row that may bring nothing new, IR_DATASETS_DL_TIMEOUT (15)
    the seconds without a byte that end an attempt.

    Args:
        size: bytes that the file must have, where known.
        report: called with bytes done and bytes in all, where the server announces them.
        pause: seconds before another attempt; doubled for each that brought nothing.
        most: bytes that it may have, where `size` is not known.

    Raises:
        InputError: for an address that does not answer or has no such file, or leads to a host that is not one of HOSTS, for a body
            that goes on behind its end, a size or md5 that differs, or a full disk.
    """
    part, mark = _partial(path)
    try:
        with appending(part) as sink:
            if size is None or sink.tell() != size:
                _download(url, path, sink, Expected(size, most if size is None else size), report, pause)
            os.fsync(sink.fileno())
            if md5 and (found := md5_of(part)) != md5:
                part.unlink()
                raise InputError(f"{url}: md5 expected {md5}, found {found}; the download was removed. {_other_way(path)}")
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
        raise InputError(f"--file {source}: md5 expected {expected}, found {found}; it is another file or a damaged one")


def _download(url: str, path: Path, sink: IO[bytes], expected: Expected, report: Report | None, pause: float) -> None:
    tries, timeout = int(_setting("IR_DATASETS_DL_TRIES", 3)), _setting("IR_DATASETS_DL_TIMEOUT", 15)
    failures = 0
    while True:
        before = sink.tell()
        try:
            return _attempt(url, path, sink, expected, report, timeout)
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


def _attempt(url: str, path: Path, sink: IO[bytes], expected: Expected, report: Report | None, timeout: float) -> None:
    """One request, appended to `sink`. Raises: _Broken where another request may bring more."""
    import requests
    import urllib3

    done = sink.tell()
    _, mark = _partial(path)
    headers = {"User-Agent": "taco_ir", "Accept-Encoding": "identity"}
    if done:
        headers["Range"] = f"bytes={done}-"
        if mark.is_file() and VERSION.fullmatch(version := mark.read_text(encoding="utf-8", errors="replace")):
            headers["If-Range"] = version
    try:
        with _opened(url, headers, timeout) as response:
            total = _accept(response, sink, path, expected)
            if response.status_code == 416:  # the partial file is whole already; this body only says so
                return
            end = expected.most if total is None else total
            for block in response.raw.stream(BLOCK, decode_content=False):
                if sink.tell() + len(block) > end:
                    _restart(sink)  # what came so far is of no file that is known
                    raise InputError(
                        f"{url}: the body goes on behind byte {end}, where the file ends at the latest; nothing of it was kept"
                    )
                sink.write(block)
                sink.flush()
                if report and total is not None:
                    report(sink.tell(), total)
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise _Broken(_reason(error)) from error
    if total is not None and sink.tell() != total:
        raise _Broken(f"the connection ended after {sink.tell()} of {total} bytes")


def _opened(url: str, headers: Mapping[str, str], timeout: float) -> requests.Response:
    """The answer to a request, where redirects lead, if that is the host that was asked or one of HOSTS, and not from https to http.

    Raises:
        InputError: for a redirect that leads elsewhere, or too many.
    """
    import requests

    here = url
    for _ in range(REDIRECTS + 1):
        try:
            response = requests.get(here, headers=headers, stream=True, timeout=timeout, allow_redirects=False)
        except ValueError as error:  # requests looks at where a redirect leads, followed or not
            raise InputError(f"{url}: redirected to what is no address ({error})") from error
        if not response.is_redirect:
            return response
        response.close()
        target = urljoin(here, response.headers["Location"])
        before, after = urlsplit(here), urlsplit(target)
        if after.scheme not in ("https", before.scheme) or after.scheme not in ("https", "http"):
            raise InputError(f"{url}: redirected to {target[:200]!r}; only https is followed, so that nobody on the way can answer instead")
        if after.netloc.lower() not in (urlsplit(url).netloc.lower(), *HOSTS):
            raise InputError(f"{url}: redirected to {target[:200]!r}; only {', '.join(HOSTS)} are fetched from")
        here = target
    raise InputError(f"{url}: redirected more than {REDIRECTS} times")


def _accept(response: requests.Response, sink: IO[bytes], path: Path, expected: Expected) -> int | None:
    """Judge the answer's head, make `sink` ready for its body, and return the bytes that the whole file has."""
    done, url, status = sink.tell(), response.url, response.status_code
    if status in PASSING_FAULTS:
        raise _Broken(f"the server answers {status}")
    if status not in (200, 206, 416):
        raise InputError(f"{url}: the server answers {status} {response.reason or ''}. {_other_way(path)}")
    if status == 200:
        if done:
            log.warning("%s: the server sends the whole file again instead of the rest; starting from the beginning", url)
        _restart(sink)
        length = response.headers.get("Content-Length", "")
        total = int(length) if LENGTH.fullmatch(length) else expected.size
        _note_version(response, path)
    else:
        spec = CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        total = int(spec[2]) if spec and spec[2] != "*" else expected.size
        continues = spec is not None and spec[1] == str(done) and (total is None or total >= done)
        if (status == 206 and not continues) or (status == 416 and total != done):
            log.warning("%s: the partial file of %d bytes does not fit what the server has; starting from the beginning", url, done)
            _restart(sink)
            raise _Broken(f"the server answers {status} to a request for the bytes from {done}")
    if total is None and not response.raw.chunked:
        raise InputError(f"{url}: the server announces no size, so that nobody could tell a whole file from a part. {_other_way(path)}")
    if total is not None:
        expected.check(url, total, _other_way(path))
    require_space(path.parent, (expected.most if total is None else total) - sink.tell())
    return total


def _restart(sink: IO[bytes]) -> None:
    sink.seek(0)
    sink.truncate()


def _note_version(response: requests.Response, path: Path) -> None:
    """Keep what lets a later request say `If-Range`: a partial file of another version must not be continued."""
    _, mark = _partial(path)
    tag = response.headers.get("ETag", "")
    version = response.headers.get("Last-Modified", "") if not tag or tag.startswith("W/") else tag
    if VERSION.fullmatch(version):
        mark.write_text(version, encoding="utf-8")
    else:
        mark.unlink(missing_ok=True)


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
