"""A training's log: a line of JSON for every step and validation, and reports to a terminal and TensorBoard."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from taco_ir.core.files import InputError, named, read_log, writing
from taco_ir.core.processes import Progress
from taco_ir.training.cosines import Cosines
from taco_ir.training.dose import Dose
from taco_ir.training.step import StepResult

LOG_FILE = "log.jsonl"


class LogLine(NamedTuple):
    """What is read back of a line of the log: its step; the cosines of the tasks' gradients and the dose, if there."""

    step: int
    cosine: dict[str, dict[str, float | None]] | None = None
    dose: Dose | None = None


class Reporter:
    """Receives the progress of an episode; this base class ignores it."""

    def skip(self, step: int) -> None:
        """Training resumes after `step`."""

    def progress(self, step: int, note: str) -> None:
        """After each step."""

    def message(self, text: str) -> None:
        """Something that a user should not miss."""

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Numbers to plot."""


class ConsoleReporter(Reporter):
    """Prints a progress line and messages on stderr; with a folder, writes scalars for TensorBoard to it."""

    def __init__(self, steps: int, tensorboard: Path | None, what: str = "train") -> None:
        self._progress = Progress(what, steps, "steps")
        self._writer: Any = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(tensorboard / "tensorboard"))

    def skip(self, step: int) -> None:
        self._progress.skip(step)

    def progress(self, step: int, note: str) -> None:
        self._progress.at(step, note)

    def message(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        if self._writer:
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)
            self._writer.flush()


class TrainingLog:
    """Writes `log.jsonl` and passes progress on to a reporter.

    Args:
        folder: where the log is; None: nothing is written (all processes but the first).
        step: the step that training resumes after; later lines are dropped.
    """

    def __init__(self, folder: Path | None, reporter: Reporter, step: int) -> None:
        self._path = folder / LOG_FILE if folder else None
        self._reporter = reporter
        if self._path and self._path.is_file():
            _cut(self._path, step)

    def step(
        self,
        step: int,
        result: StepResult,
        rate: float,
        update_norm: float,
        seconds: float,
        dose: Dose | None = None,
    ) -> None:
        """Log a step; one that was skipped has no weights and no update."""
        record: dict[str, Any] = {"step": step, "learning_rate": rate, "seconds": round(seconds, 4)}
        record |= {"loss": result.losses, "gradient_norm": result.norms}
        if result.report is None:
            record["skipped"] = result.not_finite
            self._reporter.message(
                f"step {step}: skipped, the gradient of {', '.join(result.not_finite)} is not finite"
            )
        else:
            record["weight"] = dict(zip(result.losses, result.report.weights, strict=True))
            record |= {"update_norm": update_norm, **result.report.details}
        if result.cosines is not None:
            record["cosine"] = result.cosines
        scalars = {f"loss/{task}": loss for task, loss in result.losses.items()}
        if dose is not None:
            record["dose"] = dose._asdict()
            scalars |= {f"dose/{name}": value for name, value in record["dose"].items() if value is not None}
        self._write(record)
        self._reporter.scalars(step, scalars | {"learning_rate": rate, "update_norm": update_norm})
        self._reporter.progress(step, " ".join(f"{task} {loss:.3f}" for task, loss in result.losses.items()))

    def validation(self, step: int, scores: Mapping[str, float], what: str) -> None:
        """Log scores by name; `what` says which measure they are."""
        self._write({"step": step, "validation": dict(scores)})
        found = ", ".join(f"{task} {score:.3f}" for task, score in scores.items())
        self._reporter.message(f"step {step}: {what}: {found}")
        self._reporter.scalars(step, {f"validation/{task}": score for task, score in scores.items()})

    def message(self, text: str) -> None:
        self._reporter.message(text)

    def _write(self, record: dict[str, Any]) -> None:
        if self._path:
            with named(self._path), self._path.open("a", encoding="utf-8") as sink:
                sink.write(json.dumps(_finite(record)) + "\n")


def logged_cosines(folder: Path) -> list[tuple[int, Cosines]]:
    """The logged steps with cosines of the tasks' gradients; NaN for a gradient of zeros."""
    found = []
    for _, line in read_log(folder / LOG_FILE, LogLine):
        if line.cosine:
            pairs = {a: {b: math.nan if c is None else c for b, c in row.items()} for a, row in line.cosine.items()}
            found.append((line.step, pairs))
    return found


def logged_dose(folder: Path) -> list[tuple[int, Dose]]:
    """The logged steps whose dose was measured."""
    return [(line.step, line.dose) for _, line in read_log(folder / LOG_FILE, LogLine) if line.dose]


def _finite(value: Any) -> Any:
    """`value` with None for numbers that JSON does not have."""
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cut(path: Path, step: int) -> None:
    """Drop the lines after `step`, and one that was cut short."""
    kept = [line + "\n" for line, record in read_log(path, LogLine) if step and record.step <= step]
    with writing(path) as sink:
        sink.writelines(kept)


def require_tensorboard() -> None:
    """Raise InputError where TensorBoard is not installed; asked before a run's work, not after its mining."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise InputError("--tensorboard needs the package tensorboard; `pip install tensorboard`") from error
