"""Workers on the machines of a Ray cluster, or of a Ray instance started for this command; they are Ray Core actors.

Ray allocates processors and GPUs to workers, and reports when one has died. Units and answers are JSON; rows and
vectors are written to a disk that all machines share, never sent through Ray.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from taco_ir.core.errors import InputError
from taco_ir.core.files import data_home
from taco_ir.core.processes import share_processors
from taco_ir.scale.pool import Pool
from taco_ir.scale.units import Answer, Unit, Worker

ANSWERS_WITHIN = 10.0  # seconds in which an address has to answer
CURRENT = Path("/tmp/ray/ray_current_cluster")  # where `ray start` notes its address
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # HTTP/2, which Ray's services speak
SMALL = {"include_dashboard": False, "object_store_memory": 100_000_000}  # a Ray of our own, which carries no vectors
LOCAL, AUTO = "local", "auto"


class Actor:
    """A worker in a Ray process.

    Args:
        home: the data home of the process that started the command.
    """

    def __init__(self, home: str) -> None:
        share_processors()
        logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
        os.environ["TACO_IR_HOME"] = home
        self._worker = Worker()

    def begin(self) -> str:
        """Returns an `Answer` as JSON: that the worker is ready, or that its machine cannot see the data home."""
        host, home = socket.gethostname(), data_home()
        lacks = f"there is no data home {home}; let TACO_IR_HOME be a folder that all machines share"
        return json.dumps(Answer("ready", host=host) if home.is_dir() else Answer("refused", lacks, host=host))

    def answer(self, unit: str) -> str:
        return self._worker.answer(unit)


class Ray(Pool):
    """An engine with Ray actors as workers.

    Args:
        workers: number of actors; None: as many as fit into the cluster.
        cpus, gpus: processors and GPUs for each actor, as Ray counts them; fractions are allowed.
        address: HOST:PORT of a cluster; `auto`: the cluster of this machine; `local`: start Ray for this command.

    Raises:
        InputError: if Ray is not installed, the address does not answer, or a worker needs more than any machine has.
    """

    def __init__(self, workers: int | None, cpus: float, gpus: float, address: str = LOCAL) -> None:
        if importlib.util.find_spec("ray") is None:
            raise InputError("--engine ray: Ray is not installed; pip install ray")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        import ray

        self._needs = {"num_cpus": cpus, "num_gpus": gpus}
        self._actors: dict[int, Any] = {}
        self._asked: dict[Any, int] = {}  # Ray's handle of a future answer -> worker
        self._hired = 0
        self._ray, self._ours = ray, not ray.is_initialized()
        if self._ours:
            self._connect(address)
        try:
            room = self._room(cpus, gpus)
        except BaseException:
            self.close()
            raise
        super().__init__(workers or room)

    def _connect(self, address: str) -> None:
        if address != LOCAL:
            found = address
            if address == AUTO:
                noted = CURRENT.read_text(encoding="utf-8").strip() if CURRENT.is_file() else ""
                found = os.environ.get("RAY_ADDRESS") or noted
            _require_answer(address, found)
        own = SMALL if address == LOCAL else {}
        try:
            with signals_kept():
                self._ray.init(address=address, logging_level=logging.ERROR, **own)
        except Exception as error:  # Ray raises no narrower one where a busy machine is too slow to start it
            raise InputError(f"--address {address}: {' '.join(str(error).split())}") from error

    def _room(self, cpus: float, gpus: float) -> int:
        """Returns how many workers fit into the cluster. Raises: InputError if no machine can have even one."""
        machines = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        most = {name: max((machine.get(name, 0.0) for machine in machines), default=0.0) for name in ("CPU", "GPU")}
        for flag, wanted, name in (("--worker-gpus", gpus, "GPU"), ("--worker-cpus", cpus, "CPU")):
            if wanted > most[name]:
                raise InputError(f"{flag} {wanted:g}: no machine of the cluster has more than {most[name]:g} {name}s")
        return sum(
            int(min(machine.get(name, 0.0) / wanted for wanted, name in ((cpus, "CPU"), (gpus, "GPU")) if wanted))
            for machine in machines
        )

    def hire(self) -> int:
        self._hired += 1
        actor = self._ray.remote(Actor).options(**self._needs, max_restarts=0, max_task_retries=0)
        self._actors[self._hired] = made = actor.remote(str(data_home().absolute()))
        self._asked[made.begin.remote()] = self._hired
        return self._hired

    def give(self, worker: int, unit: Unit) -> None:
        self._asked[self._actors[worker].answer.remote(json.dumps(unit))] = worker

    def hear(self, seconds: float) -> tuple[int, Answer] | None:
        heard, _ = self._ray.wait(list(self._asked), num_returns=1, timeout=seconds)
        if not heard:
            if not any(node["Alive"] for node in self._ray.nodes()):
                raise InputError("no machine of the Ray cluster is left; run the same command again to continue")
            return None
        worker = self._asked.pop(heard[0])
        try:
            return worker, Answer(*json.loads(self._ray.get(heard[0])))
        except self._ray.exceptions.RayError as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
            return worker, Answer("failed", lines[-1].partition(" Worker exit")[0])

    def end(self, worker: int) -> None:
        self._ray.kill(self._actors.pop(worker))
        self._asked = {asked: whose for asked, whose in self._asked.items() if whose != worker}

    def close(self) -> None:
        for worker in list(self._actors):
            self.end(worker)
        if self._ours:
            with signals_kept():
                self._ray.shutdown()


@contextlib.contextmanager
def signals_kept() -> Iterator[None]:
    """Keep this process's signal handlers, which Ray replaces and removes: without its own handlers, Java crashes."""
    names = ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL") if os.name == "posix" else ()
    kept = {getattr(signal, name): ctypes.create_string_buffer(256) for name in names}  # longer than any sigaction
    for number, action in kept.items():
        ctypes.CDLL(None).sigaction(number, None, action)
    try:
        yield
    finally:
        for number, action in kept.items():
            ctypes.CDLL(None).sigaction(number, action, None)


def _require_answer(given: str, address: str) -> None:
    """Raise InputError if no Ray answers at an address. This takes seconds, while Ray's own attempt takes minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "://" in address:
        said = "no Ray is known on this machine" if given == AUTO else "HOST:PORT of the head node is needed, or auto"
        raise InputError(f"--address {given}: {said}")
    if os.environ.get("RAY_USE_TLS") == "1":
        return
    problem = "is not a Ray cluster"
    try:
        with socket.create_connection((host, int(port)), ANSWERS_WITHIN) as way:
            way.sendall(HELLO)
            if way.recv(4)[3:] == b"\x04":  # a frame of settings
                return
    except OSError as error:
        problem = f"does not answer within {ANSWERS_WITHIN:.0f} s ({error})"
    raise InputError(f"--address {given}: {address} {problem}; is `ray start --head` running there?")
