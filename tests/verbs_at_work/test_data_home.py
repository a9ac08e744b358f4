"""The data home: where there is none it is said, a complete one may be read-only, and a full one is named."""

from __future__ import annotations

import ctypes
import errno
import gzip
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from verbs import module_of, passage, query, write_collection

from taco_ir.cli import run_verb
from taco_ir.core.files import InputError, data_home, in_data_home

DROP_CAPABILITY, OVERRIDE_MODES = 24, 1  # prctl's PR_CAPBSET_DROP, and CAP_DAC_OVERRIDE
SEARCH = ["--collection", "cities", "--query", "who painted the mona lisa", "--hits", "2"]
TWICE = """
import taco_ir
retriever = taco_ir.Retriever("cities", retriever="hybrid")
for _ in range(3):
    print([(hit.docid, hit.title) for hit in retriever.search("who painted the mona lisa", hits=2)])
"""


# ---- none


@pytest.mark.parametrize("home", [None, "/", ""])
def test_without_a_home_folder_it_is_said_what_to_set(home: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TACO_IR_HOME", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    if home is not None:
        monkeypatch.setenv("HOME", home)
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)  # a user who is in no list, as in containers
    with pytest.raises(
        InputError, match=r"^there is no home folder \(HOME is .*\); TACO_IR_HOME says where .*: set it to a folder$"
    ):
        data_home()
    assert not in_data_home(Path("/x"))
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert data_home() == Path("/cache/taco_ir") and in_data_home(Path("/cache/taco_ir/dense/x"))
    monkeypatch.setenv("TACO_IR_HOME", "/kept")
    assert data_home() == Path("/kept")


def test_a_verb_says_so_in_one_line(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("TACO_IR_HOME", "XDG_CACHE_HOME")}
    command = [sys.executable, "-m", "taco_ir.search", "--query", "x", "--retriever", "bm25"]
    done = subprocess.run(
        command, env=environment | {"HOME": "/"}, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith("error: there is no home folder (HOME is '/'); TACO_IR_HOME says")
    assert done.stderr.count("\n") == 1


# ---- read-only


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A folder that `as_reader` may make read-only."""
    yield tmp_path
    for path in (tmp_path, *tmp_path.rglob("*")):
        if path.is_dir():
            path.chmod(0o755)


def obey_modes() -> None:
    """Let a program that root starts obey the modes of files, as those of other users do."""
    ctypes.CDLL(None).prctl(DROP_CAPABILITY, OVERRIDE_MODES, 0, 0, 0)


def as_reader(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder where nothing may be written."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    return subprocess.run(
        command,
        env=os.environ | {"TACO_IR_HOME": "home"},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=obey_modes if os.geteuid() == 0 else None,
    )


@pytest.mark.skipif(sys.platform != "linux", reason="root obeys modes by a call of Linux")
def test_a_data_home_that_is_read_only_but_complete_is_searched(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the verb, and by a `Retriever`, which cannot make its plain copy of a gzip file there."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("TACO_IR_HOME", "home")
    passages = [passage("1#0", "mona lisa by leonardo", "Mona Lisa"), passage("2#0", "bach wrote suites", "Bach")]
    plain = write_collection(place / "cities", passages, {"nq-dev": [query("q1", "who", ["1#0"])]}) / "passages.jsonl"
    plain.with_name("passages.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    found = {}
    for name in ("bm25", "dense", "hybrid"):
        module_of("search").main([*SEARCH, "--retriever", name])
        found[name] = capsys.readouterr().out
    assert as_reader(["touch", "home/x"], place).returncode, "the data home can be written"
    for name, printed in found.items():
        done = as_reader([sys.executable, "-m", "taco_ir.search", *SEARCH, "--retriever", name], place)
        assert (done.returncode, done.stdout) == (0, printed), done.stderr
    again = as_reader([sys.executable, "-c", TWICE], place)
    assert again.returncode == 0 and len(set(again.stdout.splitlines())) == 1, again.stderr
    assert "Mona Lisa" in again.stdout
    lacking = as_reader([sys.executable, "-m", "taco_ir.search", "--query", "x", "--retriever", "bm25"], place)
    assert lacking.returncode == 2 and "TACO_IR_HOME" in lacking.stderr and lacking.stderr.count("\n") == 1


# ---- full, and spelled otherwise


def test_a_full_data_home_is_named_and_other_full_disks_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["x"])
    for file, kept in ((data_home() / "bm25" / "x", True), (tmp_path / "out", False)):

        def full(_: object, file: Path = file) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))

        with pytest.raises(SystemExit):
            run_verb(full)
        said = f"error: {file}: No space left on device; nothing half-written is left"
        named = f"; TACO_IR_HOME says where downloads, indexes and vectors are kept, now in {data_home()}"
        assert capsys.readouterr().err == f"{said}{named if kept else ''}\n"


def test_bm25_works_in_a_home_of_any_letters_in_the_c_locale(tmp_path: Path) -> None:
    """Java takes the letters of file names from the locale, which has none of these."""
    home = tmp_path / "dömä ñ 日本"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG"))}
    command = [sys.executable, "-m", "taco_ir.search", "--query", "bach cello suites", "--retriever", "bm25"]
    answers = []
    for locale in ({"LC_ALL": "C"}, {"LC_ALL": "C"}, {"LANG": "C.UTF-8"}, {"LC_ALL": "POSIX"}):
        done = subprocess.run(
            command,
            env=environment | locale | {"TACO_IR_HOME": str(home)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
        )
        assert done.returncode == 0, done.stderr
        answers.append(done.stdout)
    assert len(set(answers)) == 1 and "  1  " in answers[0]
    assert [path.name for path in tmp_path.iterdir() if path.name != "runs"] == [home.name]
