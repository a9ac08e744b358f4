"""A training's progress on the terminal, and its numbers for TensorBoard."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from taco_ir.core.files import InputError
from taco_ir.core.progress import Progress
from taco_ir.training.log import Reporter


class ConsoleReporter(Reporter):
    """Prints a progress line and messages on stderr; with a folder, writes scalars for TensorBoard to it.

    Raises:
        InputError: where TensorBoard is asked for and not installed.
    """

    def __init__(self, steps: int, tensorboard: Path | None, what: str = "train") -> None:
        self._progress = Progress(what, steps, "steps")
        self._writer = _writer(tensorboard) if tensorboard else None

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


def require_tensorboard() -> None:
    """Raise InputError where TensorBoard is not installed; asked before a run's work, not after its mining."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise InputError("--tensorboard needs the package tensorboard; `pip install tensorboard`") from error


def _writer(folder: Path) -> Any:
    require_tensorboard()
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder / "tensorboard"))
