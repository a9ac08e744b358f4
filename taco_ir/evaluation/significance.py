"""Is one system better than another: paired randomisation test, Holm's correction, bootstrap interval, effect size.

A pair of systems has one p-value, whichever verb prints it: flips are drawn by the seed and the name of the topics, values count
by six digits, and the number of flips is one. Over several topics the statistic is the mean of their means. Flips and redrawn
queries are made for many systems at once, since they cost more than the statistics do.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from taco_ir.core.files import InputError
from taco_ir.core.seeds import generator
from taco_ir.evaluation.measures import MACRO

Values = npt.NDArray[np.float64]
SIGNIFICANT = 0.05
FLIPS = 200_000  # Holm's limit for the least p of 160 tests is at about 60 of them; at 3 of 10,000 marks came and went with the seed
DRAWS = 10_000  # of queries, for an interval
DIGITS = 6  # of a query's value, as records of studies keep it; a flip equal to the observed difference but for rounding counts
BLOCK = 1 << 20  # values drawn at once: 8 MB of float64
AT_ONCE = 1 << 12  # flips made at once, whatever the number of queries: those of several topics go together


class Column(NamedTuple):
    """What is tested: a system against its baseline on one measure."""

    system: str
    base: str
    measure: str


class Comparison(NamedTuple):
    """A system's difference to its baseline on one measure; `topics` may be a slice or the macro average.

    Attributes:
        base: the encoder that training started from, where rows of one system are told apart by it.
        low, high: 95 % bootstrap interval of the difference.
        effect: the difference in standard deviations (`effect_size`), None where that is not defined.
        p, p_holm: of the paired randomisation test, before and after Holm's correction over its family.
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
        """`+` significantly better than the baseline, `-` significantly worse, else nothing."""
        if self.p_holm >= SIGNIFICANT:
            return ""
        return "+" if self.difference > 0 else "-"


Differences = Mapping[str, Mapping[Column, Values]]  # topics -> column -> value less the baseline's of each query [Q]
Part = tuple[Sequence[str], Column]  # topics whose means are averaged, and whose differences there
Family = Mapping[
    str, Sequence[str]
]  # what is tested together: topics, a slice or the macro average -> topics it is the mean of


def compare(differences: Differences, topics: Sequence[str], slices: Sequence[str], seed: int) -> list[Comparison]:
    """Test every column on all topics that it has values for, and on their macro average where it has all.

    Holm's family is all systems, topics and the macro average on one measure; slices, which are parts of topics, are a family of
    their own.
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
            found.append(
                Comparison(
                    column.system,
                    column.base,
                    name,
                    column.measure,
                    mean_difference(tasks),
                    low,
                    high,
                    effect_size(tasks),
                    p,
                    p_holm,
                )
            )
    return found


def paired_differences(scores: Mapping[str, float], baseline: Mapping[str, float]) -> Values:
    """score - baseline per query [Q], in the order of `scores`.

    Raises:
        InputError: where the two were not measured on the same queries.
    """
    if lone := scores.keys() ^ baseline.keys():
        raise InputError(
            f"two runs can be compared on the same queries only; {len(lone)} are in one alone, first {min(lone)!r}"
        )
    return np.array(
        [round(value, DIGITS) - round(baseline[qid], DIGITS) for qid, value in scores.items()], dtype=np.float64
    )


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


def randomisation_tests(
    differences: Differences, parts: Sequence[Part], seed: int, samples: int = FLIPS
) -> list[float]:
    """Two-sided p-value of each part's mean difference under random sign flips of the queries' differences, independent by topics.

    p = (b + 1) / (N + 1) where b of N flips are no nearer to 0 than what was observed, so never 0 (Phipson and Smyth 2010).
    """
    least = [
        abs(mean_difference([differences[name][column] for name in names])) - 10**-DIGITS for names, column in parts
    ]
    extreme = [0] * len(parts)
    streams = {name: _flipped(columns, seed, name, samples) for name, columns in differences.items() if columns}
    for blocks in zip(*streams.values(), strict=True):
        flipped = dict(zip(streams, blocks, strict=True))
        for place, (names, column) in enumerate(parts):
            means_n = np.mean([flipped[name][column] for name in names], axis=0)
            extreme[place] += int(np.count_nonzero(np.abs(means_n) >= least[place]))
    return [(count + 1) / (samples + 1) for count in extreme]


def bootstrap_intervals(
    differences: Differences, parts: Sequence[Part], seed: int, samples: int = DRAWS, confidence: float = 0.95
) -> list[tuple[float, float]]:
    """Percentile bootstrap interval of each part's mean difference; queries are redrawn within their topics."""
    ends = [(1 - confidence) / 2, (1 + confidence) / 2]
    redrawn = {name: _redrawn(columns, seed, name, samples) for name, columns in differences.items()}
    found = []
    for names, column in parts:
        low, high = np.quantile(np.mean([redrawn[name][column] for name in names], axis=0), ends)
        found.append((float(low), float(high)))
    return found


def _flipped(columns: Mapping[Column, Values], seed: int, name: str, samples: int) -> Iterator[dict[Column, Values]]:
    """Blocks of each column's means under flips [n]; what is drawn for one does not depend on which others there are."""
    groups = _alike(columns)
    streams = [flips(differences_QS, generator(seed, "flips", name), samples) for _, differences_QS in groups]
    for blocks in zip(*streams, strict=True):
        yield {
            column: flipped_n
            for (together, _), block_nS in zip(groups, blocks, strict=True)
            for column, flipped_n in zip(together, np.ascontiguousarray(block_nS.T), strict=True)
        }


def _redrawn(columns: Mapping[Column, Values], seed: int, name: str, samples: int) -> dict[Column, Values]:
    """Each column's means on redrawn queries [N], with the same independence."""
    return {
        column: redrawn_N
        for together, differences_QS in _alike(columns)
        for column, redrawn_N in zip(
            together,
            np.ascontiguousarray(redrawn_means(differences_QS, generator(seed, "redrawn", name), samples).T),
            strict=True,
        )
    }


def _alike(columns: Mapping[Column, Values]) -> list[tuple[list[Column], Values]]:
    """Columns with values of the same number of queries, and their differences side by side [Q, S]."""
    by_length: dict[int, list[Column]] = defaultdict(list)
    for column, differences_Q in columns.items():
        by_length[len(differences_Q)].append(column)
    return [(together, np.stack([columns[column] for column in together], axis=1)) for together in by_length.values()]


def flips(differences_QS: Values, draws: np.random.Generator, samples: int) -> Iterator[Values]:
    """One task's mean differences under random sign flips of its queries, the same flips for all S systems: blocks [AT_ONCE, S], N rows in all."""
    queries, total_S = len(differences_QS), differences_QS.sum(axis=0)
    for start in range(0, samples, AT_ONCE):
        size = min(AT_ONCE, samples - start)
        bits = np.unpackbits(np.frombuffer(draws.bytes(size * (-(-queries // 8))), np.uint8).reshape(size, -1), axis=1)
        yield (2 * (bits[:, :queries] @ differences_QS) - total_S) / queries


def redrawn_means(differences_QS: Values, draws: np.random.Generator, samples: int) -> Values:
    """One task's mean differences [N, S] on N redrawn sets of its queries, the same sets for all S systems."""
    queries = len(differences_QS)
    redrawn_NS = np.empty((samples, differences_QS.shape[1]))
    for part in _blocks(samples, queries):
        size = part.stop - part.start
        drawn = draws.integers(0, queries, size=(size, queries), dtype=np.int32)
        if differences_QS.shape[1] == 1:  # for one system, reading is faster than counting
            redrawn_NS[part] = differences_QS[:, 0][drawn].sum(axis=1, keepdims=True)
            continue
        drawn += np.arange(0, size * queries, queries, dtype=np.int32)[
            :, None
        ]  # counts of each set in a row of their own
        times_drawn = np.bincount(drawn.ravel(), minlength=size * queries).reshape(size, queries)
        redrawn_NS[part] = times_drawn.astype(np.float64) @ differences_QS
    return redrawn_NS / queries


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
