"""Base of weightings whose task weights are known before the gradients arrive: one running sum for any number of tasks."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch.nn import Parameter

from taco_ir.weighting.base import Gradients, TaskWeighting


class StreamingSum(TaskWeighting):
    """Sums w_k g_k as the gradients come. Memory: P floats, those of a plain backward pass."""

    def __init__(self, params: Sequence[Parameter], tasks: int, embeddings: Collection[int] = ()) -> None:
        super().__init__(params, tasks, embeddings)
        self._sum: Gradients = []

    def _accumulate(self, gradients: Gradients, weight: float) -> None:
        if not self._sum:
            self._sum = [None] * len(gradients)
        for position, grad in enumerate(gradients):
            if grad is None:
                continue
            known = self._sum[position]
            if known is None:
                self._sum[position] = (grad.to_dense() if grad.is_sparse else grad).mul_(weight)
            else:
                known.add_(grad, alpha=weight)

    def _forget(self) -> None:
        self._sum = []
