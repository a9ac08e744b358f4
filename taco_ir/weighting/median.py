"""The median sensitivity of a task, found without sorting all of them: a sample tells between which values it lies."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from taco_ir.weighting import blocks

Floats = npt.NDArray[np.floating[Any]]
SAMPLE = 1 << 17
SMALL = 1 << 18  # below this, sorting everything costs nothing
DEVIATIONS = 4.0  # of the rank of a sample's median: the bracket misses once in 16,000 draws
ROOM = 32  # one in so many may lie inside the bracket: three times what a sample without ties leads to


class Sensitivities:
    """|g * theta| of one task, over pairs of flat vectors (g, theta), computed chunk by chunk and never stored as a whole.

    Args:
        zeros: how many more there are, all 0, that no pair holds: rows of tables that no text touched.
    """

    def __init__(self, pairs: Sequence[tuple[Tensor, Tensor]], chunk: int, zeros: int = 0) -> None:
        self.pairs = pairs
        self.chunk = chunk
        self.zeros = zeros
        self.size = sum(len(grad) for grad, _ in pairs)

    def sample(self, count: int) -> Tensor:
        """About `count` of them, evenly spaced at a distance that is a prime, so that no column of a matrix is preferred."""
        step = 1 if self.size <= count else _next_prime(self.size // count)
        return torch.cat([(grad[::step] * theta[::step]).abs_() for grad, theta in self.pairs])

    def all(self) -> Tensor:
        return self.sample(self.size)

    def read(self, count: int) -> Floats | None:
        """A sample, sorted, by one reading of the device; None where a gradient is not finite."""
        sums = torch.stack([grad.sum() for grad, _ in self.pairs])
        read: Floats = torch.cat([self.sample(count), sums]).cpu().numpy()
        values, sums_N = np.split(read, [len(read) - len(sums)])
        return np.sort(values) if np.isfinite(sums_N).all() else None  # several times faster than torch's

    def chunks(self) -> Iterator[Tensor]:
        """All of them, in memory that is used again."""
        grad, _ = self.pairs[0]
        scratch = torch.empty(self.chunk, dtype=grad.dtype, device=grad.device)
        for grad, theta in self.pairs:
            for start in range(0, len(grad), self.chunk):
                end = min(start + self.chunk, len(grad))
                yield torch.mul(grad[start:end], theta[start:end], out=scratch[: end - start]).abs_()


class _Bracket(NamedTuple):
    low: float
    high: float


def median(sensitivities: Sensitivities, active_only: bool) -> float:
    """The lower median; 0 where there is no value to take it of, NaN where one is not finite.

    `active_only` leaves out what is zero but for rounding: all that is not above the machine precision times the mean of
    what is not zero (of the sample, where there is one). A key's bias, for one, has no gradient, which sums in float32 make
    now 0, now 1e-12 of the others'. Without it every zero counts, those that no pair holds too.
    """
    small = sensitivities.size <= SMALL
    ordered = sensitivities.read(sensitivities.size if small else SAMPLE)
    if ordered is None:
        return math.nan
    zeros = 0 if active_only else sensitivities.zeros
    if not active_only and _rank(sensitivities.size, zeros) < 0:
        return 0.0
    floor = _noise(ordered) if active_only else -1.0
    sampled, ordered = len(ordered), _above(ordered, floor)
    if small:
        rank = _rank(len(ordered), zeros)
        return float(ordered[rank]) if rank >= 0 else 0.0
    bracket = _bracket(ordered, round(zeros * sampled / sensitivities.size))
    if bracket:
        select = _select if blocks.read_at_once(sensitivities.pairs[0][0].device) else _select_behind
        found = select(sensitivities, bracket, floor, zeros)
        if found is not None:
            return found
    values = sensitivities.all()
    values = values[values > floor]
    rank = _rank(len(values), zeros)
    return _kth(values, rank) if rank >= 0 else 0.0


def _rank(count: int, zeros: int) -> int:
    """Of the lower median of `count` values and `zeros` zeros below them: its place among the values, below 0 where it is one of the zeros."""
    return (count + zeros - 1) // 2 - zeros


def _noise(ordered: Floats) -> float:
    """What rounding can make of a 0, from sorted values."""
    positive = _above(ordered, 0.0)
    return float(positive.mean(dtype=np.float64)) * float(np.finfo(ordered.dtype).eps) if len(positive) else 0.0


def _above(ordered: Floats, floor: float) -> Floats:
    """The part of sorted values that is larger than `floor`."""
    return ordered[np.searchsorted(ordered, ordered.dtype.type(floor), side="right") :]


def _bracket(ordered: Floats, zeros: int) -> _Bracket | None:
    """Values that very likely enclose the median of what a sorted sample, and so many zeros, were drawn from."""
    middle, spread = (len(ordered) - zeros) / 2, DEVIATIONS * math.sqrt(len(ordered)) / 2
    first, last = math.floor(middle - spread), math.ceil(middle + spread)
    if first < 0 or last >= len(ordered):
        return None
    low, high = float(ordered[first]), float(ordered[last])
    return _Bracket(low, high) if 0 < low < high < math.inf else None


def _select(sensitivities: Sensitivities, bracket: _Bracket, floor: float, zeros: int = 0) -> float | None:
    """Count what lies below the bracket, keep what lies inside, and take the median by its rank; None where it lies outside.

    numpy compares and counts several times faster than torch.
    """
    left_out, below, inside = 0, 0, []
    for chunk in sensitivities.chunks():
        values = chunk.numpy()
        low, high = values.dtype.type(bracket.low), values.dtype.type(bracket.high)
        is_below = values < low
        inside.append(values[(values <= high) ^ is_below])
        left_out += int(np.count_nonzero(values <= values.dtype.type(floor)))
        below += int(np.count_nonzero(is_below))
    rank = left_out + _rank(sensitivities.size - left_out, zeros)
    candidates = np.concatenate(inside)
    return (
        float(np.partition(candidates, rank - below)[rank - below]) if below <= rank < below + len(candidates) else None
    )


def _select_behind(sensitivities: Sensitivities, bracket: _Bracket, floor: float, zeros: int = 0) -> float | None:
    """As `_select` by one reading of the device, which a mask of unknown length would ask for at every chunk.

    What lies inside goes to places of a vector that it fits but for many ties; the rest goes to the place behind.
    """
    grad, _ = sensitivities.pairs[0]
    room = sensitivities.size // ROOM
    kept = grad.new_full((room + 1,), math.inf)
    left_out, below, inside = torch.zeros(3, 1, dtype=torch.int64, device=grad.device)
    for values in sensitivities.chunks():
        is_inside = (values >= bracket.low) & (values <= bracket.high)
        places = torch.where(is_inside, is_inside.cumsum(0) - 1 + inside, room).clamp_(max=room)
        kept.scatter_(0, places, values)
        left_out += (values <= floor).sum()
        below += (values < bracket.low).sum()
        inside += is_inside.sum()
    rank = left_out + (sensitivities.size - left_out + zeros - 1).div(2, rounding_mode="floor") - zeros - below
    places = torch.arange(room, device=grad.device)
    ordered = torch.where(places < inside, kept[:room], math.inf).sort().values
    usable = (rank >= 0) & (rank < inside) & (inside <= room)
    found, hit = torch.cat([ordered.gather(0, rank.clamp(0, room - 1)).double(), usable.double()]).tolist()
    return float(found) if hit else None


def _kth(values: Tensor, rank: int) -> float:
    """The value of `rank`, counted from 0."""
    if not blocks.read_at_once(values.device):
        return float(values.kthvalue(rank + 1).values)
    return float(np.partition(values.numpy(), rank)[rank])


def _next_prime(number: int) -> int:
    number = max(2, number)
    while any(number % divisor == 0 for divisor in range(2, math.isqrt(number) + 1)):
        number += 1
    return number
