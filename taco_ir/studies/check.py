"""Do recorded scores come out again: which records to score anew, and what moved."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

from taco_ir.core.files import InputError
from taco_ir.studies.comparison import row_name
from taco_ir.studies.records import Result, TopicScores

Rescore = Callable[[Result], Result]


def chosen(results: Sequence[Result], rows: Sequence[str]) -> list[Result]:
    """Records by the name of a system, a row, a condition or of their own; without names all. Raises: InputError for a name that none has."""
    names = [{result.system, row_name(result.system, result.base), result.condition, result.name} for result in results]
    for row in rows:
        if not any(row in of_result for of_result in names):
            systems = sorted({row_name(result.system, result.base) for result in results})
            raise InputError(f"--rows {row!r}: no such row; allowed: {', '.join(systems)}, a condition, or the name of a record")
    return [result for result, of_result in zip(results, names, strict=True) if not rows or of_result & set(rows)]


def drawn(results: Sequence[Result], count: int, seed: int) -> list[Result]:
    """`count` of the records, drawn by the seed, by name. Raises: InputError for more than there are."""
    if count > len(results):
        raise InputError(f"--random {count}: there are {len(results)} records")
    return sorted(random.Random(seed).sample(list(results), count), key=lambda result: result.name)


def moved(results: Sequence[Result], rescore: Rescore, tolerance: float) -> Iterator[tuple[Result, list[str]]]:
    """Score each record anew: the record, and its deviations as soon as they are known."""
    for recorded in results:
        yield recorded, deviations(recorded, rescore(recorded), tolerance)


def deviations(recorded: Result, found: Result, tolerance: float) -> list[str]:
    """A line for each mean that moved by more than the tolerance, up or down, is only in one of the two, or is not of the same queries."""
    lines = []
    if (recorded.passages, recorded.collection) != (found.passages, found.collection):
        lines.append(
            f"{recorded.name}: recorded on {recorded.passages} passages ({recorded.collection}), found on {found.passages} ({found.collection})"
        )
    for topic in dict.fromkeys((*recorded.topics, *found.topics)):
        before, after = recorded.topics.get(topic), found.topics.get(topic)
        if before is None or after is None:
            lines.append(f"{recorded.name}: {topic}: only {'found' if before is None else 'recorded'}")
        elif before.fingerprint != after.fingerprint:
            lines.append(
                f"{recorded.name}: {topic}: recorded on other queries or other gold ({before.fingerprint}) than found ({after.fingerprint})"
            )
        else:
            lines += [f"{recorded.name}: {topic}, {line}" for line in _moved_means(before, after, tolerance)]
    return lines


def _moved_means(before: TopicScores, after: TopicScores, tolerance: float) -> Iterator[str]:
    for measure in dict.fromkeys((*before.means, *after.means)):
        old, new = before.means.get(measure), after.means.get(measure)
        if old is None or new is None:
            yield f"{measure}: only {'found' if old is None else 'recorded'}"
        elif not abs(new - old) <= tolerance:  # so that a NaN deviates
            yield f"{measure}: recorded {old:.6f}, found {new:.6f}, moved by {new - old:+.6f}; allowed {tolerance}"
