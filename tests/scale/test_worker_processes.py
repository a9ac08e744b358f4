"""Units are done once each by several processes, whichever of them end; nothing outlives who started it."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from counting import ALL, are_whole, end_driver, is_running, rows, units, workers_of

from taco_ir.core.files import InputError
from taco_ir.scale import engines, pool
from taco_ir.scale.engines import Engine, Here, do_units
from taco_ir.scale.processes import Processes


def do(folder: Path, engine: Engine, **spec: object) -> None:
    try:
        do_units(units(folder, **spec), engine, "count", "rows")
    finally:
        engine.close()


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
    said = r"1 of 6 shards are not finished \(shard 3: 3 workers ended at it \(Killed\)\); run the same command again"
    with pytest.raises(InputError, match=said):
        do(tmp_path, Processes(2, "cpu"), wrong={"3": ("dies", 3)})
    assert are_whole(tmp_path, ALL - {3})
    do(tmp_path, Processes(2, "cpu"))
    assert are_whole(tmp_path, ALL)


def test_where_every_worker_ends_it_stops_early(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="6 of 6 shards are not finished"):
        do(tmp_path, Processes(1, "cpu"), wrong={str(number): ("dies", 9) for number in ALL})
    assert rows(tmp_path / "loaded") <= pool.TRIES * (pool.TRIES + 2)


@pytest.mark.parametrize(("what", "said"), [("refuses", "^--flag 3: not so$"), ("full", "^f: No space$")])
def test_a_mistake_of_the_user_is_told_as_it_is(tmp_path: Path, what: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        do(tmp_path, Processes(2, "cpu"), wrong={"3": (what, 1)})
    assert not any(map(is_running, workers_of(tmp_path)))


def test_workers_that_never_begin_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(InputError, match=r"workers ended before they could begin \(exit code 1\)"):
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
    [(3, "cuda", "--workers 3: .* only 2 here"), (None, "cuda:1", "--device cuda:1: each worker has its own GPU")],
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
    code, said = end_driver(tmp_path, 'Processes(2, "cpu")', number)
    assert code == (2 if number == signal.SIGINT else -number) and "Traceback" not in said
    do(tmp_path, Processes(2, "cpu"))
    assert are_whole(tmp_path, ALL)
