"""An index in memory for tests of adaptation: what they use of `FrozenIndex`, over a matrix of vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from taco_ir.adaptation.softmax import Gold
from taco_ir.core.types import Vectors


class MatrixIndex:
    """Passages with docids 0, 1, 2, ... unless they are named.

    Attributes:
        largest: most rows that were asked for at once.
    """

    def __init__(self, vectors_ND: npt.NDArray[Any], docids: Sequence[str] = ()) -> None:
        self.vectors_ND = vectors_ND
        self.docids = list(docids) or list(map(str, range(len(vectors_ND))))
        self.largest = 0

    def __len__(self) -> int:
        return len(self.vectors_ND)

    def block(self, start: int, stop: int) -> Vectors:
        self.largest = max(self.largest, stop - start)
        return self.vectors_ND[start:stop]

    def at(self, rows: npt.NDArray[np.int64]) -> Vectors:
        return self.vectors_ND[rows]

    def search(self, queries_BD: Vectors, hits: int) -> npt.NDArray[np.int64]:
        return np.argsort(-(queries_BD @ self.vectors_ND.T), axis=1, kind="stable")[:, :hits]


def unit(rng: np.random.Generator, count: int, dim: int, dtype: Any = np.float32) -> npt.NDArray[Any]:
    vectors_ND = rng.normal(size=(count, dim))
    return (vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True)).astype(dtype)


def gold(positives: Sequence[int], others: Sequence[int] = (), weights: Sequence[float] = ()) -> Gold:
    given = np.array(weights or [1.0] * len(positives))
    return Gold(np.array(positives, np.int64), given / given.sum(), np.array(others, np.int64))


def golds_of(rng: np.random.Generator, queries: int, passages: int) -> list[Gold]:
    """Gold of queries: one positive or several with grades, and pages of one to five passages."""
    found = []
    for query in range(queries):
        rows = rng.choice(passages, 1 + query % 3 + query % 5, replace=False)
        weights = rng.integers(1, 4, 1 + query % 3).astype(float).tolist()
        found.append(gold(rows[: 1 + query % 3].tolist(), rows[1 + query % 3 :].tolist(), weights))
    return found
