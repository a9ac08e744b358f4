"""Measures the dose of a task weighting: how far its updates are from the mean of the tasks' gradients.

Naive training uses this mean. A weighting whose updates are nearly the mean can make no difference, so a training logs
its dose. AdamW divides each parameter's update by a running estimate of its size, which undoes part of a weighting's
effect. So the cosine is measured before and after this division.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from taco_ir.weighting.base import TaskWeighting
from taco_ir.weighting.blocks import Layout
from taco_ir.weighting.fixed import Naive


class Dose(NamedTuple):
    """How far the update of a step is from the mean of the tasks' gradients in the same step.

    Attributes:
        cosine: cosine between update and mean; None if one of them is zero.
        scaled_cosine: the same cosine after both are divided by AdamW's sqrt(v) + eps, with v after the step.
        opposed: fraction of parameters with opposite signs in update and mean, among those with a gradient.
        specific: fraction of parameters with nearly all weight on one task (`TaskWeighting.specific_share`); None if
            the weighting gives all parameters the same weights.
    """

    cosine: float | None
    scaled_cosine: float | None
    opposed: float | None
    specific: float | None = None


NAIVE = Dose(1.0, 1.0, 0.0)


def mean_dose(doses: Sequence[Dose]) -> Dose:
    """Returns the mean of each figure over steps. Steps in which a figure is None do not count for that figure."""
    columns = ([value for value in column if value is not None] for column in zip(*doses, strict=True))
    return Dose(*(round(math.fsum(values) / len(values), 6) if values else None for values in columns))


class DoseMeter:
    """Measures the dose of a weighting every N steps: how far its update is from the mean of the tasks' gradients.

    In each step call `begin`, then `add` for each task, then `measure` after the optimiser. The dose of naive training
    is known. Steps that train only some of the tasks are not measured. Memory in a measured step: P floats.

    Args:
        every: measure every N steps; 0: never.

    Attributes:
        wanted: whether the current step is measured.
    """

    def __init__(self, params: Sequence[Parameter], weighting: TaskWeighting, every: int) -> None:
        self._params = params
        self._weighting = weighting
        self._every = every if weighting.tasks > 1 else 0
        self._naive = type(weighting) is Naive
        self.wanted = False
        self._mean: list[Tensor | None] = []

    @property
    def extra_bytes(self) -> int:
        """Memory that a measured step needs in addition, in bytes; 0 if nothing is computed."""
        return 4 * sum(param.numel() for param in self._params) if self._every and not self._naive else 0

    def begin(self, step: int, tasks: int) -> None:
        """Starts a step. `step` is its number, counted from 0; `tasks` is the number of tasks that it trains."""
        self.drop()
        self.wanted = self._every > 0 and (step + 1) % self._every == 0 and tasks == self._weighting.tasks
        if self.wanted and not self._naive:
            self._mean = [None] * len(self._params)

    def add(self) -> None:
        """Adds the gradient of one task, which is in `.grad` of the parameters."""
        for place, param in enumerate(self._params if self._mean else ()):
            if param.grad is not None:
                if (mean := self._mean[place]) is None:
                    kept = torch.promote_types(param.dtype, torch.float32)
                    mean = self._mean[place] = torch.zeros_like(param, dtype=kept)
                mean.add_(param.grad, alpha=1 / self._weighting.tasks)

    def drop(self) -> None:
        """Forgets the gradients of the current step, so that the step is not measured."""
        self.wanted, self._mean = False, []

    def measure(self, optimizer: Optimizer) -> Dose | None:
        """Returns how far a step's update was from the mean of the tasks' gradients; None if the step is not measured.

        Call this after `optimizer.step()`, while `.grad` has the update. Clipping changes nothing: norms are ignored.
        """
        mean, wanted = self._mean, self.wanted
        self.drop()
        if not wanted or not mean:
            return NAIVE if wanted else None
        of_param = {id(param): group for group in optimizer.param_groups for param in group["params"]}
        sums = torch.zeros(8, dtype=torch.float64, device=self._params[0].device)
        for param, own in zip(self._params, mean, strict=True):
            if own is not None and param.grad is not None:
                _add_sums(sums, param.grad, own, optimizer.state[param], of_param[id(param)])
        update, naive, both, scaled_update, scaled_naive, scaled_both, opposed, reached = sums.tolist()
        return Dose(
            _ratio(both, math.sqrt(update * naive)),
            _ratio(scaled_both, math.sqrt(scaled_update * scaled_naive)),
            _ratio(opposed, reached),
            self._weighting.specific_share(),
        )


def _add_sums(sums: Tensor, update: Tensor, naive: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    """Add a parameter's squares, products and counts to the sums, chunk by chunk."""
    correction = 1 - group["betas"][1] ** int(state["step"])
    flats = [update.reshape(-1), naive.reshape(-1), state["exp_avg_sq"].reshape(-1)]
    for a, b, squares in zip(*(torch.split(flat, Layout([naive]).chunk) for flat in flats), strict=True):
        ours, theirs = a.to(b.dtype), b
        size = (squares / correction).sqrt_().add_(group["eps"])
        for place in (0, 3):
            found = [torch.dot(ours, ours), torch.dot(theirs, theirs), torch.dot(ours, theirs)]
            sums[place : place + 3] += torch.stack(found).double()
            ours, theirs = ours / size, theirs / size
        counts = [(a.sign() * b.sign() < 0).sum(), ((a != 0) | (b != 0)).sum()]
        sums[6:] += torch.stack(counts)


def _ratio(part: float, whole: float) -> float | None:
    return round(part / whole, 6) if whole else None
