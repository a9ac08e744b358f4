"""Estimates cosines between the gradients of tasks from sketches, which are much smaller than the gradients.

A sketch is a vector of `width` sums of gradient entries with random signs. The inner product of two sketches estimates
that of the gradients. Charikar, Chen, Farach-Colton, Finding Frequent Items in Data Streams, ICALP 2002.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from taco_ir.weighting.blocks import Layout

SKETCH_WIDTH = 65_521  # a prime, so that a matrix's column is spread over all numbers of a sketch
SKETCH_ROWS = 16  # rows of `width` entries that are added at once
SKETCH_SEED = 2307  # of the random signs; the same for all tasks and steps, so that sketches are comparable

Cosines = dict[str, dict[str, float]]  # {task: {later task: cosine}}


class GradientSketch:
    """Computes sketches of gradients, from which cosines are estimated (count sketches: sums with random signs).

    Entry i of the flattened gradient is added to number i mod `width` of the sketch. A gradient of at most `width`
    entries is its own sketch. Memory: `width` numbers for each gradient, and for a moment a dense copy of sparse ones.

    Args:
        width: size of a sketch, preferably a prime; the standard error of a cosine is at most sqrt(2 / width).
    """

    def __init__(self, params: Sequence[Tensor], width: int = SKETCH_WIDTH) -> None:
        self._layout = Layout(params)
        self.width = width
        self.exact = self._layout.size <= width

    def __call__(self, gradients: Sequence[Tensor | None]) -> Tensor:
        """Returns the sketch of a gradient, which is given as a tensor for each parameter; None counts as zeros."""
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
    """Returns the cosines between all pairs of T sketches, as T lists of T numbers; NaN if one of the two is zero."""
    rows_TW = torch.stack(list(sketches)).double()
    unit_TW = rows_TW / rows_TW.norm(dim=1, keepdim=True)
    cosines: list[list[float]] = (unit_TW @ unit_TW.T).clamp(-1, 1).tolist()
    return cosines


def pair_cosines(tasks: Sequence[str], sketches: Sequence[Tensor]) -> Cosines:
    """Returns the cosine between each pair of tasks, as {task: {later task: cosine}} with six decimals."""
    matrix = compute_cosines(sketches)
    return {a: {b: round(matrix[i][j], 6) for j, b in enumerate(tasks) if j > i} for i, a in enumerate(tasks[:-1])}
