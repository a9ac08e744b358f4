"""Common Gradient Descent (CGD): tasks whose gradients also help the other tasks gain weight."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import torch
from torch import Tensor
from torch.nn import Parameter

from taco_ir.weighting.accumulation import GramianWeighting
from taco_ir.weighting.base import Gradients, StepReport, require


class CommonGradientDescent(GramianWeighting):
    """Gives more weight to a task if its gradient agrees with the gradients of all tasks.

    A step's weights are a_k <- a_k exp(rate * mean_j sqrt(L_k L_j) cos(g_k, g_j)), scaled to sum to 1.
    Paper: Piratla, Netrapalli, Sarawagi 2022 (arXiv 2110.02619), algorithm 1. For stability, its inner products use
    gradients of the length sqrt(L_k) instead of |g_k|.
    Differs: no group adjustment (C = 0: all tasks j count the same, since batch sizes account for the tasks' sizes);
    the mean over j as in the authors' experiments, so `rate` does not depend on T; weights stay above 1e-5.
    Memory: T P floats, for the gradients of a step.

    Args:
        rate: step size of the weights.
    """

    task_weights: Tensor

    def __init__(
        self, params: Iterable[Parameter], tasks: int, embeddings: Collection[int] = (), *, rate: float = 0.05
    ) -> None:
        require("rate", rate, 0 <= rate < float("inf"), "a finite number that is not negative")
        super().__init__(params, tasks, embeddings)
        self.rate = rate
        self.register_buffer("task_weights", torch.full((tasks,), 1 / tasks, dtype=torch.float64))

    def _update(self) -> tuple[Gradients, StepReport]:
        gramian_TT = self._gramian().to(self.task_weights.device)
        if not bool(torch.isfinite(gramian_TT).all()):
            raise FloatingPointError("the gradient of a task is not finite")
        losses_T = self.task_weights.new_tensor([self._losses[task] for task in range(self.tasks)])
        exponents_T = self.rate * agreement(gramian_TT, losses_T).mean(1)
        moved_T = (self.task_weights * torch.exp(exponents_T - exponents_T.max())).clamp(min=1e-30)
        moved_T = (moved_T / moved_T.sum()).clamp(min=1e-5)
        self.task_weights.copy_(moved_T / moved_T.sum())
        weights = tuple(self.task_weights.tolist())
        return self._combination(weights), StepReport(weights, {})


def agreement(gramian_TT: Tensor, losses_T: Tensor) -> Tensor:
    """Returns how far gradients agree, sqrt(L_i L_j) cos(g_i, g_j), T x T; 0 for a zero gradient or a loss below 0."""
    norms_T = gramian_TT.diagonal().clamp(min=0).sqrt()
    roots_T = losses_T.clamp(min=0).sqrt()
    scale_T = torch.where(norms_T > 0, roots_T / norms_T, torch.zeros_like(norms_T))
    return gramian_TT * scale_T[:, None] * scale_T[None, :]
