"""Training examples: a query, its positive passages, and hard negatives."""

from __future__ import annotations

from collections.abc import Collection as Collected
from collections.abc import Container
from functools import partial
from typing import NamedTuple

from taco_ir.core.files import InputError
from taco_ir.core.hashes import generator
from taco_ir.core.processes import log
from taco_ir.core.tasks import TopicsName, canonical_task
from taco_ir.data.collection import Collection
from taco_ir.data.gold import PositiveSets, find_gold_pages, find_positives, have_positives
from taco_ir.data.outline import Outline, make_outline
from taco_ir.data.topics import plain_text


class TrainExample(NamedTuple):
    """A training query with the docids of its positives and negatives.

    Attributes:
        text: the query's text, without a prompt.
        positives: the docids of each evidence set with a passage in the collection.
        pages: gold pages of all evidence sets; passages on these pages are never negatives.
        negatives: docids, hardest first; may be empty, or contain gold passages, which are masked in batches.
        since: the epoch that uses the first negatives in the list; each later epoch uses the next negatives.
    """

    qid: str
    text: str
    task: str
    positives: PositiveSets
    pages: frozenset[str]
    negatives: tuple[str, ...]
    since: int = 0


def read_examples(
    collection: Collection, task: str, split: str = "train", only: Container[str] | None = None
) -> list[TrainExample]:
    """Read the examples of a task in file order. Queries without a positive passage in the collection are left out.

    Args:
        only: ids of the queries to read; None: all.

    Raises:
        InputError: if the task has no topics of this split, or if no query has a positive passage.
    """
    name = _find_topics(collection, task, split)
    topics = collection.load_topics(str(name), only)
    store = collection.passages
    sets_of = find_positives(store, topics.queries)
    page_of = store.page_of({docid for sets in sets_of for docids in sets for docid in docids})
    examples = [
        TrainExample(query.qid, query.text, name.task, sets, find_gold_pages(query, sets, page_of), ())
        for query, sets in zip(topics.queries, sets_of, strict=True)
        if sets
    ]
    _log_left_out(collection, name, len(topics.queries), len(examples))
    return examples


def read_sampled_examples(
    collection: Collection, task: str, most: int, seed: int, share: float = 1.0, without: Collected[str] = ()
) -> list[TrainExample]:
    """Read a sample of a task's train examples, without keeping the whole file in memory.

    Args:
        most: maximum number of examples; 0: no limit.
        share: fraction of the examples to sample.
        without: texts of queries to leave out, normalised by `plain_text`.
    """
    name = _find_topics(collection, task, "train")
    if most or share < 1:
        outline = read_outline(collection, name)
        usable = outline.without(without)
        rows = _sample_rows(len(usable.ids_U2), most, seed, task, share)
        if rows is not None:
            _log_left_out(collection, name, outline.queries, len(outline.ids_U2))
            return read_examples(collection, task, only=usable.ids(rows))
    return [example for example in read_examples(collection, task) if plain_text(example.text) not in without]


def sample_examples(
    examples: list[TrainExample], most: int, seed: int, task: str, share: float = 1.0
) -> list[TrainExample]:
    """Sample the fraction `share` of a task's examples: at least one, at most `most` (0: no limit), in their order."""
    rows = _sample_rows(len(examples), most, seed, task, share)
    return examples if rows is None else [examples[row] for row in rows]


def _sample_rows(count: int, most: int, seed: int, task: str, share: float) -> list[int] | None:
    """Return the sampled rows in ascending order; None means all rows."""
    most = min(most or count, max(1, round(share * count)))
    if not 0 < most < count:
        return None
    return sorted(generator(seed, task, "examples").choice(count, most, replace=False).tolist())


def read_outline(collection: Collection, name: TopicsName) -> Outline:
    """Read an outline (see `Outline`) of the queries that have a positive passage in the collection."""
    return make_outline(collection.topics_path(str(name)), name.task, partial(have_positives, collection.passages))


def _log_left_out(collection: Collection, name: TopicsName, queries: int, examples: int) -> None:
    """Log how many queries have no positive. Raises: InputError if no query has one."""
    if not examples:
        raise InputError(
            f"{name}: none of its {queries} queries has a positive passage in collection {collection.name}; give the "
            "collection that these topics belong to"
        )
    if left_out := queries - examples:
        log.warning(
            "%s: %d of %d queries have no positive passage in the collection; left out", name, left_out, queries
        )


def _find_topics(collection: Collection, task: str, split: str) -> TopicsName:
    name = TopicsName(canonical_task(task), split)
    if name not in collection.topics_names:
        having = ", ".join(each.task for each in collection.topics_names if each.split == split) or "no task"
        raise InputError(
            f"task {task!r}: collection {collection.name} has no topics {name}; its {split} topics are for {having}"
        )
    return name
