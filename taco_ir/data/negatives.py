"""Hard negatives of training queries on disk: JSON lines, the first a header that says how they were mined.

{"taco_ir_negatives": 1, "source": "bm25", "checkpoint": "", "collection": "0123456789abcdef", "depth": 100, ...}
{"topics": "nq-train", "qid": "17", "docids": ["5#0", "9#3"], "scores": [11.5, 10.25]}
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, SupportsFloat

import orjson

from taco_ir.data.tasks import TOPICS, TopicsName, canonical_task
from taco_ir.data.topics import json_lines
from taco_ir.files import InputError, collector_paused, writing

FORMAT_KEY = "taco_ir_negatives"
FORMAT_VERSION = 1
KINDS = {"a string": str, "a whole number": int, "a list": list}
HEADER_KINDS = {
    "source": "a string",
    "checkpoint": "a string",
    "collection": "a string",
    "depth": "a whole number",
    "skip": "a whole number",
    "keep": "a whole number",
    "filters": "a list",
    "seed": "a whole number",
}
ROW_KINDS = {"topics": "a string", "qid": "a string", "docids": "a list", "scores": "a list"}


class NegativesHeader(NamedTuple):
    """How the negatives were mined.

    Attributes:
        source: the retriever (`bm25`, `dense`, ...).
        checkpoint: fingerprint of the encoder that retrieved, "" where none did.
        collection: fingerprint of the passages.
        depth: hits looked at per query.
        skip: best hits passed over.
        keep: negatives kept per query at most.
        filters: names of the rules that dropped hits.
        seed: of whatever was drawn.
    """

    source: str
    checkpoint: str
    collection: str
    depth: int
    skip: int
    keep: int
    filters: tuple[str, ...]
    seed: int


class Negatives(NamedTuple):
    """`docids[topics name][qid]`, hardest first; topics named canonically (`nq-train`)."""

    header: NegativesHeader
    docids: dict[str, dict[str, list[str]]]


def write_negatives(path: Path, header: NegativesHeader, rows: Iterable[tuple[str, str, Sequence[str], Iterable[SupportsFloat]]]) -> None:
    """Write rows of (topics name, qid, docids hardest first, their scores); the file is whole or absent."""
    with writing(path, "wb") as sink:
        sink.write(orjson.dumps({FORMAT_KEY: FORMAT_VERSION, **header._asdict()}) + b"\n")
        for topics, qid, docids, scores in rows:
            row = {"topics": topics, "qid": qid, "docids": list(docids), "scores": [float(score) for score in scores]}
            sink.write(orjson.dumps(row) + b"\n")


def read_negatives(path: Path, collection: str | None) -> Negatives:
    """Read a negatives file; `collection` is the fingerprint of the passages it must be of, None for any.

    Raises:
        InputError: naming file and line for a missing header, a missing, unknown or ill-typed key, a name of no topics,
            docids or queries given twice, or a file mined from another collection.
    """
    lines = json_lines(path)
    header = _header(path, *next(lines, (1, {})))
    if collection not in {None, header.collection}:
        raise InputError(f"{path}: mined from collection {header.collection!r}, this collection is {collection!r}; mine negatives from it")
    found: dict[str, dict[str, list[str]]] = {}
    known: dict[str, str] = {}  # one string per docid: a passage is a negative of many queries
    with collector_paused():
        for number, row in lines:
            topics, qid, docids = _row(f"{path}, line {number}", row)
            of_topics = found.setdefault(topics, {})
            if qid in of_topics:
                raise InputError(
                    f"{path}, line {number}: query {qid!r} of {topics} has its negatives on an earlier line; one line is allowed"
                )
            of_topics[qid] = [known.setdefault(docid, docid) for docid in docids]
    return Negatives(header, found)


def _header(path: Path, number: int, record: dict[str, Any]) -> NegativesHeader:
    where = f"{path}, line {number}"
    if FORMAT_KEY not in record:
        raise InputError(f'{where}: no header; a negatives file begins with {{"{FORMAT_KEY}": {FORMAT_VERSION}, "source": ...}}')
    if (version := record.pop(FORMAT_KEY)) != FORMAT_VERSION:
        raise InputError(f"{where}: {FORMAT_KEY} is {version!r}; this version reads {FORMAT_VERSION}")
    _check(where, record, HEADER_KINDS)
    if not all(isinstance(name, str) for name in record["filters"]):
        raise InputError(f"{where}: filters is {record['filters']!r}; a list of strings is needed")
    return NegativesHeader(**{**record, "filters": tuple(record["filters"])})


def _row(where: str, row: dict[str, Any]) -> tuple[str, str, list[str]]:
    """Canonical topics name, qid and docids of a line."""
    _check(where, row, ROW_KINDS)
    docids, scores = row["docids"], row["scores"]
    if not (matched := TOPICS.fullmatch(row["topics"])):
        raise InputError(f"{where}: topics {row['topics']!r}; a name such as nq-train is needed")
    if not all(isinstance(docid, str) and docid for docid in docids):
        raise InputError(f"{where}: docids {str(docids)[:80]}; non-empty strings are needed")
    if len(set(docids)) < len(docids):
        twice = next(docid for place, docid in enumerate(docids) if docid in docids[:place])
        raise InputError(f"{where}: docid {twice!r} is given twice for query {row['qid']!r}; once is allowed")
    if len(scores) != len(docids) or not all(_is_number(score) for score in scores):
        raise InputError(f"{where}: scores {str(scores)[:80]}; one number for each of the {len(docids)} docids is needed")
    return str(TopicsName(canonical_task(matched["task"]), matched["split"])), row["qid"], docids


def _is_number(value: Any) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool)


def _check(where: str, record: Mapping[str, Any], kinds: Mapping[str, str]) -> None:
    """Raise InputError unless `record` has exactly the keys of `kinds`, each of its kind."""
    if record.keys() != kinds.keys():
        missing, unknown = [key for key in kinds if key not in record], [key for key in record if key not in kinds]
        raise InputError(f"{where}: keys missing {missing}, unknown {unknown}; needed are {list(kinds)}")
    for key, kind in kinds.items():
        if not isinstance(record[key], KINDS[kind]) or isinstance(record[key], bool):
            raise InputError(f"{where}: {key} is {str(record[key])[:80]!r}; {kind} is needed")
