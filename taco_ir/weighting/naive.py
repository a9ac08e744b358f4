"""Naive multi-task training: the update is the mean of the task gradients."""

from __future__ import annotations

from taco_ir.weighting.accumulation import StreamingSum
from taco_ir.weighting.base import Gradients, StepReport


class Naive(StreamingSum):
    """Every task weighs 1/T. No state, no options."""

    def _fold(self, task: int, gradients: Gradients) -> None:
        del task
        self._accumulate(gradients, 1 / self.tasks)

    def _update(self) -> tuple[Gradients, StepReport]:
        return self._sum, StepReport((1 / self.tasks,) * self.tasks, {})
