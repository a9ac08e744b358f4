"""Tests whether one system is better than another: randomisation test, Holm's correction, bootstrap interval, effect
size.

A pair of systems has the same p-value in all verbs: sign flips depend only on the seed and the name of the topics,
values are rounded to six digits, and the number of flips is fixed. Over several topics the statistic is the mean of
their means. All systems are resampled together, since sampling costs more than computing the statistics.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from taco_ir.core.files import InputError
from taco_ir.core.hashes import generator
from taco_ir.evaluation.measures import MACRO

Values = npt.NDArray[np.float64]
SIGNIFICANT = 0.05
FLIPS = 200_000  # the smallest of 160 p-values is significant up to about 60; with 10,000 flips marks vary by seed
RESAMPLES = 10_000  # for an interval
DIGITS = 6  # of a query's value, as in the records of studies; a flip that differs from the observed by less counts
BLOCK = 1 << 20  # values sampled at once: 8 MB of float64
BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).astype(np.float64)  # of each byte: [256, 8]
AT_ONCE = 1 << 12  # flips made at once for any number of queries, so that topics can be combined


class Column(NamedTuple):
    """What a test compares with the baseline: a system, trained from the encoder `base`, by one measure."""

    system: str
    base: str
    measure: str


class Comparison(NamedTuple):
    """A system's difference from its baseline by one measure, on topics, a slice of topics, or in the macro average.

    Attributes:
        base: the encoder that training started from, if the system was trained from several encoders.
        low, high: 95 % bootstrap interval of the difference.
        effect: the difference in standard deviations (`effect_size`); None if undefined.
        p, p_holm: p-values of the paired randomisation test, before and after Holm's correction in its family.
    """

    system: str
    base: str
    topics: str
    measure: str
    difference: float
    low: float
    high: float
    effect: float | None
    p: float
    p_holm: float

    @property
    def mark(self) -> str:
        """`+` if significantly better than the baseline, `-` if significantly worse, otherwise ""."""
        if self.p_holm >= SIGNIFICANT:
            return ""
        return "+" if self.difference > 0 else "-"


Differences = Mapping[str, Mapping[Column, Values]]  # topics -> column -> differences from the baseline per query [Q]
Part = tuple[Sequence[str], Column]  # topics whose means are averaged, and the column that is tested there
# what is tested together: topics, a slice or the macro average -> the topics whose means it averages
Family = Mapping[str, Sequence[str]]


def compare(differences: Differences, topics: Sequence[str], slices: Sequence[str], seed: int) -> list[Comparison]:
    """Test each system against its baseline on all its topics, and in the macro average if it has every topic.

    Holm's correction covers all tests of one measure together. Slices, which are subsets of topics, are corrected
    separately. `differences` has score minus baseline for each query [Q], by topics and column.
    """
    whole = {name: (name,) for name in topics} | ({MACRO: tuple(topics)} if len(topics) > 1 else {})
    families: Sequence[Family] = (whole, {name: (name,) for name in slices})
    measures = dict.fromkeys(column.measure for columns in differences.values() for column in columns)
    tested: list[list[tuple[str, Part]]] = [
        [
            (part, (names, column))
            for part, names in family.items()
            for column in differences[names[0]]
            if column.measure == measure and all(column in differences[name] for name in names)
        ]
        for measure in measures
        for family in families
    ]
    parts = [part for together in tested for _, part in together]
    p_values = iter(randomisation_tests(differences, parts, seed))
    intervals = iter(bootstrap_intervals(differences, parts, seed))
    found = []
    for together in tested:
        family_p = [next(p_values) for _ in together]
        for (name, (names, column)), p, p_holm in zip(together, family_p, holm(family_p), strict=True):
            tasks = [differences[each][column] for each in names]
            low, high = next(intervals)
            values = (mean_difference(tasks), low, high, effect_size(tasks), p, p_holm)
            found.append(Comparison(column.system, column.base, name, column.measure, *values))
    return found


def paired_differences(scores: Mapping[str, float], baseline: Mapping[str, float]) -> Values:
    """Returns score minus baseline for each query [Q], in the order of `scores`.

    Raises:
        InputError: if the two were scored on different queries.
    """
    if lone := scores.keys() ^ baseline.keys():
        only = f"{len(lone)} queries, such as {min(lone)!r}, are in only one of them"
        raise InputError(f"two runs can be compared only on the same queries; {only}")
    differences = [round(value, DIGITS) - round(baseline[qid], DIGITS) for qid, value in scores.items()]
    return np.array(differences, dtype=np.float64)


def mean_difference(tasks: Sequence[Values]) -> float:
    """Returns the mean of the tasks' mean differences, from each task's differences [Q]."""
    return float(np.mean([np.mean(differences_Q) for differences_Q in tasks]))


def effect_size(tasks: Sequence[Values]) -> float | None:
    """Returns Cohen's d_z, the mean difference divided by its standard deviation over queries (Cohen 1988, 2.3.5).

    For several tasks: the mean of the tasks' means, divided by the root of the mean of their variances. Each task
    counts the same, and differences between tasks do not matter. None if the root is 0 or a task has only one query.
    """
    if min(len(differences_Q) for differences_Q in tasks) < 2:
        return None
    deviation = float(np.sqrt(np.mean([np.var(differences_Q, ddof=1) for differences_Q in tasks])))
    return mean_difference(tasks) / deviation if deviation else None


def paired_test(values: Sequence[float], others: Sequence[float], seed: int = 0) -> float:
    """Returns the p-value of the difference of two systems, from their scores on the same queries [Q]."""
    column = Column("", "", "")
    differences_Q = np.round(values, DIGITS) - np.round(others, DIGITS)
    return randomisation_tests({"": {column: differences_Q}}, [(("",), column)], seed)[0]


def randomisation_tests(
    differences: Differences, parts: Sequence[Part], seed: int, samples: int = FLIPS
) -> list[float]:
    """Returns the two-sided p-value of each part's mean difference, by random sign flips of its queries' differences.

    p = (b + 1) / (N + 1), where b of N flips are at least as far from 0 as the observed difference, so p is never 0
    (Phipson and Smyth 2010). A part is a column and the topics that it is averaged over; topics are flipped separately.
    """
    observed = [mean_difference([differences[name][column] for name in names]) for names, column in parts]
    extreme = [0] * len(parts)
    streams = {name: _flip(columns, seed, name, samples) for name, columns in differences.items() if columns}
    for blocks in zip(*streams.values(), strict=True):
        flipped = dict(zip(streams, blocks, strict=True))
        for place, (names, column) in enumerate(parts):
            each_n = [flipped[name][column] for name in names]
            means_n = np.mean(each_n, axis=0) if len(names) > 1 else each_n[0]
            extreme[place] += int(np.count_nonzero(np.abs(means_n) >= abs(observed[place]) - 10**-DIGITS))
    return [(count + 1) / (samples + 1) for count in extreme]


def bootstrap_intervals(
    differences: Differences, parts: Sequence[Part], seed: int, samples: int = RESAMPLES, confidence: float = 0.95
) -> list[tuple[float, float]]:
    """Returns the percentile bootstrap interval of each part's mean difference; each topic's queries are resampled."""
    ends = [(1 - confidence) / 2, (1 + confidence) / 2]
    means = {name: _resample(columns, seed, name, samples) for name, columns in differences.items()}
    found = []
    for names, column in parts:
        low, high = np.quantile(np.mean([means[name][column] for name in names], axis=0), ends)
        found.append((float(low), float(high)))
    return found


def _flip(columns: Mapping[Column, Values], seed: int, name: str, samples: int) -> Iterator[dict[Column, Values]]:
    """Yield blocks of each column's means under flips [n]; a column's flips do not depend on other columns."""
    groups = _group_by_length(columns)
    streams = [flips(differences_QS, generator(seed, "flips", name), samples) for _, differences_QS in groups]
    for blocks in zip(*streams, strict=True):
        found: dict[Column, Values] = {}
        for (together, _), block_nS in zip(groups, blocks, strict=True):
            found |= zip(together, np.ascontiguousarray(block_nS.T), strict=True)
        yield found


def _resample(columns: Mapping[Column, Values], seed: int, name: str, samples: int) -> dict[Column, Values]:
    """Returns each column's means on resampled queries [N]; a column's samples do not depend on other columns."""
    found: dict[Column, Values] = {}
    for together, differences_QS in _group_by_length(columns):
        means_NS = resampled_means(differences_QS, generator(seed, "redrawn", name), samples)
        found |= zip(together, np.ascontiguousarray(means_NS.T), strict=True)
    return found


def _group_by_length(columns: Mapping[Column, Values]) -> list[tuple[list[Column], Values]]:
    """Groups columns that have the same number of queries; returns each group and its differences [Q, S]."""
    by_length: dict[int, list[Column]] = defaultdict(list)
    for column, differences_Q in columns.items():
        by_length[len(differences_Q)].append(column)
    return [(together, np.stack([columns[column] for column in together], axis=1)) for together in by_length.values()]


def flips(differences_QS: Values, rng: np.random.Generator, samples: int) -> Iterator[Values]:
    """Yield blocks [n, S]: the mean differences of S systems on one task under the same random sign flips."""
    queries, total_S = len(differences_QS), differences_QS.sum(axis=0)
    eights_J8S = np.concatenate([differences_QS, np.zeros((-queries % 8, len(total_S)))]).reshape(-1, 8, len(total_S))
    for start in range(0, samples, AT_ONCE):
        size = min(AT_ONCE, samples - start)
        signs_Jn = np.frombuffer(rng.bytes(size * len(eights_J8S)), np.uint8).reshape(size, -1).T
        sums_nS = np.zeros((size, len(total_S)))
        for differences_8S, signs_n in zip(eights_J8S, np.ascontiguousarray(signs_Jn), strict=True):
            sums_nS += (BITS @ differences_8S).take(signs_n, axis=0)  # a lookup instead of a sum over eight queries
        yield (2 * sums_nS - total_S) / queries


def resampled_means(differences_QS: Values, rng: np.random.Generator, samples: int) -> Values:
    """Returns one task's mean differences [N, S] for S systems on the same N resampled sets of its queries."""
    queries = len(differences_QS)
    sums_NS = np.empty((samples, differences_QS.shape[1]))
    step = max(1, BLOCK // max(queries, 1))
    for start in range(0, samples, step):
        part = slice(start, min(start + step, samples))
        size = part.stop - start
        sample = rng.integers(0, queries, size=(size, queries), dtype=np.int32)
        if differences_QS.shape[1] == 1:  # for one system, reading is faster than counting
            sums_NS[part] = differences_QS[:, 0][sample].sum(axis=1, keepdims=True)
            continue
        sample += np.arange(0, size * queries, queries, dtype=np.int32)[:, None]  # each set is counted in its own row
        counts = np.bincount(sample.ravel(), minlength=size * queries).reshape(size, queries)
        sums_NS[part] = counts.astype(np.float64) @ differences_QS
    return sums_NS / queries


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust the p-values of a family of tests (Holm 1979); rejecting p <= alpha keeps the family-wise error <= alpha.

    The i-th smallest of m (i from 0) becomes the largest of (m - j) p_(j) over j <= i, at most 1.
    """
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for step, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        running = max(running, min(1.0, (len(p_values) - step) * p_values[index]))
        adjusted[index] = running
    return adjusted
