"""What a record says beside its scores: how the training went, how many parameters a system needs, on what machine it ran."""

from __future__ import annotations

import math
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import taco_ir
from taco_ir.core.files import InputError, read_json, read_log
from taco_ir.encoders.model_folder import ModelFolder
from taco_ir.encoders.weights import SCALES
from taco_ir.training.settings import MLM

SIZE_FILE = "parameters.json"
NUMBER = re.compile(r"\d+")


class Validation(NamedTuple):
    """What is read of a validation's scores."""

    macro: float | None = None


class LogLine(NamedTuple):
    """What is read of a line of a training's log."""

    step: int
    validation: Validation | None = None


def curve(training: Path) -> list[tuple[int, float]]:
    """(step, macro page R-precision) of each validation of the last training under a folder; nothing where there is none."""
    log = _last(training, "log.jsonl")
    lines = read_log(log, LogLine) if log else ()
    return [
        (line.step, line.validation.macro) for _, line in lines if line.validation and line.validation.macro is not None
    ]


def held_out(training: Path) -> float | None:
    """The best of a curve after its first step; None where nothing was validated then: what a training began with is not its doing."""
    return max((macro for step, macro in curve(training) if step), default=None)


def sizes(training: Path) -> dict[str, int]:
    """Parameters trained, and those of the whole encoder, in the last training under a folder; nothing where there is none."""
    file = _last(training, SIZE_FILE)
    return read_json(file, dict[str, int]) if file else {}


def _last(training: Path, name: str) -> Path | None:
    """The file of the last training under a folder, whose episodes are counted: episode-10 is after episode-2."""
    return max(
        training.glob(f"**/{name}"), key=lambda path: [NUMBER.sub(_padded, part) for part in path.parts], default=None
    )


def _padded(number: re.Match[str]) -> str:
    return number[0].zfill(9)


def kept(training: Path) -> dict[str, Any]:
    """Both, as a record of results keeps them."""
    found = {"curve": curve(training), "parameters": sizes(training)}
    return {name: value for name, value in found.items() if value}


def best_first(tried: dict[str, Path]) -> dict[str, float]:
    """What was tried, by name, with its held-out score, the best first. Raises: InputError for a training that was not validated."""
    scores = {name: held_out(training) for name, training in tried.items()}
    if blind := [name for name, score in scores.items() if score is None]:
        raise InputError(
            f"{tried[blind[0]]}: no validation in it; what is to be chosen among must be validated on held-out queries"
        )
    known = {name: score for name, score in scores.items() if score is not None}
    return dict(sorted(known.items(), key=lambda item: -item[1]))


MODELS = ("--model", "--reader")
TRAINING_ONLY = (MLM, "condenser")  # heads, by how their files' names begin
UNUSED = ("pooler.", "cls.")  # tensors of base models that no vector depends on


def parameters(commands: Iterable[Sequence[str]]) -> int:
    """Of the folders behind --model and --reader; adapters count with their backbone. Hub names count nothing."""
    named = {Path(value).resolve() for words in commands for flag, value in pairwise(words) if flag in MODELS}
    based = {(folder / record.base).resolve() for folder in named if (record := ModelFolder(folder).record) is not None}
    return sum(map(_numbers, {path for folder in named | based for path in folder.rglob("*.safetensors")}))


def _numbers(path: Path) -> int:
    from safetensors import safe_open

    if path.name.startswith(TRAINING_ONLY):
        return 0
    with safe_open(path, "pt") as source:
        names = source.keys()  # no mapping: it cannot be iterated over
        kept = [name for name in names if not any(part in name for part in UNUSED) and not name.endswith(SCALES)]
        return sum(math.prod(source.get_slice(name).get_shape()) for name in kept)


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
    changed = subprocess.run(
        [*git, "status", "--porcelain", "--", "taco_ir"], capture_output=True, text=True, check=False
    ).stdout.strip()
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
