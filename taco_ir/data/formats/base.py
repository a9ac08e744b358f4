"""The interface of collection formats, and the import of a foreign collection into the toolkit's own layout.

A foreign collection is read once and kept as a folder of our own layout under the data home: one passage a line, and a
file of topics for each task and split. Its name there is a hash of all that the content depends on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from taco_ir.core.files import InputError, data_home, exclusive, writing_folder
from taco_ir.core.hashes import fingerprint, sha256_once
from taco_ir.core.tasks import TopicsName
from taco_ir.core.types import Passage
from taco_ir.data.passage_store import PassageStore
from taco_ir.data.query_files import Qrels

log = logging.getLogger("taco_ir")
IMPORT_VERSION = 2  # of what an import writes
NOTE_EVERY = 1_000_000  # passages between two messages


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


class Source(NamedTuple):
    """A foreign collection that was recognised.

    Attributes:
        layout: what it was recognised as, such as "BEIR folder".
        name: name of the collection; names the folder of its runs.
        origin: where the passages lie, for messages.
        key: says what its content depends on, such as hashes of its files, as JSON values.
        passages: reads the passages.
        topics: reads the queries of each task and split.
    """

    layout: str
    name: str
    origin: object
    key: Callable[[], Any]
    passages: Callable[[], Iterable[Record]]
    topics: Mapping[TopicsName, Callable[[], QuerySet]]


class Format(NamedTuple):
    """A layout of collections.

    Attributes:
        recognises: whether a file or folder is of this layout; it reads names of files, and at most a first line.
        opens: makes the source of a path, or of the name after the prefix; `columns` says what its columns are called.
    """

    recognises: Callable[[Path], bool]
    opens: Callable[[str, Mapping[str, str]], Source]


def import_source(source: Source) -> Path:
    """The folder in our own layout that holds a foreign collection; it is made on first use, whole or not at all."""
    names = [str(topics) for topics in sorted(source.topics)]
    key = source.key()
    folder = data_home() / "imported" / fingerprint([IMPORT_VERSION, source.layout, names, key])
    if folder.is_dir():
        return folder
    with exclusive(folder.with_name(f"{folder.name}.import")):
        if not folder.is_dir():  # another process may have made it meanwhile
            with writing_folder(folder) as made:
                _write_passages(source, made / "passages.jsonl")
                for topics, read in source.topics.items():
                    write_topics(read(), made / f"{topics}.jsonl")
                if source.key() != key:
                    raise InputError(f"{source.origin}: it changed while it was read; give the command again")
    return folder


def _write_passages(source: Source, path: Path) -> None:
    empty = 0
    with path.open("wb") as sink:
        for count, (passage, where) in enumerate(source.passages(), 1):
            docid, page, title, text = passage
            if docid.split() != [docid]:
                raise InputError(f"{where}: docid {docid!r}; it may neither be empty nor hold white space")
            empty += not text.strip()
            record = {"id": docid, "wikipedia_id": page, "title": title, "contents": text}
            sink.write(orjson.dumps(record) + b"\n")
            if count % NOTE_EVERY == 0:
                log.info("%s: %d passages read", source.name, count)
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


def hash_files(paths: Iterable[Path]) -> list[list[str]]:
    """Name and SHA-256 of each file, as part of a source's key."""
    return [[path.name, sha256_once(path)] for path in paths]


def judged_queries(texts: Mapping[str, str], qrels: Qrels, where: Path) -> QuerySet:
    """The queries that a file of judgments names. Raises: InputError for judgments of queries that are not there."""
    if missing := [qid for qid in qrels if qid not in texts]:
        said = f"{where}: {len(missing)} of its {len(qrels)} queries, first {missing[0]!r}, are not among the queries"
        if len(missing) == len(qrels):
            raise InputError(f"{said}; these are judgments of other queries")
        log.warning("%s; they are left out", said)
    known = {qid: grades for qid, grades in qrels.items() if qid in texts}
    return QuerySet({qid: texts[qid] for qid in known}, known)


def first_existing(folder: Path, names: Iterable[str]) -> Path | None:
    """The first of some file names that a folder has, plain or gzip."""
    files = (folder / each for name in names for each in (name, f"{name}.gz"))
    return next((file for file in files if file.is_file()), None)
