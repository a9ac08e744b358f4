"""Verbs as a user runs them, and small collections to run them on."""

from __future__ import annotations

import gzip
import importlib
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import warm

Record = dict[str, Any]


def call(verb: str, *argv: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return warm.run([sys.executable, "-m", f"taco_ir.{verb}", *argv], cwd)


def module_of(verb: str) -> Any:
    """The module of a verb; some verbs are functions of the package too, which have their names."""
    return importlib.import_module(f"taco_ir.{verb}")


def passage(docid: str, text: str, title: str = "") -> Record:
    return {"id": docid, "contents": text, "title": title, "wikipedia_id": docid.partition("#")[0]}


def query(qid: str, text: str, *evidence: Sequence[str]) -> Record:
    """A KILT record; each evidence set is given by its docids."""
    output = [
        {
            "answer": "x",
            "provenance": [{"wikipedia_id": docid.partition("#")[0], "passage_id": docid} for docid in docids],
        }
        for docids in evidence
    ]
    return {"id": qid, "input": text, "output": output}


def write_lines(path: Path, records: Iterable[Record]) -> Path:
    text = "".join(json.dumps(record) + "\n" for record in records)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def write_collection(folder: Path, passages: Iterable[Record], topics: Mapping[str, Iterable[Record]]) -> Path:
    write_lines(folder / "passages.jsonl", passages)
    for name, records in topics.items():
        write_lines(folder / f"{name}.jsonl", records)
    return folder


def without_java(folder: Path) -> dict[str, str]:
    """The environment of a machine whose PATH, in `folder`, has this Python alone."""
    folder.mkdir(parents=True, exist_ok=True)
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    return {
        name: value for name, value in os.environ.items() if name not in ("JAVA_HOME", "JDK_HOME", "OPENAI_API_KEY")
    } | {"PATH": str(folder), "HF_HUB_OFFLINE": "1"}


def shell(block: str, cwd: Path, environment: Mapping[str, str]) -> str:
    """Run lines as they would be pasted, each of which must succeed; what they print."""
    done = subprocess.run(
        ["/bin/bash", "-euo", "pipefail", "-c", block],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{block}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout
