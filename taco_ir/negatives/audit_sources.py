"""What each of several sources gave to a negatives file, and how much they overlap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby

import numpy as np
import numpy.typing as npt

from taco_ir.core.types import Ranking
from taco_ir.evaluation.tables import Cell, Table
from taco_ir.negatives.audit_counts import QUALITY, SourceAudit, TaskAudit, numbers_of, share

ALL = "all"
LEGEND = (
    "alone: share of a source's negatives that no other source holds",
    "gold dropped, gold kept, with answer, above gold, margin, lost: as above, of one source; scores and margins are those of its own ranking, and are "
    "never compared with another's",
    "overlap: share of a row's negatives that the column's source holds for the same query",
)


def audit_sources(tasks: Sequence[TaskAudit], names: Sequence[str], kept: Sequence[Mapping[str, Ranking]]) -> list[SourceAudit]:
    """Each source's counts with its overlaps.

    Args:
        tasks: the counts over the negatives of each of the S sources, of one topics.
        names: what the sources are called.
        kept: the negatives of each source by qid.
    """
    shared_SS, alone_S = overlaps(kept)
    return [
        SourceAudit(name, task, tuple(shared), alone)
        for name, task, shared, alone in zip(names, tasks, shared_SS.tolist(), alone_S.tolist(), strict=True)
    ]


def overlaps(kept: Sequence[Mapping[str, Ranking]]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """[S, S]: negatives of the same query that two sources both hold, on the diagonal all of one; and [S]: those that it alone holds."""
    count = len(kept)
    shared_SS, alone_S = np.zeros((count, count), dtype=np.int64), np.zeros(count, dtype=np.int64)
    for qid in dict.fromkeys(qid for rankings in kept for qid in rankings):
        held = [set(rankings[qid].docids) if qid in rankings else set() for rankings in kept]
        shared_SS += [[len(ours & theirs) for theirs in held] for ours in held]
        alone_S += [len(ours.difference(*held[:place], *held[place + 1 :])) for place, ours in enumerate(held)]
    return shared_SS, alone_S


def source_tables(sources: Sequence[SourceAudit]) -> list[Table]:
    """A row for each topics and source, then the overlaps; no table where there is but one source."""
    if not sources:
        return []
    names = list(dict.fromkeys(each.source for each in sources))
    header = ["topics", "source", "negatives", "per query", "alone", *QUALITY]
    return [Table("", header, [_row(each) for each in sources]), Table("", ["overlap", "source", *names], _overlap_rows(sources, names))]


def _row(source: SourceAudit) -> list[Cell]:
    task = source.task
    return [
        task.topics,
        source.source,
        task.negatives,
        task.negatives / task.queries,
        share(source.alone, task.negatives),
        *numbers_of(task),
    ]


def _overlap_rows(sources: Sequence[SourceAudit], names: Sequence[str]) -> list[list[Cell]]:
    """Those of each topics, and of several together."""
    by_topics = [list(rows) for _, rows in groupby(sources, key=lambda each: each.task.topics)]
    rows = [
        _overlap_row(each.task.topics, each.source, np.array(each.shared), place) for own in by_topics for place, each in enumerate(own)
    ]
    if len(by_topics) > 1:
        for place, name in enumerate(names):
            rows.append(_overlap_row(ALL, name, np.sum([own[place].shared for own in by_topics], axis=0), place))
    return rows


def _overlap_row(topics: str, name: str, shared_S: npt.NDArray[np.int64], place: int) -> list[Cell]:
    return [topics, name, *(share(int(count), int(shared_S[place])) for count in shared_S)]
