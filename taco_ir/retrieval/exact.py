"""Exact search by inner product: numpy's BLAS over blocks of vectors, keeping what reaches the hits-th best score so far."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from taco_ir.records import Vectors

QUERIES = 1024  # queries scored together
ROWS = 4096  # vectors scored together
CROWD = 3  # candidates kept before they are thinned out, in multiples of hits
TIES = 10  # rows kept of a query whose scores are all equal, in multiples of hits


class Candidates(NamedTuple):
    """Hits of many queries, one an entry."""

    query: npt.NDArray[np.intp]
    row: npt.NDArray[np.intp]
    score: npt.NDArray[np.float32]


def exact_search(queries_BD: Vectors, vectors_ND: Vectors, hits: int) -> Iterator[tuple[npt.NDArray[np.intp], npt.NDArray[np.float32]]]:
    """Yield for each query the rows of its `hits` largest inner products, and the products, best first.

    Rows whose score equals that of the last hit are yielded too, so that the caller can break the tie by docid (up to
    TIES x hits rows in all).
    """
    for start in range(0, len(queries_BD), QUERIES):
        queries = queries_BD[start : start + QUERIES]
        found = _search(queries, vectors_ND, hits)
        ends = np.searchsorted(found.query, np.arange(1, len(queries)))
        yield from zip(np.split(found.row, ends), np.split(found.score, ends), strict=True)


def _search(queries_BD: Vectors, vectors_ND: Vectors, hits: int) -> Candidates:
    """Candidates sorted by query, then score descending."""
    floor_B = np.full(len(queries_BD), -np.inf, dtype=np.float32)
    pending: list[Candidates] = []
    for start in range(0, len(vectors_ND), ROWS):
        scores_BN = queries_BD @ vectors_ND[start : start + ROWS].T
        width = scores_BN.shape[1]
        if not start and width > hits:
            floor_B = np.partition(scores_BN, width - hits, axis=1)[:, width - hits]
        places = np.flatnonzero(scores_BN >= floor_B[:, None])
        pending.append(Candidates(places // width, start + places % width, scores_BN.ravel()[places]))
        if sum(len(found.row) for found in pending) > CROWD * hits * len(queries_BD):
            found, floor_B = _thin(pending, floor_B, hits)
            pending = [found]
    return _thin(pending, floor_B, hits)[0]


def _thin(pending: list[Candidates], floor_B: Vectors, hits: int) -> tuple[Candidates, Vectors]:
    """Sort candidates, drop those below the hits-th best of their query, and return that score for each query."""
    query, row, score = (np.concatenate(parts) for parts in zip(*pending, strict=True))
    order = np.argsort((query << 32) - _ordered(score))  # one key sorts ten times faster than two
    query, row, score = query[order], row[order], score[order]
    first_B, stop_B = (np.searchsorted(query, np.arange(len(floor_B)), side) for side in ("left", "right"))
    full_B = stop_B - first_B >= hits
    floor_B = floor_B.copy()
    floor_B[full_B] = score[first_B[full_B] + hits - 1]
    kept = (score >= floor_B[query]) & (np.arange(len(query)) - first_B[query] < TIES * hits)
    return Candidates(query[kept], row[kept], score[kept]), floor_B


def _ordered(scores: Vectors) -> npt.NDArray[np.int64]:
    """Whole numbers of 32 bits in the order of float32 scores."""
    bits = scores.view(np.int32)
    return (bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))).astype(np.int64)
