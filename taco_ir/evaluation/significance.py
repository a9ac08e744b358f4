"""Is one run better than another: paired randomisation test, Holm's correction, bootstrap interval.

Differences come as one array per task; the statistic is the mean of the tasks' means (one task: its mean).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from taco_ir.files import InputError

Values = npt.NDArray[np.float64]
BLOCK = 1 << 22  # values drawn at once: 32 MB of float64


def paired_differences(scores: Mapping[str, float], baseline: Mapping[str, float]) -> Values:
    """score - baseline per query [Q], in the order of `scores`.

    Raises:
        InputError: where the two were not measured on the same queries.
    """
    if lone := scores.keys() ^ baseline.keys():
        raise InputError(f"two runs can be compared on the same queries only; {len(lone)} are in one alone, first {min(lone)!r}")
    return np.array([value - baseline[qid] for qid, value in scores.items()], dtype=np.float64)


def mean_difference(tasks: Sequence[Values]) -> float:
    """Mean of the tasks' mean differences."""
    return float(np.mean([np.mean(differences_Q) for differences_Q in tasks]))


def randomisation_test(tasks: Sequence[Values], seed: int, samples: int = 10_000) -> float:
    """Two-sided p-value of the mean difference under random sign flips of the queries' differences.

    Flips are independent per query and stay within their task. p = (b + 1) / (samples + 1), b the number of flipped
    statistics at least as far from 0 as the observed one (Phipson and Smyth 2010); so p is never 0.

    Args:
        tasks: one array of paired differences [Q] per task, none empty.
    """
    weighted_Q = np.concatenate([differences_Q / (len(differences_Q) * len(tasks)) for differences_Q in tasks])
    observed = abs(weighted_Q.sum())
    tolerance = 1e-12 * np.abs(weighted_Q).sum()  # a flip equal to the observed one but for rounding counts
    weighted_Q = weighted_Q[weighted_Q != 0]  # a flip of 0 changes nothing
    if not len(weighted_Q):
        return 1.0
    generator = np.random.default_rng(seed)
    extreme = 0
    for size in _blocks(samples, len(weighted_Q)):
        bits = np.unpackbits(np.frombuffer(generator.bytes(size * (-(-len(weighted_Q) // 8))), np.uint8).reshape(size, -1), axis=1)
        flipped_N = 2 * (bits[:, : len(weighted_Q)] @ weighted_Q) - weighted_Q.sum()
        extreme += int(np.sum(np.abs(flipped_N) >= observed - tolerance))
    return (extreme + 1) / (samples + 1)


def bootstrap_interval(tasks: Sequence[Values], seed: int, samples: int = 10_000, confidence: float = 0.95) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean difference; queries are redrawn within their task."""
    generator = np.random.default_rng(seed)
    statistics_N = np.zeros(samples)
    for differences_Q in tasks:
        queries = len(differences_Q)
        start = 0
        for size in _blocks(samples, queries):
            drawn = generator.integers(0, queries, size=(size, queries), dtype=np.int32)
            statistics_N[start : start + size] += differences_Q[drawn].mean(axis=1) / len(tasks)
            start += size
    low, high = np.quantile(statistics_N, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _blocks(samples: int, width: int) -> Iterator[int]:
    """Sizes that sum to `samples`, each at most about BLOCK / width."""
    step = max(1, BLOCK // max(width, 1))
    for start in range(0, samples, step):
        yield min(step, samples - start)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their family (Holm 1979): reject those at most alpha, and the family-wise error is at most alpha.

    The i-th smallest of m (i from 0) becomes the largest of (m - j) p_(j) over j <= i, at most 1.
    """
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for step, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        running = max(running, min(1.0, (len(p_values) - step) * p_values[index]))
        adjusted[index] = running
    return adjusted
