"""Uncertainty weighting: learns how noisy each task is, and gives noisier tasks less weight."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable

import torch
from torch import Tensor
from torch.nn import Parameter

from taco_ir.weighting.accumulation import StreamingSum
from taco_ir.weighting.base import Gradients, StepReport, require

LARGEST_WEIGHT = 1e3  # of exp(-s_k); the smallest is its inverse. So losses of 5e-4 to 500 can come to rest
LARGEST_MOVE = 1.0  # of s_k in a step: a weight changes at most e-fold


class UncertaintyWeighting(StreamingSum):
    """Learns a log-variance s_k per task with the objective sum_k exp(-s_k) L_k + s_k / 2.

    Paper: Kendall, Gal, Cipolla 2018, the classification term of equation 10 with s = log sigma^2. InfoNCE is a
    classification loss, so its term has no 1/2. At rest exp(-s_k) L_k = 1/2.
    Differs: s_k follows plain gradient descent with its own rate, whatever the optimiser of the parameters is.
    exp(-s_k) stays between 0.001 and 1000, and s_k changes by at most 1 in a step. Without these bounds, the weight of
    a loss that reaches 0 would grow forever, and one bad batch could end a task with a large weight.
    The update is the mean over tasks of exp(-s_k) g_k. As in the paper, these weights do not sum to 1, except at the
    start, where the update is the naive mean.

    Args:
        rate: step size of s_k.
    """

    linear = True
    log_variance: Tensor

    def __init__(
        self, params: Iterable[Parameter], tasks: int, embeddings: Collection[int] = (), *, rate: float = 0.025
    ) -> None:
        require("rate", rate, 0 <= rate < float("inf"), "a finite number that is not negative")
        super().__init__(params, tasks, embeddings)
        self.rate = rate
        self.register_buffer("log_variance", torch.zeros(tasks, dtype=torch.float64))

    def _fold(self, task: int, gradients: Gradients) -> None:
        self._accumulate(gradients, math.exp(-float(self.log_variance.numpy()[task])) / self.tasks)

    def _update(self) -> tuple[Gradients, StepReport]:
        precision = torch.exp(-self.log_variance)
        losses = precision.new_tensor([self._losses[task] for task in range(self.tasks)])
        move_T = (self.rate * (0.5 - precision * losses)).clamp(-LARGEST_MOVE, LARGEST_MOVE)
        self.log_variance.sub_(move_T).clamp_(-math.log(LARGEST_WEIGHT), math.log(LARGEST_WEIGHT))
        weights = tuple((precision / self.tasks).tolist())
        return self._sum, StepReport(weights, {"weight_sum": sum(weights)})
