"""Units are done once each by actors of Ray, whichever of them end; what is asked of Ray in vain is one line."""

from __future__ import annotations

import ctypes
import importlib.util
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from counting import ALL, are_whole, end_driver, rows, units

from taco_ir.core.files import InputError
from taco_ir.scale import ray_pool
from taco_ir.scale.engines import do_units
from taco_ir.scale.ray_pool import Ray


@pytest.fixture(scope="module", autouse=True)
def cluster(home: Path) -> Iterator[str]:
    """A Ray of two processors on this machine; its address."""
    import ray

    home.mkdir(exist_ok=True)
    with ray_pool.signals_kept():
        begun = ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=100_000_000)
    yield begun.address_info["gcs_address"]
    with ray_pool.signals_kept():
        ray.shutdown()


def do(folder: Path, workers: int | None = 2, cpus: float = 0.5, gpus: float = 0, **spec: Any) -> None:
    engine = Ray(workers, cpus, gpus)
    try:
        do_units(units(folder, **spec), engine, "count", "rows")
    finally:
        engine.close()


def test_units_whose_workers_end_go_to_others_and_one_that_none_can_do_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = {"2": ("fails", 1), "3": ("dies", 2), "5": ("dies", 3)}
    with pytest.raises(InputError, match=r"1 of 6 shards are not finished \(shard 5: 3 workers ended at it"):
        do(tmp_path, wrong=wrong)
    assert are_whole(tmp_path, ALL - {5})
    assert caplog.text.count("shard 3 of 6: its worker ended") == 2 and "KeyError: 3" in caplog.text
    do(tmp_path)
    assert are_whole(tmp_path, ALL)


def test_workers_for_whom_there_is_no_room_are_not_waited_for(tmp_path: Path) -> None:
    do(tmp_path, workers=6, cpus=1.0)
    assert are_whole(tmp_path, ALL) and rows(tmp_path / "loaded") <= 2


def test_a_mistake_of_the_user_is_told_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="^--flag 3: not so$"):
        do(tmp_path, workers=1, wrong={"1": ("refuses", 1)})


def test_a_machine_without_the_data_home_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TACO_IR_HOME", str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match=f"no data home {tmp_path}/nowhere; let TACO_IR_HOME be a folder that all"):
        do(tmp_path)


@pytest.mark.parametrize(
    ("cpus", "gpus", "said"),
    [(0.5, 1.0, "--worker-gpus 1: no machine .* more than 0 GPUs"), (2.5, 0.0, "--worker-cpus 2.5: .* than 2 CPUs")],
)
def test_what_no_machine_has_is_refused(cpus: float, gpus: float, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Ray(1, cpus, gpus)


def test_a_cluster_that_ended_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    engine, all_of_them = Ray(1, 0.5, 0), ray.nodes()
    monkeypatch.setattr(ray, "nodes", lambda: [{**node, "Alive": False} for node in all_of_them])
    monkeypatch.setattr(ray, "wait", lambda asked, **_: ([], asked))
    try:
        with pytest.raises(InputError, match="no machine of the Ray cluster is left; run the same command again"):
            do_units(units(tmp_path), engine, "count", "rows")
    finally:
        engine.close()


def test_there_are_as_many_workers_as_there_is_room_for() -> None:
    assert Ray(None, 0.5, 0).workers == 4


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_driver(tmp_path: Path, cluster: str, number: signal.Signals) -> None:
    """Though the cluster stays; then the same command ends what is left, no row twice."""
    code, said = end_driver(tmp_path, f"Ray(2, 0.5, 0, {cluster!r})", number)
    assert code == (2 if number == signal.SIGINT else -number) and "Traceback" not in said
    do(tmp_path)
    assert are_whole(tmp_path, ALL)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A process that has not begun a Ray, and whose machine is in no cluster."""
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray_pool, "CURRENT", tmp_path / "none")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray_pool, "ANSWERS_WITHIN", 0.3)


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("auto", "--address auto: no Ray is known on this machine"),
        ("ray://head:10001", "--address ray://head:10001: HOST:PORT of the head node is needed, or auto"),
        ("head", "--address head: HOST:PORT"),
    ],
)
def test_an_address_that_is_none_is_refused(address: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Ray(1, 0.5, 0, address)


@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("listens", [False, True])
def test_an_address_that_does_not_answer_is_refused_in_time(listens: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens, or somebody who says nothing."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        if listens:
            deaf.listen()
        address = f"127.0.0.1:{deaf.getsockname()[1]}"
        monkeypatch.setenv("RAY_ADDRESS", address)
        for given in (address, "auto"):
            with pytest.raises(InputError, match=f"--address {given}: {address} does not answer within 0 s"):
                Ray(1, 0.5, 0, given)


def fault_handler() -> bytes:
    action = ctypes.create_string_buffer(256)
    ctypes.CDLL(None).sigaction(signal.SIGSEGV, None, action)
    return action.raw[:8]  # its address


@pytest.mark.usefixtures("alone")
def test_handlers_of_faults_are_those_of_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """A JVM in this process reads memory that is protected on purpose, and handles the fault."""
    import ray

    def replace(**_: object) -> None:
        signal.signal(signal.SIGSEGV, lambda *_: None)
        assert fault_handler() != before

    before = fault_handler()
    monkeypatch.setattr(ray, "init", replace)
    monkeypatch.setattr(ray, "shutdown", replace)
    engine = Ray(1, 0.5, 0)
    assert fault_handler() == before
    engine.close()
    assert fault_handler() == before


@pytest.mark.usefixtures("alone")
def test_a_ray_that_does_not_start_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: object) -> None:
        raise Exception("The node timed out.\nIt may be overloaded.")

    monkeypatch.setattr("ray.init", init)
    with pytest.raises(InputError, match=r"--address local: The node timed out\. It may be overloaded\."):
        Ray(1, 0.5, 0)


@pytest.mark.usefixtures("alone")
def test_an_address_that_answers_is_asked(cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    asked: list[str] = []

    def init(address: str, **_: object) -> None:
        asked.append(address)
        monkeypatch.setattr(ray, "is_initialized", lambda: True)

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: asked.append("closed"))
    monkeypatch.setattr(ray_pool, "ANSWERS_WITHIN", 10.0)
    Ray(1, 0.5, 0, cluster).close()
    assert asked == [cluster, "closed"]


def test_without_ray_the_way_to_install_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"--engine ray: Ray is not installed; pip install ray"):
        Ray(1, 0.5, 0)
