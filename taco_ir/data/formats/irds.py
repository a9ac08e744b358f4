"""Collections of ir_datasets by id, `irds:beir/scifact/test`: documents, queries and graded judgments.

ir_datasets downloads the files. `irds:ID` contains the queries of ID, ID/train, ID/dev and ID/test.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from taco_ir.core.files import QUOTED_UP_TO, InputError
from taco_ir.core.tasks import SPLITS, TopicsName
from taco_ir.core.types import Passage, run_id
from taco_ir.data.formats.base import Format, Key, QuerySet, Record, Source, hash_files
from taco_ir.data.kilt_ids import register

SPLIT_NAMES = {"validation": "dev", "valid": "dev", "val": "dev", "eval": "test"}
RELEASED = "ir_datasets.datasets."  # modules whose data an ir_datasets release pins by checksums


def _open(place: str, columns: Mapping[str, str]) -> Source:
    import ir_datasets

    register()
    if columns:
        raise InputError("--columns has no effect on ir_datasets, whose documents have fixed fields; leave it out")
    known = ir_datasets.registry
    if place not in known:
        near = [each for each in known if place.partition("/")[0] in each][:5] or get_close_matches(place, known)
        also = f"; near: {', '.join(near)}" if near else ""
        raise InputError(f"--collection irds:{place}: ir_datasets has no such id{also}")
    ids = [each for each in (place, *(f"{place}/{split}" for split in SPLITS)) if each in known]
    found = {each: ir_datasets.load(each) for each in ids}
    if not found[place].has_docs():
        raise InputError(f"--collection irds:{place}: it has no documents to search; give an id with documents")
    with_queries = {each: dataset for each, dataset in found.items() if dataset.has_queries()}

    def key() -> Key:
        parts = [(each, kind) for each in with_queries.values() for kind in ("queries", "qrels")]
        with _errors(place):
            docs = _key(ir_datasets.load(_docs_id(place, known)), "docs")
            return Key(docs, [_key(dataset, kind) for dataset, kind in parts])

    def passages() -> Iterator[Record]:
        with _errors(place):
            yield from _passages(found[place], place)

    def queries(dataset: Any) -> QuerySet:
        with _errors(place):
            return _queries(dataset)

    names = {_topics_name(each): each for each in with_queries}
    topics = {name: partial(queries, with_queries[each]) for name, each in names.items()}
    tasks = {name: _task(each, known) for name, each in names.items()}
    return Source("ir_datasets id", place.replace("/", "-"), f"irds:{place}", key, passages, topics, tasks)


@contextmanager
def _errors(place: str) -> Iterator[None]:
    """Turn any error of ir_datasets, such as a missing file or a failed download, into an InputError."""
    try:
        yield
    except InputError as error:
        raise InputError(f"--collection irds:{place}: {error}") from error
    except Exception as error:
        said = " ".join(str(error).split())[:QUOTED_UP_TO]
        raise InputError(f"--collection irds:{place}: {type(error).__name__}: {said}") from error


def _docs_id(place: str, known: Any) -> str:
    """Return the shortest id above this id that has the same documents."""
    docs, parts = known[place].docs_handler(), place.split("/")
    above = ("/".join(parts[:count]) for count in range(1, len(parts)))
    same = (each for each in above if each in known and known[each].has_docs() and known[each].docs_handler() is docs)
    return next(same, place)


def _task(dataset_id: str, known: Any) -> str:
    """Return the task of an id's queries. Ids with the same documents share a task, except those of KILT."""
    parts = dataset_id.split("/")
    return parts[1] if parts[0] == "kilt" and len(parts) > 1 else _docs_id(dataset_id, known).replace("/", "-")


def _topics_name(dataset_id: str) -> TopicsName:
    """Return task and split of an id: msmarco-passage/dev/small -> msmarco-passage-small, dev. No split means test."""
    split, rest = "test", []
    for part in dataset_id.split("/"):
        if (name := SPLIT_NAMES.get(part, part)) in SPLITS:
            split = name
        else:
            rest.append(part)
    return TopicsName("-".join(rest), split)


def _key(dataset: Any, kind: str) -> Any:
    """Return what the documents, queries or judgments of a data set depend on.

    These are hashes of the files; for files that are not known, the release that pins them, or a hash of all records.
    """
    if not getattr(dataset, f"has_{kind}")():
        return None
    handler = getattr(dataset, f"{kind}_handler")()
    path = getattr(handler, f"{kind}_path", None)
    try:
        paths = path() if path is not None else None
    except (NotImplementedError, AttributeError, TypeError):
        paths = None
    if isinstance(paths, str | Path) and Path(paths).is_file():
        return [dataset.dataset_id(), hash_files([Path(paths)]).passages]
    if type(handler).__module__.startswith(RELEASED):
        return [dataset.dataset_id(), version("ir_datasets")]
    digest = hashlib.sha256()
    for record in getattr(handler, f"{kind}_iter")():
        digest.update(repr(tuple(record)).encode())
    return [dataset.dataset_id(), digest.hexdigest()]


def _passages(dataset: Any, place: str) -> Iterator[Record]:
    for number, doc in enumerate(dataset.docs_iter(), 1):
        title = getattr(doc, "title", "")
        text = getattr(doc, "text", None)
        body = text if isinstance(text, str) else doc.default_text()
        yield Record(
            Passage(doc.doc_id, doc.doc_id, title if isinstance(title, str) else "", body),
            f"{place}, document {number}",
        )


def _queries(dataset: Any) -> QuerySet:
    texts = {run_id(query.query_id): query.default_text() for query in dataset.queries_iter()}
    if not dataset.has_qrels():
        return QuerySet(texts, None)
    qrels: dict[str, dict[str, int]] = {}
    for judgment in dataset.qrels_iter():
        qrels.setdefault(run_id(judgment.query_id), {})[judgment.doc_id] = int(judgment.relevance)
    return QuerySet({qid: text for qid, text in texts.items() if qid in qrels}, qrels)


IR_DATASETS = Format(lambda _: False, _open)
