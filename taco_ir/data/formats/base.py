"""The interface of collection formats, and the import of collections from other formats into our own.

A collection in another format is read once and kept in the data home: its passages in one folder, and its topics in
another folder, with a file for each task and split. Each folder is named by a hash of everything that its content
depends on, so collections with the same passages share a folder.
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

IMPORT_VERSION = 3  # of the files that an import writes
PASSAGES = "passages.jsonl"


class Record(NamedTuple):
    """A passage of a collection to import, and where it is in the file, for error messages."""

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
    """What the passages and the topics of a collection depend on, such as hashes of files, as JSON values."""

    passages: Any
    topics: Any


class Source(NamedTuple):
    """A collection to import, from a known format.

    Attributes:
        layout: name of the format, such as "BEIR folder".
        name: name of the collection, and of the folder for its runs.
        origin: where the passages come from, for error messages.
        key: returns everything that the content depends on.
        passages: reads the passages.
        topics: for each task and split, a function that reads the queries.
        tasks: by name of topics, the task if it differs from the task in the name.
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
        recognises: tells from file names, and at most a first line, whether a file or folder has this format.
        opens: makes the `Source` from a path (or the name after the prefix) and the column names that a user gave.
        files: the file names of this format, passages first. They help to name the format that a folder is nearest to.
    """

    recognises: Callable[[Path], bool]
    opens: Callable[[str, Mapping[str, str]], Source]
    files: tuple[str, ...] = ()


def import_source(source: Source) -> tuple[Path, Path]:
    """Import a collection into our own format; return the file of its passages and the folder of its topics.

    Both are written on first use, completely or not at all. Topics come first, because their errors are found sooner.
    """
    names, key = [str(topics) for topics in sorted(source.topics)], source.key()
    made = (("topics", [names, key.topics], _write_all_topics), ("passages", key.passages, _write_passages))
    topics, passages = (_import_once(source, key, *part) for part in made)
    return passages / PASSAGES, topics


def _import_once(source: Source, key: Key, what: str, content: Any, write: Callable[[Source, Path], None]) -> Path:
    """Return the folder of a collection's passages or topics, after writing the folder if it does not exist."""
    folder = data_home() / "imported" / f"{what}-{fingerprint([IMPORT_VERSION, source.layout, content])}"
    if folder.is_dir():
        return folder
    with exclusive(folder.with_name(f"{folder.name}.import")):
        if not folder.is_dir():  # another process may have made it in the meantime
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
    """Make the key of a source that consists of files: the name and the SHA-256 of each file."""
    return Key(*([[path.name, sha256_once(path)] for path in paths] for paths in (passages, topics)))


def judged_queries(texts: Mapping[str, str], qrels: Qrels, where: Path) -> QuerySet:
    """Select the queries that have judgments. Raises: InputError if none of the judged queries is in `texts`."""
    if missing := [qid for qid in qrels if qid not in texts]:
        said = f"{where}: {len(missing)} of its {len(qrels)} queries, first {missing[0]!r}, are not among the queries"
        if len(missing) == len(qrels):
            raise InputError(f"{said}; are these judgments for other queries?")
        log.warning("%s; they are left out", said)
    known = {qid: grades for qid, grades in qrels.items() if qid in texts}
    return QuerySet({qid: texts[qid] for qid in known}, known)


def find_file(folder: Path, *names: str) -> Path | None:
    """Return the file in a folder with one of these names, plain or gzip, or None. Raises: InputError if two exist."""
    files = (folder / each for name in names for each in (name, f"{name}.gz"))
    found = [file for file in files if file.is_file()]
    if len(found) > 1:
        raise InputError(f"{found[0]} and {found[1].name} are both there, and only one can be read; keep one")
    return found[0] if found else None
