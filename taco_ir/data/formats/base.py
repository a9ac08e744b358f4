"""The interface of collection formats, and the import of foreign collections into our own format.

A foreign collection is read once and kept in the data home: its passages in one folder, one per line, and its topics in
another, with a file for each task and split. Both folders are named by hashes of everything that their content depends
on, so collections with the same passages share them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import orjson

from taco_ir.core.files import InputError, data_home, exclusive, writing_folder
from taco_ir.core.hashes import fingerprint, sha256_once
from taco_ir.core.processes import log, with_progress
from taco_ir.core.tasks import TopicsName
from taco_ir.core.types import Passage
from taco_ir.data.passage_store import PassageStore
from taco_ir.data.query_files import Qrels

IMPORT_VERSION = 3  # of what an import writes
PASSAGES = "passages.jsonl"


class Record(NamedTuple):
    """A passage of a foreign collection, with its place in the file for error messages."""

    passage: Passage
    where: str


class QuerySet(NamedTuple):
    """The queries of one task and split.

    Attributes:
        texts: query texts, by query id.
        qrels: relevance judgments, or None.
        negatives: docids of hard negatives by query id, hardest first, if the format has them.
    """

    texts: Mapping[str, str]
    qrels: Qrels | None
    negatives: Mapping[str, Sequence[str]] = {}


class Key(NamedTuple):
    """Everything that passages and topics depend on, such as hashes of their files, as JSON values."""

    passages: Any
    topics: Any


class Source(NamedTuple):
    """A foreign collection whose format was recognised.

    Attributes:
        layout: its format, such as "BEIR folder".
        name: name of the collection, and of the folder for its runs.
        origin: the place of the passages, for error messages.
        key: returns everything that the content depends on.
        passages: reads the passages.
        topics: reads the queries of each task and split.
        tasks: by name of topics, their task, if the name does not tell it.
    """

    layout: str
    name: str
    origin: object
    key: Callable[[], Key]
    passages: Callable[[], Iterable[Record]]
    topics: Mapping[TopicsName, Callable[[], QuerySet]]
    tasks: Mapping[TopicsName, str] = MappingProxyType({})


class Format(NamedTuple):
    """A format of collections.

    Attributes:
        recognises: tells whether a file or folder has this format, from file names and at most a first line.
        opens: makes the source from a path, or from the name after the prefix; `columns` has the column names.
        files: names of its files, passages first, to recognise a folder that almost has this format.
    """

    recognises: Callable[[Path], bool]
    opens: Callable[[str, Mapping[str, str]], Source]
    files: tuple[str, ...] = ()


def import_source(source: Source) -> tuple[Path, Path]:
    """Import a foreign collection; returns the file of passages and the folder of topics in our own format.

    Both are made on first use, completely or not at all. Topics are made first, since errors in them show sooner.
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
                    raise InputError(f"{source.origin}: it changed while it was being read; run the command again")
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
                raise InputError(f"{where}: docid is {docid!r}; it must not be empty or contain white space")
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
    """The key of a source that depends on files: name and SHA-256 of each."""
    return Key(*([[path.name, sha256_once(path)] for path in paths] for paths in (passages, topics)))


def judged_queries(texts: Mapping[str, str], qrels: Qrels, where: Path) -> QuerySet:
    """The queries that have judgments. Raises: InputError for judgments of queries without a text."""
    if missing := [qid for qid in qrels if qid not in texts]:
        said = f"{where}: {len(missing)} of its {len(qrels)} queries, first {missing[0]!r}, are not among the queries"
        if len(missing) == len(qrels):
            raise InputError(f"{said}; are these judgments for other queries?")
        log.warning("%s; they are left out", said)
    known = {qid: grades for qid, grades in qrels.items() if qid in texts}
    return QuerySet({qid: texts[qid] for qid in known}, known)


def find_file(folder: Path, *names: str) -> Path | None:
    """The file in a folder that has one of these names, plain or gzip. Raises: InputError if there are two."""
    files = (folder / each for name in names for each in (name, f"{name}.gz"))
    found = [file for file in files if file.is_file()]
    if len(found) > 1:
        raise InputError(f"{found[0]} and {found[1].name} are both there, and only one can be read; keep one")
    return found[0] if found else None
