"""Systems against a baseline, query by query: randomisation test, bootstrap interval, effect size, Holm's correction.

Flips and redrawn sets of a topic's queries are made once for all systems and measures, and serve the macro average as well.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from taco_ir.evaluation.results import TopicScores
from taco_ir.evaluation.significance import Values, effect_size, flipped_means, holm, interval, mean_difference, p_value, redrawn_means
from taco_ir.files import InputError

SIGNIFICANT = 0.05
Family = Mapping[str, Sequence[str]]  # what is tested together: a name (topics, a slice, the macro average) -> topics it is the mean of
Column = tuple[int, str]  # position of the system, measure


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

    def by_query(self, topic: str, measure: str) -> Values | None:
        """Each query's mean over the seeds that have the topic [Q], None where only means were kept of one. Raises: InputError."""
        runs = [of_seed[topic].by_query.get(measure, ()) for of_seed in self.seeds.values() if topic in of_seed]
        if not runs or not all(runs):
            return None
        if len({len(run) for run in runs}) > 1:
            raise InputError(f"{self.name}: seeds have values of {sorted({len(run) for run in runs})} queries on {topic}, {measure}")
        values_Q: Values = np.mean(np.array(runs, dtype=np.float64), axis=0)
        return values_Q


class Paired(NamedTuple):
    """One system's differences to the baseline [Q], and their means under flips and on redrawn queries [N]."""

    differences_Q: Values
    flipped_N: Values
    redrawn_N: Values


def compare(
    systems: Sequence[Scored], baseline: Scored, families: Sequence[Family], measures: Sequence[str], seed: int
) -> list[Comparison]:
    """Test systems against the baseline on every part of every family that both have values by query for.

    Holm's correction is over the systems and parts of one family, on one measure.

    Raises:
        InputError: where two were not scored on the same number of queries.
    """
    topics = dict.fromkeys(topic for family in families for names in family.values() for topic in names)
    paired = {topic: _resample(_differences(systems, baseline, topic, measures), [seed, number]) for number, topic in enumerate(topics)}
    found: list[Comparison] = []
    for measure in measures:
        for family in families:
            rows = [
                _comparison(system, part, measure, [paired[topic][number, measure] for topic in names])
                for part, names in family.items()
                for number, system in enumerate(systems)
                if all((number, measure) in paired[topic] for topic in names)
            ]
            found += [row._replace(p_holm=p) for row, p in zip(rows, holm([row.p for row in rows]), strict=True)]
    return found


def _differences(systems: Sequence[Scored], baseline: Scored, topic: str, measures: Sequence[str]) -> dict[Column, Values]:
    """Values less the baseline's [Q], of every system and measure that both have. Raises: InputError."""
    found: dict[Column, Values] = {}
    for measure in measures:
        theirs = baseline.by_query(topic, measure)
        for number, system in enumerate(systems):
            ours = system.by_query(topic, measure)
            if ours is None or theirs is None:
                continue
            if len(ours) != len(theirs):
                raise InputError(
                    f"{topic}, {measure}: {system.name} has values of {len(ours)} queries, {baseline.name} of {len(theirs)}; "
                    "systems can be compared on the same queries only"
                )
            found[number, measure] = ours - theirs
    return found


def _resample(columns: Mapping[Column, Values], seed: Sequence[int]) -> dict[Column, Paired]:
    """Flip and redraw columns of the same queries together; what is drawn for one does not depend on which others there are."""
    by_length: dict[int, list[Column]] = defaultdict(list)
    for column, differences_Q in columns.items():
        by_length[len(differences_Q)].append(column)
    found = {}
    for together in by_length.values():
        differences_QS = np.stack([columns[column] for column in together], axis=1)
        generator = np.random.default_rng(seed)
        flipped_SN = np.ascontiguousarray(flipped_means(differences_QS, generator).T)
        redrawn_SN = np.ascontiguousarray(redrawn_means(differences_QS, generator).T)
        for column, flipped_N, redrawn_N in zip(together, flipped_SN, redrawn_SN, strict=True):
            found[column] = Paired(columns[column], flipped_N, redrawn_N)
    return found


def _comparison(system: Scored, part: str, measure: str, tasks: Sequence[Paired]) -> Comparison:
    differences = [task.differences_Q for task in tasks]
    low, high = interval([task.redrawn_N for task in tasks])
    p = p_value(differences, [task.flipped_N for task in tasks])
    return Comparison(system.system, system.base, part, measure, mean_difference(differences), low, high, effect_size(differences), p, p)
