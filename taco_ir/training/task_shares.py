"""How many examples of every task a training step takes."""

from __future__ import annotations

from collections.abc import Sequence

from taco_ir.core.files import InputError
from taco_ir.training.settings import BatchSettings

HOW = ("proportional", "temperature", "uniform")


def batch_shares(sizes: Sequence[int], batch: int, how: str | Sequence[int], temperature: float = 4.0) -> list[int]:
    """Divide a batch among tasks: B_k is batch * N_k^(1/c) / sum_j N_j^(1/c), rounded by largest remainders, at least 1.

    With c = 4 these are the batch sizes that TACO trained with (Zhang et al., TACL 2023). Ours: powers that are normalised to
    sum to 1, which it takes to arrive at those sizes.

    Args:
        sizes: N_k, examples of each task.
        batch: examples of a step over all tasks.
        how: `proportional` (c = 1), `temperature` (c = `temperature`), `uniform` (equal weights), or the shares themselves;
            then `batch` does not count.
        temperature: c, above 0; the larger, the more even.

    Raises:
        InputError: for an unknown `how`, a batch smaller than the number of tasks, shares that are not one whole number >= 1
            per task, or a temperature that is not above 0.
    """
    if not isinstance(how, str):
        shares = list(how)
        if len(shares) != len(sizes) or min(shares, default=0) < 1:
            raise InputError(
                f"batch shares {shares}; {len(sizes)} tasks need {len(sizes)} whole numbers, each at least 1"
            )
        return shares
    if how not in HOW:
        raise InputError(f"task mixing {how!r}; valid: {', '.join(HOW)}, or one batch share per task")
    if batch < len(sizes):
        raise InputError(
            f"batch of {batch} for {len(sizes)} tasks; every step takes at least one example of each, so at least {len(sizes)}"
        )
    if not temperature > 0:
        raise InputError(f"temperature {temperature}; a number above 0 is needed")
    power = {"proportional": 1.0, "temperature": 1 / temperature, "uniform": 0.0}[how]
    largest = max(sizes)
    weights = [(size / largest) ** power for size in sizes]
    return _round([batch * weight / sum(weights) for weight in weights], batch)


def _round(quotas: Sequence[float], total: int) -> list[int]:
    """Whole numbers >= 1 near `quotas` that sum to `total`: the rest goes to, or comes from, whoever is furthest off."""
    shares = [max(1, int(quota)) for quota in quotas]
    while sum(shares) < total:
        short = max(range(len(shares)), key=lambda task: quotas[task] - shares[task])
        shares[short] += 1
    while sum(shares) > total:
        able = [task for task, share in enumerate(shares) if share > 1]
        shares[min(reversed(able), key=lambda task: quotas[task] - shares[task])] -= 1
    return shares


def shares_of(settings: BatchSettings, sizes: Sequence[int]) -> list[int]:
    """Queries of a step by task, for tasks of these sizes. Raises: InputError."""
    shares = settings.shares if settings.shares.isalpha() else list(map(int, settings.shares.split(",")))
    return batch_shares(sizes, settings.batch_size, shares, settings.share_temperature)
