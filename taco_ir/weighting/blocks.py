"""Stores gradients as a few long vectors; of embedding tables, only the rows that were used.

State that is kept from step to step may be bfloat16, rounded without bias.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

PACKED_BELOW = 1 << 15
CHUNK_BYTES = {"cpu": 1 << 19}  # a few of them fit the caches of two cores, and are worth waking a second thread
CHUNK_BYTES_ELSEWHERE = 1 << 24  # on an accelerator few large launches are best


def read_at_once(device: torch.device) -> bool:
    """True if reading a number from `device` is cheap. On an accelerator, each read waits for all queued work."""
    return device.type == "cpu"


class Block(NamedTuple):
    """Consecutive parameters at `positions`, starting at `start` in the flat vector of all parameters."""

    positions: tuple[int, ...]
    start: int
    sizes: tuple[int, ...]

    @property
    def size(self) -> int:
        return sum(self.sizes)


class Layout:
    """The places of parameters in a flat vector of P numbers: dense `blocks`, then a block for each of `tables`."""

    def __init__(self, params: Sequence[Tensor], embeddings: Collection[int] = ()) -> None:
        self.shapes = [param.shape for param in params]
        self.device = params[0].device
        self.dtype = reduce(torch.promote_types, (param.dtype for param in params), torch.float32)
        self.chunk = CHUNK_BYTES.get(self.device.type, CHUNK_BYTES_ELSEWHERE) // self.dtype.itemsize
        self.size = 0
        dense = [position for position in range(len(params)) if position not in embeddings]
        small = tuple(position for position in dense if params[position].numel() < PACKED_BELOW)
        large = [(position,) for position in dense if position not in small]
        self.blocks = [self._place(positions) for positions in (*large, small) if positions]
        self.dense = self.size
        self.tables = [self._place((position,)) for position in sorted(embeddings)]

    def _place(self, positions: tuple[int, ...]) -> Block:
        block = Block(positions, self.size, tuple(self.shapes[position].numel() for position in positions))
        self.size += block.size
        return block

    def gather(self, block: Block, tensors: Sequence[Tensor | None]) -> Tensor:
        """Returns a block's tensors as one vector in the layout's dtype, with zeros for None; it may be a view."""
        pieces = []
        for position, size in zip(block.positions, block.sizes, strict=True):
            if (tensor := tensors[position]) is None:
                tensor = torch.zeros(size, device=self.device)
            pieces.append(tensor.reshape(-1).to(self.dtype))
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def scatter(self, vectors: Iterable[Tensor], tables: Iterable[Tensor] = ()) -> list[Tensor | None]:
        """Returns tensors shaped like the parameters, from one vector for each block and one tensor for each table."""
        tensors: list[Tensor | None] = [None] * len(self.shapes)
        for block, vector in zip(self.blocks, vectors, strict=True):
            for position, part in zip(block.positions, torch.split(vector, list(block.sizes)), strict=True):
                tensors[position] = part.view(self.shapes[position])
        for block, table_VD in zip(self.tables, tables, strict=True):
            tensors[block.positions[0]] = table_VD
        return tensors

    def spans(self, size: int) -> list[slice]:
        """Returns slices that cut `size` numbers into chunks that fit the cache."""
        return [slice(start, min(start + self.chunk, size)) for start in range(0, size, self.chunk)]

    def table_gradients(self, tasks: int) -> list[TableGradients]:
        """Returns empty storage for the gradients of each table."""
        return [TableGradients(self, block, tasks) for block in self.tables]


class TouchedRows(NamedTuple):
    """Row numbers, ascending, and the gradient of these rows, R x D."""

    rows: Tensor
    values: Tensor


class TableGradients:
    """Row-sparse storage for T tasks' gradients of a V x D table: each task touches few rows; only these are kept.

    Memory: D numbers for each row that a task touched, and one dense gradient.
    """

    def __init__(self, layout: Layout, block: Block, tasks: int) -> None:
        self.block = block
        self.position = block.positions[0]
        self.shape = layout.shapes[self.position]
        self._layout = layout
        self._tasks = tasks
        self._kept: dict[int, TouchedRows] = {}
        self._dense: Tensor | None = None

    def add(self, task: int, gradients: Sequence[Tensor | None]) -> TouchedRows | None:
        """Keep and return a task's nonzero rows (of a sparse gradient, all its rows); None without a gradient."""
        grad, dtype = gradients[self.position], self._layout.dtype
        if grad is None:
            return None
        if grad.is_sparse:
            grad = grad.coalesce()
            kept = TouchedRows(grad.indices()[0], grad.values().to(dtype))
        else:  # two reductions: fast, and exact for every value
            rows = ((grad.amax(1) != 0) | (grad.amin(1) != 0)).nonzero().squeeze(1)
            kept = TouchedRows(rows, grad.index_select(0, rows).to(dtype))
            if self._dense is None and grad.dtype == dtype:
                self._dense = grad  # zero outside rows that `filled` will all write
        self._kept[task] = kept
        return kept

    def chunks(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield numbers [R] of rows that any task used, with gradients [T, R, D]; R is limited to save memory."""
        if not self._kept:
            return
        layout, width = self._layout, self.shape[1]
        place_V = torch.zeros(self.shape[0], dtype=torch.long, device=layout.device)
        for rows, _ in self._kept.values():
            place_V[rows] = 1
        union = place_V.nonzero().squeeze(1)
        place_V[union] = torch.arange(len(union), device=layout.device)
        places = [place_V[kept.rows] for kept in self._kept.values()]
        step = max(1, layout.chunk // width)
        bounds = [*range(0, len(union), step), len(union)]
        if len(bounds) == 2:
            cuts_TC = [[0, len(place)] for place in places]
        else:
            bounds_C = torch.tensor(bounds, device=layout.device)
            cuts_TC = torch.stack([torch.searchsorted(place, bounds_C) for place in places]).tolist()
        for number, start in enumerate(bounds[:-1]):
            rows = union[start : start + step]
            grads_TRD = torch.zeros(self._tasks, len(rows), width, dtype=layout.dtype, device=layout.device)
            for (task, kept), place, cuts in zip(self._kept.items(), places, cuts_TC, strict=True):
                first, end = cuts[number : number + 2]
                grads_TRD[task].index_copy_(0, place[first:end] - start, kept.values[first:end])
            yield rows, grads_TRD

    def filled(self, parts: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
        """Returns a V x D tensor from `parts` (row numbers and values) of all rows that any task used; others are 0."""
        table_VD = self._dense
        if table_VD is None:
            table_VD = torch.zeros(self.shape, dtype=self._layout.dtype, device=self._layout.device)
        for rows, values_RD in parts:
            table_VD.index_copy_(0, rows, values_RD)
        return table_VD


class StochasticRounding:
    """Rounds float32 to bfloat16, up or down with probabilities that keep the expected value.

    A moving average with beta = 0.999 changes by about 0.1 % a step, but bfloat16 has a resolution of 0.4 to 0.8 %:
    rounding to the nearest number would never change it. The random bits are a table, read from another place each
    time, so results depend only on `turn`.
    """

    def __init__(self, longest: int, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(0)
        self._longest = longest
        self._bits = torch.randint(0, 1 << 16, (2 * longest,), dtype=torch.int32, generator=generator).to(device)

    def __call__(self, values: Tensor, turn: int) -> Tensor:
        """Round `values`, at most `longest` and not negative, in place; afterwards they fit bfloat16 exactly."""
        start = turn * 7919 % self._longest
        bits = values.view(torch.int32)
        bits.add_(self._bits[start : start + len(bits)]).bitwise_and_(-(1 << 16))
        return values
