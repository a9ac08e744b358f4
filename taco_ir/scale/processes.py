"""Workers in processes on this machine. They read units of work from a pipe and write answers to another pipe, as JSON.

`python -m taco_ir.scale.processes` is such a worker. It stops when its pipe closes, or when its parent process stops.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from queue import Empty, Queue
from threading import Thread

from taco_ir.core.errors import InputError
from taco_ir.core.processes import PARENT, end_with_parent, share_processors
from taco_ir.scale.pool import Pool
from taco_ir.scale.units import Answer, Unit, Worker

GPUS = "CUDA_VISIBLE_DEVICES"


class Processes(Pool):
    """Processes on this machine: one for each GPU, or several that share the processors.

    Args:
        workers: number of processes; None: one for each GPU, or one on a CPU.
        device: the value of --device.

    Raises:
        InputError: for more workers than GPUs, or a device that is a single GPU, such as cuda:1.
    """

    def __init__(self, workers: int | None, device: str) -> None:
        self._gpus = _gpus(device)
        if device.startswith("cuda") and len(self._gpus) < (workers or 1):
            raise InputError(f"--workers {workers or 1}: each needs a GPU, but torch finds only {len(self._gpus)} here")
        super().__init__(workers or len(self._gpus) or 1)
        self._running: dict[int, subprocess.Popen[str]] = {}
        self._started, self._places = 0, dict[int, int]()
        self._said: Queue[tuple[int, str | None]] = Queue()

    def hire(self) -> int:
        self._started += 1
        number, place = self._started, min(set(range(self.workers)) - {*self._places.values()})
        processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        share = str(max(1, processors // self.workers))
        environment = {"OMP_NUM_THREADS": share, "RAYON_NUM_THREADS": share, **os.environ, PARENT: str(os.getpid())}
        if self._gpus:
            environment[GPUS] = self._gpus[place]
        process = subprocess.Popen(
            [sys.executable, "-m", "taco_ir.scale.processes"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            env=environment,
            start_new_session=True,  # Ctrl-C is for the process that started it
        )
        self._running[number], self._places[number] = process, place
        Thread(target=self._listen, args=(number, process), daemon=True).start()
        return number

    def _listen(self, worker: int, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self._said.put((worker, line))
        self._said.put((worker, None))

    def give(self, worker: int, unit: Unit) -> None:
        sink = self._running[worker].stdin
        assert sink is not None
        try:
            sink.write(f"{json.dumps(unit)}\n")
            sink.flush()
        except OSError:
            pass  # it has ended, which is heard next

    def hear(self, seconds: float) -> tuple[int, Answer] | None:
        try:
            worker, line = self._said.get(timeout=seconds)
        except Empty:
            return None
        if line is not None:
            return worker, Answer(*json.loads(line))
        code = self._running[worker].wait() if worker in self._running else 0
        self.end(worker)
        return worker, Answer("failed", signal.strsignal(-code) or "" if code < 0 else f"exit code {code}")

    def end(self, worker: int) -> None:
        if (process := self._running.pop(worker, None)) is not None:
            del self._places[worker]
            process.kill()
            process.wait()

    def close(self) -> None:
        for worker in list(self._running):
            self.end(worker)


def _gpus(device: str) -> list[str]:
    """Returns the GPUs for workers, as CUDA names them. Raises: InputError for the name of a single GPU."""
    if not device.startswith("cuda"):
        return []
    if device != "cuda":
        raise InputError(f"--device {device}: each worker has its own GPU; give cuda, and choose GPUs with {GPUS}")
    import torch

    named = os.environ.get(GPUS)
    return (named.split(",") if named else [str(number) for number in range(torch.cuda.device_count())])[
        : torch.cuda.device_count()
    ]


def main() -> None:
    """Run units until the pipe closes."""
    end_with_parent()
    share_processors()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)  # output that libraries print is not an answer
        worker = Worker()
        print(json.dumps(Answer("ready")), file=answers, flush=True)
        for line in sys.stdin:
            print(worker.answer(line), file=answers, flush=True)


if __name__ == "__main__":
    main()
