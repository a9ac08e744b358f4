"""Reads the log of a training, and passes its lines to watchers, such as pages and trackers.

Watchers get all their data from these lines.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from taco_ir.core.files import read_log, writing
from taco_ir.training.cosines import Cosines
from taco_ir.training.dose import Dose

LOG_FILE = "log.jsonl"

Record = Mapping[str, Any]  # a line of the log


class LogLine(NamedTuple):
    """A line of the log: its step, and its values by task. Infinite and NaN values are None."""

    step: int
    loss: dict[str, float | None] | None = None
    weight: dict[str, float | None] | None = None
    validation: dict[str, float | None] | None = None
    cosine: dict[str, dict[str, float | None]] | None = None
    dose: Dose | None = None
    skipped: list[str] | None = None


class Watcher:
    """Interface that gets all lines of a training's log in order. Steps are counted across episodes."""

    def episode(self) -> None:
        """Called before the lines of the next episode."""

    def line(self, step: int, record: Record) -> None:
        """Called with each line of the log."""

    def begin(self) -> None:
        """Called after all lines that the log already had; later lines are new."""

    def pause(self) -> None:
        """Called after a validation, before a checkpoint, and at the end, so that the watcher shows its data."""

    def close(self) -> None:
        """Called when the training ends or is stopped."""


class Watchers:
    """All watchers of one training. Its folder is `output`."""

    def __init__(self, output: Path, each: Sequence[Watcher] = ()) -> None:
        self._output = output
        self._each = each
        self._episodes, self._before, self._last = 0, 0, 0

    def begin(self, folder: Path) -> None:
        """Begins or resumes an episode in `folder`: passes on the lines in its log and in logs of earlier episodes."""
        for log in log_files(self._output)[self._episodes :]:
            self._read(log)
            if log.parent == folder:
                break
        else:
            self._begin_episode()
        for each in self._each:
            each.begin()

    def read_all(self) -> None:
        """Passes all log lines of a finished training to the watchers."""
        for log in log_files(self._output):
            self._read(log)
        self.pause()

    def line(self, record: Record) -> None:
        self._last = self._before + record["step"]
        for each in self._each:
            each.line(self._last, record)

    def pause(self) -> None:
        for each in self._each:
            each.pause()

    def close(self) -> None:
        for each in self._each:
            each.close()

    def _begin_episode(self) -> None:
        self._episodes, self._before = self._episodes + 1, self._last
        for each in self._each:
            each.episode()

    def _read(self, log: Path) -> None:
        self._begin_episode()
        for text, _ in read_log(log, LogLine):
            self.line(json.loads(text))


def log_files(output: Path) -> list[Path]:
    """Returns the existing log files of a training's episodes, in order."""
    found = sorted(output.glob(f"episode-*/{LOG_FILE}"), key=lambda path: (len(path.parent.name), path.parent.name))
    return found or [path for path in [output / LOG_FILE] if path.is_file()]


def logged_cosines(folder: Path) -> list[tuple[int, Cosines]]:
    """Returns (step, cosines between tasks' gradients) for each step that logged them; NaN if a gradient was zero."""
    found = []
    for _, line in read_log(folder / LOG_FILE, LogLine):
        if line.cosine:
            pairs = {a: {b: math.nan if c is None else c for b, c in row.items()} for a, row in line.cosine.items()}
            found.append((line.step, pairs))
    return found


def logged_dose(folder: Path) -> list[tuple[int, Dose]]:
    """Returns (step, dose) for each step that logged how far its update was from the mean of the gradients."""
    return [(line.step, line.dose) for _, line in read_log(folder / LOG_FILE, LogLine) if line.dose]


def cut_log(path: Path, step: int) -> None:
    """Removes from a log the lines of all steps after `step` (0: all lines), and an incomplete last line."""
    kept = [line + "\n" for line, record in read_log(path, LogLine) if step and record.step <= step]
    with writing(path) as sink:
        sink.writelines(kept)
