"""Topics and a collection -> training examples: a query, the passages that answer it, and hard negatives."""

from __future__ import annotations

import logging
from typing import NamedTuple

from taco_ir.core.files import InputError
from taco_ir.core.seeds import generator
from taco_ir.core.tasks import TopicsName, canonical_task
from taco_ir.data.collection import Collection
from taco_ir.data.gold import PositiveSets, gold_pages, positive_sets

log = logging.getLogger("taco_ir")


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


def read_examples(collection: Collection, task: str, split: str = "train") -> list[TrainExample]:
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
        TrainExample(query.qid, query.text, name.task, sets, gold_pages(query, sets, page_of), ())
        for query, sets in zip(topics.queries, sets_of, strict=True)
        if sets
    ]
    if not examples:
        raise InputError(f"{name}: none of its {len(topics.queries)} queries has a positive passage in collection {collection.name}")
    if left_out := len(topics.queries) - len(examples):
        log.warning("%s: %d of %d queries have no positive passage in the collection; left out", name, left_out, len(topics.queries))
    return examples


def drawn_examples(examples: list[TrainExample], most: int, seed: int, task: str, share: float = 1.0) -> list[TrainExample]:
    """A share of a task's examples, at least one and at most `most` (0: any number), drawn by the seed, in their order."""
    most = min(most or len(examples), max(1, round(share * len(examples))))
    if not 0 < most < len(examples):
        return examples
    rows = generator(seed, task, "examples").choice(len(examples), most, replace=False)
    return [examples[row] for row in sorted(rows.tolist())]


def _topics_name(collection: Collection, task: str, split: str) -> TopicsName:
    name = TopicsName(canonical_task(task), split)
    if name not in collection.topics_names:
        having = ", ".join(each.task for each in collection.topics_names if each.split == split) or "no task"
        raise InputError(f"task {task!r}: collection {collection.name} has no {name} topics; it has {split} topics of {having}")
    return name
