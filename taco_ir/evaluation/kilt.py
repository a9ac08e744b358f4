"""KILT's page-level retrieval measures, over evidence sets (Petroni et al. 2021, section 5).

They differ from trec_eval's, which judge against the union of the evidence sets.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from taco_ir.files import InputError
from taco_ir.records import Query, Run

PageSet = frozenset[str]
PageOf = Callable[[Iterable[str]], Mapping[str, str]]

R_PRECISION = "Rprec"
KILT_MEASURES = (R_PRECISION, "recall@5", "success@5", "precision@1")
# (complete evidence sets among the first k entries, distinct evidence sets, k) -> value
AT_K: dict[str, Callable[[int, int, int], float]] = {
    "recall": lambda complete, sets, k: complete / sets,
    "success": lambda complete, sets, k: float(complete > 0),
    "precision": lambda complete, sets, k: complete / k,
}


class _Judged(NamedTuple):
    """What the measures need of one query: its distinct page sets, and the positions (from 0) of their retrieved pages."""

    sets: list[PageSet]
    positions: dict[str, int]

    @classmethod
    def of(cls, pages: Iterable[str], query: Query) -> _Judged:
        sets = list(dict.fromkeys(frozenset(evidence.pages) for evidence in query.evidence))
        ranked = list(dict.fromkeys(pages))
        found = frozenset().union(*sets).intersection(ranked)
        return cls(sets, {page: ranked.index(page) for page in found})

    def r_precision(self) -> float:
        """Best share, over the sets G, of G's pages that are among the first |G|."""
        infinity = len(self.positions) + max(map(len, self.sets), default=0)
        position = self.positions.get
        return max((sum(position(page, infinity) < len(pages) for page in pages) / len(pages) for pages in self.sets if pages), default=0.0)

    def complete_ranks(self) -> list[int]:
        """Ranks (from 0) of the complete evidence sets in KILT's list of entries.

        A page outside every set is one entry; a set is one entry, complete or not, at its last retrieved page. So the
        rank of a set is the number of sets that end before it plus the number of pages of no set ranked before it.
        """
        if not self.positions:
            return []
        judged_positions = sorted(self.positions.values())
        ends = sorted(
            (max(self.positions[page] for page in found), index, len(found) == len(pages))
            for index, pages in enumerate(self.sets)
            if (found := pages.intersection(self.positions))
        )
        return [entry + end - bisect_left(judged_positions, end) for entry, (end, _, complete) in enumerate(ends) if complete]


def kilt_scores(rankings: Mapping[str, Sequence[str]], queries: Sequence[Query], measures: Collection[str]) -> dict[str, dict[str, float]]:
    """Measure -> qid -> value, equal to those of KILT's own script.

    Args:
        rankings: qid -> pages, best first; of a repeated page the first counts. A query that is missing scores 0.
        queries: evidence sets with the same pages count once; a query without evidence scores 0.
        measures: `Rprec`, or `recall`, `success` or `precision` with `@k`.

    Raises:
        InputError: for a measure that is none of these.
    """
    cutoffs = {measure: _cutoff(measure) for measure in measures}
    scores: dict[str, dict[str, float]] = {measure: {} for measure in measures}
    for query in queries:
        judged = _Judged.of(rankings.get(query.qid, ()), query)
        ranks = judged.complete_ranks()
        for measure, (value, k) in cutoffs.items():
            if value is None:
                score = judged.r_precision() if judged.positions else 0.0
            elif judged.sets:
                score = value(sum(rank < k for rank in ranks), len(judged.sets), k)
            else:
                score = 0.0
            scores[measure][query.qid] = score
    return scores


def _cutoff(measure: str) -> tuple[Callable[[int, int, int], float] | None, int]:
    """The function of an `@k` measure and its k; None and 0 for R-precision."""
    if measure == R_PRECISION:
        return None, 0
    kind, _, k = measure.partition("@")
    if kind not in AT_K or not (k.isdecimal() and int(k) > 0):
        raise InputError(f"measure {measure!r} is not one of KILT's: {R_PRECISION}, {', '.join(f'{kind}@k' for kind in AT_K)}")
    return AT_K[kind], int(k)


def page_rankings(run: Run, page_of: PageOf) -> dict[str, list[str]]:
    """qid -> pages of the hits, best first, each page once.

    Args:
        page_of: gives the page of every docid that it is asked for; asked once, and not at all for a run of pages.

    Raises:
        InputError: naming the first docid that `page_of` does not know.
    """
    if run.level == "page":
        return {qid: list(dict.fromkeys(ranking.docids)) for qid, ranking in run.rankings.items()}
    pages = page_of(dict.fromkeys(docid for ranking in run.rankings.values() for docid in ranking.docids))
    try:
        return {qid: list(dict.fromkeys([pages[docid] for docid in ranking.docids])) for qid, ranking in run.rankings.items()}
    except KeyError as error:
        raise InputError(f"run: docid {error.args[0]!r} is not in the collection, so its page is not known") from error
