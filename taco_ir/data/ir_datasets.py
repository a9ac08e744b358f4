"""Registers KILT's tasks and any collection with ir_datasets, as `kilt/nq/dev` or `<name>/<task>/<split>`.

ir_datasets is imported only when a function needs it. Reading downloads nothing: if topics are missing, an InputError
names the command that downloads them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from taco_ir.core.files import InputError
from taco_ir.core.processes import format_bytes
from taco_ir.core.tasks import KINDS, canonical_task, resolve_topics
from taco_ir.data.collection import PASSAGE_FILES, Collection, open_collection
from taco_ir.data.kilt_files import KILT_FILES, SOURCE_PAGES, SOURCE_SIZE, kilt_folder, knowledge_source
from taco_ir.data.kilt_ids import make_qrels, make_queries, register
from taco_ir.data.passage_store import PassageStore

if TYPE_CHECKING:
    from ir_datasets import Dataset

COLLECTION_NAME = re.compile(r"[\w.-]+(/[\w.-]+)*")


class PassageDoc(NamedTuple):
    doc_id: str
    page: str
    title: str
    text: str

    def default_text(self) -> str:
        """Return title and text, separated by a space."""
        return f"{self.title} {self.text}".strip()


def dataset(name: str) -> Dataset:
    """Load a data set as `ir_datasets.load` does, by its id or a short form of it: `kilt/zsre/dev`, `nq-dev`.

    Raises:
        InputError: for an unknown name; the message lists similar names.

    Examples:
        >>> taco_ir.dataset("kilt/nq/dev").has_qrels()
        True
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
    """Register a collection with ir_datasets as `<name>` (passages) and `<name>/<task>/<split>`; return these ids.

    If an evidence set of the topics names passages, the qrels judge passages. Otherwise they judge pages, and their ids
    are in the documents' field `page`, not in `doc_id`. Topics without gold have no qrels.

    Args:
        folder: the collection's folder, or `sample`.

    Raises:
        InputError: if the folder cannot be read, or if the name belongs to another data set.
    """
    import ir_datasets

    if not COLLECTION_NAME.fullmatch(name):
        raise InputError(
            f"collection name {name!r}: only letters, digits, `.`, `_` and `-` are allowed, and `/` between them"
        )
    collection = open_collection(str(folder))
    path = collection.passage_path.resolve()
    if name in ir_datasets.registry and (taken := _find_registered_path(name)) != path:
        raise InputError(
            f"collection name {name!r} already belongs to {taken or 'a data set of ir_datasets'}; choose another "
            f"for {folder}"
        )
    if name not in ir_datasets.registry:
        ir_datasets.registry.register(name, ir_datasets.Dataset(_make_docs(collection, name)))
    docs = ir_datasets.registry[name].docs_handler()
    ids = [name]
    for topics in collection.topics_names:
        ids.append(f"{name}/{topics.task}/{topics.split}")
        if ids[-1] not in ir_datasets.registry:
            read = partial(lambda name: collection.load_topics(name).queries, str(topics))
            judged = any(query.evidence or query.grades for query in read())
            ir_datasets.registry.register(
                ids[-1], ir_datasets.Dataset(docs, make_queries(read), make_qrels(read) if judged else None)
            )
    return ids


def _make_docs(collection: Collection, name: str) -> Any:
    from ir_datasets.formats import BaseDocs
    from ir_datasets.indices.base import Docstore

    class Store(Docstore):  # type: ignore[misc]
        def get_many_iter(self, doc_ids: Iterable[str]) -> Iterator[PassageDoc]:
            """Return the documents of the ids that exist, as ir_datasets' own stores do."""
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
    """An iterator over the documents in the rows start to stop-1. It supports slicing, as ir_datasets expects."""

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
        raise TypeError(f"a slice of documents must have step 1, not {rows.step}")


def _find_registered_path(name: str) -> Path | None:
    """Return the passage file of a name that `register_collection` registered; None for other names."""
    import ir_datasets

    registered = ir_datasets.registry[name]
    return getattr(registered.docs_handler(), "path", None) if registered.has_docs() else None


def list_everything() -> list[list[str]]:
    """Return table rows, header first, for the sample, its topics, and all files of KILT, downloaded or not."""
    sample = open_collection("sample")
    path = sample.passage_path
    rows = [
        ["id", "kind", "records", "size", "where"],
        _file_row("sample", "passages", sample.passages.count, path.stat().st_size, path),
    ]
    for topics in sample.topics_names:
        count = len(sample.load_topics(str(topics)).queries)
        rows.append([f"sample/{topics.task}/{topics.split}", KINDS[topics.task], f"{count:,}", "-", "embedded"])
    for topics, file in KILT_FILES.items():
        size = file.path.stat().st_size if file.path.is_file() else file.size
        rows.append(_file_row(f"kilt/{topics.task}/{topics.split}", KINDS[topics.task], file.records, size, file.path))
    rows.append(_file_row("kilt/knowledgesource", "pages", SOURCE_PAGES, SOURCE_SIZE, knowledge_source()))
    built = next((path for name in PASSAGE_FILES if (path := kilt_folder() / name).is_file()), None)
    built_size = format_bytes(built.stat().st_size) if built else "-"
    rows.append(["kilt", "passages", "-", built_size, str(built or "not built")])
    return rows


def describe(collection: Collection) -> str:
    """Describe a collection in a sentence: its format and its number of passages."""
    pages = "which belong to pages" if collection.passages.has_pages else "each a page of its own"
    return f"{collection.name}: {collection.layout}, {collection.passages.count:,} passages, {pages}"


def list_topics(collection: Collection) -> list[list[str]]:
    """Return table rows, header first: each query set of a collection, its number of queries, and of judged queries."""
    rows = [["topics", "queries", "judged"]]
    for topics in collection.topics_names:
        queries = collection.load_topics(str(topics)).queries
        rows.append(
            [str(topics), f"{len(queries):,}", f"{sum(bool(query.evidence or query.grades) for query in queries):,}"]
        )
    return rows


def _file_row(name: str, kind: str, records: int | None, size: int | None, path: Path) -> list[str]:
    where = str(path) if path.is_file() else "not fetched"
    return [name, kind, f"{records:,}" if records else "-", format_bytes(size) if size else "-", where]
