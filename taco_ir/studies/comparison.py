"""A study's systems beside their baselines: which seeds count, and how far each query's value is from the baseline's.

Trainings of two systems on one base are pairs by their seeds, as in a study where they begin with the same model and negatives: both
count by the seeds that they have in common.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from taco_ir.core.files import InputError
from taco_ir.evaluation.significance import Column, Differences, Values
from taco_ir.studies.records import TopicScores

Pair = tuple["Scored", "Scored"]  # a system and the baseline that it is compared with


def row_name(system: str, base: str) -> str:
    """A system with its base: one row of a board."""
    return f"{system} ({base})" if base else system


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
        runs = [
            of_seed[topic].by_query.get(measure, ())
            for seed, of_seed in self.seeds.items()
            if seed in seeds and topic in of_seed
        ]
        if not runs or not all(runs):
            return None
        if len({len(run) for run in runs}) > 1:
            raise InputError(
                f"{self.name}: seeds have values of {sorted({len(run) for run in runs})} queries on {topic}, {measure}"
            )
        values_Q: Values = np.mean(np.array(runs, dtype=np.float64), axis=0)
        return values_Q


def compared_seeds(system: Scored, baseline: Scored) -> tuple[Collection[int], Collection[int]]:
    """The seeds of each that count where the two are compared: on one base those that both have, if there are any, else all of both."""
    common = system.seeds.keys() & baseline.seeds.keys() if system.base and system.base == baseline.base else ()
    return (common, common) if common else (system.seeds.keys(), baseline.seeds.keys())


def differences_of(pairs: Sequence[Pair], topics: Sequence[str], measures: Sequence[str]) -> Differences:
    """Each system's values less its baseline's, on every topics and measure that both have values by query for. Raises: InputError."""
    found: dict[str, dict[Column, Values]] = {topic: {} for topic in topics}
    for topic, measure, (system, baseline) in itertools.product(topics, measures, pairs):
        our_seeds, their_seeds = compared_seeds(system, baseline)
        ours, theirs = system.by_query(topic, measure, our_seeds), baseline.by_query(topic, measure, their_seeds)
        if ours is None or theirs is None:
            continue
        if len(ours) != len(theirs):
            raise InputError(
                f"{topic}, {measure}: {system.name} has values of {len(ours)} queries, {baseline.name} of {len(theirs)}; "
                "systems can be compared on the same queries only"
            )
        found[topic][Column(system.system, system.base, measure)] = ours - theirs
    return found
