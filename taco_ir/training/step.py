"""One step of multi-task training: a batch of every task, its gradient, and the weighting that combines them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter

from taco_ir.core import resolve
from taco_ir.core.settings import check_arguments
from taco_ir.training.cosines import Cosines, GradientSketch, pair_cosines
from taco_ir.training.dose import DoseMeter
from taco_ir.training.encoder import DualEncoder
from taco_ir.training.objectives.base import Objective
from taco_ir.training.sampling import StreamPosition
from taco_ir.training.schedules import Schedule
from taco_ir.training.settings import WeightingSettings
from taco_ir.weighting import WEIGHTINGS
from taco_ir.weighting.base import StepReport, TaskWeighting
from taco_ir.weighting.fixed import Naive


class StepResult(NamedTuple):
    """The result of a training step.

    Attributes:
        losses: the loss of each task, by name.
        norms: the norm of each task's gradient, by name; empty if several processes send only the weighted sum.
        report: the weighting's report; None if the step was skipped.
        not_finite: names of tasks with infinite or NaN gradients; if there are any, the step is skipped.
        cosines: cosines between the tasks' gradients; None in steps that do not log them.
    """

    losses: dict[str, float]
    norms: dict[str, float]
    report: StepReport | None
    not_finite: list[str]
    cosines: Cosines | None = None


class MultiTaskStep:
    """Computes the update of a step from the gradients of its tasks. It does not depend on the number of processes.

    Several processes sum the gradient of each task, T P numbers a step. With a linear weighting they sum only the
    update, P numbers. Steps that log cosines or the dose then also sum each task's gradient, for the log alone, so that
    the log changes no update.

    Args:
        weighting: combines the gradients of all tasks. If a step has only some tasks, their mean gradient is used.
        schedule: tells which tasks each step trains on; None: all.
        log_cosines: compute the cosines between the tasks' gradients every N steps; 0: never.
        log_dose: measure every N steps how far the update is from the mean of the gradients; 0: never.

    Attributes:
        dose: the meter for `log_dose`, to call after the optimiser.
    """

    def __init__(
        self,
        model: DualEncoder,
        objectives: Sequence[Objective],
        weighting: TaskWeighting,
        schedule: Schedule | None = None,
        log_cosines: int = 0,
        log_dose: int = 0,
    ) -> None:
        self.model = model
        self.params: list[Parameter] = [param for _, param in model.trained_parameters()]
        self.objectives = objectives
        self.weighting = weighting
        self._processes = objectives[0].means.processes
        self._schedule = schedule
        self._log_cosines = log_cosines
        self._sketch = GradientSketch(self.params)
        self.dose = DoseMeter(self.params, weighting, log_dose)

    def __call__(self, step: int, progress: float) -> StepResult:
        """Leaves the combined gradient of a step in `.grad`; None if a task's gradient is not finite."""
        losses: dict[str, float] = {}
        norms: dict[str, float] = {}
        not_finite: list[str] = []
        compared = self._log_cosines > 0 and step % self._log_cosines == 0
        sketches: list[Tensor] = []
        parts: list[int] = []  # number of terms of each task's loss
        turns = self.turns(step)
        weighting = self.weighting if len(turns) == len(self.objectives) else Naive(self.params, len(turns))
        weighting.begin(progress)
        self.dose.begin(step, len(turns))
        once = weighting.linear and self._processes.world > 1 and len(turns) > 1  # not for each task
        weighting.total = partial(self._processes.sum_gradients, loss=torch.zeros(())) if once else None
        for number, (objective, turn) in enumerate(turns):
            loss, norm = self._backward(objective, turn, once)
            own = objective.losses(loss)
            norms |= {} if once else {objective.task: norm}
            losses |= own
            parts.append(len(own))
            if not math.isfinite(norm + loss):
                not_finite += [part for part, value in own.items() if not math.isfinite(value)] or list(own)
            if not_finite:
                for param in self.params:
                    param.grad = None
            else:
                if compared or self.dose.wanted:
                    with self._processes.summed(self.params) if once else nullcontext():
                        norms |= {objective.task: float(self._norm())} if once else {}
                        sketches += [self._sketch([param.grad for param in self.params])] if compared else []
                        self.dose.add()
                try:
                    weighting.add(number, loss, self.params)
                except FloatingPointError:  # the gradient is finite, but its products are not
                    not_finite += own
        report = None
        if not not_finite:
            try:
                report = weighting.combine(self.params)
            except FloatingPointError:
                not_finite = list(losses)
        if report is None:
            weighting.drop()
            self.dose.drop()
        elif len(losses) > len(turns):
            weights = (weight for weight, count in zip(report.weights, parts, strict=True) for _ in range(count))
            report = report._replace(weights=tuple(weights))
        cosines = pair_cosines(list(losses), sketches) if compared and report is not None else None
        return StepResult(losses, norms, report, not_finite, cosines)

    def _backward(self, objective: Objective, turn: int, once: bool) -> tuple[float, float]:
        """Leaves the gradient of a task's batch in `.grad`; returns its loss and its norm.

        Args:
            once: leave only this process's part of the gradient, and return the sum of the parts' norms instead, which
                is finite if all parts are.
        """
        loss = objective.backward(objective.batch(turn), not once)
        norm = self._norm()
        found = torch.stack([loss.to(norm), norm])
        if once:
            self._processes.sum(found := found.to(loss.device))
        value, size = found.tolist()  # waits for the device only once
        return value, size

    def _norm(self) -> Tensor:
        """Returns the norm of all gradients in `.grad`, a scalar."""
        grads = [param.grad for param in self.params if param.grad is not None]
        return torch.nn.utils.get_total_norm([grad.values() if grad.is_sparse else grad for grad in grads])

    def extra_bytes(self, options: Mapping[str, Any]) -> int:
        """Returns how many bytes weighting and log take at most; `options` are the user's for the weighting."""
        size = sum(param.numel() for param in self.params)
        copy = 4 * size * (self.weighting.linear and self._processes.world > 1)
        return self.weighting.extra_bytes(size, len(self.objectives), **options) + self.dose.extra_bytes + copy

    def turns(self, step: int) -> list[tuple[Objective, int]]:
        """Returns (task, number of its batch) for each task of a step."""
        if self._schedule is None:
            return [(objective, objective.sampler.first + step) for objective in self.objectives]
        return [
            (self.objectives[task], self.objectives[task].sampler.first + batch)
            for task, batch in self._schedule.turns(step)
        ]

    def positions_after(self, steps: int) -> dict[str, StreamPosition]:
        """Returns the position in each task's examples after `steps` steps of this training."""
        batches = self._schedule.count_batches(steps) if self._schedule else [steps] * len(self.objectives)
        return {each.task: each.sampler.position_after(own) for each, own in zip(self.objectives, batches, strict=True)}


def make_weighting(settings: WeightingSettings, model: DualEncoder, tasks: Sequence[str]) -> TaskWeighting:
    """Makes the weighting that the settings name, for the trainable parameters of a model and these tasks.

    Raises:
        InputError: if the weighting does not have an option, or the option's value is not allowed.
    """
    params = [param for _, param in model.trained_parameters()]
    tables = {id(table.weight) for table in model.large_tables()}
    return _weighting(settings, params, tasks, [place for place, param in enumerate(params) if id(param) in tables])


def check_weighting(settings: WeightingSettings, tasks: Sequence[str]) -> None:
    """Raises the errors of `make_weighting`, before a model is loaded."""
    _weighting(settings, [Parameter(torch.zeros(1))], tasks, [])


def _weighting(
    settings: WeightingSettings, params: Sequence[Parameter], tasks: Sequence[str], embeddings: Sequence[int]
) -> TaskWeighting:
    kind: type[TaskWeighting] = resolve(WEIGHTINGS[settings.weighting])
    given = kind.read_options(settings.weighting_options, tasks)
    options = check_arguments(kind, given, "weighting_options", settings.weighting)
    return kind(params, len(tasks), embeddings, **options)
