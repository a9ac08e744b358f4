"""The released TACO update with its T x P matrices, behind the interface of the weightings, to compare with."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from taco_ir.weighting.base import Gradients, StepReport, TaskWeighting
from taco_ir.weighting.blocks import Layout

SMALLEST_MEDIAN = 1e-12


class ReleasedTaco(TaskWeighting):
    """Keeps every gradient in a T x P float32 matrix, and weighs with temporaries of the same size.

    The median is over all entries (at least 1e-12, or nothing would follow on small models), the moving average starts
    at 0 uncorrected, and after burn-in the weights, which sum to 1, are divided by T once more. Only the write-back
    differs from the released code: it does write.
    """

    importance: Tensor

    def __init__(
        self,
        params: Sequence[Parameter],
        tasks: int,
        embeddings: Collection[int] = (),
        *,
        tau: float = 2.0,
        beta: float = 0.999,
        burn_in: float = 0.1,
    ) -> None:
        super().__init__(params, tasks, embeddings)
        self.tau = tau
        self.beta = beta
        self.burn_in = burn_in
        self.layout = Layout(params)
        self.register_buffer("importance", torch.zeros(tasks, self.layout.size))
        self._matrix_TP: Tensor | None = None

    @classmethod
    def extra_bytes(cls, parameters: int, tasks: int, **_options: Any) -> int:
        return 4 * parameters * 6 * tasks

    def _fold(self, task: int, gradients: Gradients) -> None:
        if self._matrix_TP is None:
            self._matrix_TP = torch.zeros_like(self.importance)
        dense = [grad.to_dense() if grad is not None and grad.is_sparse else grad for grad in gradients]
        self._matrix_TP[task] = self._flat(dense)

    def _update(self) -> tuple[Gradients, StepReport]:
        grads_TP = self._matrix_TP
        if grads_TP is None:
            raise ValueError("no task was added to this step")
        theta_P = self._flat([param.detach() for param in self._params])
        sensitivity_TP = (grads_TP * theta_P).abs()
        sensitivity_TP = sensitivity_TP / sensitivity_TP.median(dim=1, keepdim=True).values.clamp(min=SMALLEST_MEDIAN)
        self.importance.copy_(self.beta * self.importance + (1 - self.beta) * sensitivity_TP)
        weights_TP = torch.ones_like(grads_TP)
        if self.progress >= self.burn_in:
            weights_TP = torch.softmax(self.importance / self.tau, dim=0)
        update_P = (weights_TP * grads_TP).sum(0) / self.tasks
        update = self.layout.scatter(update_P.split([block.size for block in self.layout.blocks]))
        return update, StepReport(tuple((weights_TP.mean(1) / self.tasks).tolist()), {})

    def _flat(self, tensors: Sequence[Tensor | None]) -> Tensor:
        return torch.cat([self.layout.gather(block, tensors) for block in self.layout.blocks])

    def _forget(self) -> None:
        self._matrix_TP = None
