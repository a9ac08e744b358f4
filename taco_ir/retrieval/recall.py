"""Chooses how far an approximate index looks for a stated recall, and keeps the choice beside the index.

The recall of a query is the share of the best hits, of all that the index holds, that a search finds. What is chosen is
the least that reaches the recall on half of a sample of queries; on the other half it is measured.
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
SAMPLE = 512  # queries that are looked at, half of them to choose
NEAR = 1.05  # the choice is at most this much above the least that reaches the recall
PASSAGE_HITS = 100  # hits of a passage that is taken for a query
HNSW, IVF = "efSearch", "nprobe"


class Effort(NamedTuple):
    """How far an index looks.

    Attributes:
        parameter: faiss's: efSearch of HNSW, the candidates that it keeps; nprobe of IVF, the lists that it searches.
        hits, recall: for which it was chosen.
        found: the recall on other queries, of which there were `queries`.
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
        """What was chosen for the index in a folder; None if nothing was. Raises: InputError for another content."""
        path = folder / RECALL_FILE
        return read_json(path, cls, "remove it") if path.is_file() else None


class Knob(NamedTuple):
    """What says how far an index looks: a parameter of faiss's object, and the most that makes a difference."""

    owner: Any
    parameter: str
    most: int

    @classmethod
    def of(cls, index: Any) -> Knob | None:
        """None for an index that looks at everything."""
        import faiss

        concrete = faiss.downcast_index(index)
        if hasattr(concrete, "hnsw"):
            return cls(concrete.hnsw, HNSW, int(index.ntotal))
        lists = faiss.try_extract_index_ivf(concrete)
        return cls(lists, IVF, int(lists.nlist)) if lists else None

    def turn(self, value: int) -> None:
        setattr(self.owner, self.parameter, value)


def choose_effort(index: Any, name: str, queries_BD: Vectors, hits: int, recall: float) -> Effort:
    """Choose how far an index looks, and tell speed and recall.

    Args:
        index: faiss's, of HNSW or IVF.
        name: of the index, in messages.
        queries_BD: the sample [B, D]; every second query chooses.

    Raises:
        InputError: for an index that looks at everything, one query, or a recall that the index does not reach.
    """
    knob = Knob.of(index)
    if knob is None:
        raise InputError(f"--recall {recall:g}: {name} is no HNSW or IVF index, but one that looks at all vectors")
    if len(queries_BD) < 2:
        raise InputError(f"--recall {recall:g}: one query is too few to choose on; two are the least, hundreds better")
    hits = min(hits, int(index.ntotal))
    choosing_BD, measuring_BD = np.ascontiguousarray(queries_BD[::2]), np.ascontiguousarray(queries_BD[1::2])
    best_BK, _ = _search_all(index, knob, choosing_BD, hits)

    def reached(value: int) -> float:
        knob.turn(value)
        return _recall(index.search(choosing_BD, hits)[1], best_BK)

    below, value = 0, max(1, hits if knob.parameter == HNSW else 1)
    while (found := reached(value)) < recall:
        if value >= knob.most:
            most = f"{knob.parameter} {value:,} finds {found:.4f}, the most there is"
            raise InputError(f"--recall {recall:g}: {name} does not reach it ({most}); give less, or a larger graph")
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
    said = "%s: %s %d finds %.4f of the %d best of %d other queries at %s a second; looking at all vectors, at %s"
    rates = f"{count / seconds:,.0f}", f"{count / exhaustive:,.0f}"
    log.info(said, name, knob.parameter, value, effort.found, hits, count, *rates)
    return effort


def spread(count: int) -> npt.NDArray[np.int64]:
    """The places of a sample among `count` queries or passages, all about as far from each other."""
    return np.unique(np.linspace(0, count - 1, min(count, SAMPLE)).astype(np.int64))


def _search_all(index: Any, knob: Knob, queries_BD: Vectors, hits: int) -> tuple[npt.NDArray[np.int64], float]:
    """The rows of the best hits of all that an index holds, and the seconds that it took to look at all."""
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
