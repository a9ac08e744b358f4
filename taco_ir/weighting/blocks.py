"""Views parameters as a few long vectors: large ones alone, small ones packed together, embedding tables apart."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

PACKED_BELOW = 1 << 15
CHUNK_BYTES = {"cpu": 1 << 19}  # a few of them fit the caches of two cores, and are worth waking a second thread
CHUNK_BYTES_ELSEWHERE = 1 << 24  # on an accelerator few large launches are best


def read_at_once(device: torch.device) -> bool:
    """Whether reading a number from `device` costs nothing. On an accelerator each read waits for all queued work."""
    return device.type == "cpu"


class Block(NamedTuple):
    """Parameters at `positions`, one after the other in the flat vector of all parameters from `start` on."""

    positions: tuple[int, ...]
    start: int
    sizes: tuple[int, ...]

    @property
    def size(self) -> int:
        return sum(self.sizes)


class Layout:
    """How parameters lie in one flat vector of P numbers: dense `blocks` first, then embedding `tables` of one parameter each."""

    def __init__(self, params: Sequence[Tensor], embeddings: Collection[int] = ()) -> None:
        dense = [position for position in range(len(params)) if position not in set(embeddings)]
        small = [position for position in dense if params[position].numel() < PACKED_BELOW]
        groups = [(position,) for position in dense if params[position].numel() >= PACKED_BELOW]
        tables = [(position,) for position in sorted(embeddings)]
        self.shapes = [param.shape for param in params]
        self.blocks: list[Block] = []
        self.tables: list[Block] = []
        start = 0
        for kind, members in (
            (self.blocks, groups),
            (self.blocks, [tuple(small)] if small else []),
            (self.tables, tables),
        ):
            for positions in members:
                kind.append(Block(positions, start, tuple(params[position].numel() for position in positions)))
                start += kind[-1].size
        self.size = start
        self.dense = sum(block.size for block in self.blocks)
        self.dtype = torch.float32
        for param in params:
            self.dtype = torch.promote_types(self.dtype, param.dtype)
        self.device = params[0].device
        self.chunk = CHUNK_BYTES.get(self.device.type, CHUNK_BYTES_ELSEWHERE) // self.dtype.itemsize

    def gather(self, block: Block, tensors: Sequence[Tensor | None]) -> Tensor:
        """The block's tensors as one vector in the layout's dtype, with zeros for None; no copy if a single tensor fits as it is."""
        pieces = [
            self._flat(tensors[position], size) for position, size in zip(block.positions, block.sizes, strict=True)
        ]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def scatter(self, block: Block, vector: Tensor) -> list[tuple[int, Tensor]]:
        """Positions of the block with their parts of `vector`, shaped like the parameters."""
        parts = torch.split(vector, list(block.sizes))
        return [
            (position, part.view(self.shapes[position])) for position, part in zip(block.positions, parts, strict=True)
        ]

    def spans(self, size: int) -> list[slice]:
        """Cut `size` numbers into chunks that fit the cache."""
        return [slice(start, min(start + self.chunk, size)) for start in range(0, size, self.chunk)]

    def _flat(self, tensor: Tensor | None, size: int) -> Tensor:
        if tensor is None:
            return torch.zeros(size, dtype=self.dtype, device=self.device)
        return tensor.reshape(-1).to(self.dtype)
