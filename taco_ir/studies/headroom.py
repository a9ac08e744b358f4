"""Computes the headroom of a study: by how much its best system beats the baseline, from its records."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

import numpy as np

from taco_ir.core.files import InputError
from taco_ir.evaluation.headroom import Headroom, Scores, find_headroom, headroom_table, headroom_verdict
from taco_ir.evaluation.tables import Table
from taco_ir.studies.comparison import System, group_systems
from taco_ir.studies.records import Record


class StudyHeadroom(NamedTuple):
    """The headroom on one corpus over one row, which is the baseline on one base model (see `evaluation.headroom`)."""

    corpus: str
    row: str
    found: list[Headroom]


def headroom_tables(results: Sequence[Record], baseline: str, measure: str, against: Sequence[str] = ()) -> list[Table]:
    """Make a headroom table for each corpus and base model, and a table of notes on which gains could be detected.

    Raises:
        InputError: as in `study_headroom`.
    """
    found = study_headroom(results, baseline, measure, against)
    tables = [headroom_table(each.found, each.row, f"{each.corpus}, {measure}") for each in found]
    notes = [[f"{each.corpus}, {each.row}: {headroom_verdict(each.found)}"] for each in found]
    return [*tables, Table("", ["note"], notes)]


def study_headroom(
    results: Sequence[Record], baseline: str, measure: str, against: Sequence[str] = ()
) -> list[StudyHeadroom]:
    """Compute how much the best system beats a baseline, for each corpus and each base model of the baseline.

    Args:
        baseline: name of a row or a system.
        against: patterns for the rows or systems to consider; empty: all. Systems on other base models are left out. A
            system without a base model, such as BM25, counts only if a pattern matches it.

    Raises:
        InputError: for an unknown baseline, or a baseline without values by query.
    """
    found = []
    for corpus in dict.fromkeys(result.corpus for result in results):
        here = [result for result in results if result.corpus == corpus]
        systems = group_systems(here)
        baselines = [each for each in systems if each.name == baseline]
        baselines = baselines or [each for each in systems if each.system == baseline]
        for own in baselines:
            rivals = {each.name: _scores(each, measure) for each in systems if _counts(each, own, against)}
            if rivals and (scores := _scores(own, measure)):
                found.append(StudyHeadroom(corpus, own.name, find_headroom(scores, rivals)))
    if not found:
        rows = ", ".join(dict.fromkeys(result.row for result in results))
        raise InputError(
            f"--headroom {baseline!r} by {measure}: the results need this system and another one, both with scores "
            f"for each query; systems: {rows}"
        )
    return found


def _counts(system: System, baseline: System, against: Sequence[str]) -> bool:
    """Return whether a system matches a pattern and has the baseline's base model, or none and was asked for."""
    bases = [system.base, baseline.base] if not baseline.base else [baseline.base, *([""] if against else [])]
    names = (system.name, system.system)
    asked = not against or any(fnmatchcase(name, pattern) for name in names for pattern in against)
    return system != baseline and system.base in bases and asked


def _scores(system: System, measure: str) -> Scores:
    """Return the values by query by topics (without slices) and seed, as far as the records have them."""
    found: dict[str, dict[int, np.ndarray]] = {}
    for seed, scores in system.seeds.items():
        for name, each in scores.items():
            if not each.part_of and (values := each.by_query.get(measure)):
                found.setdefault(name, {})[seed] = np.array(values, dtype=np.float64)
    return found
