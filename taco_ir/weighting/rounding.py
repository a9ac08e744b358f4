"""Stochastic rounding to bfloat16, so that a moving average with very small steps still moves, without bias."""

from __future__ import annotations

import torch
from torch import Tensor


class StochasticRounding:
    """Rounds up or down with the probability that makes the expected value right.

    A moving average with beta = 0.999 changes by about 0.1 % a step, a bfloat16 has digits of 0.4 to 0.8 %: rounding to
    the nearest would never move it. The random bits are a table, read from another place each time, so results depend
    on `turn` alone.
    """

    def __init__(self, longest: int, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(0)
        self._longest = longest
        self._bits = torch.randint(0, 1 << 16, (2 * longest,), dtype=torch.int32, generator=generator).to(device)

    def __call__(self, values: Tensor, turn: int) -> Tensor:
        """Round float32 `values`, at most `longest` and not negative, in place; they fit bfloat16 exactly afterwards."""
        start = turn * 7919 % self._longest
        bits = values.view(torch.int32)
        bits.add_(self._bits[start : start + len(bits)]).bitwise_and_(-(1 << 16))
        return values
