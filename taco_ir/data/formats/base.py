"""The interface of collection formats, and the import of a foreign collection into the toolkit's own layout.

A foreign collection is read once and kept in our own layout under the data home: a folder with its passages, one a
line, and a folder with a file of topics for each task and split. The names of both are hashes of all that their content
depends on, so that collections of the same passages share them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import orjson

from taco_ir.core.files import InputError, data_home, exclusive, writing_folder
from taco_ir.core.hashes import fingerprint, sha256_once
from taco_ir.core.processes import with_progress
from taco_ir.core.tasks import TopicsName
from taco_ir.core.types import Passage
from taco_ir.data.passage_store import PassageStore
from taco_ir.data.query_files import Qrels

log = logging.getLogger("taco_ir")
IMPORT_VERSION = 3  # of what an import writes
PASSAGES = "passages.jsonl"


class Record(NamedTuple):
    """A passage of a foreign collection and where it stands, for messages."""

    passage: Passage
    where: str


class QuerySet(NamedTuple):
    """The queries of one task and split.

    Attributes:
        texts: by query id.
        qrels: graded judgments, None where there are none.
        negatives: docids of hard negatives by query id, hardest first, where the layout brings them.
    """

    texts: Mapping[str, str]
    qrels: Qrels | None
    negatives: Mapping[str, Sequence[str]] = {}


class Key(NamedTuple):
    """What passages and topics depend on, such as hashes of their files, as JSON values."""

    passages: Any
    topics: Any


class Source(NamedTuple):
    """A foreign collection that was recognised.

    Attributes:
        layout: what it was recognised as, such as "BEIR folder".
        name: name of the collection; names the folder of its runs.
        origin: where the passages lie, for messages.
        key: says what its content depends on.
        passages: reads the passages.
        topics: reads the queries of each task and split.
        tasks: the task of topics whose name says another, as those of a part of the queries.
    """

    layout: str
    name: str
    origin: object
    key: Callable[[], Key]
    passages: Callable[[], Iterable[Record]]
    topics: Mapping[TopicsName, Callable[[], QuerySet]]
    tasks: Mapping[TopicsName, str] = MappingProxyType({})


class Format(NamedTuple):
    """A layout of collections.

    Attributes:
        recognises: whether a file or folder is of this layout; it reads names of files, and at most a first line.
        opens: makes the source of a path, or of the name after the prefix; `columns` says what its columns are called.
        files: names of its files, the passages' first, by which a folder may be nearly of this layout.
    """

    recognises: Callable[[Path], bool]
    opens: Callable[[str, Mapping[str, str]], Source]
    files: tuple[str, ...] = ()


def import_source(source: Source) -> tuple[Path, Path]:
    """The file of passages and the folder of topics, in our own layout, of a foreign collection.

    Both are made on first use, whole or not at all; topics first, since they take less time to be refused.
    """
    names, key = [str(topics) for topics in sorted(source.topics)], source.key()
    made = (("topics", [names, key.topics], _write_all_topics), ("passages", key.passages, _write_passages))
    topics, passages = (_import_once(source, key, *part) for part in made)
    return passages / PASSAGES, topics


def _import_once(source: Source, key: Key, what: str, content: Any, write: Callable[[Source, Path], None]) -> Path:
    """The folder that holds one part of a collection, after writing it where it is not there."""
    folder = data_home() / "imported" / f"{what}-{fingerprint([IMPORT_VERSION, source.layout, content])}"
    if folder.is_dir():
        return folder
    with exclusive(folder.with_name(f"{folder.name}.import")):
        if not folder.is_dir():  # another process may have made it meanwhile
            with writing_folder(folder) as made:
                write(source, made)
                if source.key() != key:
                    raise InputError(f"{source.origin}: it changed while it was read; give the command again")
    return folder


def _write_all_topics(source: Source, folder: Path) -> None:
    for topics, read in source.topics.items():
        write_topics(read(), folder / f"{topics}.jsonl")


def _write_passages(source: Source, folder: Path) -> None:
    path, empty = folder / PASSAGES, 0
    with path.open("wb") as sink:
        for passage, where in with_progress(source.passages(), f"{source.name} is read", "passages"):
            docid, page, title, text = passage
            if docid.split() != [docid]:
                raise InputError(f"{where}: docid {docid!r}; it may neither be empty nor hold white space")
            empty += not text.strip()
            record = {"id": docid, "wikipedia_id": page, "title": title, "contents": text}
            sink.write(orjson.dumps(record) + b"\n")
    try:
        PassageStore(path)  # refuses a file without passages, and a docid that is given twice
    except InputError as error:
        raise InputError(str(error).replace(str(path), str(source.origin))) from error
    if empty:
        log.warning("%s: %d passages have no text; they are kept", source.name, empty)


def write_topics(queries: QuerySet, path: Path) -> None:
    with path.open("wb") as sink:
        for qid, text in queries.texts.items():
            record: dict[str, Any] = {"id": qid, "input": text, "output": []}
            if queries.qrels is not None:
                grades = queries.qrels.get(qid, {})
                record["output"] = [
                    {"provenance": [{"wikipedia_id": docid, "passage_id": docid}]}
                    for docid, grade in grades.items()
                    if grade > 0
                ]
                record["grades"] = grades
            if negatives := queries.negatives.get(qid):
                record["negatives"] = negatives
            sink.write(orjson.dumps(record) + b"\n")


def hash_files(passages: Iterable[Path], topics: Iterable[Path] = ()) -> Key:
    """The key of a source by its files: name and SHA-256 of each."""
    return Key(*([[path.name, sha256_once(path)] for path in paths] for paths in (passages, topics)))


def judged_queries(texts: Mapping[str, str], qrels: Qrels, where: Path) -> QuerySet:
    """The queries that a file of judgments names. Raises: InputError for judgments of queries that are not there."""
    if missing := [qid for qid in qrels if qid not in texts]:
        said = f"{where}: {len(missing)} of its {len(qrels)} queries, first {missing[0]!r}, are not among the queries"
        if len(missing) == len(qrels):
            raise InputError(f"{said}; these are judgments of other queries")
        log.warning("%s; they are left out", said)
    known = {qid: grades for qid, grades in qrels.items() if qid in texts}
    return QuerySet({qid: texts[qid] for qid in known}, known)


def find_file(folder: Path, *names: str) -> Path | None:
    """The file that a folder has of some names, plain or gzip. Raises: InputError where it has two of them."""
    files = (folder / each for name in names for each in (name, f"{name}.gz"))
    found = [file for file in files if file.is_file()]
    if len(found) > 1:
        raise InputError(f"{found[0]}: {found[1].name} is there too, and one of them is read; keep one")
    return found[0] if found else None
