"""Estimates cosines between the tasks' gradients from small sketches, kept until all tasks of a step are known.

Charikar, Chen, Farach-Colton, Finding Frequent Items in Data Streams, ICALP 2002. A sketch has `width` sums of entries
with random signs; inner products of sketches equal those of the gradients, up to noise.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from taco_ir.weighting.blocks import Layout

SKETCH_WIDTH = (
    65_521  # a prime, so that a matrix's column falls on all places; a cosine's error: sqrt(2 / width) at most
)
SKETCH_ROWS = 16  # summed at once
SKETCH_SEED = 2307  # of the signs: one for all, so that sketches of all tasks and steps are comparable

Cosines = dict[str, dict[str, float]]  # by task and a later task


class GradientSketch:
    """A count sketch of gradients: `width` sums of entries with random signs, from which cosines are estimated.

    Entry i of the flat gradient goes to place i mod `width`. Inner products are kept up to noise, sums of gradients
    exactly; a gradient of at most `width` entries is kept as it is. Memory: `width` numbers a gradient, and a dense
    copy of sparse tables while it is computed.

    Args:
        width: number of sums, preferably a prime; a cosine's error is at most sqrt(2 / width).
    """

    def __init__(self, params: Sequence[Tensor], width: int = SKETCH_WIDTH) -> None:
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
        generator = torch.Generator(layout.device).manual_seed(SKETCH_SEED)
        for flat in flats:
            for piece in torch.split(flat, SKETCH_ROWS * self.width):
                rows_RW = functional.pad(piece, (0, -len(piece) % self.width)).view(-1, self.width)
                bits_RW = torch.empty(rows_RW.shape, dtype=torch.int8, device=layout.device)
                bits_RW.random_(0, 2, generator=generator)
                sketch += (rows_RW * bits_RW.mul_(2).sub_(1)).sum(0)
        return sketch


def compute_cosines(sketches: Sequence[Tensor]) -> list[list[float]]:
    """Cosines between all pairs of sketches, T x T; NaN if one of them is zero."""
    rows_TW = torch.stack(list(sketches)).double()
    unit_TW = rows_TW / rows_TW.norm(dim=1, keepdim=True)
    cosines: list[list[float]] = (unit_TW @ unit_TW.T).clamp(-1, 1).tolist()
    return cosines


def pair_cosines(tasks: Sequence[str], sketches: Sequence[Tensor]) -> Cosines:
    """Cosines between all pairs of tasks, each pair once, to six decimals."""
    matrix = compute_cosines(sketches)
    return {a: {b: round(matrix[i][j], 6) for j, b in enumerate(tasks) if j > i} for i, a in enumerate(tasks[:-1])}
