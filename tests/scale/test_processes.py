"""Units are done once each by several processes, whichever of them end; nothing outlives who started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from counting import are_whole, rows, units

from taco_ir.core.files import InputError
from taco_ir.scale import engines, pool
from taco_ir.scale.engines import Engine, Here, do_units
from taco_ir.scale.processes import Processes

ALL = set(range(1, 7))
DRIVER = """
import sys
from pathlib import Path
from counting import units
from taco_ir.cli import run_verb
from taco_ir.scale.engines import do_units
from taco_ir.scale.processes import Processes

def main(_):
    engine = Processes(2, "cpu")
    try:
        do_units(units(Path(sys.argv[1]), slow=0.3), engine, "count", "rows")
    finally:
        engine.close()

run_verb(main)
"""


def do(folder: Path, engine: Engine, **spec: object) -> None:
    try:
        do_units(units(folder, **spec), engine, "count", "rows")
    finally:
        engine.close()


def is_running(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def workers_of(folder: Path) -> list[int]:
    """The processes that have begun to count, at least two."""
    until = time.monotonic() + 60
    while rows(folder / "loaded") < 2 and time.monotonic() < until:
        time.sleep(0.05)
    return [int(line.split()[0]) for line in (folder / "loaded").read_text().splitlines()]


@pytest.mark.parametrize("engine", [Here(), Processes(1, "cpu"), Processes(3, "cpu")], ids=["here", "one", "three"])
def test_each_unit_is_done_once_and_what_is_done_stays(
    tmp_path: Path, engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        do(tmp_path, engine)
    assert are_whole(tmp_path, ALL)
    assert rows(tmp_path / "loaded") <= engine.workers, "a worker loads what it needs once"
    said = capsys.readouterr().err
    assert "count: 30 of 30 rows" in said and "6 of 6 shards" in said
    assert "count: 6 of 6 shards are done already" in said


@pytest.mark.parametrize(("what", "said"), [("dies", "Killed"), ("fails", "KeyError: 3")])
def test_a_unit_whose_worker_ends_goes_to_another(
    tmp_path: Path, what: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    do(tmp_path, Processes(2, "cpu"), wrong={"3": (what, 2)})
    assert are_whole(tmp_path, ALL)
    assert caplog.text.count(f"shard 3 of 6: its worker ended ({said}); another takes it") == 2


def test_a_unit_at_which_three_workers_end_is_named_and_others_go_on(tmp_path: Path) -> None:
    said = r"1 of 6 shards are not done \(shard 3: 3 workers ended at it \(Killed\)\); the same command does them"
    with pytest.raises(InputError, match=said):
        do(tmp_path, Processes(2, "cpu"), wrong={"3": ("dies", 3)})
    assert are_whole(tmp_path, ALL - {3})
    do(tmp_path, Processes(2, "cpu"))
    assert are_whole(tmp_path, ALL)


def test_where_every_worker_ends_it_stops_early(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="6 of 6 shards are not done"):
        do(tmp_path, Processes(1, "cpu"), wrong={str(number): ("dies", 9) for number in ALL})
    assert rows(tmp_path / "loaded") <= pool.TRIES * (pool.TRIES + 2)


@pytest.mark.parametrize(("what", "said"), [("refuses", "^--flag 3: not so$"), ("full", "^f: No space$")])
def test_a_mistake_of_the_user_is_told_as_it_is(tmp_path: Path, what: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        do(tmp_path, Processes(2, "cpu"), wrong={"3": (what, 1)})
    assert not any(map(is_running, workers_of(tmp_path)))


def test_workers_that_never_begin_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(InputError, match=r"workers end before they begin \(exit code 1\)"):
        do(tmp_path, Processes(2, "cpu"))


def test_what_the_disk_does_not_show_is_not_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "SHARED_WITHIN", 0.1)
    with pytest.raises(InputError, match=r"finished shard \d of 6, which is not on .*; give a folder that"):
        do(tmp_path, Processes(1, "cpu"), elsewhere=True)


def test_each_worker_has_a_gpu_and_its_share_of_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(6))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-7")
    do(tmp_path, Processes(None, "cuda"), wrong={"3": ("dies", 1)})
    begun = [line.split()[1:] for line in (tmp_path / "loaded").read_text().splitlines()]
    assert {(threads, gpu) for threads, gpu in begun} == {("3", "5"), ("3", "GPU-7")}


@pytest.mark.parametrize(
    ("workers", "device", "said"),
    [
        (3, "cuda", "--workers 3: .* finds 2 here"),
        (None, "cuda:1", "--device cuda:1: each worker has a GPU"),
    ],
)
def test_a_gpu_that_is_not_there_is_refused(
    workers: int | None, device: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match=said):
        Processes(workers, device)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_workers_end_with_their_driver(tmp_path: Path, number: signal.Signals) -> None:
    """Then the same command ends what is left, no row twice."""
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, tmp_path], stderr=subprocess.PIPE, text=True)
    workers = workers_of(tmp_path)
    assert all(map(is_running, workers))
    driver.send_signal(number)
    _, said = driver.communicate(timeout=60)
    until = time.monotonic() + 10
    while any(map(is_running, workers)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(is_running, workers))
    assert driver.returncode == (2 if number == signal.SIGINT else -number) and "Traceback" not in said
    do(tmp_path, Processes(2, "cpu"))
    assert are_whole(tmp_path, ALL)
