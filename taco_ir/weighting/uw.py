"""Uncertainty weighting: a task whose noise is learned to be high weighs less."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor
from torch.nn import Parameter

from taco_ir.weighting.base import Gradients, StepReport, require
from taco_ir.weighting.streaming import StreamingSum


class UncertaintyWeighting(StreamingSum):
    """Learns a log-variance s_k per task with the objective sum_k exp(-s_k) L_k + s_k / 2.

    Paper: Kendall, Gal, Cipolla 2018, the classification term of equation 10 with s = log sigma^2. InfoNCE is a
    classification loss, so its term has no 1/2. At rest exp(-s_k) L_k = 1/2.
    Differs: s_k follows plain gradient descent with a rate of its own (no moments to keep), whatever the optimiser of
    the parameters. The update is the mean over tasks of exp(-s_k) g_k; as in the paper these weights do not sum to 1,
    except at the start, where it is the naive mean.

    Args:
        rate: step size of s_k.
    """

    log_variance: Tensor

    def __init__(self, params: Sequence[Parameter], tasks: int, embeddings: Collection[int] = (), *, rate: float = 0.025) -> None:
        require("rate", rate, 0 <= rate < float("inf"), "a finite number that is not negative")
        super().__init__(params, tasks, embeddings)
        self.rate = rate
        self.register_buffer("log_variance", torch.zeros(tasks, dtype=torch.float64))

    def _fold(self, task: int, gradients: Gradients) -> None:
        self._accumulate(gradients, float(torch.exp(-self.log_variance[task])) / self.tasks)

    def _update(self) -> tuple[Gradients, StepReport]:
        precision = torch.exp(-self.log_variance)
        losses = precision.new_tensor([self._losses[task] for task in range(self.tasks)])
        self.log_variance -= self.rate * (0.5 - precision * losses)
        weights = tuple((precision / self.tasks).tolist())
        return self._sum, StepReport(weights, {"weight_sum": sum(weights)})
