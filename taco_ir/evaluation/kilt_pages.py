"""KILT's page-level retrieval measures, over evidence sets (Petroni et al. 2021, section 5).

They differ from trec_eval's measures, which judge against the union of the evidence sets.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from taco_ir.core.files import InputError
from taco_ir.core.processes import collector_paused
from taco_ir.core.types import Names, Query

R_PRECISION = "Rprec"
AT_K = ("recall", "success", "precision")


class _Match(NamedTuple):
    """The facts about one ranking that the measures need.

    Attributes:
        sets: the number of distinct evidence sets.
        complete_ranks: ranks (from 0, ascending) of the complete evidence sets in KILT's list of entries. There a page
            outside every set is one entry, and a set is one entry at its last retrieved page.
    """

    sets: int
    r_precision: float
    complete_ranks: list[int]


def _match(ranking: Sequence[str], query: Query) -> _Match:
    sets = list(dict.fromkeys([frozenset(evidence.pages) for evidence in query.evidence]))
    wanted = frozenset().union(*sets)
    if isinstance(ranking, Names):
        position_of = ranking.places(wanted)
    else:
        position_of = {page: ranking.index(page) for page in wanted.intersection(ranking)}
    if not position_of:
        return _Match(len(sets), 0.0, [])
    positions_S = [[position_of[page] for page in evidence if page in position_of] for evidence in sets]
    shares = [_below(len(pages), at) / len(pages) for pages, at in zip(sets, positions_S, strict=True) if pages]
    ends = sorted([(max(positions), index) for index, positions in enumerate(positions_S) if positions])
    gold = sorted(position_of.values())
    # entries before a set: the sets that end before it, and the pages before its end that are in no set
    ranks = [
        entry + end - bisect_left(gold, end)
        for entry, (end, index) in enumerate(ends)
        if len(positions_S[index]) == len(sets[index])
    ]
    return _Match(len(sets), max(shares), ranks)


def _below(limit: int, positions: list[int]) -> int:
    """Returns how many positions are less than `limit`; for a few positions, a list is faster than a generator."""
    return sum([position < limit for position in positions])


def kilt_scores(
    rankings: Mapping[str, Sequence[str]], queries: Sequence[Query], measures: Collection[str]
) -> dict[str, dict[str, float]]:
    """Returns scores by measure and query id, equal to the scores of KILT's own script.

    Args:
        rankings: pages of each query, best first, without repeats (see `page_run`). A missing query scores 0.
        queries: the queries with their gold. Evidence sets with the same pages count once. A query without evidence
            scores 0.
        measures: `Rprec`, or `recall`, `success` or `precision` with `@k`.

    Raises:
        InputError: for any other measure.
    """
    cutoffs = {measure: _cutoff(measure) for measure in measures}
    with collector_paused():
        match_Q = [_match(rankings.get(query.qid, ()), query) for query in queries]
    sets_Q = np.array([max(match.sets, 1) for match in match_Q])
    complete = [(row, rank) for row, match in enumerate(match_Q) for rank in match.complete_ranks]
    rows_E, ranks_E = np.array(complete, dtype=np.int64).reshape(-1, 2).T  # one element per complete evidence set
    scores = {}
    for measure, (kind, k) in cutoffs.items():
        if kind == R_PRECISION:
            values = [match.r_precision for match in match_Q]
        else:
            complete_Q = np.bincount(rows_E[ranks_E < k], minlength=len(queries))
            by_kind = {"recall": complete_Q / sets_Q, "success": (complete_Q > 0) / 1, "precision": complete_Q / k}
            values = by_kind[kind].tolist()
        scores[measure] = {query.qid: value for query, value in zip(queries, values, strict=True)}
    return scores


def _cutoff(measure: str) -> tuple[str, int]:
    """Returns the kind and k of a measure; k is 0 for R-precision."""
    kind, _, k = measure.partition("@")
    if measure != R_PRECISION and not (kind in AT_K and k.isdecimal() and int(k) > 0):
        allowed = ", ".join([R_PRECISION, *(f"{kind}@k" for kind in AT_K)])
        raise InputError(f"measure {measure!r} is not one of KILT's: {allowed} (k from 1)")
    return kind, int(k or 0)
