"""Validation pools: a few queries and a small set of passages to rank for them while training goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from taco_ir.core.hashes import generator
from taco_ir.core.tasks import TopicsName, canonical_task
from taco_ir.core.types import Query
from taco_ir.data.collection import Collection, Topics
from taco_ir.data.examples import read_outline
from taco_ir.data.gold import find_positives
from taco_ir.data.topics import unique


class Pool(NamedTuple):
    """Queries of a task and the docids to rank for each of them: gold, hard, then random ones, no repeats.

    Attributes:
        hard: those that were brought in by a query, by qid.
        random: those that were drawn from the whole collection.
    """

    task: str
    queries: list[Query]
    docids: list[str]
    hard: Mapping[str, Sequence[str]] = {}
    random: Sequence[str] = ()

    def beside_gold(self, qid: str, random: int, seed: int) -> tuple[str, ...]:
        """A query's own hard passages, then so many random ones, drawn for it; gold may be among them."""
        places = generator(seed, self.task, qid).choice(
            len(self.random), size=min(random, len(self.random)), replace=False
        )
        return unique((*self.hard.get(qid, ()), *(self.random[place] for place in places.tolist())))


def draw_queries(collection: Collection, task: str, split: str, count: int, seed: int) -> Topics | None:
    """Queries of a task's topics that have a gold passage in the collection, None where there are none.

    Args:
        count: number drawn; all where there are fewer. Of a train split at most a fifth, as these are not trained on.
    """
    name = TopicsName(canonical_task(task), split)
    if name not in collection.topics_names:
        return None
    outline = read_outline(collection, name)
    judged = len(outline.ids_U2)
    most = judged // 5 if split == "train" else judged
    if not most:
        return None
    rows = generator(seed, str(name)).choice(judged, size=min(count, most), replace=False)
    return collection.load_topics(str(name), outline.ids(rows.tolist()))


def make_pool(
    collection: Collection, topics: Topics, hard: Mapping[str, Sequence[str]], random: int, seed: int
) -> Pool:
    """The queries of `topics` and the passages to rank for them.

    Args:
        hard: hard passages by qid.
        random: number of passages drawn from the whole collection; the same ones for every task, so that the pools of several
            tasks share the vectors of these.
    """
    store = collection.passages
    places = generator(seed, "passages").choice(store.count, size=min(random, store.count), replace=False)
    docids = [docid for sets in find_positives(store, topics.queries) for positives in sets for docid in positives]
    docids += [docid for query in topics.queries for docid in hard.get(query.qid, ())]
    drawn = [passage.docid for passage in store.at(sorted(places.tolist()))]
    return Pool(topics.task, topics.queries, list(unique([*docids, *drawn])), hard, drawn)
