"""What is written is whole or absent, whatever interrupts it."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taco_ir.core.files import (
    InputError,
    appending,
    exclusive,
    is_leftover,
    read_json,
    require_space,
    sweep,
    write_json,
    writing,
    writing_folder,
)
from taco_ir.core.hashes import fingerprint, sha256_file
from taco_ir.core.outputs import claim_output
from taco_ir.core.processes import format_bytes

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """...with what chose it, where it is the data home."""
    (tmp_path / "file").write_text("")
    for home in (tmp_path / "file" / "home", Path("/proc/nope")):
        monkeypatch.setenv("TACO_IR_HOME", str(home))
        with pytest.raises(InputError, match=f"^{home}: this folder cannot be created .*; TACO_IR_HOME says where"):
            write_json(home / "hashes" / "1.json", 1)
    if sys.platform == "linux":
        with pytest.raises(InputError, match="^/proc/never: this folder cannot be created; give another path"):
            write_json(Path("/proc/never/1.json"), 1)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_file_that_failed_leaves_the_old_one(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "new" / "file"
    with pytest.raises(error), writing(path) as sink:
        sink.write("half")
        raise error
    assert names(tmp_path) == [], "not even the folder"
    path.parent.mkdir()
    path.write_text("old")
    with pytest.raises(error), writing(path, "wb") as sink:
        sink.write(b"half")
        raise error
    assert names(path.parent) == ["file"] and path.read_text() == "old"


def test_a_file_appears_only_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with writing(path) as sink:
        sink.write("new é")
        sink.flush()
        assert path.read_text() == "old"
    assert path.read_bytes() == "new é".encode() and names(tmp_path) == ["file"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_folder_that_failed_leaves_the_old_one(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "folder"
    for old in ([], ["folder"]):
        with pytest.raises(error), writing_folder(path) as folder:
            (folder / "half").write_text("x")
            raise error
        assert names(tmp_path) == old
        path.mkdir(exist_ok=True)
        (path / "old").write_text("old")
    assert names(path) == ["old"]


def test_a_folder_replaces_the_old_one_whole_and_starts_empty(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    (path / "old").write_text("old")
    with writing_folder(path) as folder:
        assert names(folder) == [] and names(path) == ["old"]
        (folder / "new").write_text("new")
    assert names(tmp_path) == ["folder"] and names(path) == ["new"]


def test_files_in_a_folder_may_be_read_by_whom_the_user_lets_read(tmp_path: Path) -> None:
    """Whatever a library made them with; files elsewhere that are linked to are left alone."""
    private, plain = tmp_path / "private", tmp_path / "plain"
    for path in (private, plain):
        path.touch()
    private.chmod(0o600)
    with writing_folder(tmp_path / "folder") as folder:
        (folder / "in").mkdir()
        (folder / "in" / "weights").touch(0o600)
        (folder / "linked").symlink_to(private)
    assert (tmp_path / "folder" / "in" / "weights").stat().st_mode == plain.stat().st_mode
    assert private.stat().st_mode & 0o777 == 0o600


KILLED = """
import os, signal, sys
from pathlib import Path
from taco_ir.core import files
with getattr(files, sys.argv[1])(Path(sys.argv[2])) as opened:
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("kind", ["writing", "writing_folder"])
def test_the_next_writer_removes_what_a_killed_one_left(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x"
    (tmp_path / "x.y.0123abcd.part").write_text("of another output")
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", KILLED, kind, str(path)], check=False)
        assert done.returncode == -signal.SIGKILL
    left = names(tmp_path)  # a lock and the last unfinished one, beside another's
    assert len(left) == 3 and all(is_leftover(Path(name)) for name in left)
    write = {"writing": writing, "writing_folder": writing_folder}[kind]
    with write(path):
        assert sum(name.startswith("x.") and name.endswith(".part") for name in names(tmp_path)) == 2
    assert names(tmp_path) == ["x", "x.y.0123abcd.part"]


def test_what_killed_processes_left_is_swept_and_what_a_process_holds_is_not(tmp_path: Path) -> None:
    """The last output of a resumed training has no next writer: a kill before its lock is removed would leave that."""
    for path in (tmp_path / "x", tmp_path / "in" / "y"):
        path.parent.mkdir(exist_ok=True)
        subprocess.run([sys.executable, "-c", KILLED, "writing", str(path)], check=False)
    with exclusive(tmp_path / "held"):
        assert len(names(tmp_path)) == 4 and len(names(tmp_path / "in")) == 2
        sweep(tmp_path)
        assert names(tmp_path) == ["held.lock", "in"] and names(tmp_path / "in") == []


@pytest.mark.parametrize("write", [writing, writing_folder])
def test_the_second_writer_waits_for_the_first_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, write: Callable[[Path], AbstractContextManager[Any]]
) -> None:
    caplog.set_level(logging.INFO)
    path, begun, ended = tmp_path / "x", threading.Event(), []

    def first() -> None:
        with write(path):
            begun.set()
            time.sleep(0.2)
            ended.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    begun.wait()
    with write(path):
        ended.append("second")
    thread.join()
    assert ended == ["first", "second"] and names(tmp_path) == ["x"]
    assert caplog.messages == [f"{path}: another process is writing it; waiting for that process"]


def test_who_may_not_wait_is_refused(tmp_path: Path) -> None:
    def second() -> None:
        said = f"^{tmp_path / 'x'}: another process is writing it; wait for that process to end"
        with pytest.raises(InputError, match=said), exclusive(tmp_path / "x", wait=False):
            pass
        refused.append(1)

    refused: list[int] = []
    with exclusive(tmp_path / "x"):
        with exclusive(tmp_path / "x"):
            thread = threading.Thread(target=second)
            thread.start()
            thread.join()
        assert names(tmp_path) == ["x.lock"], "held by the outer block still"
    assert refused == [1] and names(tmp_path) == []


@pytest.mark.parametrize("write", [writing, writing_folder, appending, exclusive])
def test_nothing_is_written_through_a_link(
    tmp_path: Path, write: Callable[[Path], AbstractContextManager[Any]]
) -> None:
    """In a shared folder anyone may plant one under a name that can be foreseen."""
    (victim := tmp_path / "victim").write_text("all of it")
    path = tmp_path / "cache" / "x"
    path.parent.mkdir()
    for end in (".lock", ".part", ".begun"):
        link = path.with_name(path.name + end)
        link.symlink_to(victim)
        try:
            with write(path):
                pass
        except InputError as error:
            assert end == ".lock" and str(error) == f"{link}: this lock file is a symbolic link; remove it"
        else:
            assert end != ".lock"
        assert link.is_symlink() and victim.read_text() == "all of it"
        link.unlink()
        path.unlink(missing_ok=True) if not path.is_dir() else shutil.rmtree(path)
    path.symlink_to(victim)
    if write is appending:
        with pytest.raises(OSError, match=str(path)), write(path):
            pass
    assert victim.read_text() == "all of it"


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    said = rf"^{tmp_path / 'x'}: the file system does not support locks \({os.strerror(number)}\)"
    with pytest.raises(InputError, match=said), writing(tmp_path / "x"):
        pass
    assert names(tmp_path) == []


@pytest.mark.parametrize("path", [".", "..", "../.."])
def test_what_has_no_name_cannot_be_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no file or folder name at its end"), writing_folder(Path(path)):
        pass


TOLD = "Error: I/O error: No space left on device (os error 28)"


@pytest.mark.parametrize(
    "error", [OSError("26 requested and 0 written"), RuntimeError(TOLD), OSError(errno.ENOSPC, "full")]
)
def test_a_full_disk_is_told_by_the_name_of_the_output(tmp_path: Path, error: Exception) -> None:
    """numpy's and safetensors' errors of it have no number."""
    for write in (writing, writing_folder):
        with pytest.raises(OSError) as told, write(tmp_path / "x"):
            raise error
        assert (told.value.errno, told.value.filename) == (errno.ENOSPC, str(tmp_path / "x"))
    with pytest.raises(OSError) as told, writing_folder(tmp_path / "x") as part:
        (part / "none" / "y").write_text("")
    assert told.value.filename == str(tmp_path / "x" / "none" / "y"), "not the name that it has meanwhile"
    with pytest.raises(OSError, match="no such model"), writing_folder(tmp_path / "x"):
        raise OSError("no such model")  # transformers raises such
    assert names(tmp_path) == []


def test_the_same_command_finishes_what_was_stopped(tmp_path: Path) -> None:
    """And none else, nor what was there before."""
    path = tmp_path / "x"

    def claim(*command: object) -> AbstractContextManager[bool]:
        return claim_output(path, command, resume=True)

    for error in (KeyboardInterrupt, OSError):
        with pytest.raises(error), claim("search", 1):
            raise error
        assert names(tmp_path) == [], "nothing was begun"
        with pytest.raises(error), claim("search", 1):
            path.write_text("half of what belongs together")
            raise error
        with pytest.raises(InputError, match="exists"), claim("search", 2):
            pass
        with claim("search", 1) as finished:
            assert not finished
            path.write_text("whole")
        assert names(tmp_path) == ["x"]
        with pytest.raises(InputError, match="exists"), claim("search", 1):
            pass
        path.unlink()


def test_an_output_is_absent_finished_or_foreign(tmp_path: Path) -> None:
    path, made_of = tmp_path / "x", {"hits": 5, "topics": {"name": "nq-dev"}}

    def claim(record: dict[str, Any] | None, **more: Any) -> AbstractContextManager[bool]:
        return claim_output(path, made_of, record=lambda: record, **more)

    path.mkdir()
    (path / "y.lock").touch()
    for _ in range(2):
        with claim(None) as finished:
            assert not finished, "there are leftovers alone"
    (path / "y").touch()
    for resume in (False, True):
        with claim(made_of | {"seconds": 3}, resume=resume) as finished:
            assert finished and (path.with_name("x.begun").exists() is resume)
        with claim({}, overwrite=True, resume=resume) as finished:
            assert not finished
    assert names(tmp_path) == ["x"]
    for found, said in (
        (None, "nothing records how it was made"),
        ({}, "nothing records how it was made"),
        ({"hits": 3, "topics": {}}, r"was made differently \(hits is 3, not 5\)"),
        ({"hits": 5, "topics": {"name": "é" * 99}}, r'\(topics name is "é{79}\.\.\., not "nq-dev"\)'),
        ({"hits": 5, "topics": {"name": "nq-dev", "size": 7}}, r"\(topics size is 7, not null\)"),
        ({"topics": {"name": "nq-dev"}}, r"\(hits is null, not 5\)"),
    ):
        message = rf"^--output {path} exists,? and .*{said}.*; give another name or remove it$"
        with pytest.raises(InputError, match=message):
            claim(found, remedy="remove it").__enter__()
    assert names(tmp_path) == ["x"] and names(path) == ["y", "y.lock"]


@given(st.dictionaries(st.text(), JSON))
def test_a_fingerprint_ignores_the_order_of_keys_and_nothing_else(value: dict[str, object]) -> None:
    backwards = dict(reversed(value.items()))
    assert fingerprint(value) == fingerprint(backwards)
    assert fingerprint(value) != fingerprint({**value, "one more": None, "x": 1})
    assert fingerprint(list(value)) == fingerprint(list(backwards)) or len(value) > 1


def test_fingerprints_stay_what_they_are() -> None:
    """Indexes on users' disks carry them."""
    assert fingerprint({"b": [1, "é"], "a": None}) == "a44633ba036df252"


@given(JSON)
def test_json_reads_back(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    path = tmp_path_factory.getbasetemp() / "value.json"
    write_json(path, value)
    assert read_json(path) == value
    assert len(sha256_file(path)) == 64


def test_space_is_counted_where_the_folder_will_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []
    usage = shutil.disk_usage(tmp_path)

    def disk_usage(path: Path) -> object:
        asked.append(path)
        return usage._replace(free=5_000_000)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path / "a" / "b", tmp_path, Path("not/yet")):
        require_space(folder, 5_000_000)
        with pytest.raises(InputError, match=rf"^{folder}: needs 5\.0 MB on disk, 5\.0 MB are free"):
            require_space(folder, 5_000_001)
    assert {path.resolve() for path in asked} == {tmp_path.resolve()}


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 KB"), (2_500_000, "2.5 MB"), (3e9, "3.0 GB"), (4.2e15, "4200.0 TB")],
)
def test_bytes_for_people(count: float, text: str) -> None:
    assert format_bytes(count) == text


def test_json_on_disk_is_readable(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"name": "Zoë"})
    expected = json.dumps({"name": "Zoë"}, indent=1, ensure_ascii=False) + "\n"
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == expected
