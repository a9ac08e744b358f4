"""Row-sparse storage for embedding gradients: each task touches few rows, so only these are kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor


class TouchedRows(NamedTuple):
    """Row numbers, ascending, and the gradient of these rows, n x D."""

    rows: Tensor
    values: Tensor


def touched_rows(grad: Tensor, dtype: torch.dtype) -> TouchedRows:
    """Every row of a V x D gradient, dense or sparse, that is not all zero (a sparse one may list some that are)."""
    if grad.is_sparse:
        grad = grad.coalesce()
        return TouchedRows(grad.indices()[0], grad.values().to(dtype))
    rows = (
        ((grad.amax(1) != 0) | (grad.amin(1) != 0)).nonzero().squeeze(1)
    )  # two reductions: fast, and exact for every value
    return TouchedRows(rows, grad.index_select(0, rows).to(dtype))


class TableGradients:
    """The gradients of T tasks on one V x D table, as touched rows. Memory: sum of the rows touched, times D, and one dense gradient."""

    def __init__(self, shape: torch.Size, tasks: int, dtype: torch.dtype, device: torch.device) -> None:
        self.shape = shape
        self.tasks = tasks
        self.dtype = dtype
        self.device = device
        self._kept: dict[int, TouchedRows] = {}
        self._dense: Tensor | None = None

    def add(self, task: int, grad: Tensor | None) -> TouchedRows | None:
        """Keep the rows that task `task` touched and return them."""
        if grad is None:
            return None
        self._kept[task] = touched_rows(grad, self.dtype)
        if self._dense is None and not grad.is_sparse and grad.dtype == self.dtype:
            self._dense = grad  # zero outside rows that will all be written
        return self._kept[task]

    def chunks(self, numbers: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Rows that any task touched, with their gradients, T x rows x D, in chunks of about `numbers` gradients per task."""
        place_V = torch.zeros(self.shape[0], dtype=torch.long, device=self.device)
        for rows, _ in self._kept.values():
            place_V[rows] = 1
        union = place_V.nonzero().squeeze(1)
        place_V[union] = torch.arange(len(union), device=self.device)
        places = {task: place_V[kept.rows] for task, kept in self._kept.items()}
        step = max(1, numbers // self.shape[1])
        starts = [*range(0, len(union), step), len(union)]
        bounds = torch.tensor(starts, device=self.device)
        if len(starts) == 2:
            cuts_TC = [[0, len(place)] for place in places.values()]
        else:
            cuts_TC = (
                torch.stack([torch.searchsorted(place, bounds) for place in places.values()]).tolist() if places else []
            )
        for number, start in enumerate(starts[:-1]):
            rows = union[start : start + step]
            grads_TRD = torch.zeros(self.tasks, len(rows), self.shape[1], dtype=self.dtype, device=self.device)
            for (task, place), cuts in zip(places.items(), cuts_TC, strict=True):
                first, end = cuts[number : number + 2]
                grads_TRD[task].index_copy_(0, place[first:end] - start, self._kept[task].values[first:end])
            yield rows, grads_TRD

    def dense(self) -> Tensor:
        """A V x D tensor that is zero on all rows that no task touched; the others are for the caller to write."""
        return torch.zeros(self.shape, dtype=self.dtype, device=self.device) if self._dense is None else self._dense
