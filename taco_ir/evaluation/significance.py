"""Is one run better than another: paired randomisation test, Holm's correction, bootstrap interval.

Differences come as one array per task; the statistic is the mean of the tasks' means (one task: its mean). Flips and draws are
made for many systems at once (`flips`, `redrawn_means`), since they cost more than the statistics do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from taco_ir.core.files import InputError

Values = npt.NDArray[np.float64]
SAMPLES = 10_000
BLOCK = 1 << 20  # values drawn at once: 8 MB of float64
FLIPS = 1 << 12  # flips made at once, whatever the number of queries: those of several tasks go together


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


def effect_size(tasks: Sequence[Values]) -> float | None:
    """Mean difference in standard deviations of a query's difference: Cohen's d_z = mean / sd (Cohen 1988, sec. 2.3.5).

    For several tasks the mean of the tasks' means, by the root of the mean of the tasks' variances: each task counts once,
    and how far tasks lie apart does not enter. None where that root is 0 or a task has one query alone.
    """
    if min(len(differences_Q) for differences_Q in tasks) < 2:
        return None
    deviation = float(np.sqrt(np.mean([np.var(differences_Q, ddof=1) for differences_Q in tasks])))
    return mean_difference(tasks) / deviation if deviation else None


def randomisation_test(tasks: Sequence[Values], seed: int, samples: int = SAMPLES) -> float:
    """Two-sided p-value of the mean difference under random sign flips of the queries' differences.

    Args:
        tasks: one array of paired differences [Q] per task, none empty.
    """
    generator = np.random.default_rng(seed)
    flipped = [np.concatenate(list(flips(differences_Q[:, None], generator, samples)))[:, 0] for differences_Q in tasks]
    return p_value(extremes(least_extreme(tasks), flipped), samples)


def bootstrap_interval(tasks: Sequence[Values], seed: int, samples: int = SAMPLES, confidence: float = 0.95) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean difference; queries are redrawn within their task."""
    generator = np.random.default_rng(seed)
    return interval([redrawn_means(differences_Q[:, None], generator, samples)[:, 0] for differences_Q in tasks], confidence)


def flips(differences_QS: Values, generator: np.random.Generator, samples: int = SAMPLES) -> Iterator[Values]:
    """One task's mean differences under random sign flips of its queries, the same flips for all S systems: blocks [FLIPS, S], N rows in all."""
    queries, total_S = len(differences_QS), differences_QS.sum(axis=0)
    for start in range(0, samples, FLIPS):
        size = min(FLIPS, samples - start)
        bits = np.unpackbits(np.frombuffer(generator.bytes(size * (-(-queries // 8))), np.uint8).reshape(size, -1), axis=1)
        yield (2 * (bits[:, :queries] @ differences_QS) - total_S) / queries


def redrawn_means(differences_QS: Values, generator: np.random.Generator, samples: int = SAMPLES) -> Values:
    """One task's mean differences [N, S] on N redrawn sets of its queries, the same sets for all S systems."""
    queries = len(differences_QS)
    redrawn_NS = np.empty((samples, differences_QS.shape[1]))
    for part in _blocks(samples, queries):
        size = part.stop - part.start
        drawn = generator.integers(0, queries, size=(size, queries), dtype=np.int32)
        if differences_QS.shape[1] == 1:  # for one system, reading is faster than counting
            redrawn_NS[part] = differences_QS[:, 0][drawn].sum(axis=1, keepdims=True)
            continue
        drawn += np.arange(0, size * queries, queries, dtype=np.int32)[:, None]  # counts of each set in a row of their own
        times_drawn = np.bincount(drawn.ravel(), minlength=size * queries).reshape(size, queries)
        redrawn_NS[part] = times_drawn.astype(np.float64) @ differences_QS
    return redrawn_NS / queries


def least_extreme(tasks: Sequence[Values]) -> float:
    """How far from 0 a flip's statistic must be to count as no nearer than the observed one, of paired differences [Q] of each task."""
    tolerance = 1e-12 * mean_difference([np.abs(differences_Q) for differences_Q in tasks])  # a flip equal but for rounding counts
    return abs(mean_difference(tasks)) - tolerance


def extremes(least: float, flipped: Sequence[Values]) -> int:
    """How many flips give a statistic at least that far from 0; `flipped`: mean differences [N] of each task, flipped independently."""
    return int(np.count_nonzero(np.abs(np.mean(flipped, axis=0)) >= least))


def p_value(extreme: int, samples: int) -> float:
    """Of a test whose statistic so many random samples reach: (b + 1) / (N + 1), never 0 (Phipson and Smyth 2010)."""
    return (extreme + 1) / (samples + 1)


def interval(redrawn: Sequence[Values], confidence: float = 0.95) -> tuple[float, float]:
    """Middle share `confidence` of the statistic over redrawn queries; `redrawn`: mean differences [N] of each task."""
    low, high = np.quantile(np.mean(redrawn, axis=0), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _blocks(samples: int, width: int) -> Iterator[slice]:
    """Consecutive parts of `samples`, each at most about BLOCK / width."""
    step = max(1, BLOCK // max(width, 1))
    for start in range(0, samples, step):
        yield slice(start, min(start + step, samples))


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
