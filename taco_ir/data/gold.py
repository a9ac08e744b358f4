"""Finds which gold passages and pages of queries are in a collection."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from taco_ir.core.files import InputError
from taco_ir.core.types import EvidenceSet, Query
from taco_ir.data.passage_store import PassageStore
from taco_ir.data.topics import unique

PositiveSets = tuple[tuple[str, ...], ...]


def find_positives(store: PassageStore, queries: Sequence[Query]) -> list[PositiveSets]:
    """Return each query's positive docids, grouped by evidence set. Sets without a passage in the store are left out.

    The positives of an evidence set are its passages. If the set names only pages, the positives are all passages of
    these pages, as in TACO for AIDA (Zhang et al. 2023).
    """
    evidence = [each for query in queries for each in query.evidence]
    named = list(unique(docid for query in queries for docid in query.gold_passages))
    known = {docid for docid, row in zip(named, store.rows(named).tolist(), strict=True) if row >= 0}
    docids_of = store.docids_of({page for each in evidence if not each.passages for page in each.pages})

    def positives(each: EvidenceSet) -> tuple[str, ...]:
        if each.passages:
            return tuple(docid for docid in each.passages if docid in known)
        return tuple(docid for page in each.pages for docid in docids_of[page])

    return [unique(docids for each in query.evidence if (docids := positives(each))) for query in queries]


def have_positives(store: PassageStore, queries: Sequence[Query]) -> npt.NDArray[np.bool_]:
    """Return for each query [Q] whether `find_positives` finds a positive, but faster and without reading passages."""
    evidence = [each for query in queries for each in query.evidence]
    missing = set(store.missing_docids(unique(docid for query in queries for docid in query.gold_passages)))
    bare = set(store.missing_pages(unique(page for each in evidence if not each.passages for page in each.pages)))
    found = (
        any(not (missing if each.passages else bare).issuperset(each.passages or each.pages) for each in query.evidence)
        for query in queries
    )
    return np.fromiter(found, dtype=np.bool_, count=len(queries))


def find_gold_pages(query: Query, sets: PositiveSets, page_of: Mapping[str, str]) -> frozenset[str]:
    """Return the gold pages of a query: the pages in its evidence, and the pages of its positive passages (`sets`)."""
    return frozenset(query.gold_pages).union(page_of[docid] for docids in sets for docid in docids)


def find_gold_rows(store: PassageStore, name: str, queries: Sequence[Query]) -> npt.NDArray[np.int64]:
    """Return the rows of all gold passages [N]: positives, and all passages of gold pages without a positive.

    An evidence set may name passages for only some of its pages. The other pages have no positive, but without their
    passages the set could never be found completely.

    Raises:
        InputError: if no query has gold, or if no gold passage is in the collection.
    """
    if not any(query.evidence for query in queries):
        raise InputError(f"--topics {name}: these topics have no gold, which a subset needs (test splits have none)")
    positives = list({docid for sets in find_positives(store, queries) for docids in sets for docid in docids})
    rows: npt.NDArray[np.int64] = np.unique(store.rows(positives))
    covered = {passage.page for passage in store.at(rows.tolist())}
    bare = {page for query in queries for page in query.gold_pages} - covered
    others = [docid for docids in store.docids_of(bare).values() for docid in docids]
    if not positives and not others:
        raise InputError(f"--topics {name}: none of their gold passages is in the collection ({store.path})")
    return np.union1d(rows, store.rows(others)).astype(np.int64)


def find_relevant_ids(queries: Iterable[Query]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield each query id with its relevant ids for qrels: docids if any query has gold passages, otherwise pages."""
    listed = list(queries)
    passages = any(query.gold_passages for query in listed)
    for query in listed:
        yield query.qid, query.gold_passages if passages else query.gold_pages
