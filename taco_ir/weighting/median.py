"""The median sensitivity of a task: exact by a bracket from a sample, or that of the sample itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Floats = npt.NDArray[np.floating[Any]]
SAMPLE = 1 << 17
SMALL = 1 << 18  # below this, sorting everything costs nothing
DEVIATIONS = 4.0  # of the rank of a sample's median: the bracket misses once in 16,000 draws


class Sensitivities:
    """|g * theta| of one task, over pairs of flat vectors (g, theta), computed chunk by chunk and never stored as a whole."""

    def __init__(self, pairs: Sequence[tuple[Tensor, Tensor]], chunk: int) -> None:
        self.pairs = pairs
        self.chunk = chunk
        self.size = sum(len(grad) for grad, _ in pairs)

    def sample(self, count: int) -> Tensor:
        """About `count` of them, evenly spaced at a distance that is a prime, so that no column of a matrix is preferred."""
        step = 1 if self.size <= count else _next_prime(self.size // count)
        return torch.cat([(grad[::step] * theta[::step]).abs_() for grad, theta in self.pairs])

    def all(self) -> Tensor:
        return self.sample(self.size)

    def finite(self) -> bool:
        return all(bool(torch.isfinite(grad.sum())) for grad, _ in self.pairs)


class _Bracket(NamedTuple):
    low: float
    high: float


class _Counts(NamedTuple):
    left_out: int
    below: int
    inside: Tensor


def median(sensitivities: Sensitivities, active_only: bool, exact: bool) -> float:
    """The lower median; 0 where there is no value to take it of, NaN where one is not finite.

    `active_only` leaves out what is zero but for rounding: all that is not above the machine precision times the mean of
    what is not zero (of the sample, where there is one). A key's bias, for one, has no gradient, which sums in float32 make
    now 0, now 1e-12 of the others'.
    """
    if not sensitivities.finite():
        return math.nan
    small = sensitivities.size <= SMALL
    ordered = np.sort((sensitivities.all() if small else sensitivities.sample(SAMPLE)).cpu().numpy())  # several times faster than torch's
    floor = _noise(ordered) if active_only else -1.0
    ordered = _above(ordered, floor)
    if small or not exact:
        return float(ordered[(len(ordered) - 1) // 2]) if len(ordered) else 0.0
    bracket = _bracket(ordered)
    found = _select(sensitivities, bracket, floor) if bracket else None
    if found is not None:
        return found
    values = sensitivities.all()
    values = values[values > floor]
    return _kth(values, (len(values) - 1) // 2) if len(values) else 0.0


def _noise(ordered: Floats) -> float:
    """What rounding can make of a 0, from sorted values."""
    positive = _above(ordered, 0.0)
    return float(positive.mean(dtype=np.float64)) * float(np.finfo(ordered.dtype).eps) if len(positive) else 0.0


def _above(ordered: Floats, floor: float) -> Floats:
    """The part of sorted values that is larger than `floor`."""
    return ordered[np.searchsorted(ordered, ordered.dtype.type(floor), side="right") :]


def _bracket(ordered: Floats) -> _Bracket | None:
    """Values that very likely enclose the median of what a sorted sample was drawn from."""
    middle, spread = len(ordered) / 2, DEVIATIONS * math.sqrt(len(ordered)) / 2
    first, last = math.floor(middle - spread), math.ceil(middle + spread)
    if first < 0 or last >= len(ordered):
        return None
    low, high = float(ordered[first]), float(ordered[last])
    return _Bracket(low, high) if 0 < low < high < math.inf else None


def _select(sensitivities: Sensitivities, bracket: _Bracket, floor: float) -> float | None:
    """Count what lies below the bracket, keep what lies inside, and take the median by its rank; None where it lies outside."""
    left_out, below, inside = 0, 0, []
    scratch = torch.empty(sensitivities.chunk, dtype=sensitivities.pairs[0][0].dtype, device=sensitivities.pairs[0][0].device)
    for grad, theta in sensitivities.pairs:
        for start in range(0, len(grad), sensitivities.chunk):
            end = min(start + sensitivities.chunk, len(grad))
            values = torch.mul(grad[start:end], theta[start:end], out=scratch[: end - start]).abs_()
            counts = _count(values, bracket, floor)
            left_out, below = left_out + counts.left_out, below + counts.below
            inside.append(counts.inside)
    rank = left_out + (sensitivities.size - left_out - 1) // 2
    candidates = torch.cat(inside)
    return _kth(candidates, rank - below) if below <= rank < below + len(candidates) else None


def _count(values: Tensor, bracket: _Bracket, floor: float) -> _Counts:
    """On a processor numpy compares and counts several times faster."""
    if values.device.type != "cpu":
        inside = (values >= bracket.low) & (values <= bracket.high)
        return _Counts(int((values <= floor).sum()), int((values < bracket.low).sum()), values[inside])
    array = values.numpy()
    low, high = array.dtype.type(bracket.low), array.dtype.type(bracket.high)
    below = array < low
    inside_array = array[(array <= high) ^ below]
    return _Counts(int(np.count_nonzero(array <= array.dtype.type(floor))), int(np.count_nonzero(below)), torch.from_numpy(inside_array))


def _kth(values: Tensor, rank: int) -> float:
    """The value of `rank`, counted from 0."""
    if values.device.type != "cpu":
        return float(values.kthvalue(rank + 1).values)
    return float(np.partition(values.numpy(), rank)[rank])


def _next_prime(number: int) -> int:
    number = max(2, number)
    while any(number % divisor == 0 for divisor in range(2, math.isqrt(number) + 1)):
        number += 1
    return number
