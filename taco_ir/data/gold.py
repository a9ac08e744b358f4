"""Gold: the right pages and passages of queries, as far as the collection holds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from taco_ir.core.types import EvidenceSet, Query
from taco_ir.data.passage_store import PassageStore
from taco_ir.data.topics import unique

PositiveSets = tuple[tuple[str, ...], ...]


def positive_sets(store: PassageStore, queries: Sequence[Query]) -> list[PositiveSets]:
    """The positives of each query by evidence set, in order, without repeats; sets without a passage in the collection left out.

    A set's positives are its passages; where it names pages only, all passages of these, as TACO does for AIDA.
    """
    evidence = [each for query in queries for each in query.evidence]
    named = list(unique(docid for each in evidence for docid in each.passages))
    held = {docid for docid, row in zip(named, store.rows(named).tolist(), strict=True) if row >= 0}
    docids_of = store.docids_of({page for each in evidence if not each.passages for page in each.pages})

    def positives(each: EvidenceSet) -> tuple[str, ...]:
        if each.passages:
            return tuple(docid for docid in each.passages if docid in held)
        return tuple(docid for page in each.pages for docid in docids_of[page])

    return [unique(docids for each in query.evidence if (docids := positives(each))) for query in queries]


def have_positives(store: PassageStore, queries: Sequence[Query]) -> npt.NDArray[np.bool_]:
    """Whether `positive_sets` finds some for each query, without a pass over the passages."""
    evidence = [each for query in queries for each in query.evidence]
    missing = set(store.missing_docids(unique(docid for each in evidence for docid in each.passages)))
    bare = set(store.missing_pages(unique(page for each in evidence if not each.passages for page in each.pages)))
    found = (
        any(not (missing if each.passages else bare).issuperset(each.passages or each.pages) for each in query.evidence)
        for query in queries
    )
    return np.fromiter(found, dtype=np.bool_, count=len(queries))


def gold_pages(query: Query, sets: PositiveSets, page_of: Mapping[str, str]) -> frozenset[str]:
    """Every page that the evidence of a query names, and those of its positive passages."""
    named = {page for each in query.evidence for page in each.pages}
    return frozenset(named.union(page_of[docid] for docids in sets for docid in docids))
