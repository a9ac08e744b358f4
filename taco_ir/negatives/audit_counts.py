"""Counts the contents of a negatives file: gold pages, likely false negatives, score margins, overlaps of sources."""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from taco_ir.core.types import Query, Ranking

BINS = 24
SUSPECTS = 20  # most of a task


class Histogram(NamedTuple):
    """Counts in bins of equal width; bin i is from edges[i] to edges[i + 1], and 0 is one of the edges."""

    counts: list[int]
    edges: list[float]


class Suspect(NamedTuple):
    """A negative that is probably relevant for its query; when sorted, the most likely come first.

    Attributes:
        signs: -1 if the negative scores like gold, -2 if its text contains an answer, -3 if both.
        margin: the best gold score minus the negative's score; infinite if no gold passage is among the hits.
    """

    signs: int
    margin: float
    qid: str
    docid: str
    score: float
    has_answer: bool


class TaskAudit(NamedTuple):
    """Counts for the negatives of one query set.

    Attributes:
        without: number of queries without negatives.
        seen: number of hits from which negatives were selected.
        dropped: number of these hits that were gold or on a gold page.
        on_gold: number of negatives that are gold or on a gold page; anything but 0 is a bug in the miner.
        with_answer: number of negatives that contain an answer; None if answers are not spans of text.
        margins: the best gold score minus the negative's score, for queries with gold among the hits.
        lost: number of queries that lost all hits to the margin, because no gold was among the hits; over all sources.
        suspects: the most likely false negatives, at most one per query.
    """

    topics: str
    queries: int
    without: int
    negatives: int
    seen: int
    dropped: int
    on_gold: int
    with_answer: int | None
    margins: npt.NDArray[np.float64]
    lost: int = 0
    suspects: Sequence[Suspect] = ()


class SourceAudit(NamedTuple):
    """Counts for the negatives that one of several sources found, for one query set.

    Attributes:
        shared: for each source (also this one), how many of these negatives it found for the same query.
        alone: how many of these negatives no other source found.
    """

    source: str
    task: TaskAudit
    shared: tuple[int, ...]
    alone: int


class Shown(NamedTuple):
    """A passage in an example, with its score (None for gold) and the sources that found it, if there are several."""

    score: float | None
    docid: str
    title: str
    text: str
    has_answer: bool = False
    source: str = ""


class Example(NamedTuple):
    """An example to read: a query with its gold passages and its first negatives.

    `gold_scores` has the best gold score in each source, with the source's name if there are several; None if gold was
    not among the hits.
    """

    topics: str
    query: Query
    gold_scores: Sequence[tuple[str, float | None]]
    gold: Sequence[Shown]
    negatives: Sequence[Shown]


class Suspected(NamedTuple):
    """A likely false negative with its query, for people to read; `margin` is None if no gold was among the hits."""

    topics: str
    query: Query
    margin: float | None
    passage: Shown


class Audit(NamedTuple):
    """The audit of a negatives file: counts, examples and likely false negatives. A single source has no `sources`."""

    title: str
    notes: Sequence[str]
    tasks: Sequence[TaskAudit]
    examples: Sequence[Example]
    sources: Sequence[SourceAudit] = ()
    suspected: Sequence[Suspected] = ()

    @property
    def measured(self) -> list[TaskAudit]:
        """Returns the counts that have margins: by query set or, for several sources, by query set and source."""
        by_source = [each.task._replace(topics=f"{each.task.topics} by {each.source}") for each in self.sources]
        return [each for each in by_source or self.tasks if len(each.margins)]


def audit_task(
    topics: str,
    queries: Sequence[Query],
    kept: Mapping[str, Ranking],
    page_of: Mapping[str, str],
    gold_scores: Mapping[str, float],
    seen: tuple[int, int, int],
    has_answer: Callable[[Query, str], bool] | None,
) -> TaskAudit:
    """Count the negatives of one query set.

    Args:
        kept: the negatives by qid.
        page_of: the page of every negative.
        gold_scores: by qid, the best gold hit's score; queries without gold among the hits are missing.
        seen: three numbers: hits looked at, hits dropped as gold, and queries that lost all hits to the margin.
        has_answer: returns True if the passage with a docid contains an answer to a query; None: do not count answers.
    """
    on_gold = with_answer = 0
    margins = [np.zeros(0)]
    suspects: list[Suspect] = []
    for query in queries:
        if (ranking := kept.get(query.qid)) is None:
            continue
        pages, passages = set(query.gold_pages), set(query.gold_passages)
        on_gold += sum(page_of[docid] in pages or docid in passages for docid in ranking.docids)
        holding = [docid for docid in ranking.docids if has_answer(query, docid)] if has_answer else []
        with_answer += len(holding)
        own_N = np.full(len(ranking.docids), np.inf)
        if query.qid in gold_scores:
            own_N = gold_scores[query.qid] - ranking.scores.astype(np.float64)
            margins.append(own_N)
        if suspect := find_suspect(query.qid, ranking, own_N, frozenset(holding)):
            insort(suspects, suspect)
            del suspects[SUSPECTS:]
    return TaskAudit(
        topics=topics,
        queries=len(queries),
        without=sum(query.qid not in kept or not kept[query.qid].docids for query in queries),
        negatives=sum(len(ranking.docids) for ranking in kept.values()),
        seen=seen[0],
        dropped=seen[1],
        on_gold=on_gold,
        with_answer=with_answer if has_answer else None,
        margins=np.concatenate(margins),
        lost=seen[2],
        suspects=suspects,
    )


def find_suspect(
    qid: str, ranking: Ranking, margins_N: npt.NDArray[np.float64], holding: frozenset[str]
) -> Suspect | None:
    """Returns a query's most likely false negative: it contains an answer (`holding`), scores like gold, or both."""
    found = [
        Suspect(-2 * (docid in holding) - (margin <= 0), margin, qid, docid, score, docid in holding)
        for docid, margin, score in zip(ranking.docids, margins_N.tolist(), ranking.scores.tolist(), strict=True)
        if docid in holding or margin <= 0
    ]
    return min(found, default=None)


def histogram(values: npt.NDArray[np.float64], bins: int = BINS) -> Histogram:
    """Count values in about `bins` bins of equal width; 0 is an edge, so that all values in a bin have one sign."""
    low, high = min(values.min(initial=0.0), 0.0), max(values.max(initial=0.0), 0.0)
    width = (high - low) / (bins - 1) or 1.0
    first, last = int(np.floor(low / width)), int(np.ceil(high / width))
    edges = np.arange(first, max(last, 1) + 1) * width
    edges[-1] = max(edges[-1], high)  # rounding may leave the largest value outside
    edges[0] = min(edges[0], low)
    counts, _ = np.histogram(values, edges)
    return Histogram(counts.tolist(), edges.tolist())


def overlaps(kept: Sequence[Mapping[str, Ranking]]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Returns how many negatives each two sources share for the same query [S, S], and how many only one has [S]."""
    count = len(kept)
    shared_SS, alone_S = np.zeros((count, count), dtype=np.int64), np.zeros(count, dtype=np.int64)
    for qid in dict.fromkeys(qid for rankings in kept for qid in rankings):
        docids = [set(rankings[qid].docids) if qid in rankings else set() for rankings in kept]
        shared_SS += [[len(ours & theirs) for theirs in docids] for ours in docids]
        alone_S += [len(ours.difference(*docids[:place], *docids[place + 1 :])) for place, ours in enumerate(docids)]
    return shared_SS, alone_S
