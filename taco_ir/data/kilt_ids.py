"""Registers KILT's tasks with ir_datasets, such as `kilt/nq/dev`, with KILT's pages as documents.

Importing this module registers nothing and does not import ir_datasets. Reading downloads nothing: if topics are
missing, an InputError names the command that downloads them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from taco_ir.core.files import InputError
from taco_ir.core.tasks import TopicsName
from taco_ir.core.types import EvidenceSet, Query
from taco_ir.data.gold import find_relevant_ids
from taco_ir.data.kilt_files import KILT_FILES
from taco_ir.data.topics import read_topics

ReadQueries = Callable[[], list[Query]]
QREL_LEVELS = {1: "in an evidence set of the query; other grades as the collection gives them"}


class KiltQuery(NamedTuple):
    """A query with its evidence sets, because qrels cannot express how evidence is grouped into sets."""

    query_id: str
    text: str
    answers: tuple[str, ...]
    evidence: tuple[EvidenceSet, ...]

    def default_text(self) -> str:
        """Return the text without entity marks such as [START_ENT]."""
        return Query(self.query_id, self.text, "").plain_text


def register() -> list[str]:
    """Register `kilt/<task>/<split>` for the eleven tasks, with the pages of ir_datasets' own `kilt`; return the ids.

    The qrels of a query are the pages of all its evidence sets. Test splits have no qrels.
    """
    import ir_datasets

    pages = ir_datasets.registry["kilt"].docs_handler()
    ids = {topics: f"kilt/{topics.task}/{topics.split}" for topics in KILT_FILES}
    for topics, dataset_id in ids.items():
        if dataset_id not in ir_datasets.registry:
            read = _kilt_reader(topics)
            judged = topics.split != "test"
            ir_datasets.registry.register(
                dataset_id, ir_datasets.Dataset(pages, make_queries(read), make_qrels(read) if judged else None)
            )
    return list(ids.values())


def _kilt_reader(topics: TopicsName) -> ReadQueries:
    def read() -> list[Query]:
        path = KILT_FILES[topics].path
        if not path.is_file():
            name = f"kilt/{topics.task}/{topics.split}"
            raise InputError(f"{name} has not been downloaded ({path}); get it with: python -m taco_ir.data get {name}")
        return read_topics(path, topics.task)

    return read


def make_queries(read: ReadQueries) -> Any:
    from ir_datasets.formats import BaseQueries

    class KiltQueries(BaseQueries):  # type: ignore[misc]
        def queries_iter(self) -> Iterator[KiltQuery]:
            return (KiltQuery(query.qid, query.text, query.answers, query.evidence) for query in read())

        def queries_cls(self) -> type[KiltQuery]:
            return KiltQuery

        def queries_count(self) -> int:
            return len(read())

        def queries_lang(self) -> str:
            return "en"

    return KiltQueries()


def make_qrels(read: ReadQueries) -> Any:
    from ir_datasets.formats import BaseQrels, TrecQrel

    class KiltQrels(BaseQrels):  # type: ignore[misc]
        def qrels_iter(self) -> Iterator[TrecQrel]:
            queries = read()
            graded = [(query.qid, docid, grade) for query in queries for docid, grade in query.grades.items()]
            relevant = ((qid, docid, 1) for qid, docids in find_relevant_ids(queries) for docid in docids)
            return (TrecQrel(*judgment, "0") for judgment in graded or relevant)

        def qrels_cls(self) -> type[TrecQrel]:
            return TrecQrel  # type: ignore[no-any-return]

        def qrels_defs(self) -> dict[int, str]:
            return QREL_LEVELS

    return KiltQrels()
