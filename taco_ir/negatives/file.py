"""Reads and writes files of hard negatives: JSON lines; the first line is a header that says how they were mined.

{"taco_ir_negatives": 1, "source": "bm25", "checkpoint": "", "collection": "0123456789abcdef", "depth": 100, ...}
{"topics": "nq-train", "qid": "17", "docids": ["5#0", "9#3"], "scores": [11.5, 10.25]}

For several merged sources, the header is a list with a header for each source. For every docid, `sources` has the
positions (in this list) of the sources that found the passage, and `scores` has the passage's scores in these sources:

{"taco_ir_negatives": 2, "sources": [{"source": "bm25", ...}, {"source": "dense", ...}]}
{"topics": "nq-train", "qid": "17", "docids": ["5#0", "9#3"], "sources": [[0], [1, 0]], "scores": [[11.5], [0.7, 10.2]]}
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, SupportsFloat

import orjson

from taco_ir.core.files import InputError, check_type, writing
from taco_ir.core.hashes import fingerprint
from taco_ir.core.processes import collector_paused, log
from taco_ir.core.tasks import TOPICS, TopicsName, canonical_task
from taco_ir.data.collection import Topics
from taco_ir.data.examples import TrainExample
from taco_ir.data.topics import read_json_lines

FORMAT_KEY = "taco_ir_negatives"
ONE_SOURCE, SEVERAL_SOURCES = 1, 2  # versions of the format
KINDS = {"a string": str, "a whole number": int, "a list": list}
ROW_KINDS = {"topics": "a string", "qid": "a string", "docids": "a list", "scores": "a list"}
MERGED_HEADER_KINDS = {"sources": "a list"}
MERGED_ROW_KINDS = ROW_KINDS | {"sources": "a list"}
Rows = Iterable[tuple[str, str, Sequence[str], Iterable[SupportsFloat]]]
MergedRows = Iterable[tuple[str, str, Sequence[str], Sequence[Sequence[int]], Sequence[Sequence[float]]]]


class NegativesHeader(NamedTuple):
    """How the negatives were mined.

    Attributes:
        source: the retriever (`bm25`, `dense`, ...).
        checkpoint: fingerprint of the encoder that retrieved; "" if no encoder did.
        collection: fingerprint of the passages.
        depth: number of hits looked at for each query.
        skip: number of top hits that were skipped.
        keep: maximum number of negatives for each query.
        filters: names of the filters that were applied.
        seed: random seed of the mining.
        queries: fingerprint of the queries and their evidence; "" if unknown.
    """

    source: str
    checkpoint: str
    collection: str
    depth: int
    skip: int
    keep: int
    filters: tuple[str, ...]
    seed: int
    queries: str = ""


class Negatives(NamedTuple):
    """Hard negatives by query set and query, hardest first.

    Attributes:
        sources: how the negatives of each source were mined.
        docids: lists of docids, as `docids[topics name][qid]`; topics have canonical names (`nq-train`).
    """

    sources: tuple[NegativesHeader, ...]
    docids: dict[str, dict[str, list[str]]]

    @property
    def fingerprint(self) -> str:
        """A hash of how the negatives were mined; it does not depend on the queries."""
        return fingerprint([header._replace(queries="") for header in self.sources])


def given_negatives(passages: str, topics: Iterable[Topics]) -> Negatives:
    """Returns the hard negatives that the topics themselves list, as in training files of other toolkits.

    Args:
        passages: fingerprint of the collection's passages.

    Raises:
        InputError: for topics that list no hard negatives.
    """
    docids = {}
    for each in topics:
        docids[each.name] = {query.qid: list(query.negatives) for query in each.queries if query.negatives}
        if not docids[each.name]:
            raise InputError(
                f"negatives is 'given', but {each.name} lists no hard negatives; choose bm25, ance or a file"
            )
    return Negatives((NegativesHeader("given", "", passages, 0, 0, 0, (), 0),), docids)


def write_negatives(path: Path, header: NegativesHeader, rows: Rows) -> None:
    """Write rows of topics name, qid, docids (hardest first) and scores; the file is complete or absent."""
    with writing(path, "wb") as sink:
        sink.write(orjson.dumps({FORMAT_KEY: ONE_SOURCE, **header._asdict()}) + b"\n")
        for topics, qid, docids, scores in rows:
            row = {"topics": topics, "qid": qid, "docids": list(docids), "scores": [float(score) for score in scores]}
            sink.write(orjson.dumps(row) + b"\n")


def write_merged(path: Path, sources: Sequence[NegativesHeader], rows: MergedRows) -> None:
    """Write rows of topics name, qid, docids and, for each docid, its sources' positions and its scores in them."""
    with writing(path, "wb") as sink:
        record = {FORMAT_KEY: SEVERAL_SOURCES, "sources": [header._asdict() for header in sources]}
        sink.write(orjson.dumps(record) + b"\n")
        for topics, qid, docids, held_by, scores in rows:
            row = {"topics": topics, "qid": qid, "docids": docids, "sources": held_by, "scores": scores}
            sink.write(orjson.dumps(row) + b"\n")


def read_negatives(path: Path, collection: str | None, only: Mapping[str, Container[str]] | None = None) -> Negatives:
    """Read a negatives file.

    Args:
        collection: the fingerprint that the collection's passages must have; None: any.
        only: by topics name, the qids of the queries to read; None: all.

    Raises:
        InputError: naming file and line, for a missing header, a missing, unknown or ill-typed key, an invalid name of
            topics, a repeated docid or query, or a file mined from another collection.
    """
    lines = read_json_lines(path)
    sources = _headers(path, *next(lines, (1, {})))
    refuse_other_collection(path, sources, collection)
    found: dict[str, dict[str, list[str]]] = {}
    known: dict[str, str] = {}  # one string per docid: a passage is a negative of many queries
    with collector_paused():
        for number, row in lines:
            topics, qid, docids = _row(f"{path}, line {number}", row, len(sources))
            if only is not None and qid not in only.get(topics, ()):
                continue
            of_topics = found.setdefault(topics, {})
            if qid in of_topics:
                twice = f"query {qid!r} of {topics} has its negatives on an earlier line"
                raise InputError(f"{path}, line {number}: {twice}; only one line is allowed")
            of_topics[qid] = [known.setdefault(docid, docid) for docid in docids]
    return Negatives(sources, found)


def refuse_other_collection(path: Path, sources: Sequence[NegativesHeader], collection: str | None) -> None:
    """Raise InputError if the negatives are not from the collection with the fingerprint `collection` (None: any)."""
    if other := [header.collection for header in sources if collection not in {None, header.collection}]:
        both = f"mined from collection {other[0]!r}, but the given collection is {collection!r}"
        raise InputError(f"{path}: {both}; mine negatives from the given collection")


def read_sources(path: Path) -> tuple[NegativesHeader, ...]:
    """Read how the negatives of each source were mined. Raises: InputError for a file without a header."""
    return _headers(path, *next(read_json_lines(path), (1, {})))


def with_negatives(examples: Sequence[TrainExample], topics: TopicsName, negatives: Negatives) -> list[TrainExample]:
    """Returns the examples of `topics` with their mined negatives; logs how many examples have no negatives."""
    mined = negatives.docids.get(str(topics), {})
    found = [example._replace(negatives=tuple(mined.get(example.qid, ()))) for example in examples]
    if bare := sum(not example.negatives for example in found):
        log.warning("%s: %d of %d examples have no mined negatives", topics, bare, len(found))
    return found


def _headers(path: Path, number: int, record: dict[str, Any]) -> tuple[NegativesHeader, ...]:
    where = f"{path}, line {number}"
    if FORMAT_KEY not in record:
        header = f'{{"{FORMAT_KEY}": {ONE_SOURCE}, "source": ...}}'
        raise InputError(f"{where}: there is no header; a negatives file begins with {header}")
    if (version := record.pop(FORMAT_KEY)) not in (ONE_SOURCE, SEVERAL_SOURCES):
        raise InputError(f"{where}: {FORMAT_KEY} is {version!r}; this version reads {ONE_SOURCE} and {SEVERAL_SOURCES}")
    if version == ONE_SOURCE:
        return (check_type(record, NegativesHeader, where),)
    _check(where, record, MERGED_HEADER_KINDS)
    if len(record["sources"]) < 2 or not all(isinstance(each, dict) for each in record["sources"]):
        raise InputError(f"{where}: sources is {str(record['sources'])[:80]}; a list of at least two objects is needed")
    numbered = enumerate(record["sources"], 1)
    sources = tuple(check_type(each, NegativesHeader, f"{where}, source {place}") for place, each in numbered)
    if len(collections := {header.collection for header in sources}) > 1:
        raise InputError(
            f"{where}: its sources are from several collections ({', '.join(sorted(collections))}); only one is allowed"
        )
    return sources


def _row(where: str, row: dict[str, Any], sources: int) -> tuple[str, str, list[str]]:
    """Returns the canonical topics name, qid and docids of a line."""
    _check(where, row, ROW_KINDS if sources == 1 else MERGED_ROW_KINDS)
    docids, scores = row["docids"], row["scores"]
    if not (matched := TOPICS.fullmatch(row["topics"])):
        raise InputError(f"{where}: topics is {row['topics']!r}; it must be a name such as nq-train")
    if not all(isinstance(docid, str) and docid for docid in docids):
        raise InputError(f"{where}: docids is {str(docids)[:80]}; they must be non-empty strings")
    if len(set(docids)) < len(docids):
        twice = next(docid for place, docid in enumerate(docids) if docid in docids[:place])
        raise InputError(f"{where}: docid {twice!r} is given twice for query {row['qid']!r}; once is allowed")
    if sources > 1:
        _check_labels(where, row, sources)
    elif len(scores) != len(docids) or not all(_is_number(score) for score in scores):
        needed = f"one number for each of the {len(docids)} docids"
        raise InputError(f"{where}: scores {str(scores)[:80]}; {needed} is needed")
    return str(TopicsName(canonical_task(matched["task"]), matched["split"])), row["qid"], docids


def _check_labels(where: str, row: Mapping[str, Any], sources: int) -> None:
    """Raise InputError if a docid does not have a list of sources without repeats and a score for each of them."""
    docids, labels, scores = row["docids"], row["sources"], row["scores"]
    each_docid = f"for each of the {len(docids)} docids"
    if len(labels) != len(docids) or not all(_are_places(each, sources) for each in labels):
        needed = f"{each_docid} a list of numbers from 0 to {sources - 1}, each once,"
        raise InputError(f"{where}: sources {str(labels)[:80]}; {needed} is needed")
    given = [len(each) if isinstance(each, list) and all(map(_is_number, each)) else -1 for each in scores]
    if given != [len(each) for each in labels]:
        needed = f"{each_docid} one number for each of its sources"
        raise InputError(f"{where}: scores {str(scores)[:80]}; {needed} is needed")


def _are_places(values: Any, count: int) -> bool:
    if not isinstance(values, list) or not values:
        return False
    return all(type(value) is int and 0 <= value < count for value in values) and len(set(values)) == len(values)


def _is_number(value: Any) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool)


def _check(where: str, record: Mapping[str, Any], kinds: Mapping[str, str]) -> None:
    """Raise InputError if `record` does not have exactly the keys of `kinds`, or a value is of another kind."""
    if record.keys() != kinds.keys():
        missing, unknown = [key for key in kinds if key not in record], [key for key in record if key not in kinds]
        raise InputError(f"{where}: keys missing {missing}, unknown {unknown}; it must have the keys {list(kinds)}")
    for key, kind in kinds.items():
        if not isinstance(record[key], KINDS[kind]) or isinstance(record[key], bool):
            raise InputError(f"{where}: {key} is {str(record[key])[:80]!r}; {kind} is needed")
