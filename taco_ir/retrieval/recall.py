"""Chooses how far an approximate index must search to reach a recall, and stores the choice beside the index.

The recall of a query is the fraction of its exact best hits that the search finds. The smallest effort that reaches the
recall is chosen on half of a sample of queries; the other half measures the recall.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from taco_ir.core.files import InputError, read_json, write_json
from taco_ir.core.processes import log
from taco_ir.core.types import Vectors

RECALL_FILE = "recall.json"
SAMPLE = 512  # maximum number of queries in the sample
NEAR = 1.05  # the choice is at most this many times the smallest value that reaches the recall
PASSAGE_HITS = 100  # number of hits, where passages are used as queries
HNSW, IVF = "efSearch", "nprobe"


class Effort(NamedTuple):
    """How far an approximate index searches, chosen to reach a recall.

    Attributes:
        parameter: name of the parameter: efSearch (HNSW, candidates to keep) or nprobe (IVF, lists to search).
        hits, recall: `value` was chosen to reach this recall with this number of hits.
        found, queries: the recall measured on other queries, and the number of these queries.
    """

    parameter: str
    value: Annotated[int, 1]
    hits: Annotated[int, 1]
    recall: float
    found: float
    queries: int

    def write(self, folder: Path) -> None:
        write_json(folder / RECALL_FILE, self._asdict())

    @classmethod
    def read(cls, folder: Path) -> Effort | None:
        """Read the stored choice in an index folder; None if there is none. Raises: InputError for a broken file."""
        path = folder / RECALL_FILE
        return read_json(path, cls, "remove it") if path.is_file() else None


class Knob(NamedTuple):
    """The parameter that sets how far a faiss index searches: its object, its name, and its largest useful value."""

    owner: Any
    parameter: str
    most: int

    @classmethod
    def of(cls, index: Any) -> Knob | None:
        """Return the parameter of an HNSW or IVF index; None for other indexes, which always search all vectors."""
        import faiss

        concrete = faiss.downcast_index(index)
        if hasattr(concrete, "hnsw"):
            return cls(concrete.hnsw, HNSW, int(index.ntotal))
        lists = faiss.try_extract_index_ivf(concrete)
        return cls(lists, IVF, int(lists.nlist)) if lists else None

    def turn(self, value: int) -> None:
        setattr(self.owner, self.parameter, value)


def choose_effort(index: Any, name: str, queries_BD: Vectors, hits: int, recall: float) -> Effort:
    """Choose how far an index must search to reach `recall`, and log its speed and recall.

    Args:
        index: an HNSW or IVF index of faiss.
        name: name of the index in messages.
        queries_BD: vectors of sampled queries [B, D]; every second query chooses, and the others measure.

    Raises:
        InputError: for any other index, a single query, or a recall that the index does not reach.
    """
    knob = Knob.of(index)
    if knob is None:
        raise InputError(f"--recall {recall:g}: {name} is not an HNSW or IVF index, so it always searches all vectors")
    if len(queries_BD) < 2:
        raise InputError(f"--recall {recall:g}: this needs at least two queries, better hundreds; one was given")
    hits = min(hits, int(index.ntotal))
    choosing_BD, measuring_BD = np.ascontiguousarray(queries_BD[::2]), np.ascontiguousarray(queries_BD[1::2])
    best_BK, _ = _search_all(index, knob, choosing_BD, hits)

    def reached(value: int) -> float:
        knob.turn(value)
        return _recall(index.search(choosing_BD, hits)[1], best_BK)

    below, value = 0, max(1, hits if knob.parameter == HNSW else 1)
    while (found := reached(value)) < recall:
        if value >= knob.most:
            most = f"the largest {knob.parameter}, {value:,}, finds {found:.4f}"
            raise InputError(f"--recall {recall:g}: {name} does not reach it ({most}); give a lower --recall")
        below, value = value, min(2 * value, knob.most)
    while below and value > NEAR * below + 1:
        middle = (below + value) // 2
        below, value = (below, middle) if reached(middle) >= recall else (middle, value)
    best_BK, exhaustive = _search_all(index, knob, measuring_BD, hits)
    knob.turn(value)
    start = time.perf_counter()
    rows_BK = index.search(measuring_BD, hits)[1]
    seconds = time.perf_counter() - start
    effort = Effort(knob.parameter, value, hits, recall, round(_recall(rows_BK, best_BK), 4), len(measuring_BD))
    count = len(measuring_BD)
    said = "%s: %s %d finds %.4f of the %d best hits of %d other queries, %s queries a second; exact search: %s"
    rates = f"{count / seconds:,.0f}", f"{count / exhaustive:,.0f}"
    log.info(said, name, knob.parameter, value, effort.found, hits, count, *rates)
    return effort


def spread(count: int) -> npt.NDArray[np.int64]:
    """Return evenly spaced positions of a sample among `count` queries or passages; at most SAMPLE positions."""
    return np.unique(np.linspace(0, count - 1, min(count, SAMPLE)).astype(np.int64))


def _search_all(index: Any, knob: Knob, queries_BD: Vectors, hits: int) -> tuple[npt.NDArray[np.int64], float]:
    """Return the rows of the best hits among all vectors of an index, and the seconds that this search took."""
    import faiss

    whole = index
    if knob.parameter == HNSW:
        graph: Any = faiss.downcast_index(index)
        whole = faiss.downcast_index(graph.storage)
    else:
        knob.turn(knob.most)
    start = time.perf_counter()
    rows_BK: npt.NDArray[np.int64] = whole.search(queries_BD, hits)[1]
    return rows_BK, time.perf_counter() - start


def _recall(found_BK: npt.NDArray[np.int64], best_BK: npt.NDArray[np.int64]) -> float:
    both = [len(np.intersect1d(found_K, best_K)) for found_K, best_K in zip(found_BK, best_BK, strict=True)]
    share: float = sum(both) / best_BK.size
    return share
