"""Topics and a collection -> training examples: a query, the passages that answer it, and hard negatives."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from taco_ir.data.collections import Collection
from taco_ir.data.negatives import Negatives
from taco_ir.data.seeds import generator
from taco_ir.data.store import PassageStore
from taco_ir.data.topics import unique
from taco_ir.files import InputError
from taco_ir.records import EvidenceSet, Query
from taco_ir.tasks import TopicsName, canonical_task

log = logging.getLogger("taco_ir")
PositiveSets = tuple[tuple[str, ...], ...]


class TrainExample(NamedTuple):
    """A training query and what it learns from, as docids.

    Attributes:
        text: the query as its record spells it, without a prompt.
        positives: passages of each evidence set that has one in the collection.
        pages: gold pages, of every evidence set; a passage of one is no negative.
        negatives: hardest first; may be empty, and may hold gold passages (a batch masks them).
        since: the epoch that takes the hardest of them; later ones take those that follow.
    """

    qid: str
    text: str
    task: str
    positives: PositiveSets
    pages: frozenset[str]
    negatives: tuple[str, ...]
    since: int = 0


def read_examples(collection: Collection, task: str, split: str = "train", negatives: Negatives | None = None) -> list[TrainExample]:
    """Examples of a task in the order of its topics, without the queries that have no positive in the collection.

    Raises:
        InputError: for a task without topics of that split, or of which no query has a positive.
    """
    name = _topics_name(collection, task, split)
    topics = collection.load_topics(str(name))
    store = collection.passages
    sets_of = positive_sets(store, topics.queries)
    page_of = store.page_of({docid for sets in sets_of for docids in sets for docid in docids})
    examples = [
        TrainExample(query.qid, query.text, name.task, sets, _gold_pages(query, sets, page_of), ())
        for query, sets in zip(topics.queries, sets_of, strict=True)
        if sets
    ]
    if not examples:
        raise InputError(f"{name}: none of its {len(topics.queries)} queries has a positive passage in collection {collection.name}")
    if left_out := len(topics.queries) - len(examples):
        log.warning("%s: %d of %d queries have no positive passage in the collection; left out", name, left_out, len(topics.queries))
    return with_negatives(examples, name, negatives) if negatives else examples


def with_negatives(examples: Sequence[TrainExample], topics: TopicsName, negatives: Negatives) -> list[TrainExample]:
    """Examples of `topics` with what was mined for them; says how many have none."""
    mined = negatives.docids.get(str(topics), {})
    found = [example._replace(negatives=tuple(mined.get(example.qid, ()))) for example in examples]
    if bare := sum(not example.negatives for example in found):
        log.warning("%s: %d of %d examples have no mined negatives", topics, bare, len(found))
    return found


def drawn_examples(examples: list[TrainExample], most: int, seed: int, task: str, share: float = 1.0) -> list[TrainExample]:
    """A share of a task's examples, at least one and at most `most` (0: any number), drawn by the seed, in their order."""
    most = min(most or len(examples), max(1, round(share * len(examples))))
    if not 0 < most < len(examples):
        return examples
    rows = generator(seed, task, "examples").choice(len(examples), most, replace=False)
    return [examples[row] for row in sorted(rows.tolist())]


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


def _gold_pages(query: Query, sets: PositiveSets, page_of: Mapping[str, str]) -> frozenset[str]:
    named = {page for each in query.evidence for page in each.pages}
    return frozenset(named.union(page_of[docid] for docids in sets for docid in docids))


def _topics_name(collection: Collection, task: str, split: str) -> TopicsName:
    name = TopicsName(canonical_task(task), split)
    if name not in collection.topics_names:
        having = ", ".join(each.task for each in collection.topics_names if each.split == split) or "no task"
        raise InputError(f"task {task!r}: collection {collection.name} has no {name} topics; it has {split} topics of {having}")
    return name
