"""How far the streams of examples were read by the trainings that led to a model, so that the next one goes on from there.

A model folder's `stream.json` says it: {"steps": 120, "dealt": {"nq": {"examples": "0123456789abcdef", "size": 34, ...}}}. No vector depends on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, NamedTuple

from taco_ir.core.files import read_json, write_json
from taco_ir.training.batches import Dealt

STREAM_FILE = "stream.json"
NEW = Dealt()


class Stream(NamedTuple):
    """Steps of all trainings before, and what was dealt to each task."""

    steps: Annotated[int, 0] = 0
    dealt: Mapping[str, Dealt] = {}

    def of(self, task: str) -> Dealt:
        return self.dealt.get(task, NEW)

    def after(self, steps: int, dealt: Mapping[str, Dealt]) -> Stream:
        """After a training of so many steps that dealt to some tasks; the others stay where they were."""
        return Stream(self.steps + steps, {**self.dealt, **dealt})

    def __str__(self) -> str:
        return f"{self.steps:,} steps: " + ", ".join(
            f"{task} {dealt.batches:,} batches" for task, dealt in self.dealt.items()
        )


def read_stream(folder: Path) -> Stream:
    """How far the streams of the model in `folder` were read; not at all where it does not say. Raises: InputError for another file of that name."""
    path = folder / STREAM_FILE
    if not path.is_file():
        return Stream()
    return read_json(path, Stream, "remove it to begin anew")


def write_stream(folder: Path, stream: Stream) -> None:
    write_json(
        folder / STREAM_FILE,
        {"steps": stream.steps, "dealt": {task: dealt._asdict() for task, dealt in stream.dealt.items()}},
    )
