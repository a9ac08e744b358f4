"""Outlines of large topics files: hashes of the usable queries, so that a second pass can read only a sample."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from taco_ir.core.files import InputError
from taco_ir.core.processes import collector_paused
from taco_ir.core.types import Query
from taco_ir.data.topics import log_repeats, plain_text, read_single_queries, read_topics

CHUNK = 1024  # records in memory at once
ID_BYTES, TEXT_BYTES = 16, 8  # of digests; a collision of ids would change the sample
Digests = npt.NDArray[np.uint64]
Usable = Callable[[Sequence[Query]], npt.NDArray[np.bool_]]


class Outline(NamedTuple):
    """Digests (hashes) of the U usable queries of a topics file, in file order.

    Attributes:
        queries: number of all queries in the file.
        ids_U2: digests of the query ids.
        texts_U: digests of the texts as `plain_text` normalises them.
    """

    queries: int
    ids_U2: Digests
    texts_U: Digests

    def without(self, texts: Iterable[str]) -> Outline:
        """Return the outline without the queries that have one of these texts (normalised by `plain_text`)."""
        kept_U = ~np.isin(self.texts_U, _numbers(_digest(text, TEXT_BYTES) for text in texts))
        return self._replace(ids_U2=self.ids_U2[kept_U], texts_U=self.texts_U[kept_U])

    def ids(self, rows: Sequence[int]) -> Container[str]:
        """Return a container to test (by `in`) whether a query id belongs to one of these rows."""
        return _Ids(frozenset(id_2.tobytes() for id_2 in self.ids_U2[rows]))


class _Ids:
    """A set of query ids stored as digests."""

    def __init__(self, digests: frozenset[bytes]) -> None:
        self._digests = digests

    def __contains__(self, qid: object) -> bool:
        return isinstance(qid, str) and _digest(qid, ID_BYTES) in self._digests


def make_outline(path: Path, task: str, usable: Usable) -> Outline:
    """Read a topics file once and return the digests of its usable queries.

    Args:
        usable: tells which queries are usable. A query with several records is usable if any of them is.

    Raises:
        InputError: as in `read_topics`.
    """
    ids, exact, plain, marks = bytearray(), bytearray(), bytearray(), bytearray()
    with collector_paused():
        queries = (query for _, query in read_single_queries(path, task))
        while chunk := list(islice(queries, CHUNK)):
            marks += usable(chunk).tobytes()
            for query in chunk:
                ids += _digest(query.qid, ID_BYTES)
                exact += _digest(query.text, TEXT_BYTES)
                plain += _digest(plain_text(query.text), TEXT_BYTES)
    if not marks:
        read_topics(path, task)  # raises
    ids_R2 = np.frombuffer(ids, dtype=np.uint64).reshape(-1, 2)
    order_R = np.lexsort(ids_R2.T)  # groups the records of a query, in file order
    new_R = np.append(True, (ids_R2[order_R[1:]] != ids_R2[order_R[:-1]]).any(1))
    starts_Q = np.flatnonzero(new_R)
    firsts_Q = order_R[starts_Q]
    texts_R = np.frombuffer(exact, dtype=np.uint64)[order_R]
    if len(others := np.flatnonzero(texts_R != texts_R[starts_Q].repeat(np.diff(starts_Q, append=len(order_R))))):
        repeated = _Ids(frozenset(id_2.tobytes() for id_2 in ids_R2[order_R[others]]))
        read_topics(path, task, repeated)  # raises an error that names the first of them
        raise InputError(f"{path}: this file changed while it was being read; run the command again")
    log_repeats(path, len(order_R) - len(starts_Q))
    usable_Q = np.logical_or.reduceat(np.frombuffer(marks, dtype=np.bool_)[order_R], starts_Q)
    rows_U = np.sort(firsts_Q[usable_Q])
    return Outline(len(starts_Q), ids_R2[rows_U], np.frombuffer(plain, dtype=np.uint64)[rows_U])


def _digest(text: str, size: int) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=size).digest()


def _numbers(digests: Iterable[bytes]) -> Digests:
    return np.frombuffer(b"".join(digests), dtype=np.uint64)
