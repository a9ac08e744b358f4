"""One step of multi-task training: a batch of every task, its gradient, and what the weighting makes of them all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter

from taco_ir.training.batches import Dealt
from taco_ir.training.encoder import DualEncoder
from taco_ir.training.objectives.base import Objective
from taco_ir.training.schedules import Schedule
from taco_ir.training.sketch import Cosines, GradientSketch, pairs
from taco_ir.weighting.base import StepReport, TaskWeighting
from taco_ir.weighting.naive import Naive


class StepResult(NamedTuple):
    """What a step saw; `report` is None where it was skipped, because of the tasks in `not_finite`.

    `cosines` of the tasks' gradients are None where they were not asked for.
    """

    losses: dict[str, float]
    norms: dict[str, float]
    report: StepReport | None
    not_finite: list[str]
    cosines: Cosines | None = None


class MultiTaskStep:
    """Computes the update of a global step from its tasks; the same numbers for one process and many, up to rounding.

    Args:
        weighting: for steps that take all tasks; those that take some take the mean of their gradients.
        schedule: which tasks a step takes; None: all of them.
        log_cosines: steps from one whose tasks' gradients are compared to the next; 0: none are.
    """

    def __init__(
        self,
        model: DualEncoder,
        objectives: Sequence[Objective],
        weighting: TaskWeighting,
        schedule: Schedule | None = None,
        log_cosines: int = 0,
    ) -> None:
        self.model = model
        self.params: list[Parameter] = [param for _, param in model.trained()]
        self.objectives = objectives
        self.weighting = weighting
        self._schedule = schedule
        self._log_cosines = log_cosines
        self._sketch = GradientSketch(self.params)

    def __call__(self, step: int, progress: float) -> StepResult:
        """Leave the combined gradient of global step `step` in .grad of the parameters, or none where a task's is not finite."""
        losses: dict[str, float] = {}
        norms, not_finite = {}, []
        compared = self._log_cosines > 0 and step % self._log_cosines == 0
        sketches: list[Tensor] = []
        parts: list[int] = []  # of each task's loss
        turns = self.turns(step)
        weighting = self.weighting if len(turns) == len(self.objectives) else Naive(self.params, len(turns))
        weighting.begin(progress)
        for number, (objective, turn) in enumerate(turns):
            task_loss = objective.backward(objective.batch(turn))
            grads = [param.grad for param in self.params if param.grad is not None]
            task_norm = torch.nn.utils.get_total_norm([grad.values() if grad.is_sparse else grad for grad in grads])
            loss, norm = torch.stack([task_loss.to(task_norm), task_norm]).tolist()  # an accelerator is waited for once
            own = objective.losses(loss)
            norms[objective.task] = norm
            losses |= own
            parts.append(len(own))
            if not math.isfinite(norm + loss):
                not_finite += [part for part, value in own.items() if not math.isfinite(value)] or list(own)
            if not_finite:
                for param in self.params:
                    param.grad = None
            else:
                if compared:
                    sketches.append(self._sketch([param.grad for param in self.params]))
                try:
                    weighting.add(number, loss, self.params)
                except FloatingPointError:  # finite, but its products are not
                    not_finite += own
        report = None
        if not not_finite:
            try:
                report = weighting.combine(self.params)
            except FloatingPointError:
                not_finite = list(losses)
        if report is None:
            weighting.drop()
        elif len(losses) > len(turns):
            weights = (weight for weight, count in zip(report.weights, parts, strict=True) for _ in range(count))
            report = report._replace(weights=tuple(weights))
        cosines = pairs(list(losses), sketches) if compared and report is not None else None
        return StepResult(losses, norms, report, not_finite, cosines)

    def turns(self, step: int) -> list[tuple[Objective, int]]:
        """The tasks of global step `step`, each with the number of its batch."""
        if self._schedule is None:
            return [(objective, objective.sampler.first + step) for objective in self.objectives]
        return [
            (self.objectives[task], self.objectives[task].sampler.first + batch)
            for task, batch in self._schedule.turns(step)
        ]

    def dealt(self, steps: int) -> dict[str, Dealt]:
        """How far each task's stream was dealt after so many steps."""
        batches = self._schedule.batches(steps) if self._schedule else [steps] * len(self.objectives)
        return {each.task: each.sampler.dealt(own) for each, own in zip(self.objectives, batches, strict=True)}
