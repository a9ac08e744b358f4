"""Starts Python programs in milliseconds, as forks of a process that has imported torch, transformers and the package.

A program has what a fresh process has: its words, folder, environment, output and errors. It is a child of the process
that asked for it. Only its modules are imported already. Systems other than Linux start fresh processes.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import pkgutil
import runpy
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from subprocess import STDOUT
from tempfile import TemporaryFile
from threading import Lock
from types import ModuleType
from typing import IO, Any, NamedTuple

SET_CHILD_SUBREAPER = 36  # prctl's PR_SET_CHILD_SUBREAPER: orphans below this process become its children
LONGEST = 1 << 17  # bytes of a request
ASKING = Lock()
WAY: list[socket.socket] = []  # to the process that forks, once there is one
Words = Sequence[str | Path]


class Request(NamedTuple):
    """What a new process is to be: `python WORDS` in a folder, and whose child."""

    words: list[str]
    folder: str
    environment: dict[str, str]
    parent: int


def load() -> None:
    """Import what verbs use, once; nothing here starts a thread or a JVM."""
    os.environ.update({"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"})
    import faiss  # noqa: F401
    import pandas  # noqa: F401
    import torch
    from transformers import AutoConfig, AutoModel, AutoTokenizer, BertForMaskedLM, BertModel  # noqa: F401

    import taco_ir

    for found in pkgutil.walk_packages(taco_ir.__path__, "taco_ir."):
        if found.name.count(".") > 1 and not found.name.endswith("__main__"):
            importlib.import_module(found.name)
    torch.set_num_threads(1)


def _pair() -> tuple[socket.socket, socket.socket]:
    """This process's end of the way to one that forks, which ends with this one, and the other end."""
    ctypes.CDLL(None).prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def _server() -> socket.socket:
    """The way to the process that forks."""
    if not WAY:
        ours, theirs = _pair()
        with theirs:
            command = [sys.executable, __file__, str(theirs.fileno())]
            subprocess.Popen(command, cwd=Path(__file__).parent, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        WAY.append(ours)
    return WAY[0]


def divide() -> Request | None:
    """Let programs begin as copies of this process; None here, and in such a copy what it is to `become`."""
    if sys.platform != "linux":
        return None
    ours, theirs = _pair()
    if os.fork():
        theirs.close()
        WAY.append(ours)
        return None
    ours.close()
    return _serve(theirs)


class Popen:
    """A program that runs: as much of `subprocess.Popen` as tests use."""

    def __init__(
        self,
        args: Words,
        *,
        stdout: IO[Any],
        stderr: IO[Any] | int = STDOUT,
        cwd: str | Path = ".",
        env: Mapping[str, str] | None = None,
    ) -> None:
        words = list(map(str, args))
        assert words[0] == sys.executable
        environment = dict(os.environ if env is None else env)
        request = Request(words[1:], str(Path(cwd).resolve()), environment, os.getpid())
        errors = stdout if isinstance(stderr, int) else stderr
        with ASKING:
            socket.send_fds(_server(), [json.dumps(request).encode()], [stdout.fileno(), errors.fileno()])
            self.pid = int(_server().recv(LONGEST))
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code; None while the program runs."""
        if self.returncode is None and (ended := os.waitpid(self.pid, os.WNOHANG))[0]:
            self.returncode = os.waitstatus_to_exitcode(ended[1])
        return self.returncode

    def wait(self) -> int:
        """Wait for the end; the exit code."""
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


def run(args: Words, cwd: str | Path = ".", env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; its exit code, and what it printed."""
    if sys.platform != "linux":
        return subprocess.run(args, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    with TemporaryFile("w+", encoding="utf-8") as output, TemporaryFile("w+", encoding="utf-8") as errors:
        code = Popen(args, stdout=output, stderr=errors, cwd=cwd, env=env).wait()
        output.seek(0)
        errors.seek(0)
        return subprocess.CompletedProcess(list(map(str, args)), code, output.read(), errors.read())


def _serve(channel: socket.socket) -> Request:
    """Fork for each request; returns it in the new process. Ends when nobody can ask any more."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(channel, LONGEST, 2)
        if not message:
            os._exit(0)
        if middle := os.fork():
            os.waitpid(middle, 0)
            for descriptor in descriptors:
                os.close(descriptor)
            continue
        if os.fork():
            os._exit(0)  # the new process is an orphan, which the one that asked adopts
        request = Request(*json.loads(message))
        while os.getppid() != request.parent:
            time.sleep(0.0005)
        for place, descriptor in enumerate(descriptors, 1):
            os.dup2(descriptor, place)
            os.close(descriptor)
        channel.send(str(os.getpid()).encode())
        channel.close()
        return request


def become(request: Request) -> None:
    """Run the program in this process, as if it were its own."""
    words = request.words
    os.environ.clear()
    os.environ.update(request.environment)
    os.chdir(request.folder)
    if words[0] == "-m":
        sys.path[0], sys.argv = request.folder, words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        sys.path[0], sys.argv = "", ["-c", *words[2:]]
        main = sys.modules["__main__"] = ModuleType("__main__")
        exec(compile(words[1], "<string>", "exec"), main.__dict__)
    else:
        sys.path[0], sys.argv = str(Path(words[0]).resolve().parent), words
        runpy.run_path(words[0], run_name="__main__")


if __name__ == "__main__":
    load()
    gc.freeze()
    become(_serve(socket.socket(fileno=int(sys.argv[1]))))
