"""Collects a record's facts besides scores: the course of the training, the size of the system, and the machine."""

from __future__ import annotations

import math
import os
import platform
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import taco_ir
from taco_ir.core.files import InputError, read_json, read_log
from taco_ir.core.processes import current_commit
from taco_ir.encoders.model_folder import ModelFolder
from taco_ir.encoders.weights import SCALES
from taco_ir.training.settings import MLM

SIZE_FILE = "parameters.json"
NUMBER = re.compile(r"\d+")
MODELS = ("--model", "--reader")
TRAINING_ONLY = (MLM, "condenser")  # beginnings of the file names of heads
UNUSED = ("pooler.", "cls.")  # tensors of base models that do not affect vectors
LIBRARIES = ("torch", "transformers", "faiss-cpu", "pyserini", "numpy")


class Validation(NamedTuple):
    """The part of a validation's scores that is read from a training log."""

    macro: float | None = None


class LogLine(NamedTuple):
    """The part of a line of a training log that is read."""

    step: int
    validation: Validation | None = None


def read_curve(training: Path) -> list[tuple[int, float]]:
    """Read (step, macro page R-precision) of each validation in the last training in a folder; empty if none."""
    log = _find_last(training, "log.jsonl")
    lines = [line for _, line in read_log(log, LogLine)] if log else []
    return [
        (each.step, each.validation.macro) for each in lines if each.validation and each.validation.macro is not None
    ]


def best_validation(training: Path) -> float | None:
    """Return the best validation score after step 0 of the last training in a folder; None without validations."""
    return max((macro for step, macro in read_curve(training) if step), default=None)


def read_sizes(training: Path) -> dict[str, int]:
    """Read the numbers of parameters (`trained`, `backbone`) of the last training in a folder; empty if none."""
    file = _find_last(training, SIZE_FILE)
    return read_json(file, dict[str, int]) if file else {}


def _find_last(training: Path, name: str) -> Path | None:
    """Return the file `name` of the last training in a folder; episode-10 comes after episode-2."""

    def place(path: Path) -> list[str]:
        return [NUMBER.sub(lambda number: number[0].zfill(9), part) for part in path.parts]

    return max(training.glob(f"**/{name}"), key=place, default=None)


def read_dose(training: Path) -> dict[str, float | None]:
    """Read the mean dose of the last training in a folder (see `training.dose.Dose`); empty if none was logged."""
    from taco_ir.training.dose import mean_dose
    from taco_ir.training.logged import logged_dose

    log = _find_last(training, "log.jsonl")
    logged = logged_dose(log.parent) if log else []
    return mean_dose([dose for _, dose in logged])._asdict() if logged else {}


def training_facts(training: Path) -> dict[str, Any]:
    """Collect the curve, the numbers of parameters and the dose of a training, as far as they exist."""
    found = {"curve": read_curve(training), "parameters": read_sizes(training), "dose": read_dose(training)}
    return {name: value for name, value in found.items() if value}


def rank_trainings(trainings: dict[str, Path]) -> dict[str, float]:
    """Return the held-out score of each training, best first. Raises: InputError for a training without validation."""
    scores: dict[str, float] = {}
    for name, training in trainings.items():
        score = best_validation(training)
        if score is None:
            raise InputError(
                f"{training}: it has no validation; the best of several trainings can be chosen only if all are "
                "validated on held-out queries"
            )
        scores[name] = score
    return dict(sorted(scores.items(), key=lambda item: -item[1]))


def count_parameters(commands: Iterable[Sequence[str]]) -> int:
    """Count parameters of the models in --model and --reader. Adapters include their backbone; hub names count as 0."""
    named = {Path(value).resolve() for words in commands for flag, value in pairwise(words) if flag in MODELS}
    based = {(folder / record.base).resolve() for folder in named if (record := ModelFolder(folder).record) is not None}
    return sum(map(_count_numbers, {path for folder in named | based for path in folder.rglob("*.safetensors")}))


def _count_numbers(path: Path) -> int:
    from safetensors import safe_open

    if path.name.startswith(TRAINING_ONLY):
        return 0
    with safe_open(path, "pt") as source:
        names = source.keys()  # no mapping: it cannot be iterated over
        used = [name for name in names if not any(part in name for part in UNUSED) and not name.endswith(SCALES)]
        return sum(math.prod(source.get_slice(name).get_shape()) for name in used)


def machine_facts(threads: int, device: str) -> dict[str, Any]:
    """Return the processor, threads, time, commit, and the versions of installed libraries."""
    processor = f"{platform.machine()}, {os.cpu_count()} cores"
    if device != "cpu":
        import torch

        processor += f", {torch.cuda.get_device_name(device)}"
    versions = {"taco_ir": taco_ir.__version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    machine = {"threads": threads, "processor": processor}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {**machine, "finished": now, "commit": current_commit(), "versions": versions}
