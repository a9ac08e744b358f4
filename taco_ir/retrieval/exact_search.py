"""Exact search by inner product: scores passage vectors block by block, and keeps every possible best hit.

The queries are divided among threads, and each thread uses BLAS with a single thread. So the work between matrix
products runs on all cores, too.

BLAS may round the same inner product differently in another block or with more queries. So its products only select
candidates, with a bound on the rounding error, and the candidates' scores are computed again in float64. Hits and
scores therefore depend only on the query and the vectors: not on blocks, threads, machines, or other queries.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import cache
from types import TracebackType
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from taco_ir.core.types import Ranking, Vectors

QUERIES = 512  # queries that a thread scores together
LEAST = 128  # minimum number of queries for a thread; with fewer, products take nearly all the time
ROWS = 8192  # vectors scored together
AHEAD = 2  # blocks of vectors that are read ahead of the threads that score them
CROWD = 3  # candidates kept before the worst are dropped, in multiples of hits
TIES = 10  # if a query has more candidates of close scores, in multiples of hits, they are scored exactly
PAIRS = 512  # pairs of a query and a vector that are multiplied in float64 at once
UNIT = 2.0**-23  # twice the relative error of a rounded float32


class Candidates(NamedTuple):
    """Candidate hits of several queries, with one array entry per hit: query number, row of the vector, score."""

    query: npt.NDArray[np.intp]
    row: npt.NDArray[np.intp]
    score: npt.NDArray[np.float32]

    @classmethod
    def join(cls, parts: Sequence[Candidates]) -> Candidates:
        return cls(*(np.concatenate(each) for each in zip(*parts, strict=True)))

    def at(self, places: Any) -> Candidates:
        return Candidates(self.query[places], self.row[places], self.score[places])


class Products(Protocol):
    """Interface for computing inner products of a block of queries with a block of passage vectors.

    Attributes:
        queries: number of queries to score together.
        threads: number of threads that divide the queries.
        error: bound on the rounding error in the difference of two scores, for vectors of length 1.
    """

    queries: int
    threads: int
    error: float

    def read(self, block_ND: npt.NDArray[np.floating]) -> tuple[Any, float]:
        """Convert a block of vectors for `score`; return it with the largest norm of its vectors, rounded up."""

    def hold(self, queries_BD: Vectors) -> Any:
        """Convert query vectors [B, D] to the form that `score` takes."""

    def score(self, queries_BD: Any, block_ND: Any) -> Any:
        """Return the inner products of all queries with all vectors: [B, N]."""

    def best(self, scores_BN: Any, place: int) -> npt.NDArray[np.float64]:
        """Return the score at rank `place` (from 1) of each query: [B]."""

    def select(self, scores_BN: Any, least_B: Vectors) -> tuple[npt.NDArray[np.intp], Vectors]:
        """Return positions (in the flattened matrix) and values of scores that reach their query's minimum."""


class Float32:
    """Computes inner products in float32, with numpy's BLAS."""

    def __init__(self, dim: int) -> None:
        self.queries = QUERIES
        self.threads = max((each["num_threads"] for each in _blas().info()), default=1)
        self.error = rounding(dim)

    def read(self, block_ND: npt.NDArray[np.floating]) -> tuple[Vectors, float]:
        """Return the block as aligned float32, copied only if necessary, and its largest vector norm, rounded up."""
        block_ND = np.require(block_ND, np.float32, "A")
        return block_ND, longest_norm(block_ND)

    def hold(self, queries_BD: Vectors) -> Vectors:
        return queries_BD

    def score(self, queries_BD: Vectors, block_ND: Vectors) -> Vectors:
        scores_BN: Vectors = queries_BD @ block_ND.T
        return scores_BN

    def best(self, scores_BN: Vectors, place: int) -> npt.NDArray[np.float64]:
        last = scores_BN.shape[1] - place
        best_B: npt.NDArray[np.float64] = np.partition(scores_BN, last, axis=1)[:, last].astype(np.float64)
        return best_B

    def select(self, scores_BN: Vectors, least_B: Vectors) -> tuple[npt.NDArray[np.intp], Vectors]:
        places = np.flatnonzero(scores_BN >= least_B[:, None])
        return places, scores_BN.ravel()[places]


def exact_search(
    queries_BD: Vectors, vectors_ND: Vectors, docids_N: npt.NDArray[np.object_], hits: int
) -> Iterator[Ranking]:
    """Yield for each query a ranking of the `hits` passages with the largest inner products.

    Passages with equal scores are ordered by docid, descending; this also decides which of them is the last hit.
    Shapes: `queries_BD` [B, D], `vectors_ND` [N, D], `docids_N` [N].
    """
    products = Float32(queries_BD.shape[1])
    for start in range(0, len(queries_BD), together := products.queries * products.threads):
        several_BD = queries_BD[start : start + together]
        with ExactSearch(several_BD, vectors_ND, docids_N, hits, products) as search:
            for row in range(0, len(vectors_ND), ROWS):
                search.add(row, vectors_ND[row : row + ROWS])
            yield from search.rankings()


@cache
def _blas() -> Any:
    """Return a controller of the loaded BLAS libraries; they use OMP_NUM_THREADS threads, by default one per core."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")


class ExactSearch:
    """An exact search for B queries that receives the passage vectors block by block, in any order.

    Args:
        vectors_ND, docids_N: vectors and docids of all passages; only the rows of candidates are read from them.
        products: computes the scores that select candidates.

    Attributes:
        longest: the largest norm of a vector so far.
    """

    def __init__(
        self, queries_BD: Vectors, vectors_ND: Vectors, docids_N: npt.NDArray[np.object_], hits: int, products: Products
    ) -> None:
        self._queries_BD, self._vectors_ND, self._docids_N, self._hits = queries_BD, vectors_ND, docids_N, hits
        self._products = products
        threads = min(products.threads, -(-len(queries_BD) // LEAST))
        rounds = -(-len(queries_BD) // (threads * products.queries))
        parts = np.array_split(queries_BD, threads * rounds)
        self._blocks = [_Block(part_BD, vectors_ND, docids_N, hits, products) for part_BD in parts]
        self._firsts = np.cumsum([0, *map(len, parts)])[:-1]
        self._stack, self._added = ExitStack(), deque[list[Future[None]]]()
        self._workers: list[ThreadPoolExecutor] = []  # each thread scores its blocks in order
        self._threads, self.longest = threads, 0.0

    def __enter__(self) -> ExactSearch:
        if self._threads > 1:
            self._stack.enter_context(_blas().limit(limits=1))
            self._workers = [self._stack.enter_context(ThreadPoolExecutor(1)) for _ in range(self._threads)]
        return self

    def __exit__(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._stack.close()

    def add(self, start: int, block_ND: npt.NDArray[np.floating]) -> None:
        """Score a block of vectors that begins at row `start`. The method may return before the block is scored."""
        block, longest = self._products.read(block_ND)
        self.longest = max(self.longest, longest)

        def score(first: int) -> None:
            for each in self._blocks[first :: self._threads]:
                each.add(start, block, longest)

        if not self._workers:
            score(0)
            return
        self._added.append([worker.submit(score, first) for first, worker in enumerate(self._workers)])
        if len(self._added) > AHEAD:
            self._wait(self._added.popleft())

    def put(self, found: Candidates, longest: float) -> None:
        """Add another search's candidates for the same queries; `longest` is the largest norm of its vectors."""
        self.longest = max(self.longest, longest)
        order = np.argsort(found.query, kind="stable")
        ends = np.searchsorted(found.query[order], self._firsts[1:])
        for block, first, places in zip(self._blocks, self._firsts, np.split(order, ends), strict=True):
            part = found.at(places)
            block.put(part._replace(query=part.query - first), longest)

    def candidates(self) -> Candidates:
        """Return all candidates for the best hits so far, sorted by query."""
        while self._added:
            self._wait(self._added.popleft())
        found = [block.thin() for block in self._blocks]
        moved = [each._replace(query=each.query + first) for each, first in zip(found, self._firsts, strict=True)]
        return Candidates.join(moved)

    def rankings(self) -> Iterator[Ranking]:
        """Yield the ranking of each query: its best hits with exact scores."""
        found = self.candidates()
        score = np.empty(len(found.row), dtype=np.float32)

        def rescore(places: npt.NDArray[np.intp]) -> None:
            score[places] = exact_scores(self._queries_BD, self._vectors_ND, found.query[places], found.row[places])

        shares = np.array_split(np.argsort(found.row, kind="stable"), self._threads)
        if self._workers:
            self._wait([worker.submit(rescore, share) for worker, share in zip(self._workers, shares, strict=True)])
        else:
            rescore(shares[0])
        docids, ends = self._docids_N[found.row], np.searchsorted(found.query, np.arange(1, len(self._queries_BD)))
        for docids_K, score_K in zip(np.split(docids, ends), np.split(score, ends), strict=True):
            yield Ranking.of(docids_K.tolist(), score_K).top(self._hits)

    @staticmethod
    def _wait(futures: Sequence[Future[None]]) -> None:
        for each in futures:
            each.result()


class _Block:
    """The search for B queries that are scored together."""

    def __init__(
        self, queries_BD: Vectors, vectors_ND: Vectors, docids_N: npt.NDArray[np.object_], hits: int, products: Products
    ) -> None:
        self._queries_BD, self._vectors_ND, self._docids_N, self._hits = queries_BD, vectors_ND, docids_N, hits
        self._products, self._held_BD, self._count = products, products.hold(queries_BD), len(queries_BD)
        self._error_B = products.error * np.linalg.norm(queries_BD.astype(np.float64), axis=1)
        self._longest = 0.0  # largest norm of a vector so far
        self._floor_B = np.full(self._count, -np.inf)  # the score at rank `hits` so far
        self._room = CROWD * hits * self._count  # maximum number of candidates before the worst are dropped
        nothing = np.empty(0, dtype=np.intp)
        self._pending = [Candidates(nothing, nothing, np.empty(0, dtype=np.float32))]

    def add(self, start: int, block_ND: Any, longest: float) -> None:
        """Score the vectors from row `start` on, and keep possible best hits; `longest` is their largest norm."""
        self._longest = max(self._longest, longest)
        scores_BN = self._products.score(self._held_BD, block_ND)
        width = scores_BN.shape[1]
        if width > self._hits and np.isneginf(self._floor_B).all():
            self._floor_B = self._products.best(scores_BN, self._hits)
        places, score = self._products.select(scores_BN, self._least_B)
        self._pending.append(Candidates(places // width, start + places % width, score))
        if sum(len(found.row) for found in self._pending) > self._room:
            self._room = max(self._room, 2 * len(self.thin().row))

    def put(self, found: Candidates, longest: float) -> None:
        self._longest = max(self._longest, longest)
        self._pending.append(found)
        self.thin()

    @property
    def _least_B(self) -> npt.NDArray[np.float32]:
        """Scores below this cannot be among the best hits, however they were rounded."""
        close_B = self._error_B * self._longest
        least_B: npt.NDArray[np.float32] = (self._floor_B - close_B).astype(np.float32)
        return np.nextafter(least_B, np.float32(-np.inf))

    def thin(self) -> Candidates:
        """Sort candidates by query and score, and drop those that cannot be among the best hits.

        Sets the minimum of each query to its score at rank `hits`.
        """
        query, row, score = Candidates.join(self._pending)
        order = np.argsort((query << 32) - _ordered(score))  # one key sorts ten times faster than two
        query, row, score = query[order], row[order], score[order]
        first_B, stop_B = (np.searchsorted(query, np.arange(self._count), side) for side in ("left", "right"))
        full_B = stop_B - first_B >= self._hits
        self._floor_B[full_B] = score[first_B[full_B] + self._hits - 1]
        found = Candidates(query, row, score).at(score >= self._least_B[query])
        crowded = np.flatnonzero(np.bincount(found.query, minlength=self._count) > TIES * self._hits)
        self._pending = [self._cut_crowds(found, crowded) if len(crowded) else found]
        return self._pending[0]

    def _cut_crowds(self, found: Candidates, crowded: npt.NDArray[np.intp]) -> Candidates:
        """For the queries `crowded`, which have many nearly equal scores, keep only the best hits by exact scores."""
        parts = [found.at(~np.isin(found.query, crowded))]
        for query in crowded.tolist():
            own = found.at(found.query == query)
            score = exact_scores(self._queries_BD, self._vectors_ND, own.query, own.row)
            docids: Sequence[str] = self._docids_N[own.row].tolist()
            best = sorted(range(len(score)), key=lambda i: (score[i], docids[i]), reverse=True)[: self._hits]
            parts.append(own._replace(score=score).at(best))
        whole = Candidates.join(parts)
        return whole.at(np.argsort(whole.query, kind="stable"))


def exact_scores(
    queries_BD: Vectors, vectors_ND: Vectors, query: npt.NDArray[np.intp], row: npt.NDArray[np.intp]
) -> Vectors:
    """Return the inner product of each pair queries_BD[query[i]] and vectors_ND[row[i]], summed in float64."""
    score = np.empty(len(row), dtype=np.float32)
    for start in range(0, len(row), PAIRS):
        pairs = slice(start, start + PAIRS)
        score[pairs] = (queries_BD[query[pairs]].astype(np.float64) * vectors_ND[row[pairs]]).sum(1)
    return score


def rounding(dim: int) -> float:
    """Bound the rounding error in the difference of two float32 inner products of unit vectors with `dim` numbers."""
    return 2 * dim * UNIT


def longest_norm(block_ND: Vectors) -> float:
    """Return the largest norm of the vectors in a block, rounded up; 0 for an empty block."""
    return math.sqrt(np.einsum("nd,nd->n", block_ND, block_ND).max(initial=0.0)) * (1 + UNIT)


def _ordered(scores: Vectors) -> npt.NDArray[np.int64]:
    """Convert float32 scores to 32-bit integers with the same order."""
    bits = scores.view(np.int32)
    return (bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))).astype(np.int64)
