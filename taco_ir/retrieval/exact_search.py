"""Exact search by inner product: numpy's BLAS over blocks of vectors, keeping all that may be among the best hits.

Threads share many queries out, each with BLAS on one thread: so what is done between the products has all cores, too.

BLAS may round the same product differently in another block or among more queries. So scores too close to be ordered
reliably are computed again one by one in float64: the order of hits never depends on what else is searched at once.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from taco_ir.core.types import Ranking, Vectors

QUERIES = 512  # queries that a thread scores together
LEAST = 128  # queries that are worth a thread: of fewer, products take nearly all the time
ROWS = 8192  # vectors scored together
AHEAD = 2  # blocks of vectors that are read before threads have scored them
CROWD = 3  # candidates kept before they are thinned out, in multiples of hits
TIES = 10  # candidates of a query with close scores, in multiples of hits, beyond which they are computed exactly
PAIRS = 512  # pairs of a query and a vector that are multiplied in float64 at once
UNIT = 2.0**-23  # twice the relative error of a rounded float32


class Candidates(NamedTuple):
    """Hits of many queries, one an entry."""

    query: npt.NDArray[np.intp]
    row: npt.NDArray[np.intp]
    score: npt.NDArray[np.float32]


def exact_search(
    queries_BD: Vectors, vectors_ND: Vectors, docids_N: npt.NDArray[np.object_], hits: int
) -> Iterator[Ranking]:
    """Yield for each query the `hits` passages of largest inner product, ties by docid descending, at the last hit too.

    Shapes: `queries_BD` [B, D], `vectors_ND` [N, D], `docids_N` [N].
    """
    threads = max((each["num_threads"] for each in _blas().info()), default=1)
    for start in range(0, len(queries_BD), QUERIES * threads):
        several_BD = queries_BD[start : start + QUERIES * threads]
        parts = np.array_split(several_BD, min(threads, -(-len(several_BD) // LEAST)))
        blocks = [_Block(part_BD, vectors_ND, docids_N, hits) for part_BD in parts]
        for block, found in zip(blocks, _search_all(blocks, vectors_ND), strict=True):
            ends = np.searchsorted(found.query, np.arange(1, block.count))
            for row_K, score_K in zip(np.split(found.row, ends), np.split(found.score, ends), strict=True):
                yield Ranking.of(docids_N[row_K].tolist(), score_K).top(hits)


@cache
def _blas() -> Any:
    """The libraries of linear algebra that are loaded; they have as many threads as OMP_NUM_THREADS says, or cores."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")


def _search_all(blocks: Sequence[_Block], vectors_ND: Vectors) -> list[Candidates]:
    """The candidates of each block of queries; threads take one each, and the same vectors at a time."""
    if len(blocks) == 1:
        for start in range(0, len(vectors_ND), ROWS):
            blocks[0].add(start, *_read(vectors_ND, start))
        return [blocks[0].finish()]
    with _blas().limit(limits=1), ExitStack() as stack:
        threads = [stack.enter_context(ThreadPoolExecutor(1)) for _ in blocks]  # each does its blocks in order
        added: deque[list[Future[None]]] = deque()
        for start in range(0, len(vectors_ND), ROWS):
            read = _read(vectors_ND, start)
            added.append(
                [thread.submit(block.add, start, *read) for thread, block in zip(threads, blocks, strict=True)]
            )
            if len(added) > AHEAD:
                for each in added.popleft():
                    each.result()
        found = [thread.submit(block.finish) for thread, block in zip(threads, blocks, strict=True)]
        return [each.result() for each in found]


def _read(vectors_ND: Vectors, start: int) -> tuple[Vectors, float]:
    """Vectors from a row on, copied where an index's file has them at odd bytes, and the largest of their norms."""
    block_ND: Vectors = np.require(vectors_ND[start : start + ROWS], np.float32, "A")
    return block_ND, float(np.einsum("nd,nd->n", block_ND, block_ND).max(initial=0.0)) ** 0.5 * (1 + UNIT)


class _Block:
    """The search for B queries at once.

    Attributes:
        count: B.
    """

    def __init__(self, queries_BD: Vectors, vectors_ND: Vectors, docids_N: npt.NDArray[np.object_], hits: int) -> None:
        self.count = len(queries_BD)
        self._queries_BD, self._vectors_ND, self._docids_N, self._hits = queries_BD, vectors_ND, docids_N, hits
        self._norm_B = np.linalg.norm(queries_BD.astype(np.float64), axis=1)
        self._longest = 0.0  # largest norm of a vector so far
        self._floor_B = np.full(self.count, -np.inf)  # the hits-th best score so far
        self._pending: list[Candidates] = []

    @property
    def _close_B(self) -> npt.NDArray[np.float64]:
        """Scores further apart than this are in the right order, however they were rounded."""
        close_B: npt.NDArray[np.float64] = rounding(self._queries_BD.shape[1]) * self._norm_B * self._longest
        return close_B

    def add(self, start: int, block_ND: Vectors, longest: float) -> None:
        """Score the vectors from row `start` on, and keep those that can be among the best; `longest` is their norm."""
        self._longest = max(self._longest, longest)
        scores_BN = self._queries_BD @ block_ND.T
        width = scores_BN.shape[1]
        if not start and width > self._hits:
            last = width - self._hits
            self._floor_B = np.partition(scores_BN, last, axis=1)[:, last].astype(np.float64)
        places = np.flatnonzero(scores_BN >= self._least_B[:, None])
        self._pending.append(Candidates(places // width, start + places % width, scores_BN.ravel()[places]))
        if sum(len(found.row) for found in self._pending) > CROWD * self._hits * self.count:
            self._pending = [self._thin(self._pending)]

    def finish(self) -> Candidates:
        """Candidates sorted by query, all that can be among the best hits; close scores are exact."""
        return self._rescore_close(self._thin(self._pending))

    @property
    def _least_B(self) -> npt.NDArray[np.float32]:
        """Scores below this cannot be among the best hits."""
        return np.nextafter((self._floor_B - self._close_B).astype(np.float32), np.float32(-np.inf))

    def _thin(self, pending: list[Candidates]) -> Candidates:
        """Sort candidates by query and score, and drop those that cannot be among the best.

        Sets the floor to the hits-th best score of each query.
        """
        query, row, score = (np.concatenate(parts) for parts in zip(*pending, strict=True))
        order = np.argsort((query << 32) - _ordered(score))  # one key sorts ten times faster than two
        query, row, score = query[order], row[order], score[order]
        first_B, stop_B = (np.searchsorted(query, np.arange(self.count), side) for side in ("left", "right"))
        full_B = stop_B - first_B >= self._hits
        self._floor_B[full_B] = score[first_B[full_B] + self._hits - 1]
        kept = score >= self._least_B[query]
        found = Candidates(query[kept], row[kept], score[kept])
        crowded = np.flatnonzero(np.bincount(found.query, minlength=self.count) > TIES * self._hits)
        return self._cut_crowds(found, crowded) if len(crowded) else found

    def _cut_crowds(self, found: Candidates, crowded: npt.NDArray[np.intp]) -> Candidates:
        """Keep only the best hits of crowded queries, whose scores are all but equal."""
        others = ~np.isin(found.query, crowded)
        parts = [Candidates(found.query[others], found.row[others], found.score[others])]
        for query in crowded.tolist():
            row = found.row[found.query == query]
            score = self._exact(np.full(len(row), query), row)
            docids: Sequence[str] = self._docids_N[row].tolist()
            best = sorted(range(len(row)), key=lambda i: (score[i], docids[i]), reverse=True)[: self._hits]
            parts.append(Candidates(np.full(len(best), query), row[best], score[best]))
        query, row, score = (np.concatenate(each) for each in zip(*parts, strict=True))
        order = np.argsort(query, kind="stable")
        return Candidates(query[order], row[order], score[order])

    def _rescore_close(self, found: Candidates) -> Candidates:
        """Replace scores that are close to a neighbour's by exact ones."""
        same = found.query[1:] == found.query[:-1]
        close = same & (found.score[:-1] - found.score[1:] <= self._close_B[found.query[1:]])
        near = np.concatenate([close, [False]]) | np.concatenate([[False], close])
        score = found.score.copy()
        score[near] = self._exact(found.query[near], found.row[near])
        return found._replace(score=score)

    def _exact(self, query: npt.NDArray[np.intp], row: npt.NDArray[np.intp]) -> Vectors:
        """Inner products of pairs, each summed alone in float64, whatever the other pairs are."""
        score = np.empty(len(row), dtype=np.float32)
        for start in range(0, len(row), PAIRS):
            pairs = slice(start, start + PAIRS)
            score[pairs] = (self._queries_BD[query[pairs]].astype(np.float64) * self._vectors_ND[row[pairs]]).sum(1)
        return score


def rounding(dim: int) -> float:
    """By how much rounding can change the difference of two float32 inner products of vectors of length 1."""
    return 2 * dim * UNIT


def longest_norm(block_ND: Vectors) -> float:
    """The largest norm of a vector, rounded up."""
    return math.sqrt(np.einsum("nd,nd->n", block_ND, block_ND).max()) * (1 + UNIT)


def _ordered(scores: Vectors) -> npt.NDArray[np.int64]:
    """32-bit integers in the order of float32 scores."""
    bits = scores.view(np.int32)
    return (bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))).astype(np.int64)
