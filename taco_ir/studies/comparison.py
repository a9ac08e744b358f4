"""Systems against a baseline, query by query: randomisation test, bootstrap interval, effect size, Holm's correction.

Trainings of two systems on one base are pairs by their seeds, as in a study where they begin with the same model and negatives: both
count by the seeds that they have in common. Flips and redrawn sets of a topic's queries are made once for all systems and measures, and serve the
macro average as well.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from taco_ir.core.files import InputError
from taco_ir.evaluation.significance import (
    Values,
    effect_size,
    extremes,
    flips,
    holm,
    interval,
    least_extreme,
    mean_difference,
    p_value,
    redrawn_means,
)
from taco_ir.studies.records import TopicScores

SIGNIFICANT = 0.05
SAMPLES = 200_000  # Holm's limit for the least p of 160 tests is at about 60 of them; at 3 of 10,000 marks came and went with the seed
Family = Mapping[str, Sequence[str]]  # what is tested together: a name (topics, a slice, the macro average) -> topics it is the mean of
Pair = tuple["Scored", "Scored"]  # a system and the baseline that it is compared with
Column = tuple[int, str]  # position of the pair, measure
Columns = Mapping[Column, Values]  # differences of one topic [Q]


def row_name(system: str, base: str) -> str:
    """A system with its base: one row of a board."""
    return f"{system} ({base})" if base else system


class Comparison(NamedTuple):
    """A system's difference to the baseline on one measure; `topics` may be a slice or the macro average.

    Attributes:
        low, high: 95 % bootstrap interval of the difference.
        effect: the difference in standard deviations (`significance.effect_size`), None where that is not defined.
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


class Scored(NamedTuple):
    """A system and its scores: seed -> topics -> scores."""

    system: str
    base: str
    seeds: Mapping[int, Mapping[str, TopicScores]]

    @property
    def name(self) -> str:
        return row_name(self.system, self.base)

    def by_query(self, topic: str, measure: str, seeds: Collection[int]) -> Values | None:
        """Each query's mean over those of the seeds that have the topic [Q], None where only means were kept of one. Raises: InputError."""
        runs = [of_seed[topic].by_query.get(measure, ()) for seed, of_seed in self.seeds.items() if seed in seeds and topic in of_seed]
        if not runs or not all(runs):
            return None
        if len({len(run) for run in runs}) > 1:
            raise InputError(f"{self.name}: seeds have values of {sorted({len(run) for run in runs})} queries on {topic}, {measure}")
        values_Q: Values = np.mean(np.array(runs, dtype=np.float64), axis=0)
        return values_Q


def compared_seeds(system: Scored, baseline: Scored) -> tuple[Collection[int], Collection[int]]:
    """The seeds of each that count where the two are compared: on one base those that both have, if there are any, else all of both."""
    common = system.seeds.keys() & baseline.seeds.keys() if system.base and system.base == baseline.base else ()
    return (common, common) if common else (system.seeds.keys(), baseline.seeds.keys())


def compare(pairs: Sequence[Pair], families: Sequence[Family], measures: Sequence[str], seed: int) -> list[Comparison]:
    """Test each system against its baseline on every part of every family that both have values by query for.

    Holm's correction is over the systems and parts of one family, on one measure.

    Raises:
        InputError: where two were not scored on the same number of queries.
    """
    topics = dict.fromkeys(topic for family in families for names in family.values() for topic in names)
    columns = {topic: _differences(pairs, topic, measures) for topic in topics}
    redrawn = {topic: _redrawn(columns[topic], [seed, number]) for number, topic in enumerate(topics)}
    tested: list[list[tuple[str, Sequence[str], Column]]] = [
        [
            (part, names, column)
            for part, names in family.items()
            for column in ((number, measure) for number in range(len(pairs)))
            if all(column in columns[topic] for topic in names)
        ]
        for measure in measures
        for family in families
    ]
    p_values = iter(_p_values([(names, column) for together in tested for _, names, column in together], columns, seed))
    found: list[Comparison] = []
    for together in tested:
        rows = []
        for part, names, column in together:
            system, measure, p = pairs[column[0]][0], column[1], next(p_values)
            tasks = [columns[topic][column] for topic in names]
            low, high = interval([redrawn[topic][column] for topic in names])
            rows.append(Comparison(system.system, system.base, part, measure, mean_difference(tasks), low, high, effect_size(tasks), p, p))
        found += [row._replace(p_holm=p) for row, p in zip(rows, holm([row.p for row in rows]), strict=True)]
    return found


def _differences(pairs: Sequence[Pair], topic: str, measures: Sequence[str]) -> Columns:
    """Values less the baseline's [Q], of every pair and measure that both have. Raises: InputError."""
    found: dict[Column, Values] = {}
    for number, (system, baseline) in enumerate(pairs):
        our_seeds, their_seeds = compared_seeds(system, baseline)
        for measure in measures:
            ours, theirs = system.by_query(topic, measure, our_seeds), baseline.by_query(topic, measure, their_seeds)
            if ours is None or theirs is None:
                continue
            if len(ours) != len(theirs):
                raise InputError(
                    f"{topic}, {measure}: {system.name} has values of {len(ours)} queries, {baseline.name} of {len(theirs)}; "
                    "systems can be compared on the same queries only"
                )
            found[number, measure] = ours - theirs
    return found


def _p_values(parts: Sequence[tuple[Sequence[str], Column]], columns: Mapping[str, Columns], seed: int) -> list[float]:
    """Of each part: topics, and whose differences there. Flips come in blocks, since all of them would not fit into memory."""
    least = [least_extreme([columns[topic][column] for topic in names]) for names, column in parts]
    extreme = [0] * len(parts)
    streams = {topic: _flipped(found, [seed, number]) for number, (topic, found) in enumerate(columns.items()) if found}
    for blocks in zip(*streams.values(), strict=True):
        flipped = dict(zip(streams, blocks, strict=True))
        for place, (names, column) in enumerate(parts):
            extreme[place] += extremes(least[place], [flipped[topic][column] for topic in names])
    return [p_value(count, SAMPLES) for count in extreme]


def _flipped(columns: Columns, seed: Sequence[int]) -> Iterator[dict[Column, Values]]:
    """Blocks of each column's means under flips [n]; what is drawn for one does not depend on which others there are."""
    groups = _alike(columns)
    streams = [flips(differences_QS, np.random.default_rng(seed), SAMPLES) for _, differences_QS in groups]
    for blocks in zip(*streams, strict=True):
        yield {
            column: flipped_n
            for (together, _), block_nS in zip(groups, blocks, strict=True)
            for column, flipped_n in zip(together, np.ascontiguousarray(block_nS.T), strict=True)
        }


def _redrawn(columns: Columns, seed: Sequence[int]) -> dict[Column, Values]:
    """Each column's means on redrawn queries [N], with the same independence."""
    return {
        column: redrawn_N
        for together, differences_QS in _alike(columns)
        for column, redrawn_N in zip(
            together, np.ascontiguousarray(redrawn_means(differences_QS, np.random.default_rng(seed)).T), strict=True
        )
    }


def _alike(columns: Columns) -> list[tuple[list[Column], Values]]:
    """Columns of the same queries, and their differences side by side [Q, S]."""
    by_length: dict[int, list[Column]] = defaultdict(list)
    for column, differences_Q in columns.items():
        by_length[len(differences_Q)].append(column)
    return [(together, np.stack([columns[column] for column in together], axis=1)) for together in by_length.values()]
