"""Writes the log of a training, one JSON line for every step and validation, and shows progress in a terminal."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from taco_ir.core.files import named
from taco_ir.core.processes import Progress
from taco_ir.training.dose import Dose
from taco_ir.training.logged import LOG_FILE, Watchers, cut_log
from taco_ir.training.step import StepResult


class Reporter:
    """Interface that receives the progress of an episode; this base class ignores it."""

    def skip(self, step: int) -> None:
        """Called when training resumes after `step`."""

    def progress(self, step: int, note: str) -> None:
        """Called after each step. `note` is a short text to show, such as the losses."""

    def message(self, text: str) -> None:
        """Called with a message that the user should not miss."""


class ConsoleReporter(Reporter):
    """Prints a progress line and messages to stderr."""

    def __init__(self, steps: int, what: str = "train") -> None:
        self._progress = Progress(what, steps, "steps")

    def skip(self, step: int) -> None:
        self._progress.skip(step)

    def progress(self, step: int, note: str) -> None:
        self._progress.at(step, note)

    def message(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


class TrainingLog:
    """Writes `log.jsonl`. Also tells a reporter the progress, and passes each line to watchers (pages and trackers).

    Args:
        folder: folder of the log; None: write nothing, as in all processes except the first.
        step: the step after which training resumes; lines of later steps are removed.
    """

    def __init__(self, folder: Path | None, reporter: Reporter, step: int, watchers: Watchers | None = None) -> None:
        self._path = folder / LOG_FILE if folder else None
        self._reporter = reporter
        self._watchers = watchers if folder else None
        if self._path and self._path.is_file():
            cut_log(self._path, step)
        if folder and self._watchers:
            self._watchers.begin(folder)

    def step(
        self, step: int, result: StepResult, rate: float, update_norm: float, seconds: float, dose: Dose | None = None
    ) -> None:
        """Logs a step with its learning rate and time. A skipped step has no weights and no update."""
        record: dict[str, Any] = {"step": step, "learning_rate": rate, "seconds": round(seconds, 4)}
        record |= {"loss": result.losses, **({"gradient_norm": result.norms} if result.norms else {})}
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
        if dose is not None:
            record["dose"] = dose._asdict()
        self._write(record)
        self._reporter.progress(step, " ".join(f"{task} {loss:.3f}" for task, loss in result.losses.items()))

    def validation(self, step: int, scores: Mapping[str, float], what: str) -> None:
        """Logs the scores of a validation by name, such as the task; `what` names the measure."""
        self._write({"step": step, "validation": dict(scores)})
        found = ", ".join(f"{task} {score:.3f}" for task, score in scores.items())
        self._reporter.message(f"step {step}: {what}: {found}")

    def pause(self) -> None:
        """Lets watchers show or send what has been logged so far."""
        if self._watchers:
            self._watchers.pause()

    def message(self, text: str) -> None:
        self._reporter.message(text)

    def _write(self, record: dict[str, Any]) -> None:
        if self._path:
            record = _finite(record)
            with named(self._path), self._path.open("a", encoding="utf-8") as sink:
                sink.write(json.dumps(record) + "\n")
            if self._watchers:
                self._watchers.line(record)


def _finite(value: Any) -> Any:
    """Replaces infinite and NaN numbers by None, because JSON does not have them."""
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
