"""What a negatives file holds, counted from the file: gold pages, likely false negatives, score margins, and examples to read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from taco_ir.core.types import Query, Ranking

BINS = 24


class Histogram(NamedTuple):
    """Counts of equally wide bins; bin i reaches from edges[i] to edges[i + 1], one of the edges is 0."""

    counts: list[int]
    edges: list[float]


class TaskAudit(NamedTuple):
    """Counts over the negatives of one topics.

    Attributes:
        seen: hits from which negatives were chosen; `dropped` of them were gold or on a gold page.
        on_gold: negatives that are gold or on a gold page; anything but 0 is an error of the miner.
        with_answer: negatives whose text holds an answer, None where answers are no spans of text.
        margins: best gold score less negative's score, for the queries whose gold was among the hits.
        lost: queries whose hits a margin dropped, all of them, as gold was not among them; of several sources, the sum.
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


class SourceAudit(NamedTuple):
    """Counts over the negatives that one of several sources holds, of one topics.

    Attributes:
        source: what it is called.
        shared: of its negatives, those that each of the sources holds for the same query; at its own place all of them.
        alone: those that no other source holds.
    """

    source: str
    task: TaskAudit
    shared: tuple[int, ...]
    alone: int


class Shown(NamedTuple):
    """A passage of an example; its score is None for gold. `source` says which of several sources hold it."""

    score: float | None
    docid: str
    title: str
    text: str
    has_answer: bool = False
    source: str = ""


class Example(NamedTuple):
    """A query to read: its gold passages and its first negatives.

    `gold_score` is None where gold was not among the hits; of several sources, `gold_by_source` has each one's instead.
    """

    topics: str
    query: Query
    gold_score: float | None
    gold: Sequence[Shown]
    negatives: Sequence[Shown]
    gold_by_source: Sequence[tuple[str, float | None]] = ()


class Audit(NamedTuple):
    """All that the report says; `sources` are those of each topics where there are several."""

    title: str
    notes: Sequence[str]
    tasks: Sequence[TaskAudit]
    examples: Sequence[Example]
    sources: Sequence[SourceAudit] = ()

    @property
    def measured(self) -> list[TaskAudit]:
        """What has margins: each topics, or each topics by each source."""
        parts = [
            each.task._replace(topics=f"{each.task.topics} by {each.source}") for each in self.sources
        ] or self.tasks
        return [part for part in parts if len(part.margins)]


def audit_task(
    topics: str,
    queries: Sequence[Query],
    kept: Mapping[str, Ranking],
    page_of: Mapping[str, str],
    gold_scores: Mapping[str, float],
    seen: tuple[int, int, int],
    has_answer: Callable[[Query, str], bool] | None,
) -> TaskAudit:
    """Count over the negatives `kept` by qid.

    Args:
        page_of: the page of every negative.
        gold_scores: best gold score by qid, where gold was among the hits.
        seen: hits looked at, those of them dropped as gold, and queries that lost all hits to a margin.
        has_answer: tells of a query and a docid whether its text holds an answer; None where that says nothing.
    """
    on_gold = with_answer = 0
    margins = [np.zeros(0)]
    for query in queries:
        if (ranking := kept.get(query.qid)) is None:
            continue
        pages = {page for evidence in query.evidence for page in evidence.pages}
        passages = {docid for evidence in query.evidence for docid in evidence.passages}
        on_gold += sum(page_of[docid] in pages or docid in passages for docid in ranking.docids)
        if has_answer:
            with_answer += sum(has_answer(query, docid) for docid in ranking.docids)
        if query.qid in gold_scores:
            margins.append(gold_scores[query.qid] - ranking.scores.astype(np.float64))
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
    )


def histogram(values: npt.NDArray[np.float64], bins: int = BINS) -> Histogram:
    """About `bins` bins over all values, with an edge at 0: what is less lies left of it, all else right."""
    low, high = min(values.min(initial=0.0), 0.0), max(values.max(initial=0.0), 0.0)
    width = (high - low) / (bins - 1) or 1.0
    first, last = int(np.floor(low / width)), int(np.ceil(high / width))
    edges = np.arange(first, max(last, 1) + 1) * width
    edges[-1] = max(edges[-1], high)  # rounding may leave the largest value outside
    edges[0] = min(edges[0], low)
    counts, _ = np.histogram(values, edges)
    return Histogram(counts.tolist(), edges.tolist())


def audit_sources(
    tasks: Sequence[TaskAudit], names: Sequence[str], kept: Sequence[Mapping[str, Ranking]]
) -> list[SourceAudit]:
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
