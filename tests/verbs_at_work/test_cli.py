"""What the verbs share: help without heavy imports, progress lines, counts, durations, and how a process ends."""

from __future__ import annotations

import errno
import importlib
import os
import re
import subprocess
import sys
from argparse import ArgumentTypeError
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taco_ir import cli as console
from taco_ir.__main__ import verbs
from taco_ir.cli import FLAGS, positive, run_verb
from taco_ir.core.files import InputError
from taco_ir.core.processes import Progress, format_duration, share_processors, timed, with_progress
from taco_ir.data.__main__ import report_progress
from taco_ir.evaluation.measures import Measure

VERBS = "search evaluate encode index export mine train adapt pretrain submission push pull pyserini".split()
HEAVY = "torch faiss transformers pyserini jnius pytrec_eval scipy ir_datasets pandas requests".split()


@pytest.mark.parametrize("verb", VERBS)
def test_unknown_flag_names_the_verbs_help(verb: str) -> None:
    argv = (
        ["--colection", "x"]
        if verb == "pyserini"
        else "x --colection x --topics t --output o --vectors v --source s --runs r".split()
    )
    with pytest.raises(InputError, match=rf"\(see python -m taco_ir\.{verb} --help\)$") as error:
        importlib.import_module(f"taco_ir.{verb}").main(argv)
    assert "--colection" in str(error.value) or verb == "pyserini"


@pytest.mark.parametrize("verb", VERBS)
def test_flags_are_not_abbreviated(verb: str) -> None:
    """`--collect` would mean another flag as soon as a verb gets one."""
    with pytest.raises(InputError):
        importlib.import_module(f"taco_ir.{verb}").parser().parse_args(["--collect", "sample"])


def test_help_is_light_and_shows_an_example() -> None:
    code = (
        f"import importlib, sys\nfor verb in {sorted(verbs().keys() - {'data'})}:\n"
        "    text = importlib.import_module('taco_ir.' + verb).parser().format_help()\n"
        "    assert text.startswith('usage: python -m taco_ir.' + verb), text\n"
        "    assert 'example:\\n  python -m taco_ir.' + verb in text, text\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_help_names_measures_that_exist() -> None:
    named = re.findall(r"\S+", FLAGS["--measures"]["help"].partition("such as ")[2])
    assert len(named) >= 3 and [Measure.parse(name).short for name in named] == named


@given(st.integers())
def test_counts_start_at_one(value: int) -> None:
    if value >= 1:
        assert positive(str(value)) == value
        return
    with pytest.raises(ArgumentTypeError, match="at least 1"):
        positive(str(value))


@pytest.mark.parametrize("text", ["", "1.5", "1e3", "ten", "-", "--1", "\u00b2", "1 2"])
def test_counts_are_whole_numbers(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match=re.escape(f"{text!r} is not a whole number of at least 1")):
        positive(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0, "0 s"), (1.4, "1 s"), (119, "119 s"), (120, "2 min"), (3600, "60 min"), (7199, "120 min")),
        *((7200, "2.0 h"), (90000, "25.0 h")),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter((3.0, 5.5))
    monkeypatch.setattr("taco_ir.core.processes.time.perf_counter", lambda: next(times))
    with timed() as seconds:
        assert seconds() == 2.5


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("taco_ir.core.processes.time.monotonic", clock)
    return clock


def test_progress_in_a_log_is_a_line_every_ten_seconds(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """Units that were there already are counted as done but not in the rate."""
    progress = Progress("encode", 1100, "passages")
    progress.skip(100)
    shown = []
    for second in range(1, 51):
        clock.now = 100.0 + second
        progress.at(100 + 20 * second)
        shown.append(capsys.readouterr().err)
    assert [second for second, line in enumerate(shown, 1) if line] == [10, 20, 30, 40, 50]
    assert shown[9] == "encode: 300 of 1,100 passages, 20.0/s, 40 s left\n"
    assert shown[49] == "encode: 1,100 of 1,100 passages, 20.0/s, 0 s left\n"


def test_progress_tells_the_end_however_early(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress("index", 10, "passages")
    progress.at(5)
    clock.now += 0.5
    progress.at(10)
    assert capsys.readouterr().err == "index: 10 of 10 passages, 20.0/s, 0 s left\n"


def test_progress_without_a_rate(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """None is shown that would be 0.0, such as that of work which was done when the line began."""
    progress = Progress("encode", 10, "passages")
    clock.now += 11
    for done in (0, 10):
        progress.skip(done)
        progress.at(done)
    report_progress("subset", "passages", 1)(12, 12)
    lines = ["encode: 0 of 10 passages", "encode: 10 of 10 passages", "subset: 12 of 12 passages"]
    assert capsys.readouterr().err.splitlines() == lines
    progress.skip(0)
    clock.now += 989
    progress.at(10)
    assert capsys.readouterr().err == "encode: 10 of 10 passages, 0 s left\n"


def test_progress_towards_an_unknown_end(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """...is told at the end only where it was told before."""
    for seconds, shown in ((11, ["read: 2 passages, 0.2/s", "read: 2 of 2 passages, 0.1/s, 0 s left"]), (1, [])):
        for _ in with_progress(range(2), "read", "passages"):
            clock.now += seconds
        assert capsys.readouterr().err.splitlines() == shown


def test_progress_on_a_terminal_rewrites_its_line(
    clock: Clock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    progress = Progress("encode", 3, "passages")
    for done in (1, 2, 3):
        clock.now += 0.15  # shown at most five times a second
        progress.at(done)
    told = capsys.readouterr().err
    assert told.count("\r") == 2 and told.count("\n") == 1 and told.endswith("3 of 3 passages, 6.7/s, 0 s left\x1b[K\n")


def ending(main: Callable[[Sequence[str]], None], capsys: pytest.CaptureFixture[str]) -> tuple[Any, str]:
    with pytest.raises(SystemExit) as stop:
        run_verb(main)
    return stop.value.code, capsys.readouterr().err


def raising(error: BaseException) -> Callable[[Sequence[str]], None]:
    def main(argv: Sequence[str]) -> None:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (InputError("--hits 'x': no"), "error: --hits 'x': no\n"),
        (
            KeyboardInterrupt(),
            "interrupted: finished work is kept and no half-written file is left; the same command continues\n",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device", "out/run"),
            "error: out/run: No space left on device; nothing half-written is left\n",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "out"),
            "error: out: Permission denied; nothing half-written is left\n",
        ),
    ],
)
def test_a_users_trouble_is_one_line_and_code_2(
    error: BaseException, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ending(raising(error), capsys) == (2, line)


def test_a_good_end_is_code_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert ending(lambda argv: None, capsys) == (0, "")


@pytest.mark.parametrize("error", [RuntimeError("ours"), OSError(errno.EIO, "Input/output error")])
def test_a_mistake_of_ours_keeps_its_traceback(error: Exception) -> None:
    with pytest.raises(type(error), match=re.escape(str(error))):
        run_verb(raising(error))


def test_a_closed_pipe_ends_quietly() -> None:
    code = "from taco_ir.cli import run_verb\nrun_verb(lambda argv: [print('x' * 100) for _ in range(10_000)])"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline() == "x" * 100 + "\n"
    process.stdout.close()
    assert (process.wait(20), process.stderr.read()) == (0, "")
    process.stderr.close()


def test_words_that_are_not_utf8_are_refused() -> None:
    parser = console.Parser("search", "x", ("--query", "--topics"))
    for argv in (["--query", "caf\udce9"], ["--topics", "a", "b\udcff"]):
        with pytest.raises(InputError, match=f"{re.escape(repr(argv[-1]))} is not UTF-8"):
            parser.parse_args(argv)


def test_a_message_is_one_short_line() -> None:
    """Whatever value it quotes: at most 200 characters of it, and nothing that acts on a terminal."""
    assert str(InputError(f"--x {'y' * 200!r}: wrong")) == f"--x '{'y' * 200}': wrong"
    assert (
        str(InputError(f"--x {'y' * 201!r}, {'z' * 300!r}: wrong")) == f"--x '{'y' * 200}...', '{'z' * 200}...': wrong"
    )
    assert str(InputError("""it's "'"a'b' """ + "and so on " * 30)).endswith("and so on and so on "), (
        "an apostrophe opens nothing"
    )
    assert str(InputError("a\x1b[31m\nb\udcff\x7f é")) == "a\\x1b[31m\\nb\\udcff\\x7f é"
    with pytest.raises(InputError) as told:
        console.Parser("search", "x", ("--query",)).parse_args(["x" * 5000])
    assert len(str(told.value)) < 300


@pytest.mark.parametrize(("load", "spins"), [(0.0, "20000"), (3.9, "20000"), (4.0, "0"), (17.0, "0"), (None, "20000")])
def test_threads_sleep_at_once_beside_other_work(
    load: float | None, spins: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told() -> tuple[float, float, float]:
        if load is None:
            raise OSError("the system does not tell")
        return load, 0.0, 0.0

    monkeypatch.setattr(os, "getloadavg", told)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.delenv("OMP_WAIT_POLICY")
    monkeypatch.delenv("GOMP_SPINCOUNT")
    share_processors()
    assert os.environ["GOMP_SPINCOUNT"] == spins
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    share_processors()
    assert os.environ["GOMP_SPINCOUNT"] == "7"  # what a user sets is kept
