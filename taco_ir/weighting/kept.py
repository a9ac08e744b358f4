"""Keeps all task gradients of a step, for strategies that need the inner products of every pair of tasks."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from taco_ir.weighting.base import Gradients, TaskWeighting
from taco_ir.weighting.blocks import Layout
from taco_ir.weighting.rows import TableGradients


class KeptGradients:
    """The rows of a T x P matrix J. Memory: T P floats, of embedding tables only the rows that were touched."""

    def __init__(self, layout: Layout, tasks: int) -> None:
        self.layout = layout
        self.tasks = tasks
        self._dense: dict[int, list[Tensor]] = {}
        self._tables = [
            TableGradients(layout.shapes[table.positions[0]], tasks, layout.dtype, layout.device)
            for table in layout.tables
        ]

    def add(self, task: int, gradients: Gradients) -> None:
        self._dense[task] = [self.layout.gather(block, gradients) for block in self.layout.blocks]
        for block, table in zip(self.layout.tables, self._tables, strict=True):
            table.add(task, gradients[block.positions[0]])

    def gramian(self) -> Tensor:
        """J J^T, T x T, summed in float64 over chunks."""
        gramian_TT = torch.zeros(self.tasks, self.tasks, dtype=torch.float64, device=self.layout.device)
        for rows_TC in self._chunks():
            gramian_TT += (rows_TC @ rows_TC.T).double()
        return gramian_TT

    def combination(self, weights: Sequence[float]) -> Gradients:
        """sum_k w_k g_k, shaped like the parameters; the kept gradients are used up.

        Raises:
            FloatingPointError: for a weight that is too large for the dtype of the gradients.
        """
        if not all(abs(weight) <= torch.finfo(self.layout.dtype).max for weight in weights):
            raise FloatingPointError(f"task weights {', '.join(f'{weight:g}' for weight in weights)} are out of range")
        update: Gradients = [None] * len(self.layout.shapes)
        for number, block in enumerate(self.layout.blocks):
            total = self._dense[0][number].mul_(weights[0])
            for task in range(1, self.tasks):
                total.add_(self._dense[task][number], alpha=weights[task])
            for position, part in self.layout.scatter(block, total):
                update[position] = part
        for block, table in zip(self.layout.tables, self._tables, strict=True):
            dense_VD = table.dense()
            weights_T = torch.tensor(weights, dtype=self.layout.dtype, device=self.layout.device)
            for rows, grads_TRD in table.chunks(self.layout.chunk):
                dense_VD.index_copy_(0, rows, torch.tensordot(weights_T, grads_TRD, dims=1))
            update[block.positions[0]] = dense_VD
        return update

    def _chunks(self) -> Iterator[Tensor]:
        for number, block in enumerate(self.layout.blocks):
            for span in self.layout.spans(block.size):
                yield torch.stack([self._dense[task][number][span] for task in range(self.tasks)])
        for table in self._tables:
            for _, grads_TRD in table.chunks(self.layout.chunk):
                yield grads_TRD.flatten(1)


class KeepsGradients(TaskWeighting):
    """A strategy that sees all gradients of a step before it decides. Memory: T P floats."""

    def __init__(self, params: Sequence[Parameter], tasks: int, embeddings: Collection[int] = ()) -> None:
        super().__init__(params, tasks, embeddings)
        self.layout = Layout(params, self.embeddings)
        self._kept = KeptGradients(self.layout, tasks)

    @classmethod
    def extra_bytes(cls, parameters: int, tasks: int, **_options: Any) -> int:
        return 4 * parameters * (tasks - 1)

    def _fold(self, task: int, gradients: Gradients) -> None:
        self._kept.add(task, gradients)

    def _forget(self) -> None:
        self._kept = KeptGradients(self.layout, self.tasks)
