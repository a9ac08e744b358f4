"""Gradients of millions of numbers in a few: enough for the cosines between tasks.

A count sketch: Charikar, Chen, Farach-Colton, Finding Frequent Items in Data Streams, ICALP 2002.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from taco_ir.weighting.blocks import Layout

WIDTH = 65_521  # a prime, so that a column of a matrix falls on all places: standard error of a cosine at most sqrt(2 / WIDTH) = 0.006
ROWS = 16  # added up at once
SEED = 2307  # of the signs; one for all, so that sketches of all tasks and steps can be compared

Cosines = dict[str, dict[str, float]]  # by task and a later task


class GradientSketch:
    """Sums of gradient entries under random signs, `width` of them: inner products are kept but for noise, sums of gradients exactly.

    Entry i of the flat gradient goes to place i mod `width`. A gradient of at most `width` entries is kept as it is.
    Memory: `width` numbers a gradient, and a dense copy of sparse tables while it is computed.
    """

    def __init__(self, params: Sequence[Tensor], width: int = WIDTH) -> None:
        self._layout = Layout(params)
        self.width = width
        self.exact = self._layout.size <= width

    def __call__(self, gradients: Sequence[Tensor | None]) -> Tensor:
        """The sketch of one gradient, shaped as the parameters; None counts as zeros."""
        layout = self._layout
        dense = [grad.to_dense() if grad is not None and grad.is_sparse else grad for grad in gradients]
        flats = (layout.gather(block, dense) for block in layout.blocks)
        if self.exact:
            return torch.cat(list(flats))
        sketch = torch.zeros(self.width, dtype=layout.dtype, device=layout.device)
        generator = torch.Generator(layout.device).manual_seed(SEED)
        for flat in flats:
            for piece in torch.split(flat, ROWS * self.width):
                rows_RW = functional.pad(piece, (0, -len(piece) % self.width)).view(-1, self.width)
                bits_RW = torch.empty(rows_RW.shape, dtype=torch.int8, device=layout.device).random_(
                    0, 2, generator=generator
                )
                sketch += (rows_RW * bits_RW.mul_(2).sub_(1)).sum(0)
        return sketch


def cosine_matrix(sketches: Sequence[Tensor]) -> list[list[float]]:
    """Cosines of every two sketches, T x T; NaN where one is zero."""
    rows_TW = torch.stack(list(sketches)).double()
    unit_TW = rows_TW / rows_TW.norm(dim=1, keepdim=True)
    cosines: list[list[float]] = (unit_TW @ unit_TW.T).clamp(-1, 1).tolist()
    return cosines


def pairs(tasks: Sequence[str], sketches: Sequence[Tensor]) -> Cosines:
    """Cosines of every two tasks once, to six decimals."""
    matrix = cosine_matrix(sketches)
    return {a: {b: round(matrix[i][j], 6) for j, b in enumerate(tasks) if j > i} for i, a in enumerate(tasks[:-1])}
