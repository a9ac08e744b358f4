"""A download is the remote file, byte for byte, or nothing: whatever breaks, in one process or several."""

from __future__ import annotations

import gzip
import hashlib
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loopback import CERTIFICATE, Loopback, serving

from taco_ir.core.files import InputError, appending
from taco_ir.data.downloads import fetch, take

BODY = random.Random(0).randbytes(700_000)
MD5 = hashlib.md5(BODY).hexdigest()


@pytest.fixture
def server() -> Iterator[Loopback]:
    with serving({"a/file.bin": BODY, "empty": b""}) as loopback:
        yield loopback


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "file.bin"


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_whole_file_and_nothing_beside_it(server: Loopback, target: Path) -> None:
    reports: list[tuple[int, int]] = []
    assert (
        fetch(server.url + "a/file.bin", target, MD5, len(BODY), lambda done, total: reports.append((done, total)))
        == target
    )
    assert target.read_bytes() == BODY
    assert left_in(target.parent) == ["file.bin"]
    assert reports[-1] == (len(BODY), len(BODY)) and reports == sorted(reports)


def test_an_empty_file_is_a_file(server: Loopback, target: Path) -> None:
    assert fetch(server.url + "empty", target, size=0).read_bytes() == b""


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    drops=st.lists(st.integers(1, 300_000), max_size=5),
    ranges=st.booleans(),
    left=st.integers(0, len(BODY)),
    same=st.booleans(),
)
def test_any_sequence_of_breaks_gives_the_same_bytes(
    server: Loopback, tmp_path: Path, drops: list[int], ranges: bool, left: int, same: bool
) -> None:
    """With any partial file left behind (of this version, or without a note of its version), with and without Range."""
    server.drops, server.ranges = list(drops), ranges
    target = tmp_path / "file.bin"
    part = target.with_name("file.bin.part")
    part.write_bytes(BODY[:left])
    if same:
        part.with_name("file.bin.part.version").write_text(server.etag)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IR_DATASETS_DL_TRIES", "9")
        fetch(server.url + "a/file.bin", target, pause=0)
    assert target.read_bytes() == BODY
    assert left_in(tmp_path) == ["file.bin"]


def test_a_dropped_connection_is_resumed_from_where_it_broke(server: Loopback, target: Path) -> None:
    server.drops = [300_000, 100_000]
    fetch(server.url + "a/file.bin", target, MD5, pause=0)
    assert server.asked == ["", "bytes=300000-", "bytes=400000-"]
    assert target.read_bytes() == BODY


def test_a_size_that_only_the_caller_knows_is_enough(server: Loopback, target: Path) -> None:
    server.announces, server.drops = False, [300_000]
    fetch(server.url + "a/file.bin", target, size=len(BODY), pause=0)
    assert server.asked == ["", "bytes=300000-"] and target.read_bytes() == BODY


def test_only_attempts_that_bring_nothing_are_counted(
    server: Loopback, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IR_DATASETS_DL_TRIES", "2")
    server.drops = [100_000, 0, 100_000, 0, 100_000]
    assert fetch(server.url + "a/file.bin", target, MD5, pause=0) == target
    target.unlink()
    server.drops = [100_000, 0, 0, 0]
    with pytest.raises(InputError, match="100000 bytes are kept and the same command continues from there"):
        fetch(server.url + "a/file.bin", target, MD5, pause=0)


def test_a_disk_that_is_too_small_is_found_at_the_start(
    server: Loopback, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(target.parent.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=len(BODY) - 1))
    with pytest.raises(InputError, match="needs 700.0 KB on disk"):
        fetch(server.url + "a/file.bin", target)
    assert left_in(target.parent) == []
    target.with_name("file.bin.part").write_bytes(BODY[:1])
    assert fetch(server.url + "a/file.bin", target, MD5) == target, "only the rest needs space"


def test_without_range_it_starts_again_and_says_so(
    server: Loopback, target: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.ranges, server.drops = False, [300_000]
    fetch(server.url + "a/file.bin", target, MD5, pause=0)
    assert target.read_bytes() == BODY
    assert "starting from the beginning" in caplog.text


def test_a_partial_file_of_another_version_is_not_continued(
    server: Loopback, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IR_DATASETS_DL_TRIES", "1")
    server.files["a/file.bin"], server.drops = bytes(len(BODY)), [300_000, 0]
    with pytest.raises(InputError, match="300000 bytes are kept"):
        fetch(server.url + "a/file.bin", target)
    server.files["a/file.bin"], server.etag = BODY, '"2"'
    assert fetch(server.url + "a/file.bin", target).read_bytes() == BODY


def test_a_killed_process_is_continued_by_the_next(server: Loopback, target: Path) -> None:
    """kill -9 in the middle of a slow download; the second process asks only for the rest."""
    script = (
        "import sys, time; from pathlib import Path; from taco_ir.data.downloads import fetch\n"
        "fetch(sys.argv[1], Path(sys.argv[2]), report=lambda done, total: time.sleep(60))"
    )
    process = subprocess.Popen([sys.executable, "-c", script, server.url + "a/file.bin", str(target)])
    part = target.with_name("file.bin.part")
    for _ in range(1000):
        if part.exists() and part.stat().st_size:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = part.stat().st_size
    assert 0 < kept < len(BODY)
    fetch(server.url + "a/file.bin", target, MD5)
    assert server.asked[-1] == f"bytes={kept}-"
    assert target.read_bytes() == BODY


def test_a_whole_partial_file_only_needs_its_name(server: Loopback, target: Path) -> None:
    target.parent.mkdir()
    target.with_name("file.bin.part").write_bytes(BODY)
    fetch(server.url + "a/file.bin", target, MD5, len(BODY))
    assert server.asked == [] and target.read_bytes() == BODY


@pytest.mark.parametrize("junk", [b"x" * 900_000, b"x" * len(BODY)])
def test_wrong_md5_names_both_and_removes_the_file(server: Loopback, target: Path, junk: bytes) -> None:
    server.files["a/file.bin"] = junk
    with pytest.raises(
        InputError, match=f"file.bin: the download's md5 is {hashlib.md5(junk).hexdigest()}, but must be {MD5}"
    ):
        fetch(server.url + "a/file.bin", target, MD5)
    assert left_in(target.parent) == []


def test_announced_size_is_held_against_the_known_one(server: Loopback, target: Path) -> None:
    with pytest.raises(InputError, match="announces 700000 bytes, but the file must have 5"):
        fetch(server.url + "a/file.bin", target, size=5)
    assert left_in(target.parent) == []


def test_missing_file_is_refused_at_once_with_the_way_out(server: Loopback, target: Path) -> None:
    with pytest.raises(InputError, match=r"nothing: the server answers 404 Not Found.*--file PATH.*file\.bin"):
        fetch(server.url + "nothing", target)
    assert len(server.asked) == 1 and left_in(target.parent) == []


def test_passing_faults_are_tried_again_and_lasting_ones_end(
    server: Loopback, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.statuses = [503, 500]
    assert fetch(server.url + "a/file.bin", target, MD5, pause=0) == target
    monkeypatch.setenv("IR_DATASETS_DL_TRIES", "4")
    server.asked, server.statuses = [], [503] * 9
    with pytest.raises(InputError, match=r"503.*without progress: 4.*--file PATH"):
        fetch(server.url + "a/file.bin", target.with_name("other"), pause=0)
    assert len(server.asked) == 4


def test_nobody_listens(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving({}) as gone:
        url = gone.url
    monkeypatch.setenv("IR_DATASETS_DL_TRIES", "2")
    with pytest.raises(InputError, match=rf"{url}x: .*refused.*without progress: 2.*--file PATH"):
        fetch(url + "x", target, pause=0)
    assert left_in(target.parent) == []


def test_timeout_is_the_environments(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("IR_DATASETS_DL_TRIES", "1")
        monkeypatch.setenv("IR_DATASETS_DL_TIMEOUT", "0.2")
        start = time.monotonic()
        with pytest.raises(InputError, match="timed out.*timeout 0.2 s"):
            fetch(f"http://127.0.0.1:{silent.getsockname()[1]}/", target)
        assert time.monotonic() - start < 5


def test_a_body_without_end_is_cut_off_at_once(server: Loopback, target: Path) -> None:
    server.endless = True
    with pytest.raises(
        InputError, match=r"file.bin: the server sent more than the 700000 bytes it announced; nothing was kept"
    ):
        fetch(server.url + "a/file.bin", target, size=len(BODY))
    assert server.sent < 1 << 25 and len(server.asked) == 1 and left_in(target.parent) == []


def test_the_rest_of_a_file_without_end_is_cut_off_too(server: Loopback, target: Path) -> None:
    """Nothing is kept, since who goes on behind the end has no part of the file that is meant."""
    server.endless = True
    target.parent.mkdir()
    target.with_name("file.bin.part").write_bytes(BODY[:300_000])
    with pytest.raises(InputError, match="sent more than the 700000 bytes it announced"):
        fetch(server.url + "a/file.bin", target)
    assert server.asked == ["bytes=300000-"] and left_in(target.parent) == []


def test_a_body_that_ends_with_the_connection_is_no_whole_file(server: Loopback, target: Path) -> None:
    server.announces = False
    with pytest.raises(
        InputError, match="does not announce the file's size, so an incomplete download would go unnoticed"
    ):
        fetch(server.url + "a/file.bin", target)
    assert left_in(target.parent) == []


def test_a_redirect_on_the_host_is_followed_and_resumed(server: Loopback, target: Path) -> None:
    server.redirects, server.drops = {"moved": "/a/file.bin"}, [300_000]
    assert fetch(server.url + "moved", target, MD5, pause=0).read_bytes() == BODY
    assert server.asked == ["", "", "bytes=300000-", "bytes=300000-"]


def test_https_is_not_left(server: Loopback, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", server.url)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(CERTIFICATE))
    server.redirects = {"https://dl.fbaipublicfiles.com/x": "http://dl.fbaipublicfiles.com/a/file.bin"}
    with pytest.raises(
        InputError, match="the server redirects to 'http://dl.fbaipublicfiles.com/a/file.bin'; only https"
    ):
        fetch("https://dl.fbaipublicfiles.com/x", target)
    server.redirects = {"https://dl.fbaipublicfiles.com/x": "https://nlp.cs.washington.edu/a/file.bin"}
    assert fetch("https://dl.fbaipublicfiles.com/x", target, MD5).read_bytes() == BODY
    assert server.paths[-1] == "https://nlp.cs.washington.edu/a/file.bin"


@pytest.mark.parametrize("total", ["100", "9" * 5000, "-1", "*"])
def test_a_rest_of_another_whole_begins_anew(server: Loopback, target: Path, total: str) -> None:
    """206 with a total below the partial file, or no number: the partial file is dropped and the whole file fetched."""
    target.parent.mkdir()
    target.with_name("file.bin.part").write_bytes(BODY[:300_000])
    server.total = total
    assert (
        fetch(server.url + "a/file.bin", target, MD5, len(BODY) if total == "*" else None, pause=0).read_bytes() == BODY
    )


@pytest.mark.parametrize("value", ["many", "0", "-1", "nan", "inf"])
def test_settings_that_are_no_number_above_zero(
    server: Loopback, target: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("IR_DATASETS_DL_TRIES", value)
    with pytest.raises(InputError, match=f"IR_DATASETS_DL_TRIES is '{value}'"):
        fetch(server.url + "a/file.bin", target)


def test_two_processes_do_not_write_one_file(server: Loopback, target: Path) -> None:
    with appending(target.with_name("file.bin.part")) as held:
        held.write(b"x")
        with pytest.raises(InputError, match="another process is writing it"):
            fetch(server.url + "a/file.bin", target)
    assert server.asked == []


@pytest.mark.parametrize("packed", [False, True])
def test_a_local_copy_is_checked_and_unpacked(tmp_path: Path, target: Path, packed: bool) -> None:
    source = tmp_path / "copy"
    source.write_bytes(gzip.compress(BODY) if packed else BODY)
    assert take(source, target, MD5, len(BODY)).read_bytes() == BODY
    source.write_bytes(gzip.compress(BODY[:-1] + b"?") if packed else BODY[:-1] + b"?")
    target.unlink()
    with pytest.raises(InputError, match=f"--file {source}: its md5 is .*, but must be {MD5}"):
        take(source, target, MD5)
    assert left_in(target.parent) == []


def test_a_gzip_copy_that_ends_early_leaves_nothing(tmp_path: Path, target: Path) -> None:
    source = tmp_path / "copy.gz"
    source.write_bytes(gzip.compress(BODY)[:-100])
    with pytest.raises(InputError, match="broken gzip"):
        take(source, target)
    assert left_in(target.parent) == []


def test_a_linked_copy_takes_no_second_place(tmp_path: Path, target: Path) -> None:
    source = tmp_path / "copy"
    source.write_bytes(BODY)
    assert take(source, target, MD5, link=True).samefile(source)
    source.unlink()
    assert target.read_bytes() == BODY


def test_local_copies_that_cannot_be(tmp_path: Path, target: Path) -> None:
    with pytest.raises(InputError, match="--file .*nowhere: no such file"):
        take(tmp_path / "nowhere", target)
    (tmp_path / "short").write_bytes(b"abc")
    with pytest.raises(InputError, match="it has 3 bytes, but file.bin must have 4"):
        take(tmp_path / "short", target, size=4)
