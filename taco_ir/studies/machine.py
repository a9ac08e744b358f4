"""What a record was made with beside its commands: processor, versions, and the state of this package's source."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import taco_ir

LIBRARIES = ("torch", "transformers", "faiss-cpu", "pyserini", "numpy")


def machine(threads: int, device: str) -> dict[str, Any]:
    """Of this moment, as a record keeps it."""
    return {
        "threads": threads,
        "processor": _processor(device),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "versions": {
            "taco_ir": taco_ir.__version__,
            "python": platform.python_version(),
            **{name: found for name in LIBRARIES if (found := _version(name))},
        },
    }


def commit() -> str:
    """Of the checkout that this package runs from; "" for an installed package, a `+` behind it where files differ from it."""
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / ".git").exists():
        return ""
    git = ["git", "-C", str(checkout)]
    found = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    changed = subprocess.run([*git, "status", "--porcelain", "--", "taco_ir"], capture_output=True, text=True, check=False).stdout.strip()
    return found + "+" * bool(changed)


def _processor(device: str) -> str:
    """What computes: the processor with its cores, and the accelerator where there is one."""
    processor = f"{platform.machine()}, {os.cpu_count()} cores"
    if device == "cpu":
        return processor
    import torch

    return f"{processor}, {torch.cuda.get_device_name(device)}"


def _version(library: str) -> str:
    """Of an installed library; "" for one that is not there: dense retrieval needs no Pyserini."""
    try:
        return version(library)
    except PackageNotFoundError:
        return ""
