"""Starts a program as torchrun does: several processes, each with its rank."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Sequence
from pathlib import Path

import warm


def run_ranks(argv: Sequence[str | Path], world: int, folder: Path, code: int = 0) -> list[str]:
    """Run a program in so many processes, which must end with this code; returns what each printed, by rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started, logs = [], [folder / f"log-{rank}-of-{world}" for rank in range(world)]
    for rank, log in enumerate(logs):
        env = os.environ | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
        env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        with log.open("w") as output:
            started.append(warm.Popen(argv, stdout=output, env=env))
    try:
        for rank, (process, log) in enumerate(zip(started, logs, strict=True)):
            assert process.wait() == code, f"process {rank}: {log.read_text()[-3000:]}"
            if code:
                break  # torchrun ends the others
    finally:
        for process in started:
            process.send_signal(signal.SIGKILL)
    return [log.read_text() for log in logs]
