"""Two base classes of task weightings: one keeps a running sum of gradients, the other the gradients of all tasks."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from taco_ir.weighting.base import Gradients, TaskWeighting
from taco_ir.weighting.blocks import Layout


class StreamingSum(TaskWeighting):
    """Base class of weightings that know the weights before the gradients, and add up w_k g_k. Memory: P floats."""

    def __init__(self, params: Iterable[Parameter], tasks: int, embeddings: Collection[int] = ()) -> None:
        super().__init__(params, tasks, embeddings)
        self._sum: Gradients = []

    def _accumulate(self, gradients: Gradients, weight: float) -> None:
        self._sum = self._sum or [None] * len(gradients)
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


class GramianWeighting(TaskWeighting):
    """Base class of weightings that need the inner products between all pairs of task gradients.

    Keeps all gradients of a step as rows of a T x P matrix J. Memory: T P floats; for embedding tables, only the rows
    that were used.
    """

    def __init__(self, params: Iterable[Parameter], tasks: int, embeddings: Collection[int] = ()) -> None:
        super().__init__(params, tasks, embeddings)
        self.layout = Layout(self.params, self.embeddings)
        self._forget()

    @classmethod
    def extra_bytes(cls, parameters: int, tasks: int, /, **_options: Any) -> int:
        return 4 * parameters * (tasks - 1)

    def _fold(self, task: int, gradients: Gradients) -> None:
        self._dense[task] = [self.layout.gather(block, gradients) for block in self.layout.blocks]
        for table in self._tables:
            table.add(task, gradients)

    def _forget(self) -> None:
        self._dense: dict[int, list[Tensor]] = {}
        self._tables = self.layout.table_gradients(self.tasks)

    def _gramian(self) -> Tensor:
        """J J^T, T x T, summed in float64 over chunks."""
        gramian_TT = torch.zeros(self.tasks, self.tasks, dtype=torch.float64, device=self.layout.device)
        for rows_TC in self._chunks():
            gramian_TT += (rows_TC @ rows_TC.T).double()
        return gramian_TT

    def _chunks(self) -> Iterator[Tensor]:
        for number, block in enumerate(self.layout.blocks):
            for span in self.layout.spans(block.size):
                yield torch.stack([self._dense[task][number][span] for task in range(self.tasks)])
        for table in self._tables:
            for _, grads_TRD in table.chunks():
                yield grads_TRD.flatten(1)

    def _combination(self, weights: Sequence[float]) -> Gradients:
        """sum_k w_k g_k, in memory of the gradients. Raises: FloatingPointError for a weight beyond their dtype."""
        if not all(abs(weight) <= torch.finfo(self.layout.dtype).max for weight in weights):
            raise FloatingPointError(f"task weights {', '.join(f'{weight:g}' for weight in weights)} are out of range")
        totals = [total.mul_(weights[0]) for total in self._dense[0]]
        for task in range(1, self.tasks):
            for total, grad in zip(totals, self._dense[task], strict=True):
                total.add_(grad, alpha=weights[task])
        weights_T = torch.tensor(weights, dtype=self.layout.dtype, device=self.layout.device)
        tables = [
            table.filled((rows, torch.tensordot(weights_T, grads, dims=1)) for rows, grads in table.chunks())
            for table in self._tables
        ]
        return self.layout.scatter(totals, tables)
