"""Compares the systems of a study with baselines: which seeds to use, and the difference for each query.

If two systems start from the same base model, their trainings are paired by seed, because equal seeds share initial
model and negatives. Then only seeds that both systems have are used.

Trainings log their dose: two cosines between their updates and those of naive training on the same batches. By the
triangle inequality for angles, two systems that differ only in the weighting have updates with a cosine of at least
cos(a + b), where a and b are their angles.
"""

from __future__ import annotations

import itertools
import math
import shlex
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

import numpy as np

from taco_ir.core.files import InputError
from taco_ir.evaluation.significance import Column, Differences, Values
from taco_ir.studies.records import Record, TopicScores, row_name
from taco_ir.training import DOSE

NEARLY = 0.98  # cosine above which updates are nearly the same
ALONE = ("--weighting", "--weighting-options", "--output", "--log-dose", "--log-cosines")


class System(NamedTuple):
    """A system on one base model, with its scores by seed and topics."""

    system: str
    base: str
    seeds: Mapping[int, Mapping[str, TopicScores]]

    @property
    def name(self) -> str:
        return row_name(self.system, self.base)

    def by_query(self, topic: str, measure: str, seeds: Collection[int]) -> Values | None:
        """Return each query's mean over these seeds [Q]; None if a seed has no values by query. Raises: InputError."""
        scores = [each[topic] for seed, each in self.seeds.items() if seed in seeds and topic in each]
        runs = [each.by_query.get(measure, ()) for each in scores]
        if not runs or not all(runs):
            return None
        if len(lengths := {len(run) for run in runs}) > 1:
            raise InputError(
                f"{self.name}: its seeds were scored on different numbers of queries, {sorted(lengths)}, on "
                f"{topic} by {measure}; score all seeds on the same queries"
            )
        values_Q: Values = np.mean(np.array(runs, dtype=np.float64), axis=0)
        return values_Q


Pair = tuple[System, System]  # a system and the baseline that it is compared with


def group_systems(results: Sequence[Record]) -> list[System]:
    """Group records by system and base model. Raises: InputError if two records of a seed have the same topics."""
    merged: dict[tuple[str, str], dict[int, dict[str, TopicScores]]] = defaultdict(lambda: defaultdict(dict))
    made_by: dict[tuple[str, int, str], str] = {}
    for result in results:
        for topic, scores in result.topics.items():
            other = made_by.setdefault((result.row, result.seed, topic), result.name)
            if topic in (of_seed := merged[result.system, result.base][result.seed]):
                raise InputError(
                    f"{result.row}, seed {result.seed}: {topic} is in both {other} and {result.name}; only one may "
                    "have it"
                )
            of_seed[topic] = scores
    return [System(*key, dict(sorted(seeds.items()))) for key, seeds in merged.items()]


def pair_systems(systems: Sequence[System], baselines: Sequence[System]) -> list[Pair]:
    """Pair each system with the only baseline or, if there are several, with the baseline on its own base model."""
    of_base = {baseline.base: baseline for baseline in baselines}
    only = baselines[0] if len(baselines) == 1 else None
    return [
        (system, found)
        for system in systems
        if system not in baselines and (found := only or of_base.get(system.base)) is not None
    ]


def compared_seeds(system: System, baseline: System) -> tuple[Collection[int], Collection[int]]:
    """Return the seeds of both systems to compare: common seeds if they share a base model, otherwise all seeds."""
    common = system.seeds.keys() & baseline.seeds.keys() if system.base and system.base == baseline.base else ()
    return (common, common) if common else (system.seeds.keys(), baseline.seeds.keys())


def compute_differences(pairs: Sequence[Pair], topics: Sequence[str], measures: Sequence[str]) -> Differences:
    """Return each system's values by query, minus the baseline's values. Raises: InputError if the queries differ."""
    found: dict[str, dict[Column, Values]] = {topic: {} for topic in topics}
    for topic, measure, (system, baseline) in itertools.product(topics, measures, pairs):
        our_seeds, their_seeds = compared_seeds(system, baseline)
        ours, theirs = system.by_query(topic, measure, our_seeds), baseline.by_query(topic, measure, their_seeds)
        if ours is None or theirs is None:
            continue
        if len(ours) != len(theirs):
            raise InputError(
                f"{topic}, {measure}: {system.name} was scored on {len(ours)} queries, {baseline.name} on "
                f"{len(theirs)}; systems can be compared only on the same queries"
            )
        found[topic][Column(system.system, system.base, measure)] = ours - theirs
    return found


def mean_doses(results: Sequence[Record]) -> dict[str, dict[str, float]]:
    """Return the dose of each row (see `training.dose.Dose`), averaged over seeds. Naive training is left out."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for result in results:
        dose = result.made.get("dose") or {}
        if dose.get("cosine") not in (None, 1.0) or dose.get("scaled_cosine") not in (None, 1.0):
            for name in DOSE:
                if dose.get(name) is not None:
                    found[result.row][name].append(dose[name])
    return {row: {name: fmean(values) for name, values in own.items()} for row, own in found.items()}


def note_same_updates(results: Sequence[Record]) -> Iterator[str]:
    """Yield a note for each pair of rows that differ only in the weighting and had nearly the same updates.

    Common seeds are compared by their mean doses, before and after the optimiser's scaling (see the top of this file).
    """
    angles: dict[str, dict[tuple[int, tuple[str, ...]], float]] = defaultdict(dict)
    for result in results:
        if (angle := _angle(result.made.get("dose", {}))) is not None:
            angles[result.row][result.seed, _words_but_weighting(result)] = angle
    for (name, own), (other, others) in itertools.combinations(angles.items(), 2):
        least = [math.cos(min(own[each] + others[each], math.pi)) for each in own.keys() & others.keys()]
        if least and fmean(least) > NEARLY:
            yield (
                f"{name}: nearly the same updates as {other}, with a cosine of at least {fmean(least):.3f} on average, "
                "so the weighting can hardly have made a difference"
            )


def _angle(dose: Mapping[str, float | None]) -> float | None:
    """Return the larger angle of a dose; None if a cosine is missing."""
    cosines = [cosine for name in ("cosine", "scaled_cosine") if (cosine := dose.get(name)) is not None]
    return math.acos(max(-1.0, min(1.0, *cosines))) if len(cosines) > 1 else None


def _words_but_weighting(record: Record) -> tuple[str, ...]:
    """Return the words of the commands that made a record, without flags for the weighting and for outputs."""
    kept, inside = [], False
    for made in record.made.get("commands", ()):
        for word in shlex.split(made["command"]):
            if word.startswith("--"):
                inside = word.partition("=")[0] in ALONE
            if not inside:
                kept.append(word)
    return tuple(kept)
