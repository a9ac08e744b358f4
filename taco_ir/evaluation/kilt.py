"""KILT's page-level retrieval measures, over evidence sets (Petroni et al. 2021, section 5).

They differ from trec_eval's, which judge against the union of the evidence sets.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from taco_ir.files import InputError
from taco_ir.records import Query, Ranking, Run

PageSet = frozenset[str]
PageOf = Callable[[Iterable[str]], Mapping[str, str]]

R_PRECISION = "Rprec"
KILT_MEASURES = (R_PRECISION, "recall@5", "success@5", "precision@1")
AT_K = ("recall", "success", "precision")


class _Judged(NamedTuple):
    """What the measures need of one query: its distinct page sets, and the positions (from 0) of their retrieved pages."""

    sets: list[PageSet]
    positions: dict[str, int]

    @classmethod
    def of(cls, pages: Sequence[str], query: Query) -> _Judged:
        sets = list({frozenset(evidence.pages) for evidence in query.evidence})
        found = frozenset().union(*sets).intersection(pages)
        return cls(sets, {page: pages.index(page) for page in found})

    def r_precision(self) -> float:
        """Best share, over the sets G, of G's pages that are among the first |G|; some page must have been retrieved."""
        where = self.positions
        return max(sum(page in where and where[page] < len(pages) for page in pages) / len(pages) for pages in self.sets if pages)

    def complete_ranks(self) -> list[int]:
        """Ranks (from 0), ascending, of the complete evidence sets in KILT's list of entries.

        A page outside every set is one entry; a set is one entry, complete or not, at its last retrieved page. So the
        rank of a set is the number of sets that end before it plus the number of pages of no set ranked before it.
        """
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
        rankings: qid -> pages, best first, none twice (`page_run` sees to it). A query that is missing scores 0.
        queries: evidence sets with the same pages count once; a query without evidence scores 0.
        measures: `Rprec`, or `recall`, `success` or `precision` with `@k`.

    Raises:
        InputError: for a measure that is none of these.
    """
    cutoffs = {measure: _cutoff(measure) for measure in measures}
    scores = {measure: dict.fromkeys((query.qid for query in queries), 0.0) for measure in measures}
    for query in queries:
        judged = _Judged.of(rankings.get(query.qid, ()), query)
        if not judged.positions:
            continue
        ranks = judged.complete_ranks()
        for measure, (kind, k) in cutoffs.items():
            value = judged.r_precision() if kind == R_PRECISION else _at_k(kind, bisect_left(ranks, k), len(judged.sets), k)
            scores[measure][query.qid] = value
    return scores


def _at_k(kind: str, complete: int, sets: int, k: int) -> float:
    """Value of a measure when `complete` of the distinct evidence sets are among the first k entries."""
    if kind == "success":
        return float(complete > 0)
    return complete / (sets if kind == "recall" else k)


def _cutoff(measure: str) -> tuple[str, int]:
    """Kind and k of a measure; k is 0 for R-precision."""
    kind, _, k = measure.partition("@")
    if measure != R_PRECISION and not (kind in AT_K and k.isdecimal() and int(k) > 0):
        raise InputError(f"measure {measure!r} is not one of KILT's: {R_PRECISION}, {', '.join(f'{kind}@k' for kind in AT_K)} (k from 1)")
    return kind, int(k or 0)


def page_run(run: Run, page_of: PageOf) -> Run:
    """The pages of a run's hits, best first, each page once.

    Args:
        page_of: gives the page of every docid that it is asked for; asked once, and not at all for a run of pages.

    Raises:
        InputError: naming the first docid that `page_of` does not know.
    """
    if run.level == "page":
        return run
    pages = page_of(dict.fromkeys(docid for ranking in run.rankings.values() for docid in ranking.docids))
    try:
        rankings = {qid: ranked(dict.fromkeys([pages[docid] for docid in ranking.docids])) for qid, ranking in run.rankings.items()}
    except KeyError as error:
        raise InputError(f"run: docid {error.args[0]!r} is not in the collection, so its page is not known") from error
    return Run(rankings, level="page")


def ranked(pages: Collection[str]) -> Ranking:
    """Pages in the order given, as hits that score -1, -2, ...: KILT runs carry an order and no scores."""
    return Ranking(list(pages), -np.arange(1, len(pages) + 1, dtype=np.float32))
