"""Hashes of large files are worked out once, and never believed of a file that changed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from taco_ir.core import hashes
from taco_ir.core.files import InputError, check_type, data_home, write_json
from taco_ir.core.hashes import FileFacts, check_files, describe_files, sha256_once


@pytest.fixture(autouse=True)
def _own_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TACO_IR_HOME", str(tmp_path / "home"))


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are hashed by their bytes."""
    found: list[Path] = []
    plain = hashes.sha256_file

    def noting(path: Path) -> str:
        found.append(path)
        return plain(path)

    monkeypatch.setattr(hashes, "sha256_file", noting)
    return found


def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if files had lain there for a while."""
    monkeypatch.setattr(hashes, "SETTLED", -1.0)


def digest(body: bytes) -> str:
    return sha256(body).hexdigest()


def test_a_file_is_hashed_once(tmp_path: Path, counted: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    settled(monkeypatch)
    path = tmp_path / "f"
    path.write_bytes(b"one")
    assert [sha256_once(path) for _ in range(3)] == [digest(b"one")] * 3 and counted == [path]
    (tmp_path / "sub").mkdir()
    assert sha256_once(tmp_path / "sub" / ".." / "f") == digest(b"one") and len(counted) == 1


def in_place(path: Path) -> None:
    path.write_bytes(b"two")


def replaced(path: Path) -> None:
    (path.parent / "new").write_bytes(b"two")
    (path.parent / "new").replace(path)


@pytest.mark.parametrize("change", [in_place, replaced])
def test_a_change_of_equal_size_and_time_is_seen(
    tmp_path: Path, change: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `cp -p` and `rsync -t` leave it: the size and the time of the file before."""
    settled(monkeypatch)
    path = tmp_path / "f"
    path.write_bytes(b"one")
    before = path.stat()
    assert sha256_once(path) == digest(b"one")
    time.sleep(0.02)  # more than a tick of the clock that files are stamped by
    change(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert sha256_once(path) == digest(b"two")


def test_a_file_that_was_just_written_is_not_remembered(tmp_path: Path, counted: list[Path]) -> None:
    """Another change could have the same time."""
    path = tmp_path / "f"
    path.write_bytes(b"one")
    for _ in range(2):
        assert sha256_once(path) == digest(b"one")
    assert len(counted) == 2


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"\xff", b'{"status": 1}', b'{"sha256": 7}'])
def test_a_broken_table_is_made_anew(
    tmp_path: Path, counted: list[Path], monkeypatch: pytest.MonkeyPatch, damage: bytes
) -> None:
    settled(monkeypatch)
    path = tmp_path / "f"
    path.write_bytes(b"one")
    sha256_once(path)
    (entry,) = (data_home() / "hashes").glob("*.json")
    entry.write_bytes(damage)
    assert [sha256_once(path) for _ in range(2)] == [digest(b"one")] * 2 and len(counted) == 2


def test_a_table_that_cannot_be_written_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settled(monkeypatch)
    monkeypatch.setenv("TACO_IR_HOME", str(tmp_path / "f" / "home"))  # below a file
    (tmp_path / "f").write_bytes(b"one")
    assert sha256_once(tmp_path / "f") == digest(b"one")


def test_processes_share_the_table(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"one" * 100_000)
    script = (
        "import sys; from pathlib import Path; from taco_ir.core import hashes; hashes.SETTLED = -1.0\n"
        "print({hashes.sha256_once(Path(sys.argv[1])) for _ in range(20)})"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", script, path], stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    assert {process.communicate()[0].strip() for process in processes} == {str({digest(b"one" * 100_000)})}


def test_files_are_held_against_what_a_manifest_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settled(monkeypatch)
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(name.encode() * 3)
    written = describe_files(tmp_path, ["a", "b"])
    said = check_type(written, dict[str, FileFacts], "m")
    check_files(tmp_path, said, said, "do it again")
    for wrong in ({}, {"a": said["a"]}):
        with pytest.raises(InputError, match="has no entry for .; do it again"):
            check_files(tmp_path, wrong, ["a", "b"], "do it again")
    for foreign in (None, [], {**written, "b": 7}):
        with pytest.raises(InputError, match="^m: .*; do it again"):
            check_type(foreign, dict[str, FileFacts], "m", "do it again")
    (tmp_path / "b").write_bytes(b"bxb")
    with pytest.raises(
        InputError, match=r"/b: it was changed \(its SHA-256 is \w{16}, but the manifest says \w{16}\); do it again"
    ):
        check_files(tmp_path, said, said, "do it again")
    (tmp_path / "b").write_bytes(b"bb")
    with pytest.raises(InputError, match="/b: it has 2 bytes, but its manifest says 3; do it again"):
        check_files(tmp_path, said, said, "do it again")


def test_what_is_remembered_wrongly_refuses_no_good_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settled(monkeypatch)
    (tmp_path / "a").write_bytes(b"one")
    said = check_type(describe_files(tmp_path, ["a"]), dict[str, FileFacts], "m")
    sha256_once(tmp_path / "a")
    (entry,) = (data_home() / "hashes").glob("*.json")
    write_json(entry, {"path": "", "status": hashes._status(tmp_path / "a"), "sha256": "0" * 64})
    check_files(tmp_path, said, said, "do it again")
