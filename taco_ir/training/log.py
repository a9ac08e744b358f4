"""What a training says of itself: a line of JSON for every step and validation, and whoever listens."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from taco_ir.core.files import named, read_log, writing
from taco_ir.training.sketch import Cosines
from taco_ir.training.step import StepResult

LOG_FILE = "log.jsonl"


class LogLine(NamedTuple):
    """What is read of a line of a log: the step, and the cosines of its tasks' gradients, where there are some."""

    step: int
    cosine: dict[str, dict[str, float | None]] | None = None


class Reporter:
    """Where an episode says how it goes; this one says nothing."""

    def skip(self, step: int) -> None:
        """Training goes on after `step`."""

    def progress(self, step: int, note: str) -> None:
        """After each step."""

    def message(self, text: str) -> None:
        """What a reader should not miss."""

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Numbers to plot."""


class TrainingLog:
    """Writes `log.jsonl` and tells a reporter.

    Args:
        folder: of the log; None: nothing is written (all processes but the first).
        step: what was logged after it, before training was stopped, is dropped.
    """

    def __init__(self, folder: Path | None, reporter: Reporter, step: int) -> None:
        self._path = folder / LOG_FILE if folder else None
        self._reporter = reporter
        if self._path and self._path.is_file():
            _cut(self._path, step)

    def step(self, step: int, result: StepResult, rate: float, update_norm: float, seconds: float) -> None:
        """Step `step` is done, or was skipped: then without weights and update."""
        record: dict[str, Any] = {"step": step, "learning_rate": rate, "seconds": round(seconds, 4)}
        record |= {"loss": result.losses, "gradient_norm": result.norms}
        if result.report is None:
            record["skipped"] = result.not_finite
            self._reporter.message(
                f"step {step}: skipped, the gradient of {', '.join(result.not_finite)} is not finite"
            )
        else:
            record |= {
                "weight": dict(zip(result.losses, result.report.weights, strict=True)),
                "update_norm": update_norm,
            }
            record |= dict(result.report.details)
        if result.cosines is not None:
            record["cosine"] = result.cosines
        self._write(record)
        scalars = {f"loss/{task}": loss for task, loss in result.losses.items()}
        self._reporter.scalars(step, scalars | {"learning_rate": rate, "update_norm": update_norm})
        self._reporter.progress(step, " ".join(f"{task} {loss:.3f}" for task, loss in result.losses.items()))

    def validation(self, step: int, scores: Mapping[str, float], what: str) -> None:
        """Scores by name; `what` says of what kind."""
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
    """Steps of an episode's log with the cosines of its tasks' gradients, where it has them; NaN for a gradient of zeros."""
    return [
        (
            line.step,
            {
                a: {b: math.nan if value is None else value for b, value in row.items()}
                for a, row in line.cosine.items()
            },
        )
        for _, line in read_log(folder / LOG_FILE, LogLine)
        if line.cosine
    ]


def _finite(value: Any) -> Any:
    """JSON has no numbers that are not finite: null stands for them."""
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cut(path: Path, step: int) -> None:
    """Drop what was logged after `step`, and a line cut short."""
    kept = [line + "\n" for line, record in read_log(path, LogLine) if step and record.step <= step]
    with writing(path) as sink:
        sink.writelines(kept)
