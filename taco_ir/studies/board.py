"""Builds leaderboards from a study's records: one for each corpus, with a row for each system and tests against a
baseline.

Means over seeds have a standard deviation over seeds. The tests are over queries: each query's values are first
averaged over a system's seeds. So a test says whether the order would change with other queries, but it does not say
whether it would change with other seeds. If the baseline exists on several base models, each system is compared with
the baseline on its own base model.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import NamedTuple

from taco_ir.core.files import InputError
from taco_ir.evaluation.measures import MACRO
from taco_ir.evaluation.significance import Comparison, compare
from taco_ir.studies.comparison import (
    Pair,
    System,
    compared_seeds,
    compute_differences,
    group_systems,
    mean_doses,
    note_same_updates,
    pair_systems,
)
from taco_ir.studies.records import Record, TopicScores, row_name


class Stat(NamedTuple):
    """A system's score on some topics: mean and standard deviation over seeds (None for one seed), and all scores."""

    mean: float
    sd: float | None
    by_seed: tuple[float, ...]

    @classmethod
    def of(cls, by_seed: Sequence[float]) -> Stat:
        sd = statistics.stdev(by_seed) if len(by_seed) > 1 else None
        return cls(math.fsum(by_seed) / len(by_seed), sd, tuple(by_seed))


class BoardRow(NamedTuple):
    """One system on one base model.

    Attributes:
        scores: scores by topics, slice or MACRO, then by measure. The macro average is the mean over all topics of the
            board, without slices. A row that lacks some of these topics has no macro average.
        against: name of the row that this row is compared with; "" for a baseline, or if there is no baseline for it.
        dose: how far its updates were from naive training, if this was logged (see `training.dose.Dose`).
    """

    system: str
    base: str
    seeds: tuple[int, ...]
    scores: Mapping[str, Mapping[str, Stat]]
    against: str = ""
    dose: Mapping[str, float] = {}

    @property
    def name(self) -> str:
        return row_name(self.system, self.base)

    def stat(self, topics: str, measure: str) -> Stat | None:
        return self.scores.get(topics, {}).get(measure)


@dataclass(frozen=True)
class Board:
    """All systems on one corpus.

    Attributes:
        topics: the topics, without slices.
        slices: parts of topics with separate scores, which do not count in the macro average.
        rows: sorted by the macro average of the first measure, best first; rows without a macro average come last.
        baseline: name of the baseline row, or "SYSTEM on the same base" if there are several; "" for none.
        notes: remarks, for example on rows with missing seeds.
    """

    corpus: str
    passages: int
    topics: tuple[str, ...]
    slices: tuple[str, ...]
    measures: tuple[str, ...]
    rows: tuple[BoardRow, ...]
    comparisons: tuple[Comparison, ...]
    baseline: str
    notes: tuple[str, ...] = ()

    @property
    def overall(self) -> str:
        """The column that summarises a row: the macro average or, with only one query set, the score on this set."""
        return MACRO if len(self.topics) > 1 else self.topics[0]


def select_corpus(results: Sequence[Record], corpus: str | None) -> list[Record]:
    """Select the records on one corpus (None: all records). Raises: InputError for an unknown corpus."""
    known = dict.fromkeys(result.corpus for result in results)
    if corpus is not None and corpus not in known:
        raise InputError(f"--corpus {corpus!r} is not in the results; allowed: {', '.join(known)}")
    return [result for result in results if corpus in (None, result.corpus)]


def select_topics(results: Sequence[Record], topics: Sequence[str]) -> list[Record]:
    """Keep only the scores on these topics and their slices, so that macro averages are over them (empty: all topics).

    Raises:
        InputError: for topics that no record has scores on.
    """
    known = {name: None for result in results for name, scores in result.topics.items() if not scores.part_of}
    if unknown := next((name for name in topics if name not in known), None):
        raise InputError(f"--topics {unknown!r} is not in the results; allowed: {', '.join(known)}")
    if not topics:
        return list(results)
    chosen = [
        replace(
            result, topics={name: own for name, own in result.topics.items() if name in topics or own.part_of in topics}
        )
        for result in results
    ]
    return [result for result in chosen if result.topics]


def make_boards(
    results: Sequence[Record], baseline: str | None, seed: int, measures: Sequence[str] = ()
) -> list[Board]:
    """Make one board for each corpus, the largest corpus first.

    Args:
        baseline: name of a row, or of a system, which each row is compared with on its own base. None: no tests.
        seed: random seed of the tests.
        measures: measures as they are printed, such as `page R-precision`; empty: all measures in the results.

    Raises:
        InputError: if a corpus or topics differ between two records, if two records of a system have the same topics
            and seed, or for an unknown measure or baseline.
    """
    known = list(
        dict.fromkeys(measure for result in results for scores in result.topics.values() for measure in scores.means)
    )
    if unknown := [measure for measure in measures if measure not in known]:
        raise InputError(f"measure {unknown[0]!r} is not in the results; they have {', '.join(known)}")
    by_corpus: dict[str, list[Record]] = defaultdict(list)
    for result in results:
        by_corpus[result.corpus].append(result)
    names = dict.fromkeys(result.row for result in results)
    if baseline is not None and baseline not in (*names, *(result.system for result in results)):
        raise InputError(f"baseline {baseline!r} is not a system of the results; allowed: {', '.join(names)}")
    found = [_make_board(each, baseline, seed, measures or known) for each in by_corpus.values()]
    return sorted(found, key=lambda board: (-board.passages, board.corpus))


def hide_rows(boards: Sequence[Board], patterns: Sequence[str]) -> list[Board]:
    """Hide the rows with a name or system that matches a pattern. Tests are still corrected for all rows."""
    found = []
    for board in boards:
        named = ((row, name) for row in board.rows for name in (row.name, row.system))
        hidden = [row for row, name in named if any(fnmatchcase(name, pattern) for pattern in patterns)]
        keys = {(row.system, row.base) for row in hidden}
        shown = replace(
            board,
            rows=tuple(row for row in board.rows if row not in hidden),
            comparisons=tuple(test for test in board.comparisons if (test.system, test.base) not in keys),
            notes=tuple(note for note in board.notes if not any(note.startswith(f"{row.name}: ") for row in hidden)),
        )
        found.append(shown)
    return found


def check_patterns(results: Sequence[Record], patterns: Sequence[str]) -> None:
    """Raise InputError for a pattern that matches no row and no system."""
    rows = dict.fromkeys(result.row for result in results)
    names = {*rows, *(result.system for result in results)}
    if idle := [pattern for pattern in patterns if not any(fnmatchcase(name, pattern) for name in names)]:
        raise InputError(f"no system matches {idle[0]!r}; systems: {', '.join(rows)}")


def _make_board(results: Sequence[Record], baseline: str | None, seed: int, measures: Sequence[str]) -> Board:
    part_of = _check_comparable(results)
    topics = tuple(name for name, whole in part_of.items() if not whole)
    slices = tuple(name for name, whole in part_of.items() if whole)
    systems, notes = _drop_incomplete_seeds(group_systems(results), topics)
    notes += [*_note_machines(results), *note_same_updates(results)]
    baselines = [system for system in systems if system.name == baseline]
    baselines = baselines or [system for system in systems if system.system == baseline]
    pairs = pair_systems(systems, baselines)
    against = {system.name: other.name for system, other in pairs}
    doses = mean_doses(results)
    rows = [
        _make_row(system, topics, slices)._replace(
            against=against.get(system.name, ""), dose=doses.get(system.name, {})
        )
        for system in systems
    ]
    comparisons: list[Comparison] = []
    if baselines:
        comparisons = compare(compute_differences(pairs, (*topics, *slices), measures), topics, slices, seed)
        notes += [*_note_untested(systems), *_note_fewer_seeds(pairs, topics, measures[0])]
    elif baseline is not None:
        notes.append(f"{baseline} has no results on this corpus: nothing is tested")

    def place(row: BoardRow) -> tuple[float, str]:
        stat = row.stat(MACRO, measures[0])
        return (-stat.mean if stat else math.inf, row.name)

    named = (
        f"{baselines[0].system} on the same base" if len(baselines) > 1 else "".join(each.name for each in baselines)
    )
    return Board(
        corpus=results[0].corpus,
        passages=results[0].passages,
        topics=topics,
        slices=slices,
        measures=tuple(measures),
        rows=tuple(sorted(rows, key=place)),
        comparisons=tuple(comparisons),
        baseline=named,
        notes=tuple(notes),
    )


def _check_comparable(results: Sequence[Record]) -> dict[str, str]:
    """Return, for each query set, the one it is a slice of, or "". Raises: InputError if a name has two meanings."""
    first = results[0]
    seen: dict[str, tuple[Record, TopicScores]] = {}
    models: dict[str, tuple[Record, str]] = {}
    for result in results:
        for name, found in result.made.get("models", {}).items():
            other, before = models.setdefault(name, (result, found))
            if before != found:
                raise InputError(
                    f"two models are called {name!r}: record {other.name} started from {before}, record {result.name} "
                    f"started from {found}; give different models different names"
                )
        if (result.collection, result.passages) != (first.collection, first.passages):
            raise InputError(
                f"corpus {result.corpus!r}: {first.name} searched {first.passages} passages ({first.collection}), "
                f"{result.name} searched {result.passages} ({result.collection}); give different corpora different "
                "names"
            )
        for topic, scores in result.topics.items():
            other, meant = seen.setdefault(topic, (result, scores))
            if (meant.fingerprint, meant.part_of) != (scores.fingerprint, scores.part_of):
                raise InputError(
                    f"topics {topic!r}: {other.name} has {meant.queries} queries ({meant.fingerprint}), "
                    f"{result.name} has {scores.queries} ({scores.fingerprint}); systems can be compared only on "
                    "the same queries with the same gold"
                )
    return {topic: scores.part_of for topic, (_, scores) in seen.items()}


def _drop_incomplete_seeds(systems: Sequence[System], topics: Sequence[str]) -> tuple[list[System], list[str]]:
    """Drop the seeds that lack topics, except if all seeds of a system do. Return the systems, and notes on this."""
    complete, notes = [], []
    for system in systems:
        lacking = {seed: [topic for topic in topics if topic not in scores] for seed, scores in system.seeds.items()}
        seeds = {seed: scores for seed, scores in system.seeds.items() if not lacking[seed]}
        for seed, names in lacking.items():
            if names:
                consequence = "it is left out" if seeds else "no macro average"
                notes.append(f"{system.name}: seed {seed} lacks {', '.join(names)}; {consequence}")
        complete.append(system._replace(seeds=seeds or system.seeds))
    return complete, notes


def _make_row(system: System, topics: Sequence[str], slices: Sequence[str]) -> BoardRow:
    scores: dict[str, dict[str, Stat]] = {}
    columns = {name: [name] for name in (*topics, *slices)} | {MACRO: list(topics)}
    for column, names in columns.items():
        complete = [each for each in system.seeds.values() if all(name in each for name in names)]
        runs = [[each[name].means for name in names] for each in complete]
        measures = runs[0][0] if runs else ()
        stats = {
            measure: Stat.of([math.fsum(means[measure] for means in run) / len(run) for run in runs])
            for measure in measures
            if all(measure in means for run in runs for means in run)
        }
        if stats:
            scores[column] = stats
    return BoardRow(system.system, system.base, tuple(system.seeds), scores)


def _note_fewer_seeds(pairs: Sequence[Pair], topics: Sequence[str], measure: str) -> list[str]:
    """Write notes with a baseline's score over the compared seeds, if its row shows more seeds."""
    notes = []
    for system, baseline in pairs:
        common = compared_seeds(system, baseline)[1]
        if len(common) == len(baseline.seeds):
            continue
        fewer = baseline._replace(seeds={seed: scores for seed, scores in baseline.seeds.items() if seed in common})
        stat = _make_row(fewer, topics, ()).stat(MACRO if len(topics) > 1 else topics[0], measure)
        score = f", by which it has {stat.mean:.3f}" if stat else ""
        seeds = f"seed{'s' if len(fewer.seeds) > 1 else ''} {', '.join(map(str, fewer.seeds))}"
        notes.append(f"{baseline.name}: rows with only {seeds} are compared with its {seeds}{score}")
    return list(dict.fromkeys(notes))


def _note_machines(results: Sequence[Record]) -> list[str]:
    """Write a note if records were made on different machines, because the same training ends differently on them."""
    machines = Counter(result.made["processor"] for result in results if "processor" in result.made)
    named = ", ".join(f"{count} on {machine}" for machine, count in machines.most_common())
    return [f"records were made on several machines: {named}"] if len(machines) > 1 else []


def _note_untested(systems: Sequence[System]) -> list[str]:
    """Write notes on topics with only means and no values by query, because these cannot be tested."""
    notes = []
    for system in systems:
        scored = [pair for scores in system.seeds.values() for pair in scores.items()]
        bare = {topic for topic, scores in scored if scores.means and not scores.by_query}
        if bare:
            notes.append(f"{system.name}: no values by query of {', '.join(sorted(bare))}; not tested there")
    return notes
