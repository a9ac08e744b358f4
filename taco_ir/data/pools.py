"""Validation pools: a few dev queries and a small set of passages to rank for them while training goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from taco_ir.data.collections import Collection
from taco_ir.data.examples import positive_sets
from taco_ir.data.seeds import generator
from taco_ir.data.tasks import TopicsName, canonical_task
from taco_ir.data.topics import unique
from taco_ir.records import Query


class Pool(NamedTuple):
    """Queries of a task and the docids to rank for each of them: gold, hard, then random ones, no repeats."""

    task: str
    queries: list[Query]
    docids: list[str]


def make_pool(
    collection: Collection, task: str, queries: int, hard: Mapping[str, Sequence[str]], hard_per_query: int, random: int, seed: int
) -> Pool | None:
    """A pool of a task's dev topics, None where it has none or no dev query has a gold passage in the collection.

    Args:
        queries: number drawn, among those with a gold passage in the collection; all where there are fewer.
        hard: hard passages of a qid, hardest first; the first `hard_per_query` of each drawn query join the pool.
        random: number of passages drawn from the whole collection; the same ones for every task, so that the pools of several
            tasks share the vectors of these.
    """
    name = TopicsName(canonical_task(task), "dev")
    if name not in collection.topics_names:
        return None
    store = collection.passages
    every = collection.load_topics(str(name)).queries
    gold = {query.qid: sets for query, sets in zip(every, positive_sets(store, every), strict=True) if sets}
    judged = [query for query in every if query.qid in gold]
    if not judged:
        return None
    rows = generator(seed, str(name)).choice(len(judged), size=min(queries, len(judged)), replace=False)
    drawn = [judged[row] for row in sorted(rows.tolist())]
    places = generator(seed, "passages").choice(store.count, size=min(random, store.count), replace=False)
    docids = [docid for query in drawn for docids in gold[query.qid] for docid in docids]
    docids += [docid for query in drawn for docid in hard.get(query.qid, ())[:hard_per_query]]
    docids += [passage.docid for passage in store.at(sorted(places.tolist()))]
    return Pool(name.task, drawn, list(unique(docids)))
