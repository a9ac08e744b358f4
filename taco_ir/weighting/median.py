"""Computes the median sensitivity of a task without sorting all entries: a sample gives bounds on the median."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from taco_ir.weighting import blocks

Floats = npt.NDArray[np.floating[Any]]
Bracket = tuple[float, float]  # bounds between which a median is searched
SAMPLE = 1 << 17
SMALL = 1 << 18  # below this, sorting everything costs nothing
DEVIATIONS = 4.0  # of the rank of a sample's median: the bracket misses once in 16,000 samples
ROOM = 32  # 1/32 of the entries may lie inside the bracket: three times as many as expected without ties


class Sensitivities:
    """One task's sensitivities |g theta| for pairs of flat vectors (g, theta). They are computed in chunks, not stored.

    Args:
        chunk: numbers in a chunk.
        zeros: number of sensitivities that are 0 and not in `pairs`: rows of tables that no text used.
    """

    def __init__(self, pairs: Sequence[tuple[Tensor, Tensor]], chunk: int, zeros: int = 0) -> None:
        self.pairs = pairs
        self.chunk = chunk
        self.zeros = zeros
        self.size = sum(len(grad) for grad, _ in pairs)

    def sample(self, count: int) -> Tensor:
        """Returns about `count` sensitivities at equal, prime distances, so that no column of a matrix is preferred."""
        step = 1
        if self.size > count:
            step = max(2, self.size // count)
            while any(step % divisor == 0 for divisor in range(2, math.isqrt(step) + 1)):
                step += 1
        return torch.cat([(grad[::step] * theta[::step]).abs_() for grad, theta in self.pairs])

    def read(self, count: int) -> Floats | None:
        """Returns a sorted sample, read from the device in one transfer; None if a gradient is infinite or NaN."""
        sums = torch.stack([grad.sum() for grad, _ in self.pairs])
        read: Floats = torch.cat([self.sample(count), sums]).cpu().numpy()
        values, sums_N = np.split(read, [len(read) - len(sums)])
        return np.sort(values) if np.isfinite(sums_N).all() else None  # numpy sorts several times faster than torch

    def chunks(self) -> Iterator[Tensor]:
        """Yield all sensitivities in chunks; each chunk reuses the memory of the last one."""
        grad, _ = self.pairs[0]
        scratch = torch.empty(self.chunk, dtype=grad.dtype, device=grad.device)
        for grad, theta in self.pairs:
            for start in range(0, len(grad), self.chunk):
                end = min(start + self.chunk, len(grad))
                yield torch.mul(grad[start:end], theta[start:end], out=scratch[: end - start]).abs_()


def median(sensitivities: Sensitivities, active_only: bool) -> float:
    """Returns the lower median; 0 if no value counts, NaN if a value is infinite or NaN.

    `active_only` leaves out values that are zero except for rounding: at most the machine precision times the mean of
    the (sampled) positive values. The bias of attention keys, for example, has no gradient, but float32 sums leave
    about 1e-12 of other values. Without `active_only` all zeros count, also `sensitivities.zeros`.
    """
    small = sensitivities.size <= SMALL
    ordered = sensitivities.read(sensitivities.size if small else SAMPLE)
    if ordered is None:
        return math.nan
    zeros = 0 if active_only else sensitivities.zeros
    if not active_only and _rank(sensitivities.size, zeros) < 0:
        return 0.0
    floor = -1.0
    if active_only:
        positive = _above(ordered, 0.0)
        floor = float(positive.mean(dtype=np.float64)) * float(np.finfo(ordered.dtype).eps) if len(positive) else 0.0
    sampled, ordered = len(ordered), _above(ordered, floor)
    if small:
        rank = _rank(len(ordered), zeros)
        return float(ordered[rank]) if rank >= 0 else 0.0
    at_once = blocks.read_at_once(sensitivities.pairs[0][0].device)
    bracket = _bracket(ordered, round(zeros * sampled / sensitivities.size))
    if bracket:
        select = select_in_bracket if at_once else select_by_one_reading
        found = select(sensitivities, bracket, floor, zeros)
        if found is not None:
            return found
    values = sensitivities.sample(sensitivities.size)
    values = values[values > floor]
    rank = _rank(len(values), zeros)
    if rank < 0:
        return 0.0
    return float(np.partition(values.numpy(), rank)[rank] if at_once else values.kthvalue(rank + 1).values)


def _rank(count: int, zeros: int) -> int:
    """Returns the rank of the lower median among `count` values above `zeros` zeros; negative if it is a zero."""
    return (count + zeros - 1) // 2 - zeros


def _above(ordered: Floats, floor: float) -> Floats:
    """Returns the part of sorted values that is larger than `floor`."""
    return ordered[np.searchsorted(ordered, ordered.dtype.type(floor), side="right") :]


def _bracket(ordered: Floats, zeros: int) -> Bracket | None:
    """Returns bounds that very likely enclose the median of all values, from a sorted sample and `zeros` zeros."""
    middle, spread = (len(ordered) - zeros) / 2, DEVIATIONS * math.sqrt(len(ordered)) / 2
    first, last = math.floor(middle - spread), math.ceil(middle + spread)
    if first < 0 or last >= len(ordered):
        return None
    low, high = float(ordered[first]), float(ordered[last])
    return (low, high) if 0 < low < high < math.inf else None


def select_in_bracket(sensitivities: Sensitivities, bracket: Bracket, floor: float, zeros: int = 0) -> float | None:
    """Find the median inside the bounds `bracket`, by counting the values below them; None if it lies outside.

    Values up to `floor` are left out. numpy compares and counts several times faster than torch.
    """
    left_out, below, inside = 0, 0, []
    for chunk in sensitivities.chunks():
        values = chunk.numpy()
        low, high = map(values.dtype.type, bracket)
        is_below = values < low
        inside.append(values[(values <= high) ^ is_below])
        left_out += int(np.count_nonzero(values <= values.dtype.type(floor)))
        below += int(np.count_nonzero(is_below))
    candidates = np.concatenate(inside)
    rank = left_out + _rank(sensitivities.size - left_out, zeros) - below
    return float(np.partition(candidates, rank)[rank]) if 0 <= rank < len(candidates) else None


def select_by_one_reading(sensitivities: Sensitivities, bracket: Bracket, floor: float, zeros: int = 0) -> float | None:
    """Like `select_in_bracket`, but reads from the device only once instead of once for every chunk.

    Values inside are written to a vector, all others to its last place. If many values tie, the vector is too short,
    and the result is None.
    """
    grad, _ = sensitivities.pairs[0]
    low, high = bracket
    room = sensitivities.size // ROOM
    kept = grad.new_full((room + 1,), math.inf)
    left_out, below, inside = torch.zeros(3, 1, dtype=torch.int64, device=grad.device)
    for values in sensitivities.chunks():
        is_inside = (values >= low) & (values <= high)
        places = torch.where(is_inside, is_inside.cumsum(0) - 1 + inside, room).clamp_(max=room)
        kept.scatter_(0, places, values)
        left_out += (values <= floor).sum()
        below += (values < low).sum()
        inside += is_inside.sum()
    rank = left_out + (sensitivities.size - left_out + zeros - 1).div(2, rounding_mode="floor") - zeros - below
    places = torch.arange(room, device=grad.device)
    ordered = torch.where(places < inside, kept[:room], math.inf).sort().values
    usable = (rank >= 0) & (rank < inside) & (inside <= room)
    found, hit = torch.cat([ordered.gather(0, rank.clamp(0, room - 1)).double(), usable.double()]).tolist()
    return float(found) if hit else None
