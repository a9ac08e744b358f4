"""Registers KILT's tasks and any collection with ir_datasets, as `kilt/nq/dev` or `<name>/<task>/<split>`.

ir_datasets is imported by the functions, not by this module. Reading downloads nothing: missing topics raise an
InputError that names the command to get them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from taco_ir.core.files import InputError
from taco_ir.core.tasks import TopicsName, canonical_task, resolve_topics
from taco_ir.core.types import EvidenceSet, Query
from taco_ir.data.collection import Collection, open_collection
from taco_ir.data.gold import find_relevant_ids
from taco_ir.data.kilt_files import KILT_FILES
from taco_ir.data.passage_store import PassageStore
from taco_ir.data.topics import read_topics

if TYPE_CHECKING:
    from ir_datasets import Dataset

ReadQueries = Callable[[], list[Query]]
COLLECTION_NAME = re.compile(r"[\w.-]+(/[\w.-]+)*")
QREL_LEVELS = {1: "in an evidence set of the query"}


class KiltQuery(NamedTuple):
    """A query with its evidence sets, whose grouping is lost in qrels."""

    query_id: str
    text: str
    answers: tuple[str, ...]
    evidence: tuple[EvidenceSet, ...]

    def default_text(self) -> str:
        """The text without marks of the entity to link."""
        return Query(self.query_id, self.text, "").plain_text


class PassageDoc(NamedTuple):
    doc_id: str
    page: str
    title: str
    text: str

    def default_text(self) -> str:
        """Title and text."""
        return f"{self.title} {self.text}".strip()


def register() -> list[str]:
    """Register `kilt/<task>/<split>` for KILT's eleven tasks on ir_datasets' own `kilt` pages, and return the ids.

    Qrels are of pages: the union of a query's evidence sets. Test splits have none.
    """
    import ir_datasets

    pages = ir_datasets.registry["kilt"].docs_handler()
    ids = {topics: f"kilt/{topics.task}/{topics.split}" for topics in KILT_FILES}
    for topics, dataset_id in ids.items():
        if dataset_id not in ir_datasets.registry:
            read = _kilt_reader(topics)
            judged = topics.split != "test"
            ir_datasets.registry.register(
                dataset_id, ir_datasets.Dataset(pages, _make_queries(read), _make_qrels(read) if judged else None)
            )
    return list(ids.values())


def dataset(name: str) -> Dataset:
    """Load a data set, as `ir_datasets.load` does, by any spelling of its id: `kilt/zsre/dev`, `nq-dev`.

    Raises:
        InputError: for an unknown name, with the nearest ones.
    """
    import ir_datasets

    register()
    prefix, _, rest = name.rpartition("/")
    prefix, _, task = prefix.rpartition("/")
    canonical = f"{prefix}/{canonical_task(task)}/{rest}"
    for candidate in (name, canonical):
        if candidate in ir_datasets.registry:
            return ir_datasets.load(candidate)
    topics = resolve_topics(name, KILT_FILES)
    return ir_datasets.load(f"kilt/{topics.task}/{topics.split}")


def register_collection(folder: Path | str, name: str) -> list[str]:
    """Register a collection as `<name>` (its passages) and `<name>/<task>/<split>`, and return the ids.

    Qrels are of passages if any evidence set of the topics names passages. Otherwise they are of pages, whose ids are
    the documents' `page`, not their `doc_id`. Topics without evidence have no qrels.

    Args:
        folder: of the collection, or `sample`.

    Raises:
        InputError: for a folder that cannot be read, or a name that is in use for anything else.
    """
    import ir_datasets

    if not COLLECTION_NAME.fullmatch(name):
        raise InputError(f"collection name {name!r}; letters, digits, `.`, `_`, `-` and `/` between them are allowed")
    collection = open_collection(str(folder))
    path = collection.passage_path.resolve()
    if name in ir_datasets.registry and (taken := _find_registered_path(name)) != path:
        raise InputError(
            f"collection name {name!r} is taken by {taken or 'a data set of ir_datasets'}; choose another for {folder}"
        )
    if name not in ir_datasets.registry:
        ir_datasets.registry.register(name, ir_datasets.Dataset(_make_docs(collection, name)))
    docs = ir_datasets.registry[name].docs_handler()
    ids = [name]
    for topics in collection.topics_names:
        ids.append(f"{name}/{topics.task}/{topics.split}")
        if ids[-1] not in ir_datasets.registry:
            read = partial(_read_queries, collection, topics)
            judged = any(query.evidence for query in read())
            ir_datasets.registry.register(
                ids[-1], ir_datasets.Dataset(docs, _make_queries(read), _make_qrels(read) if judged else None)
            )
    return ids


def _kilt_reader(topics: TopicsName) -> ReadQueries:
    def read() -> list[Query]:
        path = KILT_FILES[topics].path
        if not path.is_file():
            name = f"kilt/{topics.task}/{topics.split}"
            raise InputError(f"{name} is not there ({path}); get it with: python -m taco_ir.data get {name}")
        return read_topics(path, topics.task)

    return read


def _read_queries(collection: Collection, topics: TopicsName) -> list[Query]:
    return collection.load_topics(str(topics)).queries


def _make_queries(read: ReadQueries) -> Any:
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


def _make_qrels(read: ReadQueries) -> Any:
    from ir_datasets.formats import BaseQrels, TrecQrel

    class KiltQrels(BaseQrels):  # type: ignore[misc]
        def qrels_iter(self) -> Iterator[TrecQrel]:
            return (TrecQrel(qid, docid, 1, "0") for qid, docids in find_relevant_ids(read()) for docid in docids)

        def qrels_cls(self) -> type[TrecQrel]:
            return TrecQrel  # type: ignore[no-any-return]

        def qrels_defs(self) -> dict[int, str]:
            return QREL_LEVELS

    return KiltQrels()


def _make_docs(collection: Collection, name: str) -> Any:
    from ir_datasets.formats import BaseDocs
    from ir_datasets.indices.base import Docstore

    class Store(Docstore):  # type: ignore[misc]
        def get_many_iter(self, doc_ids: Iterable[str]) -> Iterator[PassageDoc]:
            """The documents of those ids that exist, as in ir_datasets' own stores."""
            listed = list(doc_ids)
            known = [docid for docid, row in zip(listed, collection.passages.rows(listed), strict=True) if row >= 0]
            return map(PassageDoc._make, collection.passages.get(known).values())

    class PassageDocs(BaseDocs):  # type: ignore[misc]
        path = collection.passage_path.resolve()

        def docs_iter(self) -> DocIterator:
            return DocIterator(collection.passages, 0, collection.passages.count)

        def docs_cls(self) -> type[PassageDoc]:
            return PassageDoc

        def docs_count(self) -> int:
            return collection.passages.count

        def docs_store(self, field: str = "doc_id") -> Store:
            return Store(PassageDoc, field)

        def docs_namespace(self) -> str:
            return name

    return PassageDocs()


class DocIterator:
    """The documents of rows start..stop-1, which can be sliced as ir_datasets' iterators can."""

    def __init__(self, store: PassageStore, start: int, stop: int) -> None:
        self._store, self._rows = store, range(start, stop)
        self._passages = store.read(start, stop)

    def __iter__(self) -> Iterator[PassageDoc]:
        return self

    def __next__(self) -> PassageDoc:
        return PassageDoc._make(next(self._passages))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: slice | int) -> Any:
        if isinstance(key, int):
            row = self._rows[key]
            return PassageDoc._make(next(self._store.read(row, row + 1)))
        rows = self._rows[key]
        if rows.step == 1:
            return DocIterator(self._store, rows.start, max(rows.start, rows.stop))
        raise TypeError(f"slices of documents go in steps of 1, not {rows.step}")


def _find_registered_path(name: str) -> Path | None:
    """The passage file of a name that `register_collection` registered, otherwise None."""
    import ir_datasets

    registered = ir_datasets.registry[name]
    return getattr(registered.docs_handler(), "path", None) if registered.has_docs() else None
