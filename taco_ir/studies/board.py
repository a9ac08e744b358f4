"""Results -> leaderboards: one for each corpus, a row for each system, and paired tests against a baseline row.

Seeds: a mean stands with the standard deviation over seeds beside it. The tests are over queries: each query's values are first
averaged over the seeds of a system, so they say whether other queries would change the order, not whether other seeds would. A baseline
that several bases share is one for each: systems are compared with that on their own base.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import NamedTuple

from taco_ir.core.files import InputError
from taco_ir.evaluation.measures import MACRO
from taco_ir.evaluation.significance import Comparison, compare
from taco_ir.studies.comparison import Pair, Scored, compared_seeds, differences_of, row_name
from taco_ir.studies.records import Record, TopicScores


class Stat(NamedTuple):
    """A system's score on one of the topics: mean over its seeds, their sample standard deviation (None for one seed), each seed's."""

    mean: float
    sd: float | None
    by_seed: tuple[float, ...]

    @classmethod
    def of(cls, by_seed: Sequence[float]) -> Stat:
        sd = statistics.stdev(by_seed) if len(by_seed) > 1 else None
        return cls(math.fsum(by_seed) / len(by_seed), sd, tuple(by_seed))


class BoardRow(NamedTuple):
    """One system: all results with its name and base.

    Attributes:
        scores: topics, slices, MACRO -> measure -> Stat; what it lacks is not there. The macro average of a seed is the mean
            of its means on all whole topics of the board; a row that lacks one has none.
        against: name of the row that it is compared with, "" where nothing is tested: of a baseline, and of a row on another base.
    """

    system: str
    base: str
    seeds: tuple[int, ...]
    scores: Mapping[str, Mapping[str, Stat]]
    against: str = ""

    @property
    def name(self) -> str:
        return row_name(self.system, self.base)

    def stat(self, topics: str, measure: str) -> Stat | None:
        """Its score, None where it has none."""
        return self.scores.get(topics, {}).get(measure)


@dataclass(frozen=True)
class Board:
    """All systems on one corpus.

    Attributes:
        topics, slices: whole topics, and parts of them, which do not enter the macro average.
        rows: best macro average of the first measure first, rows without one last.
        baseline: what the others are compared with, "" for none: the name of a row (`BoardRow.name`), or a system on each row's own base.
        notes: what a reader must know of rows that are not like the others.
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


def select_corpus(results: Sequence[Record], corpus: str | None) -> list[Record]:
    """The records on one corpus, or all for None. Raises: InputError for a corpus that no record is on."""
    known = dict.fromkeys(result.corpus for result in results)
    if corpus is not None and corpus not in known:
        raise InputError(f"--corpus {corpus!r} is not in the results; allowed: {', '.join(known)}")
    return [result for result in results if corpus in (None, result.corpus)]


def boards(results: Sequence[Record], baseline: str | None, seed: int, measures: Sequence[str] = ()) -> list[Board]:
    """One board for each corpus, the largest first.

    Args:
        baseline: a row's name, or a system: where bases share it, each row is compared with that on its own base. None: nothing is tested.
        seed: of the tests.
        measures: as they print; none: all that the results have.

    Raises:
        InputError: for one corpus or topics that mean different things in two results, topics twice for one seed of a system,
            a measure or baseline that no result has.
    """
    known = list(
        dict.fromkeys(measure for result in results for scores in result.topics.values() for measure in scores.means)
    )
    if unknown := [measure for measure in measures if measure not in known]:
        raise InputError(f"measure {unknown[0]!r} is not in the results; they have {', '.join(known)}")
    by_corpus: dict[str, list[Record]] = defaultdict(list)
    for result in results:
        by_corpus[result.corpus].append(result)
    names = [row_name(result.system, result.base) for result in results]
    if baseline is not None and baseline not in (*names, *(result.system for result in results)):
        raise InputError(
            f"baseline {baseline!r} is no system of the results; allowed: {', '.join(dict.fromkeys(names))}"
        )
    found = [_board(part, baseline, seed, measures or known) for part in by_corpus.values()]
    return sorted(found, key=lambda board: (-board.passages, board.corpus))


def refuse_idle_patterns(results: Sequence[Record], patterns: Sequence[str]) -> None:
    """Raise InputError for a pattern (see `without`) that matches no system of the results."""
    rows = dict.fromkeys(row_name(result.system, result.base) for result in results)
    names = {*rows, *(result.system for result in results)}
    if idle := [pattern for pattern in patterns if not any(fnmatchcase(name, pattern) for name in names)]:
        raise InputError(f"no system matches {idle[0]!r}; there are {', '.join(rows)}")


def without(found: Sequence[Board], patterns: Sequence[str]) -> list[Board]:
    """The boards without the rows whose name or system matches a pattern (`*` stands for anything); tests stay corrected for them."""
    names = {name for board in found for row in board.rows for name in (row.name, row.system)}
    return [
        _without(board, {name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)})
        for board in found
    ]


def _without(board: Board, names: Collection[str]) -> Board:
    out = [row for row in board.rows if row.name in names or row.system in names]
    keys = {(row.system, row.base) for row in out}
    return replace(
        board,
        rows=tuple(row for row in board.rows if row not in out),
        comparisons=tuple(test for test in board.comparisons if (test.system, test.base) not in keys),
        notes=tuple(note for note in board.notes if not any(note.startswith(f"{row.name}: ") for row in out)),
    )


def _board(results: Sequence[Record], baseline: str | None, seed: int, measures: Sequence[str]) -> Board:
    part_of = _topics(results)
    topics = tuple(name for name, whole in part_of.items() if not whole)
    slices = tuple(name for name, whole in part_of.items() if whole)
    systems, notes = _complete_seeds(_systems(results), topics)
    notes += _machines(results)
    chosen = _baselines(systems, baseline)
    pairs = _pairs(systems, chosen)
    against = {system.name: other.name for system, other in pairs}
    rows = [_row(system, topics, slices)._replace(against=against.get(system.name, "")) for system in systems]
    comparisons: list[Comparison] = []
    if chosen:
        comparisons = compare(differences_of(pairs, (*topics, *slices), measures), topics, slices, seed)
        notes += [*_untested(systems), *_fewer_seeds(pairs, topics, measures[0])]
    elif baseline is not None:
        notes.append(f"{baseline} has no results on this corpus: nothing is tested")
    return Board(
        corpus=results[0].corpus,
        passages=results[0].passages,
        topics=topics,
        slices=slices,
        measures=tuple(measures),
        rows=tuple(sorted(rows, key=lambda row: _place(row, measures[0]))),
        comparisons=tuple(comparisons),
        baseline=chosen[0].name if len(chosen) == 1 else f"{chosen[0].system} on the same base" if chosen else "",
        notes=tuple(notes),
    )


def _place(row: BoardRow, measure: str) -> tuple[float, str]:
    stat = row.stat(MACRO, measure)
    return (-stat.mean if stat else math.inf, row.name)


def _topics(results: Sequence[Record]) -> dict[str, str]:
    """Topics in the order met -> what they are a slice of. Raises: InputError where two results do not mean the same by a name."""
    first = results[0]
    seen: dict[str, tuple[Record, TopicScores]] = {}
    models: dict[str, tuple[Record, str]] = {}
    for result in results:
        for name, found in result.made.get("models", {}).items():
            other, before = models.setdefault(name, (result, found))
            if before != found:
                raise InputError(
                    f"model {name!r}: {other.name} began with {before}, {result.name} with {found}; give each model a name of its own"
                )
        if (result.collection, result.passages) != (first.collection, first.passages):
            raise InputError(
                f"corpus {result.corpus!r}: {first.name} searched {first.passages} passages ({first.collection}), "
                f"{result.name} {result.passages} ({result.collection}); give each corpus a name of its own"
            )
        for topic, scores in result.topics.items():
            other, meant = seen.setdefault(topic, (result, scores))
            if (meant.fingerprint, meant.part_of) != (scores.fingerprint, scores.part_of):
                raise InputError(
                    f"topics {topic!r}: {other.name} has {meant.queries} queries ({meant.fingerprint}), {result.name} {scores.queries} "
                    f"({scores.fingerprint}); systems can be compared on the same queries with the same gold only"
                )
    return {topic: scores.part_of for topic, (_, scores) in seen.items()}


def _systems(results: Sequence[Record]) -> list[Scored]:
    """Results by system and base; conditions of one system and seed are merged. Raises: InputError for topics that two of them have."""
    merged: dict[tuple[str, str], dict[int, dict[str, TopicScores]]] = defaultdict(lambda: defaultdict(dict))
    made_by: dict[tuple[str, str, int, str], str] = {}
    for result in results:
        of_seed = merged[result.system, result.base][result.seed]
        for topic, scores in result.topics.items():
            key = (result.system, result.base, result.seed, topic)
            if key in made_by:
                name = row_name(result.system, result.base)
                raise InputError(
                    f"{name}, seed {result.seed}: {topic} is in {made_by[key]} and in {result.name}; allowed is one of them"
                )
            made_by[key] = result.name
            of_seed[topic] = scores
    return [Scored(*key, dict(sorted(seeds.items()))) for key, seeds in merged.items()]


def _complete_seeds(systems: Sequence[Scored], topics: Sequence[str]) -> tuple[list[Scored], list[str]]:
    """Systems without the seeds that lack topics, and notes that say so; a system of such seeds alone keeps them, and gets no macro average."""
    kept, notes = [], []
    for system in systems:
        lacking = {seed: [topic for topic in topics if topic not in of_seed] for seed, of_seed in system.seeds.items()}
        complete = {seed: of_seed for seed, of_seed in system.seeds.items() if not lacking[seed]}
        consequence = "it is left out" if complete else "no macro average"
        notes += [
            f"{system.name}: seed {seed} lacks {', '.join(names)}; {consequence}"
            for seed, names in lacking.items()
            if names
        ]
        kept.append(system._replace(seeds=complete or system.seeds))
    return kept, notes


def _row(system: Scored, topics: Sequence[str], slices: Sequence[str]) -> BoardRow:
    scores: dict[str, dict[str, Stat]] = {}
    for part, names in [*((name, [name]) for name in (*topics, *slices)), (MACRO, topics)]:
        runs = [
            [of_seed[name].means for name in names]
            for of_seed in system.seeds.values()
            if all(name in of_seed for name in names)
        ]
        measures = (
            [measure for measure in runs[0][0] if all(measure in means for run in runs for means in run)]
            if runs
            else []
        )
        if measures:
            scores[part] = {
                measure: Stat.of([math.fsum(means[measure] for means in run) / len(run) for run in runs])
                for measure in measures
            }
    return BoardRow(system.system, system.base, tuple(system.seeds), scores)


def _baselines(systems: Sequence[Scored], baseline: str | None) -> list[Scored]:
    """The rows that a baseline's name means: one, or one for each base."""
    return [system for system in systems if system.name == baseline] or [
        system for system in systems if system.system == baseline
    ]


def _pairs(systems: Sequence[Scored], baselines: Sequence[Scored]) -> list[Pair]:
    """Each system with what it is compared with: the only baseline, or that on its base; a baseline is compared with nothing."""
    of_base = {baseline.base: baseline for baseline in baselines}
    only = baselines[0] if len(baselines) == 1 else None
    return [
        (system, found)
        for system in systems
        if system not in baselines and (found := only or of_base.get(system.base)) is not None
    ]


def _fewer_seeds(pairs: Sequence[Pair], topics: Sequence[str], measure: str) -> list[str]:
    """What a baseline scores by the seeds that others are compared with, where its row shows more of them."""
    notes = []
    for system, baseline in pairs:
        common = compared_seeds(system, baseline)[1]
        if len(common) == len(baseline.seeds):
            continue
        fewer = baseline._replace(seeds={seed: of_seed for seed, of_seed in baseline.seeds.items() if seed in common})
        stat = _row(fewer, topics, ()).stat(MACRO if len(topics) > 1 else topics[0], measure)
        score = f", by which it has {stat.mean:.3f}" if stat else ""
        seeds = f"seed{'s' if len(fewer.seeds) > 1 else ''} {', '.join(map(str, fewer.seeds))}"
        notes.append(f"{baseline.name}: rows with {seeds} alone are compared with the same of it{score}")
    return list(dict.fromkeys(notes))


def _machines(results: Sequence[Record]) -> list[str]:
    """Where records were not all made on machines of one kind: the same training does not end alike on two."""
    machines = Counter(result.made["processor"] for result in results if "processor" in result.made)
    named = "; ".join(f"{machine}: {count}" for machine, count in machines.most_common())
    return [f"machines that the records were made on: {named}"] if len(machines) > 1 else []


def _untested(systems: Sequence[Scored]) -> list[str]:
    """Where only means were kept, so that nothing can be paired."""
    notes = []
    for system in systems:
        bare = {
            topic
            for of_seed in system.seeds.values()
            for topic, scores in of_seed.items()
            if scores.means and not scores.by_query
        }
        if bare:
            notes.append(f"{system.name}: no values by query of {', '.join(sorted(bare))}; not tested there")
    return notes
